"""A folder in which a user starts programs of the bundle, and what a program has said and left there."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from faults.server import NO_MOUNT
from PIL import Image

from scripts.data.phantoms import make_phantom
from scripts.networks.student import TEST_SIZE
from scripts.networks.tinyusfm import TinyUSFMSeg

SERVER = Path(__file__).with_name("server.py")
SECONDS = 120  # after which a program that does not end is killed
INFERENCE = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--hardware::gpu_ids", "[]"]
RUN = "logs/phantoms/run"  # where a training writes


class Materials(NamedTuple):
    """Files that the faults copy: a data set of phantoms, a base file and an adapter of the teacher."""

    phantoms: Path
    sam: Path
    adapter: Path


class Command(NamedTuple):
    """A program to start: `words` follow `python`; `disk` is `server.Request`'s; `stop` is a signal and the file whose
    coming it waits for.
    """

    words: list[str]
    disk: dict[str, Any] | None = None
    stop: tuple[signal.Signals, str] | None = None


class Outcome(NamedTuple):
    """Exit code, output, and the digests of the files before and after by their names; a folder ends with /."""

    code: int
    stdout: str
    stderr: str
    before: dict[str, str]
    after: dict[str, str]

    @property
    def lines(self) -> list[str]:
        """What it has printed, in the order of the streams."""
        return [line for line in (self.stdout + self.stderr).splitlines() if line.strip()]

    @property
    def lost(self) -> list[str]:
        """Files that are gone or hold something else."""
        return sorted(name for name, digest in self.before.items() if self.after.get(name) != digest)

    @property
    def written(self) -> list[str]:
        """Files that are new, but for locks, which stay and hold nobody up."""
        return sorted(name for name in self.after.keys() - self.before.keys() if not name.endswith(".lock"))


class Programs:
    """The server of this test session.

    Args:
        folder: for its log, and for what is made once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, log = folder, folder / "log.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"}
        with open(log, "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        assert self.process.stdout.readline() == "ready\n", log.read_text()

    def start(self, job: Path, command: Command, cwd: Path) -> int:
        """Start a program; returns its process id."""
        job.mkdir()
        request = {"job": str(job), "words": command.words, "cwd": str(cwd), "disk": command.disk}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        wait_for(lambda: (job / "pid").exists() or (job / "code").exists(), f"{command.words} to start")
        return int((job / "pid").read_text()) if (job / "pid").exists() else 0

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


class Place:
    """The folder, in the layout of the bundle: `configs` and `scripts` are links, all else is the user's.

    Args:
        root: of the folder.
        programs: which start programs.
        materials: to copy.
    """

    def __init__(self, root: Path, programs: Programs, materials: Materials) -> None:
        self.root, self.programs, self.materials = root, programs, materials
        self.jobs = root.with_name(f"{root.name}.jobs")
        for folder in (root, self.jobs):
            folder.mkdir()
        for name in ("configs", "scripts"):
            (root / name).symlink_to(ROOT / name)

    # files

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def shared_student(self, name: str = "models/model.pt") -> Path:
        """A copy of the student that the bundle brings."""
        return self._copy(ROOT / "models" / "model.pt", name)

    def tiny_student(self, name: str, num_classes: int = 2) -> Path:
        """A student of the test size, not trained."""
        torch.manual_seed(0)
        torch.save(TinyUSFMSeg(num_classes=num_classes, img_size=64, **TINY).state_dict(), self / name)
        return self / name

    def teacher(self) -> None:
        """The teacher's two files, sam.pth and adapter.pth."""
        self._copy(self.materials.sam, "sam.pth")
        self._copy(self.materials.adapter, "adapter.pth")

    def dataset(self, name: str = "phantoms") -> dict[str, Any]:
        """A data set of phantoms with its list, which is returned."""
        shutil.copytree(self.materials.phantoms, self / name)
        return json.loads((self / name / "dataset.json").read_text())

    def write_list(self, content: dict[str, Any], name: str = "phantoms") -> None:
        """Change the list of a data set."""
        (self / name / "dataset.json").write_text(json.dumps(content))

    def images(self, *names: str, folder: str = "images") -> list[Path]:
        """Phantoms under these names, and the shared student to segment them with."""
        self.shared_student()
        (self / folder).mkdir(exist_ok=True)
        for number, name in enumerate(names):
            Image.fromarray(phantom(number)).save(self / folder / name)
        return [self / folder / name for name in names]

    def _copy(self, source: Path, name: str) -> Path:
        (self / name).parent.mkdir(exist_ok=True)
        return Path(shutil.copy(source, self / name))

    # commands

    def inference(self, *options: str) -> list[str]:
        """Segment images/ into masks/."""
        return [*INFERENCE, "--dataset_dir", "images", "--output_dir", "masks", *options]

    def training(self, *options: str, overlay: str = "") -> list[str]:
        """A training of seconds on phantoms/, with the teacher's files and a config file tiny.json."""
        if not (self / "phantoms").exists():
            self.dataset()
        self.teacher()
        (self / "tiny.json").write_text(json.dumps(TINY_RUN, indent=1))
        files = ["configs/train.json", *([overlay] if overlay else []), "tiny.json"]
        return ["-m", "monai.bundle", "run", "training", "--config_file", str(files), *options]

    def evaluation(self, *options: str) -> list[str]:
        """Evaluate student.pt, without a teacher."""
        if not (self / "student.pt").exists():
            self.tiny_student("student.pt")
        alone = ["--student::checkpoint", "student.pt", "--final_evaluation::networks", "{'student': '@network'}"]
        words = self.training(*alone, *options, overlay="configs/evaluate.json")
        return [word for word in words if word != "training"]

    def fine_tuning(self, *options: str) -> list[str]:
        """A fine-tuning of the teacher on phantoms/."""
        alone = ["--teacher::lora_checkpoint", "$None", "--run_folder::root", "logs", "--model_file", "$None"]
        return self.training(*alone, *options, overlay="configs/train_teacher.json")

    def comparison(self, *options: str) -> list[str]:
        """A comparison on phantoms/, into comparison/."""
        return ["-m", "eval.compare", "--output_dir", "comparison", "--seeds", "0", *self._plan(), *options]

    def preflight(self, *options: str) -> list[str]:
        """A look at the teacher beside student.pt, into preflight/."""
        self.tiny_student("student.pt")
        return ["-m", "eval.preflight", "--output_dir", "preflight", "--control", "student.pt", *self._plan(), *options]

    def robustness(self, *options: str) -> list[str]:
        """Probes on student.pt, into robustness/."""
        self.tiny_student("student.pt")
        alone = ["--checkpoint", "student=student.pt", "--cases", "2", "--probes", "left"]
        return ["-m", "eval.robustness", "--output_dir", "robustness", *alone, *self._plan(), *options]

    def _plan(self) -> list[str]:
        self.training()
        return ["--config_file", "configs/train.json", "tiny.json"]

    def begun_run(self) -> None:
        """A training of one epoch in RUN that was killed in its final evaluation."""
        job = self.start(self.training("--training::num_epochs", "1"))
        job.wait_for("model.pt")  # it is written before the evaluation
        job.send(signal.SIGKILL)
        job.end()
        assert not (self / RUN / "test_results.txt").exists(), "it was killed too late"

    # programs

    def start(self, command: Command | list[str]) -> Job:
        """Start a program and let it run."""
        command = command if isinstance(command, Command) else Command(command)
        return Job(self, command)

    def run(self, command: Command | list[str]) -> Outcome:
        """Run a program to its end."""
        return self.start(command).end()

    def snapshot(self) -> dict[str, str]:
        """Digests of all files, and the folders."""
        files = {}
        for folder, names, members in os.walk(self.root):
            links = [name for name in names if os.path.islink(os.path.join(folder, name))]
            for name in {*names, *members} - set(links):
                path = Path(folder, name)
                key = os.fsdecode(os.fsencode(path.relative_to(self.root)))
                files[key if path.is_file() else f"{key}/"] = digest(path) if path.is_file() else ""
        return files


class Job:
    """A program that runs in a place."""

    def __init__(self, place: Place, command: Command) -> None:
        self.place, self.command = place, command
        self.folder = place.jobs / str(len(list(place.jobs.iterdir())))
        self.before = place.snapshot()
        self.pid = place.programs.start(self.folder, command, place.root)

    def wait_for(self, name: str) -> None:
        """Wait for a file of the place, given as a pattern."""
        wait_for(lambda: any(self.place.root.glob(name)) or self._has_ended(), f"{name} of {self.command.words}")
        assert any(self.place.root.glob(name)), self.outcome()

    def wait_until_said(self, text: str) -> None:
        """Wait for a text in its output."""
        wait_for(lambda: text in self._read("stdout") or self._has_ended(), text)
        assert text in self._read("stdout"), self.outcome()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def end(self) -> Outcome:
        """Wait for its end; a program that does not end is killed, and fails the test."""
        if self.command.stop:
            number, name = self.command.stop
            self.wait_for(name)
            self.send(number)
        try:
            wait_for(self._has_ended, f"the end of {self.command.words}")
        except TimeoutError:
            self.send(signal.SIGKILL)
            raise
        outcome = self.outcome()
        if self.command.disk and outcome.code == NO_MOUNT:
            pytest.skip("this machine lets no process mount a folder of its own")
        return outcome

    def outcome(self) -> Outcome:
        code = int((self.folder / "code").read_text()) if self._has_ended() else 0
        texts = [self._read(name) for name in ("stdout", "stderr")]
        return Outcome(code, *texts, self.before, self.place.snapshot())

    def _read(self, name: str) -> str:
        """Its output so far, without the path of the place."""
        path = self.folder / name
        text = path.read_text(errors="surrogateescape") if path.exists() else ""
        return re.sub(rf"{re.escape(str(self.place.root.resolve()))}/?", "", text)

    def _has_ended(self) -> bool:
        return (self.folder / "code").exists()


TINY_RUN = {
    "data::dataset_dir": "phantoms",
    "data::img_size": 64,
    "teacher::model_name": "vit_test",
    "teacher::img_size": 64,
    "teacher::sam_checkpoint": "sam.pth",
    "teacher::lora_checkpoint": "adapter.pth",
    "student::model_name": TEST_SIZE,
    "training::num_epochs": 2,
    "training::warmup_epochs": 0,
    "training::batch_size": 3,
    "training::num_workers": 0,
    "hardware::gpu_ids": [],
    "run_folder::root": "logs",
    "run_folder::timestamp": "run",
    "model_file": "model.pt",
}


def phantom(number: int, size: int = 64) -> np.ndarray:
    """uint8 (H, W)."""
    return make_phantom((7, number), size)[0]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Ask every few milliseconds.

    Raises:
        TimeoutError: it has not come true in time.
    """
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {SECONDS} s for {what}")
        time.sleep(0.005)


def matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
