"""The start without a checkpoint: what the weights do, that they follow the seed, and that a checkpoint is not
touched.
"""

import math

import pytest
import torch

from scripts.networks.initialization import VALUE_SCALE
from scripts.networks.student import Student, build_student

WIDTH = 192


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def build(initialization="mimetic", seed=0, img_size=64, **options):
    torch.manual_seed(seed)
    return build_student(Student(pretrained=False, initialization=initialization), img_size=img_size, **options)


def attention(model, tokens):
    """The first block's attention (B, heads, N, N) between tokens (B, N, D), softmax included."""
    block = model.backbone.blocks[0]
    qkv = block.attn.qkv(block.norm1(tokens))
    query, key, _ = qkv.reshape(*tokens.shape[:2], 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    return (query @ key.transpose(-2, -1) * block.attn.scale).softmax(-1)


def mean_reach(model):
    """How many patches away the first block looks on average, from position embeddings alone."""
    side = model.img_size // 16
    weights = attention(model, model.backbone.pos_embed[:, 1:]).mean(dim=(0, 1))  # (N, N)
    place = torch.cartesian_prod(torch.arange(float(side)), torch.arange(float(side)))
    return (weights * torch.cdist(place, place)).sum(-1).mean().item()


def test_patches_look_at_their_neighbors():
    near, anywhere = mean_reach(build(img_size=128)), mean_reach(build("random", img_size=128))
    place = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    even = torch.cdist(place, place).mean().item()
    assert anywhere == pytest.approx(even, rel=0.01)
    assert near < 0.85 * even


def test_heads_add_up_to_the_scalar_product():
    qkv = build().backbone.blocks[3].attn.qkv.weight
    product = qkv[:WIDTH].T @ qkv[WIDTH : 2 * WIDTH]  # sum over the heads of Q^T K
    noise = product - torch.eye(WIDTH)
    assert product.diagonal().mean() == pytest.approx(1, abs=0.02)
    assert noise.std() < 0.05
    assert not torch.equal(qkv[:WIDTH], qkv[WIDTH : 2 * WIDTH])


def test_value_path_is_nearly_a_negative_identity():
    attn = build().backbone.blocks[3].attn
    path = attn.proj.weight @ attn.qkv.weight[2 * WIDTH :]
    assert path.diagonal().mean() == pytest.approx(-VALUE_SCALE, abs=0.02)
    rest = path - path.diagonal().diag()
    assert rest.std() == pytest.approx(VALUE_SCALE / math.sqrt(WIDTH), rel=0.05)


def test_position_embeddings_tell_rows_from_columns():
    model = build()
    # (h, w, sine and cosine, row and column, bands)
    parts = model.backbone.pos_embed[0, 1:].reshape(4, 4, 2, 2, WIDTH // 4)
    rows, columns = parts[..., 0, :], parts[..., 1, :]
    assert torch.equal(rows[:, :1].expand_as(rows), rows)
    assert torch.equal(columns[:1].expand_as(columns), columns)
    assert model.backbone.pos_embed.requires_grad
    # the class token keeps its own
    assert torch.equal(model.backbone.pos_embed[0, 0], build("random").backbone.pos_embed[0, 0])


def test_start_follows_the_seed_and_leaves_the_head_alone():
    state, again, other = build().state_dict(), build().state_dict(), build(seed=1).state_dict()
    random = build("random").state_dict()
    key = "backbone.blocks.5.attn.qkv.weight"
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not torch.equal(state[key], other[key])
    changed = {name for name in state if not torch.equal(state[name], random[name])}
    assert changed == {"backbone.pos_embed"} | {
        f"backbone.blocks.{i}.attn.{part}.weight" for i in range(12) for part in ("qkv", "proj")
    }


def test_checkpoint_is_loaded_as_it_is(tmp_path):
    state = build("random", num_classes=3).state_dict()
    torch.save(state, tmp_path / "x.pt")
    torch.manual_seed(0)
    loaded = build_student(Student(checkpoint=str(tmp_path / "x.pt")), num_classes=3, img_size=64).state_dict()
    assert all(torch.equal(state[name], loaded[name]) for name in state)
