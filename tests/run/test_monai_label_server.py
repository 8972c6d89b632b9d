"""MONAI Label's own server and client with this bundle, as docs/monai_label.md starts them; marked monai_label."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import time
import urllib.request

import nibabel
import numpy as np
import pytest
from label_server import (
    EPOCHS,
    HEIGHT,
    MODEL,
    OTHERS,
    PAGE,
    TRAINED,
    WIDTH,
    Label,
    blocks,
    convert_dicom,
    install_server,
    oblique,
    outline,
    phantom,
    serving,
    sha256,
    start,
    write_label,
    write_studies,
)
from packaging.version import Version
from PIL import Image

from scripts.run.history import read_history


def test_page_has_the_commands_that_are_run_here():
    folder, install, app, start = blocks("bash")
    assert folder == "export LABEL=~/monai-label\n"
    assert '"monailabel>=0.8.5"' in install  # the newest that the index has
    assert "apps --download" in app
    assert start.count("--port 8000") == 1
    assert f"model/{MODEL}" in app
    assert f"--conf models {MODEL} " in start
    assert "--host 127.0.0.1 " in start
    assert "0.0.0.0" not in PAGE.read_text()
    assert len(blocks("python")) == len(blocks("json")) == 1


def test_environment_is_made_once_for_the_same_commands(tmp_path):
    cache, block = tmp_path / "cache", 'mkdir -p "$LABEL/env" && echo made >> "$LABEL/log"\n'
    for number, command in enumerate([block, block, block + "true\n"]):
        (root := tmp_path / str(number)).mkdir()
        Label(root).install(command, str(cache))
        assert (root / "env").resolve() == cache / "env"
    assert (cache / "log").read_text() == "made\n" * 2


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    """The server of the page, with this bundle and phantoms as studies; stopped as Ctrl+C does."""
    label = install_server(request.config.option.markexpr, tmp_path_factory.mktemp("label"))
    write_studies(label.root / "studies")
    convert_dicom(label, label.root / "studies")
    with serving(label) as server:
        yield server


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
    assert "monai==1.6.1" in packages
    assert f"monailabel=={server.session('info')['version']}" in packages


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
    frames = {"cine": 5, "dicom_loop": 5}.get(study, 1)
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
    assert server.says("MONAI Label gave 0 labeled studies for training and 0 for validation", seen)
    assert sha256(server.label.model / "models" / "model.pt") == weights


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
    assert f"epoch {EPOCHS}/{EPOCHS} " in plain["log"]
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
    assert [row["distill"] > 0 for row in read_history(run)] == [True, True]
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
    assert "version" in server.session("info")  # the first one still answers


# what a client sends that means harm: what the bundle refuses, and what only the server can


@pytest.fixture
def mark(tmp_path):
    """A file that is there once code of the client has run, and a text that makes it where it is evaluated."""
    path = tmp_path / "mark"
    return path, f"$__import__('pathlib').Path('{path}').touch()"


def is_fixed_in(server, release: str) -> bool:
    """Whether the server that was installed has the remedy of an advisory."""
    return Version(server.session("info")["version"]) >= Version(release)


@pytest.mark.monai_label
@pytest.mark.parametrize("key", ["device", "result_extension", "max_epochs", "label_info", "model_filename"])
def test_inference_runs_no_code_of_a_request(server, mark, key):
    path, code = mark
    with contextlib.suppress(AssertionError):  # an error of the server, or a mask as if it had not been asked for
        server.session.mask("gray_11", **{key: code})
    assert not path.exists()
    assert server.session.mask("gray_11", device="cpu").suffix == ".png"


@pytest.mark.monai_label
def test_mask_is_not_written_where_a_request_says(server):
    seen = len(server.text())
    server.session.error("infer", MODEL, "gray_11", {"result_extension": "/../evil.png"})
    assert server.says("result_extension must be an extension such as .png or .nii.gz, got '/../evil.png'", seen)


@pytest.mark.monai_label
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"max_epochs": "CODE"}, "max_epochs must be a whole number from 1, got"),
        ({"device": "CODE"}, "device must be cpu, mps, cuda or cuda:NUMBER, got"),
        ({"model_filename": "../configs/train.json"}, "model_filename must be a file of"),
        ({"tracking": "mlflow", "tracking_experiment_name": "CODE"}, "tracking is not offered in MONAI Label"),
    ],
)
def test_training_runs_no_code_of_a_request(server, mark, asked, message):
    path, code = mark
    weights, seen = sha256(server.label.model / "models" / "model.pt"), len(server.text())
    status = server.session.train(**{key: code if value == "CODE" else value for key, value in asked.items()})
    assert status["status"] == "ERROR"
    assert server.says(message, seen)
    assert not path.exists()
    assert sha256(server.label.model / "models" / "model.pt") == weights


@pytest.mark.monai_label
@pytest.mark.parametrize("model", [MODEL, "no_such_model"])
def test_foreign_bundle_path_runs_code_only_in_a_server_without_the_remedy(server, mark, tmp_path, model):
    """GHSA-j5c7-p3x5-gw2x: for a model that is none of its bundles the server takes the client's bundle_path."""
    (tmp_path / "sitecustomize.py").write_text(f"open({str(mark[0])!r}, 'w')")
    server.session("train_start", model, {"bundle_path": str(tmp_path)})
    while server.session("train_status")["status"] in ("SUBMITTED", "RUNNING"):
        time.sleep(1)
    assert mark[0].exists() == (model != MODEL and not is_fixed_in(server, "0.8.7"))


@pytest.mark.monai_label
def test_name_that_leads_out_of_the_studies_is_written_only_by_a_server_without_the_remedy(server, tmp_path):
    """CVE-2026-133968: the id of an uploaded image is a path for the server."""
    image = tmp_path / "image.png"
    Image.fromarray(phantom(11)[0]).save(image)
    try:
        server.session("upload_image", str(image), "../outside", {})
    except AssertionError:
        assert is_fixed_in(server, "0.8.6")
    assert (server.label.root / "outside.png").exists() == (not is_fixed_in(server, "0.8.6"))


@pytest.mark.monai_label
@pytest.mark.parametrize("name", ["x" * 100_000, "../../../../etc/passwd", "/etc/passwd"])
def test_id_of_no_study_is_an_error_and_the_server_goes_on(server, name):
    assert server.session.error("infer", MODEL, name, {})
    assert server.session.mask("gray_11").suffix == ".png"
