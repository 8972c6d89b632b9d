"""The frozen teacher: several adapters and flips, what is known without weights, and its precision."""

from functools import partial

import pytest
import torch

from scripts.networks import frozen_teacher
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.tuning import tunable_teacher


@pytest.fixture
def frozen(sam_checkpoint, lora_checkpoint):
    return partial(
        FrozenTeacher,
        "vit_test",
        img_size=64,
        sam_checkpoint=str(sam_checkpoint),
        lora_checkpoint=str(lora_checkpoint),
        precision="fp32",
    )


@pytest.fixture
def other_lora(sam_checkpoint, tmp_path):
    """Another adapter than `lora_checkpoint`."""
    torch.manual_seed(5)
    state = tunable_teacher(FrozenTeacher("vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint))).best_state()
    state |= {key: torch.randn_like(value) for key, value in state.items() if key.startswith("w_b_")}
    torch.save(state, tmp_path / "other.pth")
    return str(tmp_path / "other.pth")


# several members


def test_ensemble_averages_the_logits_of_its_members(frozen, other_lora, lora_checkpoint):
    image = torch.rand(2, 1, 64, 64)
    both = frozen(lora_checkpoint=[str(lora_checkpoint), other_lora])(image)
    alone = [frozen(lora_checkpoint=path).load()[0](image) for path in (str(lora_checkpoint), other_lora)]
    for k in range(2):
        torch.testing.assert_close(both[k], (alone[0][k] + alone[1][k]) / 2, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone[0].logits, alone[1].logits, atol=1e-3)


def test_flips_make_the_teacher_symmetric(frozen):
    image, teacher = torch.rand(1, 1, 64, 64), frozen(flips=True)
    torch.testing.assert_close(teacher(image.flip(-1)).logits, teacher(image).logits.flip(-1), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(frozen()(image.flip(-1)).logits, frozen()(image).logits.flip(-1), atol=1e-3)


def test_shapes_are_known_without_weights(frozen):
    teacher = frozen()
    shapes = teacher.mask_shape, teacher.feature_shape
    assert not teacher.is_loaded
    assert shapes == tuple(part.shape[1:] for part in teacher.segment(torch.rand(1, 1, 64, 64)))


# precision


def test_precision_is_what_auto_gives_on_the_processor(frozen, monkeypatch):
    for native in (True, False):
        monkeypatch.setattr(frozen_teacher, "has_native_bf16", lambda device, native=native: native)
        auto, told = frozen(precision="auto"), frozen(precision="bf16" if native else "fp32")
        assert auto.description["precision"] == ("bf16, positions in fp32" if native else "fp32")
        assert auto.key == told.key
        assert frozen(precision="fp32").resolved_precision == "fp32"
        assert frozen(precision="bf16").resolved_precision == "bf16"
    assert frozen(precision="fp32").key != frozen(precision="bf16").key
    with pytest.raises(ValueError, match="teacher::precision must be one of auto, fp32, bf16, got 'fp16'"):
        frozen(precision="fp16")


def test_auto_is_fp32_for_lite_medsam(monkeypatch, tmp_path):
    monkeypatch.setattr(frozen_teacher, "has_native_bf16", lambda device: True)
    teacher = tunable_teacher(FrozenTeacher("lite_medsam", "mask_decoder"))
    torch.save(teacher.best_state(), tmp_path / "decoder.pth")
    options = {"module": "mask_decoder", "lora_checkpoint": str(tmp_path / "decoder.pth")}
    assert FrozenTeacher("lite_medsam", **options).resolved_precision == "fp32"
    assert FrozenTeacher("lite_medsam", **options, precision="bf16").resolved_precision == "bf16"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_runs_in_its_own_precision_whatever_the_students(frozen, precision):
    teacher, image = frozen(precision=precision), torch.rand(2, 1, 64, 64)
    plain = teacher(image)
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for found, expected in zip(teacher(image), plain):
                assert torch.equal(found, expected)
                assert found.dtype == expected.dtype
    weight = teacher.members[0].sam.image_encoder.blocks[0].attn.qkv.weight
    assert weight.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    other = frozen(precision="bf16" if precision == "fp32" else "fp32")(image)
    assert not torch.equal(other.logits, plain.logits)
