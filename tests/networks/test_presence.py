"""Presence: what it is made of, the decision in the logits, and files of weights with and without it."""

import logging

import pytest
import torch
from conftest import TINY
from monai.transforms import AsDiscrete
from safetensors.torch import load_file

from scripts.data.segment import restore_logits
from scripts.metrics import logits_to_classes
from scripts.networks.presence import BELOW, Presence, presence_inputs, without_foreground
from scripts.networks.student import load_student, load_trained_student
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.utils.weight_files import save_safetensors

SIDE = 32


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def student(num_classes=2, calibrated=False, threshold=0.0):
    model = TinyUSFMSeg(num_classes=num_classes, img_size=SIDE, **TINY).eval()
    if calibrated:
        model.presence = Presence(TINY["embed_dim"])
        model.presence.weight.normal_()
        model.presence.threshold.fill_(threshold)
    return model


def images(count=3):
    return torch.rand(count, 1, SIDE, SIDE)


@torch.no_grad()
def between(model, batch):
    """A threshold that parts the images of a batch."""
    return float(model.detect(batch)[1].median())


@pytest.mark.parametrize("num_classes", [2, 3])
def test_probability_is_platts_of_largest_margin_and_mean_features(num_classes):
    logits, features = torch.randn(2, max(1, num_classes - 1 + (num_classes > 2)), 5, 6), torch.randn(2, 4, 3, 3)
    margins = logits if num_classes == 2 else logits[:, 1:] - logits[:, :1]
    expected = torch.cat([margins.flatten(1).max(1).values[:, None], features.flatten(2).mean(2)], 1)
    assert torch.allclose(presence_inputs(logits, features), expected)
    presence = Presence(4)
    presence.weight.copy_(torch.tensor([2.0, 1, 0, 0, -1]))
    presence.bias.fill_(0.5)
    by_hand = 1 / (1 + torch.exp(-(2 * expected[:, 0] + expected[:, 1] - expected[:, 4] + 0.5)))
    assert torch.allclose(presence(logits, features), by_hand)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_pixel_is_foreground_after_the_decision_at_any_size(channels):
    logits = without_foreground(torch.randn(4, channels, 16, 16) * 5)
    for size in ((16, 16), (37, 53), (200, 64)):
        assert not logits_to_classes(restore_logits(logits, size)).any()


