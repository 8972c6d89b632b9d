"""MONAI Label: what it asks of train.json, and, marked monai_label, its server and its client with a copy of this
bundle.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
import torch
from conftest import CONFIGS, ROOT, root_cause
from dicom_files import write_dicom
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from PIL import Image
from scipy.ndimage import binary_dilation

from scripts.data.phantoms import make_phantom
from scripts.losses import DistillationLoss
from scripts.run.config_check import find_user_error
from scripts.run.monai_label import LabelResultd, fitting_warmup, given_studies, lacks_teacher, training_loss

TEACHER_FILES = ("sam_checkpoint", "lora_checkpoint")

# what MONAI Label asks of train.json


def lists(folder: Path, count: int = 6) -> list[dict]:
    """Studies as MONAI Label names them: absolute paths and nothing else."""
    content = json.loads((folder / "dataset.json").read_text())
    return [{key: str(folder / item[key]) for key in ("image", "label")} for item in content["training"][:count]]


@pytest.fixture
def request_of_monai_label(overrides, phantoms, tmp_path) -> dict:
    """The overrides that MONAI Label 0.8.5 gives to monai.bundle.run, and those that make it a run of seconds."""
    ours = ("data::dataset_dir", "training::num_epochs", *(f"teacher::{key}" for key in ("model_name", *TEACHER_FILES)))
    tiny = {key: value for key, value in overrides.items() if key not in ours}
    studies = lists(phantoms)
    handlers = json.loads((CONFIGS / "train.json").read_text())["train"]["handlers"]
    return {
        **tiny,
        "training::warmup_epochs": 5,
        "train#trainer#max_epochs": 2,
        "train#dataset#data": studies[:4],
        "validate#dataset#data": studies[4:],
        "device": "cpu",
        "train#handlers": handlers,
    }


def run_as_monai_label(overrides: dict) -> ConfigWorkflow:
    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        run_id="run",
        **overrides,
    )
    flow.initialize()
    flow.run()
    return flow


def test_studies_train_without_a_teacher_and_the_log_says_so(request_of_monai_label, tmp_path, caplog):
    handlers, start = request_of_monai_label["train#handlers"], tmp_path / "start.pt"
    first = {
        **request_of_monai_label,
        "train#trainer#max_epochs": 1,
        "run_folder::timestamp": "first",
        "model_file": str(start),
    }
    run_as_monai_label(first)
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(start),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    caplog.clear()
    with caplog.at_level(logging.INFO):
        flow = run_as_monai_label({**request_of_monai_label, "train#handlers": [loader, *handlers]})
    assert "4 studies for training and 2 for validation, and train.json names no teacher" in caplog.text
    assert "WITHOUT A TEACHER" in caplog.text
    assert f"Restored all variables from {start}" in caplog.text
    assert flow.trainer.teacher is None
    assert flow.trainer.state.epoch == 2
    (log,) = [r.message for r in caplog.records if r.message.startswith("training on")]
    assert "2 epochs of 2 iterations" in log
    folder = tmp_path / "logs" / "images" / "run"
    history = (folder / "history.csv").read_text().splitlines()
    assert len(history) == 3
    assert history[0].startswith("epoch,loss,task,distill")
    assert all(
        float(line.split(",")[3]) == 0 and float(line.split(",")[1]) == float(line.split(",")[2])
        for line in history[1:]
    )
    assert (tmp_path / "model.pt").is_file()
    assert not (folder / "test_results.txt").exists()


def test_named_teacher_is_distilled(request_of_monai_label, sam_checkpoint, lora_checkpoint, tmp_path, caplog):
    teacher = {"model_name": "vit_test", "sam_checkpoint": str(sam_checkpoint), "lora_checkpoint": str(lora_checkpoint)}
    with caplog.at_level(logging.INFO):
        flow = run_as_monai_label(
            {**request_of_monai_label, **{f"teacher::{key}": value for key, value in teacher.items()}}
        )
    assert f"the student is DISTILLED from the teacher {lora_checkpoint}" in caplog.text
    assert flow.trainer.teacher is not None
    rows = (tmp_path / "logs" / "images" / "run" / "history.csv").read_text().splitlines()
    assert all(float(row.split(",")[3]) > 0 for row in rows[1:])


def test_teacher_that_is_missing_is_an_error(request_of_monai_label, tmp_path):
    missing = {"teacher::model_name": "lite_medsam", "teacher::lora_checkpoint": str(tmp_path / "gone.pth")}
    with pytest.raises(Exception) as error:
        run_as_monai_label({**request_of_monai_label, **missing})
    assert "gone.pth" in str(root_cause(error.value))


def test_run_of_the_bundle_without_a_teacher_stays_an_error(overrides):
    overrides["teacher::lora_checkpoint"] = None
    with pytest.raises(Exception) as error:
        run_as_monai_label(overrides)
    assert "teacher.lora_checkpoint is required for distillation" in str(root_cause(error.value))


def test_loop_among_the_studies_is_named(request_of_monai_label, tmp_path):
    loop = tmp_path / "loop.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((64, 64, 5), np.uint8), np.eye(4)), loop)
    studies = [*request_of_monai_label["train#dataset#data"], {"image": str(loop), "label": str(loop)}]
    with pytest.raises(Exception) as error:
        run_as_monai_label({**request_of_monai_label, "train#dataset#data": studies})
    message = str(find_user_error(error.value))
    assert re.search(r"loop.nii.gz has shape \(64, 64, 5\).*save the slices or frames as separate files", message)


def config(training, validation, lora_checkpoint=None) -> dict:
    return {
        "train": {"dataset": {"data": training}},
        "validate": {"dataset": {"data": validation}},
        "teacher": {"lora_checkpoint": lora_checkpoint},
    }


def test_references_are_no_studies():
    given = config("$@data.training", "$@data.validation")
    assert given_studies(given) is None
    assert lacks_teacher(given, None) is False


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        (
            [],
            [],
            "gave 0 labeled studies for training and 0 for validation, expected at least one for training; save more "
            "labels",
        ),
        (
            [{}],
            [],
            "gave 1 labeled studies for training and 0 for validation, expected at least one for validation; save more",
        ),
        ([{}], "$@data.validation", "val_split is negative.*pass a val_split such as 0.2"),
    ],
)
def test_list_without_studies_is_refused(training, validation, message):
    with pytest.raises(ValueError, match=message):
        given_studies(config(training, validation))


def test_loss_without_a_teacher_is_the_task_alone():
    distillation = DistillationLoss(num_classes=3)
    assert training_loss(distillation, False, 3) is distillation
    loss = training_loss(distillation, True, 3)
    assert not loss.needs_teacher
    assert loss.weights == {"alpha": 1.0, "beta": 0.0, "gamma": 0.0}
    logits, label = torch.randn(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    assert loss(logits, label).total == distillation.task(logits, label)


@pytest.mark.parametrize(("epochs", "expected"), [(1, 0), (9, 0), (20, 2), (50, 5), (200, 5)])
def test_warmup_fits_the_epochs_of_monai_label(epochs, expected):
    assert fitting_warmup(5, epochs, {"training": [], "validation": []}) == expected
    assert fitting_warmup(5, epochs, None) == 5


@pytest.mark.parametrize(
    ("name", "shape", "asked", "expected_shape", "expected_extension"),
    [
        ("a.png", (3, 2), None, (3, 2), None),
        ("a.JPG", (3, 2), None, (3, 2), ".png"),
        ("a.jpeg", (3, 2), ".nrrd", (3, 2), ".nrrd"),
        ("a.nii.gz", (3, 2), None, (3, 2, 1), None),
        ("a.nii", (3, 2, 4), None, (3, 2, 4), None),
    ],
)
def test_mask_is_made_ready_for_the_writer_of_monai_label(name, shape, asked, expected_shape, expected_extension):
    mask = MetaTensor(torch.ones(shape, dtype=torch.uint8), meta={"original_shape": shape})
    request = {"image_path": f"/studies/{name}", **({"result_extension": asked} if asked else {})}
    item = LabelResultd("pred")({"pred": mask, **request})
    assert tuple(item["pred"].shape) == expected_shape
    assert item.get("result_extension") == expected_extension
    assert LabelResultd("pred")({"pred": mask})["pred"] is mask  # an item of monai.bundle


# the server and its client, in an environment of their own


PAGE = ROOT / "docs" / "monai_label.md"
WIDTH, HEIGHT = 112, 96
TRAINED, HELD_OUT = range(3, 11), range(11, 13)
OTHERS = {"color": ".png", "photo": ".png", "slice": ".nii.gz", "flat": ".nii.gz"}  # of phantom 20, labeled too
MODEL, EPOCHS, MARGIN = "ultrasound", 30, 5


def blocks(language: str) -> list[str]:
    """The page's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)


