"""The program that takes adapters in and out: both directions bit by bit, and every refusal."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from scripts.convert_adapter import main
from scripts.networks.adapters import (
    adapter_state,
    merge_adapter,
    read_adapter,
    save_checkpoint_file,
    save_peft_adapter,
)
from scripts.networks.lora import add_lora, split_qkv
from scripts.networks.lora_names import DECODER_ONLY, ENCODER, FULL
from scripts.networks.sam import build_sam


def tuned_state(module):
    torch.manual_seed(0)
    model = add_lora(build_sam("vit_test", 32, 3), module, 2)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter))
    return adapter_state(model, module)


def convert(source, target):
    return main([str(source), str(target)])


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


@pytest.fixture
def checkpoint_file(tmp_path):
    save_checkpoint_file(tuned_state(ENCODER), tmp_path / "a.pth", ENCODER)
    return tmp_path / "a.pth"


@pytest.mark.parametrize("module", [ENCODER, FULL])
def test_checkpoint_file_becomes_a_peft_folder_and_comes_back_bit_exact(tmp_path, capsys, module):
    state = tuned_state(module)
    save_checkpoint_file(state, tmp_path / "a.pth", module)
    assert convert(tmp_path / "a.pth", tmp_path / "adapter") == 0
    assert f"wrote {tmp_path / 'adapter'}: {module}, rank 2, 3 mask tokens" in capsys.readouterr().out
    assert convert(tmp_path / "adapter", tmp_path / "b.pth") == 0
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert content.pop("adaptation_mode") == module
    assert_same(content, state)


def test_peft_folder_becomes_a_checkpoint_file_and_comes_back_bit_exact(tmp_path):
    save_peft_adapter(tuned_state(FULL), tmp_path / "adapter")
    assert convert(tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "a.pth") == 0
    assert convert(tmp_path / "a.pth", tmp_path / "again") == 0
    first, second = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("adapter", "again"))
    assert_same(second, first)


def test_peft_itself_loads_the_folder(checkpoint_file, tmp_path):
    assert convert(checkpoint_file, tmp_path / "adapter") == 0
    sam = build_sam("vit_test", 32, 3)
    split_qkv(sam.image_encoder)
    assert_same(adapter_state(PeftModel.from_pretrained(sam, str(tmp_path / "adapter")), ENCODER), tuned_state(ENCODER))


@pytest.mark.parametrize("module", [ENCODER, DECODER_ONLY])
def test_half_rounds_to_fp16_and_merges_to_the_same_teacher_by_a_hair(tmp_path, module):
    state = tuned_state(module)
    save_checkpoint_file(state, tmp_path / "a.pth", module)
    assert main([str(tmp_path / "a.pth"), str(tmp_path / "half.pth"), "--half"]) == 0
    adapters = [read_adapter(tmp_path / name) for name in ("a.pth", "half.pth")]
    assert_same(adapters[1].state, {key: tensor.half() for key, tensor in state.items()})
    assert (tmp_path / "half.pth").stat().st_size < 0.6 * (tmp_path / "a.pth").stat().st_size
    sams = [build_sam("vit_test", 32, 3) for _ in adapters]
    sams[1].load_state_dict(sams[0].state_dict())
    before = {key: tensor.clone() for key, tensor in sams[0].state_dict().items()}
    for sam, adapter in zip(sams, adapters, strict=True):
        merge_adapter(sam, adapter)
    whole, half = (sam.state_dict() for sam in sams)
    assert any(not torch.equal(whole[key], before[key]) for key in before)
    for key, tensor in whole.items():
        assert half[key].dtype == tensor.dtype
        torch.testing.assert_close(half[key], tensor, atol=2e-2, rtol=1e-3)


def test_half_goes_to_a_peft_folder_too(checkpoint_file, tmp_path):
    assert main([str(checkpoint_file), str(tmp_path / "adapter"), "--half"]) == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()} == {
        torch.float16
    }


@pytest.fixture
def refusal(capsys):
    """Runs the program in vain and returns its message."""

    def try_convert(source, target) -> str:
        capsys.readouterr()
        assert convert(source, target) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1
        return shown.err

    return try_convert


def test_existing_target_is_refused_and_kept(checkpoint_file, tmp_path, refusal):
    (tmp_path / "adapter").mkdir()
    assert f"TARGET {tmp_path / 'adapter'} already exists; remove it or choose another name" in refusal(
        checkpoint_file, tmp_path / "adapter"
    )
    assert list((tmp_path / "adapter").iterdir()) == []
    save_peft_adapter(tuned_state(ENCODER), tmp_path / "peft")
    before = checkpoint_file.read_bytes()
    assert "already exists" in refusal(tmp_path / "peft", checkpoint_file)
    assert checkpoint_file.read_bytes() == before


def test_mask_decoder_without_lora_is_refused(tmp_path, refusal):
    save_checkpoint_file(tuned_state(DECODER_ONLY), tmp_path / "d.pth", DECODER_ONLY)
    message = refusal(tmp_path / "d.pth", tmp_path / "adapter")
    assert (
        f"SOURCE {tmp_path / 'd.pth'} is a tuned mask_decoder without LoRA, which peft has no format for; use it as a "
        ".pth file" in message
    )
    assert not (tmp_path / "adapter").exists()


def test_target_of_the_sources_format_is_refused(checkpoint_file, tmp_path, refusal):
    assert "TARGET must be a folder, since SOURCE is a file; got" in refusal(checkpoint_file, tmp_path / "b.pth")
    save_peft_adapter(tuned_state(ENCODER), tmp_path / "peft")
    assert "TARGET must be a file that ends in .pth, since SOURCE is a peft folder; got" in refusal(
        tmp_path / "peft", tmp_path / "b"
    )


def test_values_beyond_fp16_are_refused_and_nothing_is_written(tmp_path, capsys):
    state = tuned_state(ENCODER)
    state["prompt_encoder.no_mask_embed.weight"] *= 1e6
    save_checkpoint_file(state, tmp_path / "a.pth", ENCODER)
    assert main([str(tmp_path / "a.pth"), str(tmp_path / "half.pth"), "--half"]) == 1
    assert "has values that fp16 cannot hold, first in prompt_encoder.no_mask_embed.weight" in capsys.readouterr().err
    assert not (tmp_path / "half.pth").exists()


def test_source_that_is_no_adapter_is_refused(tmp_path, refusal):
    assert f"SOURCE {tmp_path / 'gone.pth'} does not exist; give a .pth file or a peft" in refusal(
        tmp_path / "gone.pth", tmp_path / "x"
    )
    torch.save({"decode_head.conv_seg.weight": torch.ones(1)}, tmp_path / "student.pt")
    message = refusal(tmp_path / "student.pt", tmp_path / "x")
    assert "SOURCE" in message
    assert "is a TinyUSFM student" in message
    (tmp_path / "empty").mkdir()
    assert "is no peft adapter folder: adapter_config.json does not exist" in refusal(
        tmp_path / "empty", tmp_path / "x.pth"
    )
