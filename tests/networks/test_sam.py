"""SAM at any image size, and the official files loaded into it."""

import logging

import pytest
import torch
from segment_anything import sam_model_registry
from torch.nn import functional as F

from scripts.networks.sam import SAM_SIZES, SamSize, adapt_tokens, build_sam, load_sam_checkpoint, resize_positions

SIZE = "vit_test"
TOKENS = "mask_decoder.mask_tokens.weight"
IOU = "mask_decoder.iou_prediction_head.layers.2.weight"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomized(img_size, num_mask_tokens=4):
    """A test SAM whose position tables are not zero, as they start."""
    sam = build_sam(SIZE, img_size, num_mask_tokens)
    for name, parameter in sam.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter)
    return sam


def save(sam, path, **changes):
    torch.save({**sam.state_dict(), **changes}, path)
    return path


def assert_same(found, expected, keys):
    keys = list(keys)
    assert keys
    assert all(torch.equal(found[key], expected[key]) for key in keys)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_sizes_are_segment_anythings(name):
    with torch.device("meta"):
        ours = build_sam(name, 1024).state_dict()
        theirs = sam_model_registry[name]().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_global_blocks_are_segment_anythings():
    with torch.device("meta"):
        for name in ("vit_b", "vit_l", "vit_h"):
            blocks = sam_model_registry[name]().image_encoder.blocks
            assert SAM_SIZES[name].global_attn_indexes == tuple(
                i for i, block in enumerate(blocks) if not block.window_size
            )


def test_vit_b_at_256_has_its_90_6_million_parameters():
    with torch.device("meta"):
        sam = build_sam("vit_b", 256, num_mask_tokens=3)
    assert sum(p.numel() for p in sam.parameters()) / 1e6 == pytest.approx(90.6, abs=0.3)


@pytest.mark.parametrize("img_size", [32, 64, 240])
def test_every_multiple_of_16_gives_masks_of_a_quarter(img_size):
    sam = build_sam(SIZE, img_size, num_mask_tokens=3).eval()
    with torch.no_grad():
        features = sam.image_encoder(torch.rand(2, 3, img_size, img_size))
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        masks, _ = sam.mask_decoder.predict_masks(features, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    assert features.shape == (2, 256, img_size // 16, img_size // 16)
    assert masks.shape == (2, 3, img_size // 4, img_size // 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vit_x", 256), "teacher::model_name must be one of vit_b, vit_l, vit_h, got 'vit_x'"),
        (("vit_b", 250), "teacher::img_size must be a positive multiple of 16, got 250"),
        (("vit_b", -16), "teacher::img_size must be a positive multiple of 16, got -16"),
        (("vit_b", 256.0), "teacher::img_size must be a positive multiple of 16, got 256.0"),
        (("vit_b", 256, 0), "num_mask_tokens must be positive, got 0"),
    ],
)
def test_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_sam(*arguments)


def test_file_of_the_same_size_is_loaded_bit_exact(tmp_path):
    source, sam = randomized(64), build_sam(SIZE, 64)
    load_sam_checkpoint(sam, save(source, tmp_path / "x.pth"))
    assert_same(sam.state_dict(), source.state_dict(), source.state_dict())


def test_position_tables_are_resized_by_shape(tmp_path):
    source, sam = randomized(512), build_sam(SIZE, 64)
    load_sam_checkpoint(sam, save(source, tmp_path / "x.pth"))
    found, state = sam.state_dict(), source.state_dict()
    grid = state["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (4, 4), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    assert torch.equal(found["image_encoder.pos_embed"], expected)
    table = "image_encoder.blocks.1.attn.rel_pos_h"  # the global block: 2 * 32 - 1 -> 2 * 4 - 1
    assert torch.equal(found[table], F.interpolate(state[table][None, None], (7, 32), mode="bilinear")[0, 0])
    same = [key for key in state if state[key].shape == found[key].shape]
    assert_same(found, state, same)
    assert "image_encoder.blocks.0.attn.rel_pos_h" in same  # windows of 14 keep theirs


def test_resized_table_is_linear_in_length_and_keeps_its_channels():
    table, key = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]), "image_encoder.blocks.0.attn.rel_pos_w"
    resized = resize_positions({key: table}, {key: torch.zeros(2, 2)})[key]
    assert torch.equal(resized, torch.tensor([[0.5, 5.0], [2.5, 5.0]]))


