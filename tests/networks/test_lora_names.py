"""The names of adapters: how many there are, whose they are, and that peft's become them and back."""

import pytest

from scripts.networks.lora_names import (
    DECODER_ONLY,
    ENCODER,
    FULL,
    MODULES,
    SamNames,
    TinyVitNames,
    from_peft,
    names_of,
    normalize_module,
)

BLOCK = "image_encoder.vit.stages.2.blocks.0"


@pytest.mark.parametrize(("depth", "count"), [(12, 24), (24, 48), (32, 64)])
def test_pairs_of_the_three_sizes(depth, count):
    pairs = SamNames.pairs((), ENCODER, depth)
    assert len(pairs) == count
    assert list(pairs.items())[3] == (("w_a_003", "w_b_003"), "image_encoder.blocks.1.attn.qkv.v")
    assert len(SamNames.pairs((), FULL, depth)) == count + 3 * 4 + 2
    assert SamNames.pairs((), DECODER_ONLY, depth) == {}


def test_blocks_are_counted_by_their_pairs():
    names = [name for pair in SamNames.pairs((), ENCODER, 12) for name in pair]
    assert SamNames.count_blocks(names) == 12
    names = [f"{BLOCK}.attn.qkv.lora_{matrix}.weight" for matrix in "AB"]
    assert TinyVitNames.count_blocks([*names, f"{BLOCK}.mlp.fc1.lora_A.weight"]) == 1


def test_whose_names_they_are_is_told_by_the_keys():
    assert names_of(["w_a_000", "mask_decoder.mask_tokens.weight"]) is SamNames
    assert names_of([f"{BLOCK}.attn.qkv.lora_A.weight"]) is TinyVitNames
    assert names_of([]) is SamNames


def test_names_of_peft_become_ours_and_back():
    names = [name for pair in SamNames.pairs((), FULL, 2) for name in pair]
    to_peft = SamNames.to_peft(2)
    assert to_peft["w_a_000"] == "base_model.model.image_encoder.blocks.0.attn.qkv.q.lora_A.weight"
    assert to_peft["fati_vb"] == (
        "base_model.model.mask_decoder.transformer.final_attn_token_to_image.v_proj.lora_B.weight"
    )
    assert sorted(to_peft) == sorted(names)
    state = {to_peft[name]: number for number, name in enumerate(names)}
    assert from_peft(state) == {name: number for number, name in enumerate(names)}
    assert from_peft({"base_model.model.mask_decoder.iou_token.weight": 1}) == {"mask_decoder.iou_token.weight": 1}


def test_half_a_pair_of_tiny_vit_is_a_pair_so_that_its_other_half_is_missed():
    name = f"{BLOCK}.mlp.fc1"
    pair = (f"{name}.lora_A.weight", f"{name}.lora_B.weight")
    for half in pair:
        assert TinyVitNames.pairs([half]) == {pair: name}


@pytest.mark.parametrize("module", MODULES)
def test_spelling_of_the_reference_implementation_is_taken(module):
    assert normalize_module(f"model.{module}") == normalize_module(module) == module


def test_unknown_module_lists_the_known():
    with pytest.raises(ValueError, match="teacher::module must be one of sam_lora_image_encoder, .*, got 'lora'"):
        normalize_module("lora")
