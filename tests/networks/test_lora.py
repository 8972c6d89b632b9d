"""LoRA in a SAM: the reference implementation's formula, what trains and what does not, every refusal."""

import copy

import pytest
import torch
from torch import nn
from tuned_sams import IMG, RANK, SIZE, TOKENS, segment, tuned

from scripts.networks.adapters import adapter_state
from scripts.networks.lora import add_lora, split_qkv
from scripts.networks.lora_names import DECODER_ONLY, ENCODER, FULL
from scripts.networks.sam import build_sam


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(1)
    return build_sam(SIZE, IMG, TOKENS).eval()


def reference(base, state, module):
    """The reference implementation's SAM: Linears wrapped by hand, q += B(A x) and v += B(A x) on the fused qkv."""

    class FusedQKV(nn.Module):
        def __init__(self, qkv, *pairs):
            super().__init__()
            self.qkv, self.pairs, self.dim = qkv, pairs, qkv.in_features

        def forward(self, x):
            (qa, qb), (va, vb) = self.pairs
            qkv = self.qkv(x).clone()
            qkv[..., : self.dim] += (x @ qa.T) @ qb.T
            qkv[..., -self.dim :] += (x @ va.T) @ vb.T
            return qkv

    class Projection(nn.Module):
        def __init__(self, proj, a, b):
            super().__init__()
            self.proj, self.a, self.b = proj, a, b

        def forward(self, x):
            return self.proj(x) + (x @ self.a.T) @ self.b.T

    sam = copy.deepcopy(base)
    sam.load_state_dict({**sam.state_dict(), **{k: v for k, v in state.items() if k in sam.state_dict()}})
    for i, block in enumerate(sam.image_encoder.blocks):
        pairs = [(state[f"w_a_{2 * i + j:03d}"], state[f"w_b_{2 * i + j:03d}"]) for j in (0, 1)]
        block.attn.qkv = FusedQKV(block.attn.qkv, *pairs)
    if module == FULL:
        transformer = sam.mask_decoder.transformer
        for i, layer in enumerate(transformer.layers):
            attentions = (layer.self_attn, layer.cross_attn_token_to_image, layer.cross_attn_image_to_token)
            for short, attention in zip(("sa", "cti", "cit"), attentions):
                for j, name in enumerate(("q_proj", "v_proj")):
                    a, b = (state[f"{short}_{matrix}_{2 * i + j:03d}"] for matrix in "ab")
                    setattr(attention, name, Projection(getattr(attention, name), a, b))
        final = transformer.final_attn_token_to_image
        final.q_proj = Projection(final.q_proj, state["fati_qa"], state["fati_qb"])
        final.v_proj = Projection(final.v_proj, state["fati_va"], state["fati_vb"])
    return sam


def assert_close(found, expected, atol):
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize("module", [ENCODER, FULL])
def test_peft_computes_the_formula_of_the_reference_implementation(base, module):
    model, image = tuned(base, module), torch.rand(2, 3, IMG, IMG)
    found = segment(model, image)
    assert_close(found, segment(reference(base, adapter_state(model, module), module), image), atol=2e-6)
    assert (found[0] - segment(base, image)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("module", [ENCODER, FULL, DECODER_ONLY])
def test_adapter_starts_as_the_base(base, module):
    image = torch.rand(1, 3, IMG, IMG)
    model = add_lora(copy.deepcopy(base), module, RANK)
    assert_close(segment(model, image), segment(base, image), atol=1e-6)


def test_split_qkv_computes_the_same_from_the_same_rows(base):
    encoder, x = copy.deepcopy(base.image_encoder), torch.rand(1, 3, IMG, IMG)
    before = encoder(x)
    split_qkv(encoder)
    torch.testing.assert_close(encoder(x), before, atol=1e-6, rtol=0)
    for split, fused in zip(encoder.blocks, base.image_encoder.blocks, strict=True):
        parts = [getattr(split.attn.qkv, name).weight for name in "qkv"]
        assert torch.equal(torch.cat(parts), fused.attn.qkv.weight)


def test_encoder_module_trains_lora_and_prompt_encoder_and_decoder(base):
    model = add_lora(copy.deepcopy(base), ENCODER, RANK)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in names if "image_encoder" in n} == {n for n in names if "lora_" in n}
    assert sum("lora_A" in n for n in names) == 4
    assert all("modules_to_save" in n for n in names if "lora_" not in n)
    trained = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n)
    assert trained == sum(p.numel() for part in (base.prompt_encoder, base.mask_decoder) for p in part.parameters())


