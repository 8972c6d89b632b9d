"""Exports of a calibrated student: the decision is in their logits, and the probability is beside them."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY

from scripts.export.cases import phantom_cases
from scripts.export.check import Check, export_student
from scripts.export.formats import FORMATS, load_runner, read_student
from scripts.metrics import logits_to_classes
from scripts.networks.presence import Presence
from scripts.networks.tinyusfm import TinyUSFMSeg

pytest_plugins = "tiny_exports"
pytestmark = pytest.mark.usefixtures("tiny_networks")
SIZE, COUNT = 64, 4
WRITTEN = [name for name, format in FORMATS.items() if format.write and "bf16" not in name and not format.is_whole]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A student that finds the half of four phantoms empty, as torch and in every format."""
    for module in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(module, reason="exports need the extra export")
    torch.manual_seed(0)
    student = TinyUSFMSeg(img_size=SIZE, **TINY).eval()
    cases = phantom_cases(COUNT, SIZE)
    images = torch.cat([case.image for case in cases])
    with torch.no_grad():
        student.decode_head.conv_seg.bias.fill_(0.2)
        student.presence = Presence(TINY["embed_dim"])
        student.presence.weight.normal_()
        presence = student.detect(images)[1].sort().values
        student.presence.threshold.fill_(float(presence[1:3].mean()))
    folder = tmp_path_factory.mktemp("export") / "out"
    calibration = [case.image for case in cases]
    assert export_student(student, WRITTEN, Check(student, cases, 2), calibration, folder) == {}
    return student, images, folder


@pytest.mark.parametrize("format", WRITTEN)
def test_masks_of_absent_images_are_empty_in_every_format(exported, format):
    student, images, folder = exported
    with torch.no_grad():
        expected = logits_to_classes(student(images)).flatten(1).any(1)
    assert expected.tolist().count(True) == 2
    found = logits_to_classes(load_runner(format, folder, SIZE)(images))
    assert torch.equal(found.flatten(1).any(1), expected)


def test_onnx_and_openvino_have_the_probability_as_second_output(exported):
    import onnxruntime
    import openvino

    student, images, folder = exported
    expected = student.detect(images)[1].detach().numpy()
    session = onnxruntime.InferenceSession(folder / "student.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "presence"]
    assert np.allclose(session.run(["presence"], {"image": images.numpy()})[0], expected, atol=1e-5)
    core = openvino.Core()
    model = core.compile_model(core.read_model(folder / "student.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.allclose(model({"image": images.numpy()})["presence"], expected, atol=1e-4)


def test_torchscript_and_safetensors_have_it_too(exported):
    student, images, folder = exported
    expected = student.detect(images)[1]
    assert torch.allclose(torch.jit.load(folder / "student.ts").detect(images)[1], expected, atol=1e-6)
    assert torch.equal(read_student(folder / "student.safetensors", SIZE, 2).detect(images)[1], expected)


def test_int8_leaves_the_classifier_as_it_is(exported):
    import onnx

    graph = onnx.load(exported[2] / "student_int8.onnx").graph
    kept = [tensor.name for tensor in graph.initializer if "conv_seg.weight" in tensor.name]
    assert kept
    assert not [name for name in kept if "quantized" in name]


def test_record_says_how_to_read_it(exported):
    student, _, folder = exported
    record = json.loads((folder / "export.json").read_text())
    assert record["presence_threshold"] == float(student.presence.threshold)
    assert record["presence"].startswith(
        "presence (B,) float32, probability that an image shows any foreground; the mask"
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_student_without_presence_is_exported_as_before(tmp_path):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="exports need the extra export")
    import onnxruntime

    torch.manual_seed(0)
    student, cases = TinyUSFMSeg(img_size=SIZE, **TINY).eval(), phantom_cases(1, SIZE)
    assert export_student(student, ["onnx"], Check(student, cases, 2), [], tmp_path / "out") == {}
    session = onnxruntime.InferenceSession(tmp_path / "out" / "student.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits"]
    assert "presence" not in json.loads((tmp_path / "out" / "export.json").read_text())
