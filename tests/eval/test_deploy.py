"""MONAI Deploy: its own operator runs the bundle, and eval.deploy writes DICOM SEG. The marked tests run the real SDK,
from the environment whose folder MONAI_DEPLOY_ENV names.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bundles import make_repository
from conftest import CONFIGS, ROOT, TINY
from dicom_files import region, write_dicom
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from eval.deploy.__main__ import _name_failures, main
from scripts.data.phantoms import make_phantom
from scripts.networks.tinyusfm import TinyUSFMSeg

ENVIRONMENT = "MONAI_DEPLOY_ENV"
NETWORK = {"_target_": "scripts.networks.tinyusfm.TinyUSFMSeg", "num_classes": "@num_classes", "img_size": 64, **TINY}
real = [
    pytest.mark.deploy,
    pytest.mark.slow,
    pytest.mark.skipif(ENVIRONMENT not in os.environ, reason=f"{ENVIRONMENT} names no environment of MONAI Deploy"),
]


def picture(number: int, width: int = 90) -> np.ndarray:
    return make_phantom((3, number), 96)[0][:, :width]


def tiny_student() -> TinyUSFMSeg:
    """One that finds something in a picture."""
    torch.manual_seed(0)
    student = TinyUSFMSeg(img_size=64, **TINY).eval()
    with torch.no_grad():
        student.decode_head.conv_seg.weight.mul_(50)
        image = torch.from_numpy(np.ascontiguousarray(picture(0)[:64, :64]) / np.float32(255))[None, None]
        student.decode_head.conv_seg.bias -= student(image).median()
    return student


@pytest.fixture
def bundle(tmp_path) -> Path:
    """A copy of this bundle with a tiny student that finds something, and knows presence."""
    folder = make_repository(tmp_path / "bundle")
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text()) | {"img_size": 64, "network_def": NETWORK}
    path.write_text(json.dumps(config))
    student = tiny_student()
    student.add_presence().threshold.fill_(0.1)
    torch.save(student.state_dict(), folder / "models" / "model.pt")
    return folder


def python(words: list, cwd: Path, environment: str | None = None, **variables: str) -> subprocess.CompletedProcess:
    """Run it with this Python, or with that of MONAI Deploy, where no package of this repository is on the path."""
    program = Path(environment) / "bin" / "python" if environment else sys.executable
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(word) for word in (program, *words)]
    return subprocess.run(
        command, cwd=cwd, env={**kept, "OMP_NUM_THREADS": "1", **variables}, capture_output=True, text=True, timeout=600
    )


def infer(bundle: Path, images: Path, output: Path, *options: str) -> None:
    words = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--dataset_dir", images]
    done = python([*words, "--output_dir", output, *options], bundle)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("form", [pytest.param("folder", marks=real), pytest.param("torchscript", marks=real)])
def test_operator_for_bundles_gives_the_masks_of_the_inference_config(bundle, tmp_path, form):
    """From the folder or the TorchScript alone, started elsewhere, on what MONAI Deploy makes of a series."""
    elsewhere, series = tmp_path / "elsewhere", tmp_path / "series"
    elsewhere.mkdir()
    series.mkdir()
    place = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.2, 0.1], "SeriesInstanceUID": "1.2.3"}
    for number in range(2):
        tags = {**place, "StudyInstanceUID": "1.2", "ImagePositionPatient": [0, 0, number]}
        write_dicom(series / f"{number}.dcm", np.ascontiguousarray(picture(number)), **tags)
    infer(bundle, series, tmp_path / "masks", "--hardware::precision", "fp32")
    model, variables = bundle, {}
    if form == "torchscript":
        model, variables = tmp_path / "model.ts", {"PYTHONPATH": str(bundle)}
        words = ["-m", "monai.bundle", "ckpt_export", "network_def", "--filepath", model]
        words += ["--ckpt_file", "models/model.pt", "--meta_file", "configs/metadata.json"]
        done = python([*words, "--config_file", "configs/inference.json"], bundle)
        assert done.returncode == 0, done.stderr[-3000:]
    script = shutil.copy(ROOT / "tests" / "deploy_session.py", tmp_path)
    done = python([script, model, series, tmp_path / "out.npy"], elsewhere, os.environ[ENVIRONMENT], **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    masks = np.load(tmp_path / "out.npy")  # (N, H, W)
    expected = np.stack([np.asarray(Image.open(tmp_path / "masks" / f"{number}_mask.png")) for number in range(2)])
    assert 0 < expected.mean() < 1
    assert np.array_equal(masks, expected)
    assert list(elsewhere.iterdir()) == []


@pytest.fixture
def studies(tmp_path) -> Path:
    """A still with a scale, one in colors and another size, a loop, a CT, and what is no DICOM."""
    folder = tmp_path / "studies"
    (folder / "first").mkdir(parents=True)
    scale = {"SequenceOfUltrasoundRegions": [region(0.02, 0.01)]}
    write_dicom(folder / "first" / "still.dcm", np.ascontiguousarray(picture(0)), **scale)
    write_dicom(folder / "first" / "colors.dcm", np.repeat(picture(1, 70)[..., None], 3, axis=2), "RGB")
    write_dicom(folder / "loop", np.stack([picture(number) for number in range(3)]))
    write_dicom(folder / "ct.dcm", np.ascontiguousarray(picture(0)), modality="CT")
    (folder / "notes.txt").write_text("no image")
    return folder


NAMES = ("first/still_mask.dcm", "first/colors_mask.dcm", "loop_mask.dcm")


@pytest.mark.parametrize("form", [pytest.param("folder", marks=real)])
def test_application_writes_the_dicom_seg_of_every_ultrasound_image(bundle, studies, tmp_path, form):
    """And names the one that is damaged."""
    highdicom = pytest.importorskip("highdicom", reason="DICOM SEG needs the extra dicom")
    damaged, masks = studies / "first" / "damaged.dcm", tmp_path / "masks"
    damaged.write_bytes((studies / "first" / "still.dcm").read_bytes()[:-3000])
    done = python(
        ["-m", "eval.deploy", "--input", studies, "--output", tmp_path / "seg"], bundle, os.environ[ENVIRONMENT]
    )
    assert done.returncode == 1, done.stderr[-3000:]
    assert done.stdout.splitlines() == [f"wrote 3 DICOM SEG into {tmp_path / 'seg'}"]
    assert done.stderr.splitlines()[-1].startswith(f"deploy: file {damaged} cannot be read as an image")
    for path in (damaged, studies / "ct.dcm"):
        path.unlink()
    infer(bundle, studies, masks, "--output_format", "dicom_seg", "--recursive", "True")
    written = sorted(path.relative_to(tmp_path / "seg").as_posix() for path in (tmp_path / "seg").rglob("*.*"))
    assert written == sorted(NAMES)
    for name in NAMES:
        found, expected = (highdicom.seg.segread(folder / name) for folder in (tmp_path / "seg", masks))
        assert found.pixel_array.any()
        assert np.array_equal(found.pixel_array, expected.pixel_array)
        assert found.StudyInstanceUID == expected.StudyInstanceUID
        assert found.get("ContentDescription") == expected.get("ContentDescription")


def steps(parser: ConfigParser, name: str) -> list:
    """The transforms that MONAI Deploy leaves of a Compose, by its rule: no name with LoadImage or SaveImage."""
    transforms = parser.get_parsed_content(name).transforms
    return [one for one in transforms if not any(word in type(one).__name__ for word in ("LoadImage", "SaveImage"))]


@pytest.mark.parametrize("frames", [1, 3])
def test_steps_that_deploy_takes_give_a_mask_with_its_channel(tmp_path, monkeypatch, frames):
    """A stand-in of MONAI Deploy's operator: stored pixels (W, H, D) without a file, no bundle_root, another folder."""
    monkeypatch.chdir(tmp_path)
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.json")
    assert parser.get_parsed_content("checkpoint") == f"{ROOT}/models/model.pt"
    parser.update({"img_size": 64, "network_def": NETWORK, "device": "cpu"})
    network = tiny_student()
    stored = np.stack([picture(number).T for number in range(frames)], axis=-1)  # (W, H, D)
    masks = []
    for pixels in (stored, stored / np.float32(255)):
        meta = {"original_channel_dim": "no_channel", "spatial_shape": np.asarray(pixels.shape), "affine": np.eye(4)}
        items = Compose(steps(parser, "preprocessing"))({"image": MetaTensor(torch.from_numpy(pixels), meta=meta)})
        with torch.no_grad():
            items["pred"] = parser.get_parsed_content("inferer")(items["image"][None], network)[0]
        masks.append(Compose(steps(parser, "postprocessing"))(items)["pred"])
    assert tuple(masks[0].shape) == (1, *stored.shape)
    assert torch.equal(*masks)
    assert 0 < masks[0].float().mean() < 1
    assert list(tmp_path.iterdir()) == []


