"""What exported files say of themselves, and the refusal of those that do not fit."""

import json
from hashlib import sha256

import pytest
import torch
from conftest import CONFIGS, TINY

from scripts.export import formats as export_formats
from scripts.export.__main__ import main
from scripts.export.formats import load_runner
from scripts.export.metadata import (
    EXTRA_FILE,
    KEY,
    LAYOUT,
    NETWORK,
    WHOLE_WAY,
    check_metadata,
    describe,
    network_text,
    warn_undescribed,
    whole_text,
)
from scripts.networks.presence import Presence
from scripts.networks.tinyusfm import TinyUSFMSeg

pytest_plugins = "tiny_exports"
pytestmark = pytest.mark.usefixtures("tiny_networks")
SIZE = 64
FORMATS = ("safetensors", "torchscript", "onnx", "onnx_int8", "openvino")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("student") / "three.pt"
    torch.save(TinyUSFMSeg(num_classes=3, img_size=SIZE, **TINY).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """A student of three classes, as the program exports it."""
    for module in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(module, reason="exports need the extra export")
    folder = tmp_path_factory.mktemp("export") / "out"
    call = ["--checkpoint", str(checkpoint), "--output", str(folder), "--formats", *FORMATS, "--img_size", str(SIZE)]
    names = ["--num_images", "2", "--num_classes", "3", "--class_names", "nerve", "vessel"]
    with pytest.MonkeyPatch.context() as patch:
        row = export_formats.FORMATS["onnx_int8"]  # whatever int8 costs a random student
        patch.setitem(
            export_formats.FORMATS, "onnx_int8", row._replace(limit=export_formats.DICE_LIMIT._replace(value=1.0))
        )
        assert main([*call, *names]) == 0
    return folder


def read(folder, format):
    """The metadata of a file as another program reads them."""
    if format == "openvino":
        import openvino

        return openvino.Core().read_model(folder / "student.xml").get_rt_info(["framework", KEY]).astype(str)
    if format == "torchscript":
        extra = {EXTRA_FILE: ""}
        torch.jit.load(folder / "student.ts", _extra_files=extra)
        return extra[EXTRA_FILE]
    if format == "safetensors":
        from safetensors import safe_open

        with safe_open(folder / "student.safetensors", framework="pt") as file:
            return file.metadata()[KEY]
    import onnxruntime

    name = {"onnx": "student.onnx", "onnx_int8": "student_int8.onnx"}[format]
    session = onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map[KEY]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("format", FORMATS)
def test_every_file_says_what_it_is_and_takes(exported, checkpoint, format):
    about = json.loads(read(exported, format))
    assert about == {
        "layout": LAYOUT,
        "version": json.loads((CONFIGS / "metadata.json").read_text())["version"],
        "checkpoint_sha256": sha256(checkpoint.read_bytes()).hexdigest(),
        "img_size": SIZE,
        "classes": ["background", "nerve", "vessel"],
        "thresholds": {"probability": None, "presence": None},
        "calibration": {"temperature": 1.0, "presence": None, "int8_images": 2 if format == "onnx_int8" else None},
        "holds": "network",
        "inputs": {"image": ["B", 1, SIZE, SIZE]},
        "type": "float32",
        "range": [0, 1],
        "outputs": {"logits": ["B", 3, SIZE, SIZE]},
    }


@pytest.mark.parametrize("format", [*FORMATS[1:], "openvino_int8"])
def test_runner_with_other_settings_is_refused(exported, format, caplog):
    assert load_runner(format, exported, SIZE, num_classes=3)(torch.zeros(1, 1, SIZE, SIZE)).shape[1] == 3
    with pytest.raises(ValueError, match="takes images of 64 x 64 pixels, but img_size is 96; pass 64"):
        load_runner(format, exported, 96, num_classes=3)
    with pytest.raises(ValueError, match="segments 3 classes with the background, but num_classes is 2; pass 3"):
        load_runner(format, exported, SIZE)
    assert "no metadata" not in caplog.text


@pytest.mark.parametrize("format", ["torchscript", "onnx", "openvino"])
def test_file_of_another_layout_is_refused(exported, tmp_path, format, monkeypatch):
    for path in exported.iterdir():
        if path.name != "export.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("scripts.export.metadata.LAYOUT", LAYOUT + 1)
    version = json.loads(read(exported, "onnx"))["version"]
    with pytest.raises(ValueError, match=f"layout 1, but this version reads layout 2; run it with version {version}"):
        load_runner(format, tmp_path, SIZE, num_classes=3)


@pytest.fixture
def about():
    return describe(TinyUSFMSeg(img_size=SIZE, **TINY), 2)


def changed(text, **values):
    return json.dumps({**json.loads(text), **values})


def test_text_that_fits_is_returned(about, tmp_path):
    assert check_metadata(network_text(about), tmp_path, NETWORK, SIZE, 2)["classes"] == ["background", "lesion"]
    assert check_metadata(whole_text(about), tmp_path, WHOLE_WAY)["range"] == [0, 255]


def test_calibrated_student_says_threshold_and_evidence():
    student = TinyUSFMSeg(img_size=SIZE, **TINY)
    student.presence = Presence(TINY["embed_dim"])
    student.presence.threshold.fill_(0.25)
    student.presence.weight[0] = 1
    about = describe(student, 2)
    assert about["thresholds"] == {"probability": 0.5, "presence": 0.25}
    assert about["calibration"]["presence"] == "margin"
    student.presence.weight[3] = 1
    assert describe(student, 2)["calibration"]["presence"] == "margin and features"
    assert list(json.loads(network_text(about))["outputs"]) == ["logits", "presence"]
    assert list(json.loads(whole_text(about))["outputs"]) == ["mask", "probability", "presence"]


@pytest.mark.parametrize(
    "values, message",
    [
        ({"range": [0, 255]}, r"takes float32 from 0 to 255, but this version gives float32 from 0 to 1; copy or"),
        ({"type": "uint8"}, "takes uint8 from 0 to 1, but this version gives float32 from 0 to 1"),
        ({"holds": "whole way"}, "holds the whole way, expected the network; run it with scripts.export.whole.load_"),
        ({"layout": 7, "version": "9.1"}, "layout 7, but this version reads layout 1; run it with version 9.1 of"),
        ({"classes": 2}, "has damaged metadata .*; copy or download it again, or write it again with python -m"),
        ({"range": 5}, "has damaged metadata"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(about, tmp_path, values, message):
    with pytest.raises(ValueError, match=message) as error:
        check_metadata(changed(network_text(about), **values), tmp_path / "student.onnx", NETWORK, SIZE, 2)
    assert str(error.value).startswith(f"{tmp_path / 'student.onnx'} ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "[]", "7", '"text"'])
def test_damaged_metadata_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match="has damaged metadata .*; copy or download it again"):
        check_metadata(text, tmp_path / "student.onnx", NETWORK)


@pytest.mark.parametrize("text", [None, ""])
def test_network_without_metadata_is_taken_with_one_warning(tmp_path, caplog, text):
    warn_undescribed.cache_clear()
    for _ in range(2):
        assert check_metadata(text, tmp_path / "old.onnx", NETWORK, SIZE, 2) is None
    assert caplog.text.count("old.onnx has no metadata (it is of version 0.7.0 or before") == 1


def test_whole_way_without_metadata_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no metadata of this bundle; write it with .* --formats onnx_full"):
        check_metadata(None, tmp_path / "student_full.onnx", WHOLE_WAY)


def test_network_in_the_place_of_the_whole_way_is_refused(about, tmp_path):
    with pytest.raises(ValueError, match="holds the network, expected the whole way; .*formats.load_runner"):
        check_metadata(network_text(about), tmp_path / "student.onnx", WHOLE_WAY)
