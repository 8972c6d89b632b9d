"""Starts programs of the bundle in forked processes, so that the imports are paid once and not by every program.

    python tests/faults/server.py

It reads a JSON object a line from its standard input, `Request`'s fields, and ends when the input ends. For each it
forks a keeper, which forks the program and writes to the request's `job` folder: `pid` when the program has started,
`stdout`, `stderr`, and `code` when it has ended (-9 for SIGKILL). The program is what `python WORDS` would start: its
arguments, working directory, environment, output, hooks and exit code are a user's.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import pkgutil
import runpy
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    *("torch", "ignite.engine", "monai.bundle", "monai.engines", "monai.handlers", "monai.transforms", "monai.losses"),
    *("matplotlib.pyplot", "nibabel", "peft", "scipy.ndimage", "scipy.stats", "segment_anything", "timm"),
    *("safetensors.torch", "torch.utils.tensorboard", "fire", "filelock"),
)
EXTRAS = ("pydicom", "highdicom")  # where they are installed
ELSEWHERE = ("monailabel", "monai.deploy")  # in environments of their own
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
NO_MOUNT = 99  # exit code: this machine lets no process mount a folder of its own


class Request(NamedTuple):
    """A program to start.

    job: folder that gets its output. words: what follows `python`. cwd: its working directory. disk: {"folder": ...,
    "bytes": ...} puts a small disk at a folder for this program alone; without "bytes" it makes the folder read-only.
    What the program has left on a small disk is copied to FOLDER.after.
    """

    job: str
    words: list[str]
    cwd: str
    disk: dict[str, Any] | None = None


def serve() -> None:
    """Fork a keeper for every line of the standard input."""
    import_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    print("ready", flush=True)
    for line in sys.stdin:
        if os.fork() == 0:
            keep(Request(**json.loads(line)))


def import_all() -> None:
    """All that programs import, without a thread, which a fork would lose. The programs themselves stay unread."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in EXTRAS:
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    for package in ("scripts", "eval"):
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if not is_program(ROOT / Path(*module.name.split("."))):
                import_here(module.name)
    import torch

    torch.set_num_threads(1)
    assert threading.active_count() == 1, threading.enumerate()


def import_here(name: str) -> None:
    """Import a module, unless it is for another environment."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ELSEWHERE:
            raise


def is_program(path: Path) -> bool:
    """Whether a module, given without its suffix, is one that `python -m` starts."""
    file = path.with_suffix(".py")
    return path.name == "__main__" or file.is_file() and '__name__ == "__main__"' in file.read_text(encoding="utf-8")


def keep(request: Request) -> None:
    """Run the program to its end, and leave its exit code. Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    job, code = Path(request.job), NO_MOUNT
    if request.disk is None or mount(**request.disk):
        pid = os.fork()
        if pid == 0:
            program(request)
        write(job / "pid", pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if request.disk and "bytes" in request.disk:
            folder = request.disk["folder"]
            shutil.copytree(folder, f"{folder}.after")
    write(job / "code", code)
    os._exit(0)


def write(path: Path, number: int) -> None:
    """A file that is whole when its name is there."""
    partial = path.with_suffix(".partial")
    partial.write_text(str(number))
    partial.rename(path)


def mount(folder: str, bytes: int | None = None) -> bool:
    """Put a small disk at a folder, or make it read-only, for this process and those that it forks; whether it may."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)):
        return False
    if user:  # as root of a namespace of its own
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    here = folder.encode()
    calls = [(b"none", b"/", None, MS_REC | MS_PRIVATE, None)]
    if bytes is None:
        calls += [(here, here, None, MS_BIND, None), (here, here, None, MS_BIND | MS_REMOUNT | MS_RDONLY, None)]
    else:
        calls += [(b"tmpfs", here, b"tmpfs", 0, f"size={bytes}".encode())]
    return all(libc.mount(*call) == 0 for call in calls)


def program(request: Request) -> None:
    """Become the program. Does not return."""
    os.chdir(request.cwd)
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, f"{request.job}/stdout", os.O_WRONLY | os.O_CREAT),
        (2, f"{request.job}/stderr", os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(name, flags, 0o644), number)
    code = 0
    try:
        start(request.words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if code == 1 and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def start(words: list[str]) -> None:
    """Run `-m MODULE ARGUMENTS` or `FILE ARGUMENTS` in this process."""
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = list(words), os.path.dirname(words[0])
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    serve()