def test_decision_leaves_the_background_as_it_is():
    logits = torch.randn(1, 3, 8, 8)
    emptied = without_foreground(logits)
    background = (logits[:, 1:].amax(1) <= logits[:, 0] - BELOW)[0]
    assert background.any()
    assert torch.equal(emptied[:, :, background], logits[:, :, background])
    assert torch.equal(emptied[:, 0], logits[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_emptied_mask_is_empty_for_programs_that_count_a_probability_of_a_half(dtype):
    emptied = without_foreground(torch.randn(1, 1, 8, 8).to(dtype))
    assert not AsDiscrete(threshold=0.5)(emptied.sigmoid()).any()
    assert AsDiscrete(threshold=0.5)(emptied.clamp(max=0).sigmoid().new_full((1,), 0.5)).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_only_images_below_the_threshold_are_emptied(num_classes):
    model, batch = student(num_classes), images()
    with torch.no_grad():
        before = model(batch)
        model.presence = student(num_classes, calibrated=True).presence
        model.presence.threshold.fill_(between(model, batch))
        logits, presence = model.detect(batch)
    absent = presence < model.presence.threshold
    assert absent.tolist().count(True) == 1
    assert torch.equal(logits[~absent], before[~absent])
    assert not logits_to_classes(logits[absent]).any()
    assert torch.equal(model(batch), logits)


def test_training_sees_no_decision_and_drops_the_presence(caplog):
    model, batch = student(calibrated=True, threshold=1.0), images()
    model.train()
    with torch.no_grad():
        assert model(batch).max() > 0
    assert model.presence is not None  # nothing is trained without gradients
    torch.manual_seed(1)
    logits = model(batch)
    assert model.presence is None
    assert "the student's presence is dropped, since its weights are trained; calibrate it again" in caplog.text
    torch.manual_seed(1)
    assert torch.equal(model(batch), logits)


def test_weights_bring_it_where_other_programs_load_them():
    model, other, batch = student(calibrated=True, threshold=0.4), student(), images()
    torch.nn.ModuleDict({"network": other}).load_state_dict(torch.nn.ModuleDict({"network": model}).state_dict())
    assert torch.equal(other.detect(batch)[1], model.detect(batch)[1])
    with pytest.raises(RuntimeError, match="presence.bias"):
        other.load_state_dict(student().state_dict())


def test_student_without_presence_is_as_in_earlier_versions():
    model = student()
    assert not [key for key in model.state_dict() if "presence" in key]
    logits, presence = model.detect(images())
    assert presence is None
    assert logits.shape == (3, 1, SIDE, SIDE)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_file_brings_its_presence_and_its_threshold(tmp_path, suffix):
    model, path = student(calibrated=True, threshold=0.25), tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_safetensors(model.state_dict(), path)
        assert "presence.weight" in load_file(path)
    loaded, batch = load_trained_student(student(), path).eval(), images()
    for one, other in zip(loaded.detect(batch), model.detect(batch)):
        assert torch.equal(one, other)
    assert load_trained_student(student(), path, presence_threshold=0.5).presence.threshold == 0.5


def test_file_without_it_takes_it_away(tmp_path):
    torch.save(student().state_dict(), tmp_path / "model.pt")
    assert load_trained_student(student(calibrated=True), tmp_path / "model.pt").presence is None


def test_refused_file_leaves_the_model_as_it_was(tmp_path):
    state = student(calibrated=True).state_dict()
    state.pop("presence.bias")
    torch.save(state, tmp_path / "model.pt")
    model = student()
    with pytest.raises(ValueError, match="1 missing: presence.bias"):
        load_trained_student(model, tmp_path / "model.pt")
    assert model.presence is None


@pytest.mark.parametrize("threshold", [0, 0.5])
def test_threshold_for_a_student_that_has_none_is_refused(tmp_path, threshold):
    torch.save(student().state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="gives no presence probability; leave it null, or calibrate") as caught:
        load_trained_student(student(), tmp_path / "model.pt", presence_threshold=threshold)
    assert f"presence_threshold is {threshold:g}" in str(caught.value)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, "high", True])
def test_threshold_out_of_range_is_refused(tmp_path, threshold):
    torch.save(student(calibrated=True).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="presence_threshold must be a number from 0 to 1, or null, got"):
        load_trained_student(student(), tmp_path / "model.pt", presence_threshold=threshold)


def test_training_from_a_calibrated_student_starts_without_presence(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    model = student(calibrated=True)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    start = student()
    load_student(start, tmp_path / "model.pt")
    assert start.presence is None
    assert torch.equal(start.decode_head.conv_seg.weight, model.decode_head.conv_seg.weight)
    assert "its presence is left out; calibrate the trained student with python -m eval.presence" in caplog.text


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("calibrated", [False, True])
def test_torchscript_detects_too(calibrated):
    model, batch = student(calibrated=calibrated), images()
    if calibrated:
        model.presence.threshold.fill_(between(model, batch))
    scripted = torch.jit.script(model)
    logits, presence = scripted.detect(batch)
    expected = model.detect(batch)
    assert torch.allclose(scripted(batch), expected[0], atol=1e-5)
    assert torch.allclose(logits, expected[0], atol=1e-5)
    assert presence is None if expected[1] is None else torch.allclose(presence, expected[1])


def test_probability_is_computed_in_float32_under_autocast():
    logits, features = torch.randn(2, 1, 8, 8), torch.randn(2, 24, 4, 4)
    presence = student(calibrated=True).presence
    expected = presence(logits, features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(presence(logits, features), expected)