def test_page_has_the_commands_that_are_run_here():
    folder, install, app, start = blocks("bash")
    assert folder == "export LABEL=~/monai-label\n"
    assert "monailabel==0.8.5" in install
    assert "apps --download" in app
    assert start.count("--port 8000") == 1
    assert f"model/{MODEL}" in app
    assert f"--conf models {MODEL} " in start
    assert len(blocks("python")) == len(blocks("json")) == 1


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


def test_environment_is_made_once_for_the_same_commands(tmp_path):
    cache, block = tmp_path / "cache", 'mkdir -p "$LABEL/env" && echo made >> "$LABEL/log"\n'
    for number, command in enumerate([block, block, block + "true\n"]):
        (root := tmp_path / str(number)).mkdir()
        Label(root).install(command, str(cache))
        assert (root / "env").resolve() == cache / "env"
    assert (cache / "log").read_text() == "made\n" * 2


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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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


def wait_until(condition, process: subprocess.Popen, log: Path, seconds: int = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the server has ended:\n{log.read_text()[-4000:]}"
        assert time.monotonic() < end, f"the server is not ready after {seconds} s:\n{log.read_text()[-4000:]}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    """The server of the page, with this bundle and phantoms as studies; stopped as Ctrl+C does."""
    if "monai_label" not in request.config.option.markexpr:
        pytest.skip("installs MONAI Label and runs its server; pass -m monai_label")
    if sys.version_info >= (3, 13):
        pytest.skip("MONAI Label 0.8.5 needs a Python below 3.13")
    root = tmp_path_factory.mktemp("label")
    label = Label(root)
    label.install(blocks("bash")[1], os.environ.get("MONAI_LABEL_ENV"))
    label.run(blocks("bash")[2])
    write_studies(root / "studies")
    convert_dicom(label, root / "studies")
    port, log = free_port(), root / "server.log"
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


def convert_dicom(label: Label, studies: Path) -> None:
    """What MONAI Label makes of DICOM from a DICOMweb server before a model sees it, as studies."""
    session = Session(label, "")
    gray = np.stack([phantom(number)[0] for number in range(20, 23)])
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


@pytest.mark.monai_label
def test_server_tells_model_and_training(server):
    info = server.session("info")
    assert info["models"][MODEL]["labels"] == {"lesion": 1}
    assert info["models"][MODEL]["type"] == "segmentation"
    assert info["trainers"][MODEL]["config"]["max_epochs"] == 50
    studies = [path for path in (server.label.root / "studies").iterdir() if path.suffix in (".png", ".jpg", ".gz")]
    assert info["datastore"]["total"] == len(studies)
    command = [server.label.python, "-m", "pip", "list", "--format", "freeze"]
    packages = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert {"monai==1.6.1", "monailabel==0.8.5"} <= set(packages)


@pytest.mark.monai_label
@pytest.mark.parametrize("study", ["gray_11", "color", "photo"])
def test_mask_of_a_picture_is_a_png_of_its_size(server, study):
    path = server.session.mask(study)
    mask = np.asarray(Image.open(path))
    assert path.suffix == ".png"
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    truth = phantom(11 if study == "gray_11" else 20)[1]
    assert 2 * (mask * truth).sum() > 0.3 * (mask.sum() + truth.sum())  # neither turned nor flipped


@pytest.mark.monai_label
@pytest.mark.parametrize("study", ["slice", "flat", "colorslice", "cine", "dicom_still", "dicom_loop", "dicom_color"])
def test_mask_of_nifti_has_its_shape_and_affine(server, study):
    image, mask = (
        nibabel.load(server.label.root / "studies" / f"{study}.nii.gz"),
        nibabel.load(server.session.mask(study)),
    )
    frames = {"cine": 5, "dicom_loop": 3}.get(study, 1)
    assert mask.shape == (WIDTH, HEIGHT, frames)
    assert mask.get_data_dtype() == np.uint8
    assert np.allclose(mask.affine, image.affine, atol=1e-4)
    pixels = np.asanyarray(mask.dataobj)
    assert set(np.unique(pixels)) == {0, 1}
    for frame in range(frames):
        truth = phantom(20 + frame)[1].T
        assert frame or 2 * (pixels[..., 0] * truth).sum() > 0.3 * (pixels[..., 0].sum() + truth.sum())


@pytest.mark.monai_label
def test_frames_of_a_loop_get_the_masks_of_stills(server):
    loop = np.asanyarray(nibabel.load(server.session.mask("cine")).dataobj)
    still = np.asanyarray(nibabel.load(server.session.mask("slice")).dataobj)
    assert (loop[..., 0] == still[..., 0]).mean() > 0.995
    assert all((loop[..., 0] != loop[..., frame]).any() for frame in range(1, 5))


@pytest.mark.monai_label
@pytest.mark.parametrize("study", ["gray_11", "slice", "cine"])
def test_slicer_gets_nrrd_at_the_place_of_the_study(server, study):
    path = server.session.mask(study, result_extension=".nrrd", result_dtype="uint8")
    mask = server.session("geometry", str(path))
    suffix = ".png" if study == "gray_11" else ".nii.gz"
    image = server.session("geometry", str(server.label.root / "studies" / f"{study}{suffix}"))
    assert path.suffix == ".nrrd"
    assert mask["values"] == [0, 1]
    for key in ("size", "spacing", "origin", "direction"):
        assert np.allclose(mask[key], image[key], atol=1e-4), key


@pytest.mark.monai_label
def test_page_of_ohif_is_served(server):
    with urllib.request.urlopen(f"{server.url}/ohif/") as response:
        assert response.status == 200
        assert b"OHIF Viewer" in response.read()


@pytest.mark.monai_label
def test_training_without_labels_is_an_error_that_says_so(server):
    weights, seen = sha256(server.label.model / "models" / "model.pt"), len(server.text())
    status = server.session.train(max_epochs=1)
    assert status["status"] == "ERROR"
    assert "MONAI Label gave 0 labeled studies for training and 0 for validation" in server.text(seen)
    assert sha256(server.label.model / "models" / "model.pt") == weights


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_label(path: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    """A mask (H, W) as Slicer saves it, NIfTI (W, H, 1), or as PNG with 0 and 255."""
    if path.suffix == ".png":
        Image.fromarray(mask * 255).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(mask.T[..., None], affine), path)


@pytest.fixture(scope="module")
def plain(server) -> dict:
    """A training on saved labels with the bundle as it is shared, and what was there before it."""
    labels = server.label.root / "labels"
    labels.mkdir()
    kinds = {f"gray_{number:02d}": (number, ".nii.gz" if number % 2 else ".png") for number in TRAINED}
    for study, (number, suffix) in {**kinds, **{study: (20, suffix) for study, suffix in OTHERS.items()}}.items():
        path = labels / f"{study}{suffix}"
        write_label(path, outline(number), oblique() if study in ("slice", "flat") else np.diag([-1.0, -1.0, 1.0, 1.0]))
        server.session("save_label", study, str(path), "final", {})
    before, weights, seen = (
        server.session.dice(),
        sha256(server.label.model / "models" / "model.pt"),
        len(server.text()),
    )
    status = server.session.train(max_epochs=EPOCHS, val_split=0.25)
    found = {"before": before, "weights": weights, "status": status["status"], "log": server.text(seen)}
    return {**found, "after": server.session.dice()}


@pytest.mark.monai_label
def test_labels_are_in_the_studies(server, plain):
    assert server.session("info")["datastore"]["completed"] == len(TRAINED) + len(OTHERS)


@pytest.mark.monai_label
def test_training_without_a_teacher_raises_the_dice(server, plain):
    assert plain["status"] == "DONE", plain["log"][-4000:]
    assert "gave 9 studies for training and 3 for validation, and train.json names no teacher" in plain["log"]
    assert "WITHOUT A TEACHER" in plain["log"]
    assert f"epoch {EPOCHS} of {EPOCHS}" in plain["log"]
    assert sha256(server.label.model / "models" / "model.pt") != plain["weights"]
    print(f"Dice {plain['before']:.3f} -> {plain['after']:.3f}")
    assert plain["after"] > plain["before"] + 0.02
    (run,) = (server.label.model / "logs" / "distillation" / "studies").iterdir()
    assert {"history.csv", "distill.log", "config.json", "models", "visualizations"} <= {
        path.name for path in run.iterdir()
    }


@pytest.mark.monai_label
def test_training_with_the_teacher_of_the_page_distils(server, plain):
    config = server.label.model / "configs" / "train.json"
    content = json.loads(config.read_text())
    content["teacher"].update(json.loads(blocks("json")[0]))
    config.write_text(json.dumps(content))
    weights, seen = sha256(server.label.model / "models" / "model.pt"), len(server.text())
    runs = server.label.model / "logs" / "distillation" / "studies"
    former = set(runs.iterdir())
    status = server.session.train(max_epochs=2, val_split=0.25)
    log = server.text(seen)
    assert status["status"] == "DONE", log[-4000:]
    assert "the student is DISTILLED from the teacher" in log
    assert "lite_medsam_busbra.pth" in log
    assert "WITHOUT A TEACHER" not in log
    (run,) = set(runs.iterdir()) - former
    rows = [line.split(",") for line in (run / "history.csv").read_text().splitlines()]
    assert rows[0][3] == "distill"
    assert len(rows) == 3
    assert all(float(row[3]) > 0 for row in rows[1:])
    assert sha256(server.label.model / "models" / "model.pt") != weights
    dice = server.session.dice()
    print(f"Dice after the distillation {dice:.3f}")
    assert dice > plain["before"]


@pytest.mark.monai_label
def test_python_of_the_page_runs(server, plain):
    command, variables = (
        [server.label.python, "-c", blocks("python")[0]],
        {**server.label.variables, "SERVER": server.url},
    )
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'lesion': 1}\n", done.stderr
    assert server.session("info")["datastore"]["completed"] == len(TRAINED) + len(OTHERS) + 1


@pytest.mark.monai_label
def test_port_in_use_ends_the_second_server(server, tmp_path):
    other = Label(tmp_path)
    (tmp_path / "env").symlink_to(server.label.root / "env")
    other.run(blocks("bash")[2])
    log = tmp_path / "server.log"
    process = start(other, server.port, log)
    try:
        assert process.wait(timeout=300) != 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    bind = f"error while attempting to bind on address ('127.0.0.1', {server.port}): address already in use"
    message = f"[Errno {errno.EADDRINUSE}] {bind}"
    assert message in log.read_text()
    assert "Uvicorn running on" not in log.read_text()
    assert message.replace(str(server.port), "8000") in " ".join(PAGE.read_text().split())
    assert server.session("info")["version"] == "0.8.5"  # the first one still answers
