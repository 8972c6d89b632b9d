"""A process that can be killed: forked from this one, whose imports it has already, or torchrun's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

POLL = 0.005  # seconds
SURVIVORS = 60.0  # seconds until the processes of one that was killed have noticed it


class Forked:
    """A function in a process of its own.

    Args:
        work: what the process does; its exit code.
        log: gets what it prints.
    """

    def __init__(self, work: Callable[[], int], log: Path) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid, self.code = os.fork(), None
        if self.pid == 0:
            os._exit(_run(work, log))

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def kill(self, draw: float) -> None:
        """End it alone: processes of its own, such as a data loader's, have to notice."""
        os.kill(self.pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(POLL)


def _run(work: Callable[[], int], log: Path) -> int:
    with open(log, "a", buffering=1) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        sys.stdout = sys.stderr = file
        try:
            return work()
        except BaseException:
            traceback.print_exc()
            return 1


class Torchrun:
    """Two ranks on the CPU, and torchrun over them.

    Args:
        words: of the module that each rank runs.
        log: gets what they print.
        folder: to run in.
    """

    def __init__(self, words: Sequence[str], log: Path, folder: Path) -> None:
        program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(log, "a") as file:
            self.agent = subprocess.Popen(program, cwd=folder, env=environment, stdout=file, stderr=file)

    def poll(self) -> int | None:
        """torchrun's exit code; None while it runs."""
        return self.agent.poll()

    def kill(self, draw: float) -> None:
        """End torchrun and both ranks, or in half of the cases one rank, whereupon torchrun ends the other.

        Args:
            draw: in [0, 1), decides.
        """
        if draw < 0.5:
            ranks = [pid for pid in _children(self.agent.pid) if _is_rank(pid)]
            if len(ranks) == 2:
                os.kill(ranks[int(draw * 4)], signal.SIGKILL)
                self.agent.wait(SURVIVORS)
                return
        os.kill(self.agent.pid, signal.SIGSTOP)  # it starts no further rank
        for pid in (*_children(self.agent.pid), self.agent.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.agent.wait(SURVIVORS)


def _children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.is_file() else []


def _is_rank(pid: int) -> bool:
    return b"monai.bundle" in Path(f"/proc/{pid}/cmdline").read_bytes()


def wait(process: Forked | Torchrun, seconds: float) -> int | None:
    """The exit code of a process that ends within some seconds; None of one that runs on."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(POLL)
    return process.poll()
