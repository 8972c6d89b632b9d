"""The student in three lines: the masks of configs/inference.json, engines, and bad arguments in one line."""

import csv
import json
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
from api_students import speckle, tiny_student
from conftest import ROOT, SHARED, TINY
from dicom_files import region, write_dicom
from PIL import Image

from scripts.api import student
from scripts.api.engines import SessionEngine
from scripts.api.result import logits_to_mask, logits_to_probability
from scripts.api.student import load
from scripts.inference import exports
from scripts.inference.masks import stored_mask
from scripts.metrics import logits_to_classes, logits_to_probabilities
from scripts.run.workflow import build_workflow
from scripts.utils.outlines import OUTLINE_COLORS

NETWORK = {"_target_": "scripts.networks.tinyusfm.TinyUSFMSeg", "num_classes": "@num_classes", "img_size": 64, **TINY}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_student(tmp_path_factory.mktemp("models") / "model.pt")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM_TINYUSFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path):
    """A file of each kind."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(speckle(0)).save(folder / "gray.png")
    Image.fromarray(np.stack([speckle(n, (90, 131)) for n in range(3)], axis=2)).save(folder / "color.jpg")
    Image.fromarray(speckle(3).astype(np.uint16) * 16).save(folder / "deep.tif")
    loop = np.stack([speckle(n, (40, 36)).T for n in range(10)], axis=-1)[:, :, None]
    nibabel.save(nibabel.Nifti1Image(loop, np.diag([0.5, 0.25, 1, 1])), folder / "loop.nii.gz")
    write_dicom(folder / "still.dcm", speckle(5), SequenceOfUltrasoundRegions=[region(0.02, 0.01)])
    return folder


def infer(images, output_dir, checkpoint, **overrides):
    given = {"dataset_dir": str(images), "output_dir": str(output_dir), "checkpoint": str(checkpoint)}
    flow = build_workflow(["inference.json"], {**given, **overrides}, "run", "infer")
    flow.initialize()
    flow.run()
    with open(output_dir / "lesions.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stored(result, path):
    """A result's mask as it lies in a mask file (W, H[, 1, N])."""
    mask = result.mask.T if result.mask.ndim == 2 else result.mask.transpose(2, 1, 0)
    return stored_mask(mask, nibabel.load(path).shape) if path.name.endswith(".gz") else mask


@pytest.mark.parametrize(("num_classes", "threshold"), [(2, None), (3, None), (2, 0.4999)])
def test_results_are_those_of_the_inference_config(images, tmp_path, num_classes, threshold):
    path = tiny_student(tmp_path / "model.pt", num_classes, threshold)
    rows = infer(images, tmp_path / "masks", path, img_size=64, network_def=NETWORK, num_classes=num_classes)
    one = load(path, engine="torch")
    lesions = []
    for image in sorted(images.iterdir()):
        result, name = one.segment(image), image.name.split(".")[0]
        (mask,) = (tmp_path / "masks").glob(f"{name}_mask.*")
        pixels = nibabel.load(mask).get_fdata() if mask.name.endswith(".gz") else np.asarray(Image.open(mask)).T
        assert np.array_equal(stored(result, mask), pixels), image.name
        assert result.mask.dtype == np.uint8
        assert result.probability.dtype == np.float32
        lesions += [(image.name, lesion) for lesion in result.lesions]
        drawn = np.asarray(Image.open(next((tmp_path / "masks").glob(f"{name}_overlay.*"))).convert("RGB"))
        assert result.overlay().dtype == np.uint8
        if result.mask.ndim == 2:
            assert np.array_equal(result.overlay(), drawn)
    rows = [row for row in rows if row["empty"] == "no"]
    assert len(rows) == len(lesions) > 4
    for row, (name, lesion) in zip(rows, lesions):
        assert (row["file"], row["class"], int(row["frame"])) == (name, lesion.name, lesion.frame)
        assert (int(row["area_px"]), int(row["components"])) == (lesion.area_px, lesion.components)
        assert (row["area_mm2"] and float(row["area_mm2"])) == (lesion.area_mm2 or "")
        assert tuple(int(row[key]) for key in ("x_min", "y_min", "x_max", "y_max")) == lesion.box
        assert float(row["confidence"]) == pytest.approx(lesion.confidence, abs=1.01e-4)  # the last digit
        assert (row["look"] == "yes") is lesion.look


