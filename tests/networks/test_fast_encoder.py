"""The fast image encoder against segment_anything's own: outputs, gradients, names, LoRA."""

import copy

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from scripts.networks.adapters import adapter_state, describe_adapter, merge_adapter
from scripts.networks.fast_encoder import FastBlock, speed_up
from scripts.networks.lora import add_lora, split_qkv
from scripts.networks.lora_names import FULL
from scripts.networks.sam import build_sam, load_sam_checkpoint

# pixels -> tokens against windows of 14: one cut window, exactly one, two a side of which one is cut, four whole, three
# a side
SIZES = [32, 64, 224, 256, 448, 480]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomized(module):
    """The module with position tables and biases that matter; segment_anything starts them at 0."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("bias", "pos_embed", "rel_pos_h", "rel_pos_w")):
                parameter.normal_(std=0.3)
    return module.eval()


def stock_and_fast(img_size=64, **options):
    options = {"use_rel_pos": True, "window_size": 14, "global_attn_indexes": (1,), **options}
    stock = randomized(ImageEncoderViT(img_size=img_size, embed_dim=64, depth=2, num_heads=2, **options))
    return stock, speed_up(copy.deepcopy(stock))


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("img_size", SIZES)
def test_output_is_that_of_segment_anything(img_size):
    stock, fast = stock_and_fast(img_size)
    image = torch.rand(2, 3, img_size, img_size)
    close(fast(image), stock(image))


@torch.no_grad()
@pytest.mark.parametrize("window_size", [1, 3, 4, 5])
def test_every_window_size_and_no_bias(window_size):
    stock, fast = stock_and_fast(128, window_size=window_size, global_attn_indexes=(), qkv_bias=False)
    image = torch.rand(3, 3, 128, 128)
    close(fast(image), stock(image))


@torch.no_grad()
@pytest.mark.parametrize("size", [(3, 5), (5, 3), (4, 6), (6, 4), (7, 9)])
def test_grids_that_are_not_square(size):
    stock, fast = stock_and_fast(window_size=4)
    tokens = torch.rand(2, *size, 64)
    close(fast.blocks[0](tokens), stock.blocks[0](tokens))


@torch.no_grad()
def test_pad_tokens_take_part_in_the_softmax():
    stock, fast = stock_and_fast(64)
    tokens = torch.rand(1, 4, 4, 64)
    alone = copy.deepcopy(stock.blocks[0])
    alone.window_size = 0  # the same rows and columns, without the padding to 14
    alone.attn.rel_pos_h.data, alone.attn.rel_pos_w.data = (
        t[10:17] for t in (alone.attn.rel_pos_h, alone.attn.rel_pos_w)
    )
    assert (alone(tokens) - stock.blocks[0](tokens)).abs().max() > 1e-2
    close(fast.blocks[0](tokens), stock.blocks[0](tokens))


@pytest.mark.parametrize("img_size", [64, 224, 256])
def test_gradients_are_those_of_segment_anything(img_size):
    image = torch.rand(2, 3, img_size, img_size)
    gradients = []
    for encoder in stock_and_fast(img_size):
        encoder.train()(image).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
    expected, found = gradients
    assert found.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max().item()
        close(found[name], expected[name], atol=1e-4 * scale + 1e-9)


@torch.no_grad()
def test_bf16_autocast_is_as_exact_as_stock():
    stock, fast = stock_and_fast(256)
    image = torch.rand(1, 3, 256, 256)
    exact = stock(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors = [(encoder(image).float() - exact).abs().mean() for encoder in (stock, fast)]
    assert errors[1] < 1.2 * errors[0]


def test_batch_gives_what_its_images_give_alone():
    _, fast = stock_and_fast(256)
    image = torch.rand(3, 3, 256, 256)
    with torch.no_grad():
        close(fast(image), torch.cat([fast(one) for one in image.split(1)]))


def test_parameters_and_names_stay():
    encoder = stock_and_fast()[0]
    names, parameters = list(encoder.state_dict()), list(encoder.parameters())
    assert speed_up(encoder) is encoder
    assert list(encoder.state_dict()) == names
    assert all(a is b for a, b in zip(encoder.parameters(), parameters, strict=True))


def test_mode_stays_and_a_second_call_changes_nothing():
    encoder = stock_and_fast()[1]
    assert not any(module.training for module in encoder.modules())
    blocks = list(encoder.blocks)
    assert speed_up(encoder).blocks[0] is blocks[0]
    assert all(isinstance(block, FastBlock) for block in blocks)


@torch.no_grad()
def test_checkpoint_loads_after_the_speed_up(tmp_path):
    stock, late = randomized(build_sam("vit_test", 64)), build_sam("vit_test", 64)
    torch.save(stock.state_dict(), tmp_path / "sam.pth")
    speed_up(late.image_encoder)
    load_sam_checkpoint(late, tmp_path / "sam.pth")
    image = torch.rand(1, 3, 64, 64)
    close(late.image_encoder(image), stock.image_encoder(image))


@torch.no_grad()
def test_split_qkv_works_before_and_after():
    image = torch.rand(1, 3, 64, 64)
    stock, after = stock_and_fast()
    before = copy.deepcopy(stock)
    split_qkv(before), split_qkv(after)
    close(speed_up(before)(image), stock(image))
    close(after(image), stock(image))


def test_lora_trained_on_the_fast_encoder_merges_into_the_stock_one():
    base = randomized(build_sam("vit_test", 64, 3))
    fast = copy.deepcopy(base)
    speed_up(fast.image_encoder)
    model = add_lora(fast, FULL, rank=2)
    optimizer = torch.optim.Adam((p for n, p in model.named_parameters() if "lora_" in n), lr=0.02)
    image = torch.rand(2, 3, 64, 64)
    for _ in range(3):  # B starts at 0, so that A moves from the second step on
        model.image_encoder(image)[:, 0].mean().backward()
        optimizer.step()
    with torch.no_grad():
        found, untuned = model.image_encoder(image), base.image_encoder(image)
        merge_adapter(base, describe_adapter(adapter_state(model, FULL), "x.pth"))
        close(found, base.image_encoder(image), atol=1e-4)
    assert (found - untuned).abs().max() > 1e-2


def test_encoder_without_relative_positions_is_refused():
    with pytest.raises(ValueError, match="needs an image encoder with use_rel_pos True, as every SAM has, got False"):
        stock_and_fast(use_rel_pos=False)