def test_full_module_freezes_the_decoder_transformer_but_its_lora(base):
    model = add_lora(copy.deepcopy(base), FULL, RANK)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert sum("mask_decoder" in n and "lora_A" in n for n in names) == 14
    assert all("lora_" in n for n in names if ".transformer." in n)
    decoder = [p for n, p in base.mask_decoder.named_parameters() if not n.startswith("transformer.")]
    expected = sum(p.numel() for p in (*decoder, *base.prompt_encoder.parameters()))
    assert expected == sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n)


def test_mask_decoder_module_needs_no_peft(base):
    sam = copy.deepcopy(base)
    assert add_lora(sam, DECODER_ONLY, RANK) is sam
    assert not any(p.requires_grad for p in sam.image_encoder.parameters())
    assert all(p.requires_grad for part in (sam.prompt_encoder, sam.mask_decoder) for p in part.parameters())


def test_training_step_moves_the_adapter_alone(base):
    model = add_lora(copy.deepcopy(base), FULL, RANK)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1.0)
    sparse, dense = model.prompt_encoder(points=None, boxes=None, masks=None)
    features = model.image_encoder(torch.rand(1, 3, IMG, IMG))
    masks, _ = model.mask_decoder.predict_masks(features, model.prompt_encoder.get_dense_pe(), sparse, dense)
    masks.square().mean().backward()
    optimizer.step()
    moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved
    assert all("lora_" in key or "modules_to_save" in key for key in moved)
    assert any("image_encoder" in key for key in moved)


def test_lora_starts_kaiming_uniform_and_zero(base):
    state = adapter_state(add_lora(copy.deepcopy(base), FULL, RANK), FULL)
    bound = 1 / 64**0.5  # kaiming_uniform(a=sqrt 5) of fan-in 64
    assert 0.8 * bound < state["w_a_000"].abs().max() <= bound
    assert all(
        not state[key].any() for key in state if key.startswith(("w_b_", "sa_b_")) or key in ("fati_qb", "fati_vb")
    )


def test_vit_b_gets_24_lora_pairs_of_rank_4():
    with torch.device("meta"):
        model = add_lora(build_sam("vit_b", 256, TOKENS), ENCODER, RANK)
    shapes = [tuple(p.shape) for n, p in model.named_parameters() if "lora_A" in n]
    assert shapes == [(4, 768)] * 24


def test_unknown_module_lists_the_known(base):
    with pytest.raises(
        ValueError, match="teacher::module must be one of sam_lora_image_encoder, .*mask_decoder, got 'lora'"
    ):
        add_lora(copy.deepcopy(base), "lora")


@pytest.mark.parametrize("rank", [0, -1, 2.0])
def test_rank_out_of_range_is_refused(base, rank):
    with pytest.raises(ValueError, match=f"teacher::rank must be a positive integer, got {rank}"):
        add_lora(copy.deepcopy(base), ENCODER, rank)


def test_lora_needs_a_sam_vit(base):
    sam = copy.deepcopy(base)
    sam.image_encoder = nn.Identity()
    with pytest.raises(
        ValueError, match="has no LoRA for the image encoder Identity; pass --teacher::module mask_decoder"
    ):
        add_lora(sam, ENCODER)