def test_resizing_leaves_its_input_and_other_widths_alone():
    key = "image_encoder.blocks.0.attn.rel_pos_h"
    state = {key: torch.rand(5, 8), "image_encoder.pos_embed": torch.rand(1, 4, 4, 8)}
    resized = resize_positions(state, {key: torch.rand(7, 16), "image_encoder.pos_embed": torch.rand(1, 4, 4, 8)})
    assert all(resized[k] is state[k] for k in state)
    assert resized is not state


@pytest.mark.parametrize(("count", "logged"), [(3, "tokens 3 to 3 are left out"), (6, "tokens 4 to 5 start new")])
def test_overlapping_mask_tokens_are_loaded(tmp_path, caplog, count, logged):
    caplog.set_level(logging.INFO)
    source, sam = randomized(64), build_sam(SIZE, 64, count)
    state, before = source.state_dict(), {k: v.clone() for k, v in sam.state_dict().items()}
    load_sam_checkpoint(sam, save(source, tmp_path / "x.pth"))
    found, both = sam.state_dict(), min(count, 4)
    for key in (TOKENS, IOU, IOU.replace("weight", "bias")):
        assert torch.equal(found[key][:both], state[key][:both])
        assert torch.equal(found[key][both:], before[key][both:])
    assert_same(found, state, [k for k in state if k in found and state[k].shape == found[k].shape])
    new = [k for k in found if k not in state]
    assert len(new) == 6 * max(count - 4, 0)
    assert all(torch.equal(found[k], before[k]) for k in new)
    assert logged in caplog.text


def test_equal_token_counts_change_nothing():
    state = build_sam(SIZE, 64).state_dict()
    assert all(tensor is state[key] for key, tensor in adapt_tokens(state, state).items())


def test_hypernetwork_that_the_file_should_have_is_missed(tmp_path):
    source = build_sam(SIZE, 64)
    state = {k: v for k, v in source.state_dict().items() if ".output_hypernetworks_mlps.1." not in k}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="6 missing: mask_decoder.output_hypernetworks_mlps.1.layers.0.bias"):
        load_sam_checkpoint(build_sam(SIZE, 64, 3), tmp_path / "x.pth")


def test_other_size_is_refused_naming_both(tmp_path, monkeypatch):
    monkeypatch.setitem(SAM_SIZES, "vit_tiny", SamSize(32, 3, 2, (2,)))
    path = save(build_sam("vit_tiny", 64), tmp_path / "x.pth")
    message = r"x.pth is vit_tiny \(width 32, 3 blocks\), but teacher::model_name is vit_test \(width 64, 2 blocks\)"
    with pytest.raises(ValueError, match=message):
        load_sam_checkpoint(build_sam(SIZE, 64), path)


def test_vit_b_file_is_refused_by_vit_l(tmp_path):
    with torch.device("meta"):
        large = build_sam("vit_l", 64)
    keys = {f"image_encoder.blocks.{i}.norm1.bias": torch.ones(1) for i in range(12)}
    torch.save({**keys, "image_encoder.patch_embed.proj.weight": torch.ones(768, 1, 1, 1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="is vit_b .*, but teacher::model_name is vit_l"):
        load_sam_checkpoint(large, tmp_path / "x.pth")


def test_missing_and_unexpected_keys_are_listed_and_nothing_is_loaded(tmp_path):
    source, sam = randomized(64), build_sam(SIZE, 64)
    before = {k: v.clone() for k, v in sam.state_dict().items()}
    state = {**source.state_dict(), "image_encoder.extra": torch.ones(1)}
    del state["image_encoder.neck.0.weight"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="1 missing: image_encoder.neck.0.weight; 1 unexpected: image_encoder.extra"):
        load_sam_checkpoint(sam, tmp_path / "x.pth")
    assert_same(sam.state_dict(), before, before)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("backbone.cls_token", "is a TinyUSFM student .*; it is for student::checkpoint"),
        ("model.cls_token", "is a pretrained TinyUSFM backbone .*; it is for student::checkpoint"),
        ("w_a_000", "is a LoRA adapter .*; it is for teacher::lora_checkpoint"),
        ("image_encoder.patch_embed.seq.0.c.weight", "is a LiteMedSAM file .* teacher::model_name lite_medsam"),
    ],
)
def test_file_of_another_network_is_refused_by_name(tmp_path, key, message):
    torch.save({key: torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"teacher::sam_checkpoint .*x.pth {message}"):
        load_sam_checkpoint(build_sam(SIZE, 64), tmp_path / "x.pth")