def test_run_without_a_mask_does_not_end_well():
    _name_failures(SimpleNamespace(written=["a_mask.dcm"], failures={}))
    with pytest.raises(ValueError, match="holds no DICOM series of the modality US"):
        _name_failures(SimpleNamespace(written=[], failures={}))
    with pytest.raises(ValueError, match="^first\nsecond$"):
        _name_failures(SimpleNamespace(written=[], failures={"a": "first", "b": "second"}))


def test_bad_options_end_with_one_line(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "a_mask.dcm").touch()
    given = {"-i": tmp_path / "in", "-o": tmp_path / "out"}
    for change, message in (
        ({"-i": tmp_path / "gone"}, "--input .*gone is no folder; give the folder of the DICOM series."),
        ({"-m": tmp_path / "gone.ts"}, "--model .*gone.ts does not exist; leave it out"),
        ({"-m": tmp_path}, "--model .* is another bundle; run python -m eval.deploy in its folder."),
        ({"-o": tmp_path / "done"}, "--output .*done holds masks, or is a file; give another folder."),
        ({}, r"MONAI Deploy cannot be imported \(.*\); run pip install monai-deploy-app-sdk==4.0.0"),
    ):
        words = [str(word) for pair in {**given, **change}.items() for word in pair]
        assert main(words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(message, line)
