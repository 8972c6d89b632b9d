"""Learning rates by layer and by iteration, against values worked out by hand."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from scripts.losses import distillation_loss
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.optimization import build_optimizer, warmup_polynomial


@pytest.fixture(scope="module")
def student() -> TinyUSFMSeg:
    return TinyUSFMSeg(img_size=32, embed_dim=24, depth=4, num_heads=2, out_indices=(0, 1, 2, 3), channels=16)


def groups_by_name(optimizer, *modules) -> dict[str, dict]:
    """The parameter group of every parameter's name."""
    names = {id(p): name for module in modules for name, p in module.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("backbone.cls_token", 5),
        ("backbone.pos_embed", 5),
        ("backbone.patch_embed.proj.weight", 5),
        ("backbone.blocks.0.attn.qkv.weight", 4),
        ("backbone.blocks.3.mlp.fc2.bias", 1),
        ("neck.projections.0.weight", 0),
        ("decode_head.conv_seg.weight", 0),
    ],
)
def test_each_layer_learns_at_its_own_rate(student, name, power):
    groups = groups_by_name(build_optimizer(student, lr=1e-3, layer_decay=0.8), student)
    assert groups[name]["lr"] == pytest.approx(1e-3 * 0.8**power)


def test_vectors_and_embeddings_have_no_weight_decay(student):
    groups = groups_by_name(build_optimizer(student, lr=1e-3, weight_decay=0.05, layer_decay=0.8), student)
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and name not in ("backbone.cls_token", "backbone.pos_embed")
            assert groups[name]["weight_decay"] == (0.05 if decays else 0.0), name


def test_every_trainable_parameter_is_optimized_once_and_no_frozen_one(student):
    optimizer = build_optimizer(student, lr=1e-3, layer_decay=0.8)
    optimized = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(id(p) for p in student.parameters() if p.requires_grad)
    assert not student.backbone.norm.weight.requires_grad


def test_feature_adapter_trains_at_the_full_rate(student):
    loss = distillation_loss(gamma=0.1, student_channels=6)
    groups = groups_by_name(
        build_optimizer(student, lr=1e-3, loss=loss, weight_decay=0.05, layer_decay=0.8), student, loss
    )
    weight, bias = (groups[f"terms.feature.adapter.{name}"] for name in ("0.weight", "1.bias"))
    assert weight["lr"] == bias["lr"] == 1e-3
    assert weight["weight_decay"] == 0.05
    assert bias["weight_decay"] == 0.0


def test_without_decay_the_network_needs_no_layers():
    optimizer = build_optimizer(nn.Linear(3, 2), lr=1e-3)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": 0}, "lr must be positive, got 0; pass --training::lr 1e-4"),
        ({"lr": float("nan")}, "lr must be positive, got nan"),
        (
            {"lr": 1e-3, "layer_decay": 1.5},
            r"layer_decay must be in \(0, 1\], got 1.5; pass --optimizer::layer_decay 0.8",
        ),
        ({"lr": 1e-3, "layer_decay": 0}, r"layer_decay must be in \(0, 1\], got 0"),
    ],
)
def test_rates_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_optimizer(nn.Linear(3, 2), **arguments)


def test_network_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="there is nothing to train"):
        build_optimizer(nn.Linear(3, 2).requires_grad_(False), lr=1e-3)


def rates(num_epochs: int, warmup_epochs: int, epoch_length: int, power: float = 0.9) -> list[float]:
    """The rate of every iteration, for lr 1, and the one after the last."""
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = warmup_polynomial(optimizer, num_epochs, warmup_epochs, epoch_length, power)
    values = []
    for _ in range(num_epochs * epoch_length + 1):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


def test_rate_rises_linearly_then_falls_polynomially_to_zero():
    expected = [1 / 3, 2 / 3, 1, (5 / 6) ** 0.9, (4 / 6) ** 0.9, (3 / 6) ** 0.9, (2 / 6) ** 0.9, (1 / 6) ** 0.9, 0]
    assert rates(4, 1, 2) == pytest.approx(expected)


def test_without_warmup_the_first_rate_is_the_full_one():
    assert rates(2, 0, 2, power=1) == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_rate_stays_zero_past_the_end():
    scheduler = warmup_polynomial(SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 1, 0, 2)
    assert scheduler.lr_lambdas[0](7) == 0


@pytest.mark.parametrize(
    ("num_epochs", "warmup_epochs", "message"),
    [
        (0, 0, "num_epochs must be at least 1, got 0; pass --training::num_epochs 150"),
        (5, 5, r"warmup_epochs must be at least 0 and below num_epochs \(5\), got 5; pass --training::warmup_epochs 0"),
        (5, -1, "warmup_epochs must be at least 0 .* got -1"),
    ],
)
def test_epochs_out_of_range_are_refused(num_epochs, warmup_epochs, message):
    with pytest.raises(ValueError, match=message):
        warmup_polynomial(SGD([nn.Parameter(torch.zeros(1))], lr=1.0), num_epochs, warmup_epochs, 2)
