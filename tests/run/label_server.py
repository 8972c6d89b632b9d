"""MONAI Label's server and client with a copy of this bundle, in an environment of their own; phantoms as studies."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from conftest import ROOT
from dicom_files import write_dicom
from on_ranks import free_port
from PIL import Image
from scipy.ndimage import binary_dilation

from scripts.data.phantoms import make_phantom

PAGE = ROOT / "docs" / "monai_label.md"
WIDTH, HEIGHT = 112, 96
TRAINED, HELD_OUT = range(3, 11), range(11, 13)
OTHERS = {"color": ".png", "photo": ".png", "slice": ".nii.gz", "flat": ".nii.gz"}  # of phantom 20, labeled too
MODEL, EPOCHS, MARGIN = "ultrasound", 30, 5


def blocks(language: str) -> list[str]:
    """The page's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)


def phantom(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask (H, W), wider than high."""
    image, mask = make_phantom((7, number), 128)
    return image[:HEIGHT, 8 : 8 + WIDTH], mask[:HEIGHT, 8 : 8 + WIDTH]


def outline(number: int) -> np.ndarray:
    """The mask (H, W) that an annotator of these studies draws: the lesion and a margin, a habit that no model has
    before training.
    """
    return binary_dilation(phantom(number)[1], iterations=MARGIN).astype(np.uint8)


def oblique() -> np.ndarray:
    """An affine with a rotation and three pixel sizes."""
    turn = np.array([[np.cos(0.35), -np.sin(0.35), 0], [np.sin(0.35), np.cos(0.35), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([0.2, 0.3, 1.5]), [-7, 11, 3]
    return affine


def write_studies(folder: Path) -> None:
    """Gray pictures to train on and to hold out, and one study of every other kind."""
    for number in (*TRAINED, *HELD_OUT):
        Image.fromarray(phantom(number)[0]).save(folder / f"gray_{number:02d}.png")
    gray = phantom(20)[0]
    colors = np.stack([gray, gray // 2, gray // 3], axis=-1)
    Image.fromarray(colors).save(folder / "color.png")
    Image.fromarray(gray).save(folder / "photo.jpg", quality=95)
    columns = gray.T  # (H, W) -> (W, H)
    pixels = np.ascontiguousarray(colors.transpose(1, 0, 2)).view([("R", "u1"), ("G", "u1"), ("B", "u1")])  # (W, H, 1)
    loop = np.stack([phantom(number)[0].T for number in range(20, 25)], axis=-1)
    for name, array in {"flat": columns, "slice": columns[..., None], "colorslice": pixels, "cine": loop}.items():
        nibabel.save(nibabel.Nifti1Image(array, oblique()), folder / f"{name}.nii.gz")


def copy_bundle(target: Path) -> None:
    """The files that git holds, or would hold, as they are in the working tree."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


class Label:
    """The folder $LABEL of the page: environment, app and studies; commands run in a copy of the bundle.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.bundle, self.results = root, root / "bundle", root / "results"
        self.model = root / "apps" / "monaibundle" / "model" / MODEL
        self.results.mkdir()
        copy_bundle(self.bundle)
        self.variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.variables |= {"LABEL": str(root), "RESULTS": str(self.results)}

    def run(self, block: str, **variables: str) -> None:
        """Run a block of the page to its end."""
        environment = {**self.variables, **variables}
        done = subprocess.run(["bash", "-ec", block], cwd=self.bundle, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"

    def install(self, block: str, cache: str | None) -> None:
        """Make the environment, or take that of the folder `cache` when it was made by the same commands for the
        same packages.
        """
        if not cache:
            self.run(block)
            return
        folder = Path(cache).resolve()
        needed = re.search(r"^dependencies = \[.*?^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)[0]
        wanted, record = "\n".join([sys.version, block, needed]), folder / "installed_by.txt"
        if not (record.is_file() and record.read_text() == wanted):
            shutil.rmtree(folder / "env", ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            self.run(block, LABEL=str(folder))
            record.write_text(wanted)
        (self.root / "env").symlink_to(folder / "env")

    @property
    def python(self) -> str:
        """Of the environment."""
        return str(self.root / "env" / "bin" / "python")


class Session:
    """MONAI Label's own client, see monai_label_session.py: `session("infer", ...)` calls its method of that name."""

    def __init__(self, label: Label, url: str) -> None:
        command = [label.python, str(ROOT / "tests" / "monai_label_session.py"), url, str(label.results)]
        self.process = subprocess.Popen(
            command, env=label.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, call: str, *arguments):
        self.process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the client has ended during {call}"
        answer = json.loads(line)
        assert "error" not in answer, f"{call}{arguments}: {answer['error']}"
        return answer["result"]

    def error(self, call: str, *arguments) -> str:
        """The error with which the server answers."""
        try:
            result = self(call, *arguments)
        except AssertionError as error:
            return str(error)
        raise AssertionError(f"{call}{arguments} gave {result}, expected an error")

    def mask(self, study: str, **asked) -> Path:
        """The file that an inference gives."""
        return Path(self("infer", MODEL, study, asked)[0])

    def train(self, **asked) -> dict:
        """The status of a training that has ended."""
        self("train_start", MODEL, asked)
        while (status := self("train_status"))["status"] in ("SUBMITTED", "RUNNING"):
            time.sleep(2)
        return status

    def dice(self) -> float:
        """Mean Dice of all gray studies, trained on and held out, with the annotator's outlines."""
        scores = []
        for number in (*TRAINED, *HELD_OUT):
            mask, truth = np.asarray(Image.open(self.mask(f"gray_{number:02d}"))), outline(number)
            scores.append(2 * (mask * truth).sum() / (mask.sum() + truth.sum()))
        return float(np.mean(scores))


class Server(NamedTuple):
    """A running server."""

    label: Label
    url: str
    port: int
    log: Path
    session: Session

    def text(self, start: int = 0) -> str:
        """What it has logged from a character on."""
        return self.log.read_text()[start:]

    def says(self, text: str, start: int = 0, seconds: float = 30.0) -> bool:
        """Whether it logs a text within some seconds; a request is answered before its error is in the log."""
        end = time.monotonic() + seconds
        while text not in self.text(start) and time.monotonic() < end:
            time.sleep(0.1)
        return text in self.text(start)


def start(label: Label, port: int, log: Path) -> subprocess.Popen:
    """The page's command for the server, with another port and in a process group of its own."""
    command = blocks("bash")[3].replace("--port 8000", f"--port {port}")
    return subprocess.Popen(
        ["bash", "-c", command],
        cwd=label.bundle,
        env=label.variables,
        stdout=open(log, "w"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


@contextmanager
def serving(label: Label) -> Iterator[Server]:
    """The server of a page that is installed, with its client; stopped as Ctrl+C does."""
    port, log = free_port(), label.root / "server.log"
    process = start(label, port, log)
    try:
        wait_until(lambda: "Uvicorn running on" in log.read_text(), process, log)
        url = f"http://127.0.0.1:{port}"
        session = Session(label, url)
        yield Server(label, url, port, log, session)
        session.process.communicate(timeout=30)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 0, log.read_text()[-2000:]
        assert "Finished server process" in log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def install_server(markers: str, root: Path) -> Label:
    """MONAI Label as the page installs it, in an empty folder; skips where the tests are not of the mark monai_label.

    Args:
        markers: the expression that pytest was given.
        root: of the installation.
    """
    if "monai_label" not in markers:
        pytest.skip("installs MONAI Label and runs its server; pass -m monai_label")
    if sys.version_info >= (3, 13):
        pytest.skip("MONAI Label 0.8.5 needs a Python below 3.13")
    label = Label(root)
    label.install(blocks("bash")[1], os.environ.get("MONAI_LABEL_ENV"))
    label.run(blocks("bash")[2])
    return label


def wait_until(condition, process: subprocess.Popen, log: Path, seconds: int = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the server has ended:\n{log.read_text()[-4000:]}"
        assert time.monotonic() < end, f"the server is not ready after {seconds} s:\n{log.read_text()[-4000:]}"
        time.sleep(0.5)


def convert_dicom(label: Label, studies: Path) -> None:
    """What MONAI Label makes of DICOM from a DICOMweb server before a model sees it, as studies."""
    session = Session(label, "")
    gray = np.stack([phantom(number)[0] for number in range(20, 25)])
    color = np.stack([gray[0]] * 3, axis=-1)
    files = {
        "dicom_still": (gray[0], "MONOCHROME2"),
        "dicom_loop": (gray, "MONOCHROME2"),
        "dicom_color": (color, "RGB"),
    }
    for name, (pixels, photometric) in files.items():
        path = write_dicom(label.root / f"{name}.dcm", pixels, photometric)
        shutil.move(session("dicom_to_nifti", str(path)), studies / f"{name}.nii.gz")
    session.process.communicate(timeout=30)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_label(path: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    """A mask (H, W) as Slicer saves it, NIfTI (W, H, 1), or as PNG with 0 and 255."""
    if path.suffix == ".png":
        Image.fromarray(mask * 255).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(mask.T[..., None], affine), path)