@pytest.mark.skipif(not student.SHARED.is_file(), reason="models/model.pt is not there")
@pytest.mark.skipif(not (SHARED / "busbra_native").is_dir(), reason="../shared/data is not there")
def test_shared_student_gives_the_masks_of_the_inference_config_on_real_images(tmp_path):
    (tmp_path / "images").mkdir()
    native = SHARED / "busbra_native"
    for case in json.loads((native / "dataset.json").read_text())["training"][:4]:
        shutil.copy(native / case["image"], tmp_path / "images")
    infer(tmp_path / "images", tmp_path / "masks", student.SHARED)
    one = load(engine="torch")
    paths = sorted((tmp_path / "images").iterdir())
    for path, result in zip(paths, one.segment(paths)):
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{path.stem}_mask.png"))
        assert np.array_equal(result.mask, mask), path.name


def test_probability_and_mask_say_the_same(checkpoint, tmp_path):
    two = load(checkpoint, engine="torch").segment(speckle())
    assert two.probability.shape == two.mask.shape == (50, 60)
    assert np.array_equal(two.probability > 0.5, two.mask == 1)
    assert two.presence is None
    three = load(tiny_student(tmp_path / "three.pt", 3), "torch", class_names=["cyst", "tumor"]).segment(speckle())
    assert three.probability.shape == (3, 50, 60)
    assert np.array_equal(three.probability.argmax(axis=0), three.mask)
    assert {lesion.name for lesion in three.lesions} <= {"cyst", "tumor"}


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_logits_mean_what_tensors_of_logits_mean(channels):
    logits = 4 * torch.randn(channels, 40, 30)
    assert np.array_equal(logits_to_mask(logits.numpy()), logits_to_classes(logits[None])[0, 0].numpy())
    expected = logits_to_probabilities(logits).numpy()
    assert np.abs(logits_to_probability(logits.numpy()) - expected).max() < 1e-6


def test_student_with_presence_empties_masks_and_says_so(tmp_path):
    path = tiny_student(tmp_path / "model.pt", threshold=0.6)
    result = load(path, engine="torch").segment(speckle())
    assert result.presence == [pytest.approx(0.5, abs=1e-3)]
    assert not result.mask.any()
    assert result.lesions == []
    assert "no lesion" in repr(result)


def test_areas_in_mm2_need_the_size_of_a_pixel(checkpoint):
    one = load(checkpoint, engine="torch")
    without, given = (one.segment(speckle(), spacing).lesions[0] for spacing in (None, (0.1, 0.2)))
    assert without.area_mm2 is None
    assert given.area_mm2 == pytest.approx(0.02 * given.area_px, abs=1e-4)


def test_overlay_draws_the_outline_and_a_notebook_shows_it(checkpoint):
    result = load(checkpoint, engine="torch").segment(speckle())
    drawn = result.overlay()
    color = [int(OUTLINE_COLORS[0][i : i + 2], 16) for i in (1, 3, 5)]
    line = (drawn == color).all(axis=2)
    assert line.any()
    assert (result.mask[line] == 1).all()
    assert np.array_equal(drawn[~line][:, 0], speckle()[~line])
    assert result._repr_png_().startswith(b"\x89PNG")


def test_loop_is_told_in_a_line(checkpoint, tmp_path):
    loop = np.stack([speckle(n, (40, 36)).T for n in range(10)], axis=-1)[:, :, None]
    nibabel.save(nibabel.Nifti1Image(loop, np.eye(4)), tmp_path / "loop.nii.gz")
    result = load(checkpoint, engine="torch").segment(tmp_path / "loop.nii.gz")
    assert repr(result).endswith(f" pixels, and {len(result.lesions) - 3} more>")


def test_list_gives_a_list(checkpoint):
    one = load(checkpoint, engine="torch")
    results = one.segment([speckle(0), speckle(1, (20, 30))])
    assert [result.mask.shape for result in results] == [(50, 60), (30, 20)]
    assert one.segment([]) == []
    with pytest.raises(ValueError, match="^image 1 of the list looks like a mask"):
        one.segment([speckle(0), np.zeros((30, 30), np.uint8)])


def test_bad_arguments_end_with_one_line(checkpoint, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"engine must be one of auto, openvino, onnx, torch, got 'tensorrt'\."):
        load(checkpoint, engine="tensorrt")
    for threads in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="threads must be a positive integer or None, got"):
            load(checkpoint, threads=threads)
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*gone.pt does not exist; pass"):
        load(tmp_path / "gone.pt")
    with pytest.raises(FileNotFoundError, match=r"has no config.json and no model.safetensors; expected what save_"):
        load(tmp_path)
    with pytest.raises(ValueError, match="class_names must name the 1 classes without the background"):
        load(checkpoint, engine="torch", class_names=["a", "b"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime cannot be imported .*; run pip install .\[export\]"):
        load(checkpoint, engine="onnx")


def test_checkpoint_of_another_network_is_named(tmp_path):
    torch.save({"image_encoder.x": torch.zeros(2), "mask_decoder.y": torch.zeros(2)}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=r"checkpoint .*sam.pth is a SAM base file .*, not a TinyUSFM student"):
        load(tmp_path / "sam.pth", engine="torch")
    torch.save({"decode_head.x": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"checkpoint .*other.pt does not fit TinyUSFMSeg: \d+ missing"):
        load(tmp_path / "other.pt", engine="torch")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(ValueError, match=r"checkpoint .*text.pt cannot be read as weights"):
        load(tmp_path / "text.pt", engine="torch")


def test_auto_takes_torch_where_nothing_else_is_installed(checkpoint, monkeypatch):
    monkeypatch.setattr(exports, "installed", lambda engine: False)
    assert load(checkpoint).engine.name == "torch"


def test_auto_takes_torch_with_a_warning_where_the_cache_cannot_be_written(checkpoint, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SAM_TINYUSFM_CACHE", str(tmp_path / "file" / "cache"))
    assert load(checkpoint).engine.name == "torch"
    assert "engine auto takes torch, since no export can be used" in caplog.text


def test_auto_takes_torch_with_a_warning_where_no_export_is_within_its_limit(checkpoint, monkeypatch, caplog):
    monkeypatch.setattr(exports, "installed", lambda engine: True)
    monkeypatch.setattr(student, "can_write", lambda: True)
    monkeypatch.setattr(exports, "_write", lambda *arguments: "onnx is refused: max_logit_difference is 1")
    assert load(checkpoint).engine.name == "torch"
    assert "engine auto takes torch, since no export can be used: onnx is refused" in caplog.text


def test_fastest_format_on_this_machine_is_taken():
    times = {"onnx": {"ms": 9.0}, "openvino": {"ms": 8.0}, "openvino_bf16": {"ms": 7.0}}
    record = {"formats": times}
    assert exports.fastest_format(record, ["openvino", "onnx"]) == ("openvino", "openvino_bf16")
    assert exports.fastest_format(record, ["onnx"]) == ("onnx", "onnx")
    assert exports.fastest_format({"formats": {"onnx": {"ms": 9.0}}}, ["openvino"]) is None
    assert exports.fastest_format(None, ["onnx"]) is None


WITHOUT_TORCH = """
import sys
import numpy, sam_tinyusfm
assert not {"torch", "monai", "scipy"} & set(sys.modules)
student = sam_tinyusfm.load(sys.argv[1])
result = student.segment(sys.argv[2])
print(student.engine.name, sorted({"torch", "monai", "timm"} & set(sys.modules)))
numpy.save(sys.argv[3], result.probability)
"""


@pytest.mark.slow
def test_export_is_made_once_and_runs_without_torch(checkpoint, images, tmp_path, cache, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    expected = load(checkpoint, engine="torch").segment(images / "gray.png")
    for name in ("onnx", "openvino"):
        if name == "openvino":  # the first has written both
            monkeypatch.setattr(exports, "_write", lambda *arguments: pytest.fail("written twice"))
        one = load(checkpoint, engine=name, threads=1)
        assert isinstance(one.engine, SessionEngine)
        assert one.engine.name == name
        result = one.segment(images / "gray.png")
        assert np.abs(result.probability - expected.probability).max() < 1e-2  # bf16 where the processor has it
        assert (result.mask != expected.mask).mean() < 0.01
    command = [sys.executable, "-c", WITHOUT_TORCH, checkpoint, images / "gray.png", tmp_path / "probability.npy"]
    done = subprocess.run(command, cwd=ROOT / "scripts" / "api", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) in (["onnx", "[]\n"], ["openvino", "[]\n"])
    assert done.stderr == ""
    assert np.abs(np.load(tmp_path / "probability.npy") - expected.probability).max() < 1e-2
    (record,) = cache.glob("*/export.json")
    weights = record.with_name("student.onnx")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="student.onnx is damaged"):
        load(checkpoint, engine="onnx")


@pytest.mark.slow
def test_export_of_another_network_is_refused_in_one_line(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    torch.save({"image_encoder.x": torch.zeros(2)}, tmp_path / "sam.pth")
    with pytest.raises(ValueError, match=r"^checkpoint .*sam.pth is a SAM base file .*TinyUSFM student.*$"):
        load(tmp_path / "sam.pth")
