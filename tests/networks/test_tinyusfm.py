"""The student's network: shapes, names, upstream's formula, and wrong arguments."""

import pytest
import torch
from torch.nn import functional as F

from scripts.networks.tinyusfm import StudentOutput, TinyUSFMSeg

SMALL = dict(img_size=32, embed_dim=16, depth=4, num_heads=2, out_indices=(0, 1, 2, 3), channels=8)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(**changes):
    return TinyUSFMSeg(**{**SMALL, **changes})


def test_default_size_has_6_18_million_parameters():
    assert sum(p.numel() for p in TinyUSFMSeg().parameters()) == 6_179_073


def test_names_are_upstreams():
    names = set(TinyUSFMSeg().state_dict())
    assert {n.split(".")[0] for n in names} == {"backbone", "neck", "decode_head"}
    expected = {"backbone.cls_token", "backbone.pos_embed", "backbone.patch_embed.proj.weight", "backbone.norm.bias"}
    expected |= {"backbone.blocks.11.attn.qkv.bias", "backbone.blocks.0.mlp.fc2.weight", "decode_head.conv_seg.bias"}
    expected |= {f"neck.projections.{i}.weight" for i in range(4)}
    for convs in ("lateral_convs", "fpn_convs"):
        expected |= {f"decode_head.{convs}.{i}.{j}.{p}" for i in range(4) for j in (0, 1) for p in ("weight", "bias")}
    assert expected <= names


@pytest.mark.parametrize(("num_classes", "channels"), [(2, 1), (3, 3), (5, 5)])
@pytest.mark.parametrize("img_size", [32, 48])
def test_eval_returns_one_tensor_of_logits(num_classes, channels, img_size):
    logits = small(num_classes=num_classes, img_size=img_size, return_features="neck").eval()(
        torch.rand(2, 1, img_size, img_size)
    )
    assert type(logits) is torch.Tensor
    assert logits.shape == (2, channels, img_size, img_size)


def test_training_returns_features_when_wanted():
    output = TinyUSFMSeg(img_size=64, return_features="neck").train()(torch.rand(2, 1, 64, 64))
    assert isinstance(output, StudentOutput)
    assert output.logits.shape == (2, 1, 64, 64)
    assert output.features.shape == (2, 48, 4, 4)
    assert type(small().train()(torch.rand(2, 1, 32, 32))) is torch.Tensor


def test_features_of_the_backbone_are_the_last_blocks_output():
    model, image = small(return_features="backbone", drop_path_rate=0.0).train(), torch.rand(2, 1, 32, 32)
    features = model(image).features
    assert features.shape == (2, 16, 2, 2)
    torch.testing.assert_close(features, model.encode(image)[-1])


def test_forward_is_upstreams_formula():
    """MAEBackbone, Feature2Pyramid_Scale and FPNHead of upstream's tinyusfm_seg.py, written out."""
    model, image = small().eval(), torch.rand(2, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    vit, head = model.backbone, model.decode_head
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = vit.patch_embed((image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    x = torch.cat([vit.cls_token.expand(2, -1, -1), x], dim=1) + vit.pos_embed
    levels = []
    for i, rescale in enumerate([4, 2, 1, 0.5]):
        x = vit.blocks[i](x)
        level = model.neck.projections[i](x[:, 1:].transpose(1, 2).reshape(2, 16, 2, 2))
        levels.append(F.interpolate(level, scale_factor=rescale, mode="bilinear") if rescale != 1 else level)
    laterals = [head.lateral_convs[i](levels[i]) for i in range(4)]
    for i in (3, 2, 1):
        laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=laterals[i - 1].shape[2:], mode="bilinear")
    fused = sum(F.interpolate(head.fpn_convs[i](laterals[i]), size=(8, 8), mode="bilinear") for i in range(4))
    expected = F.interpolate(head.conv_seg(fused), size=(32, 32), mode="bilinear")
    torch.testing.assert_close(model(image), expected, atol=1e-6, rtol=1e-5)


def test_gray_image_is_repeated_to_three_channels():
    model, image = small().eval(), torch.rand(2, 1, 32, 32)
    assert torch.equal(model(image), model(image.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("export", [torch.jit.script, lambda m: torch.jit.trace(m, torch.rand(2, 1, 32, 32))])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_torchscript_by_script_and_by_trace_gives_the_same(export):
    model, image = small().eval(), torch.rand(3, 1, 32, 32)
    torch.testing.assert_close(export(model)(image), model(image), atol=1e-6, rtol=1e-5)


def test_every_trainable_parameter_gets_a_gradient():
    model = small(drop_path_rate=0.0).train()
    model(torch.rand(2, 1, 32, 32)).square().mean().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"backbone.norm.weight", "backbone.norm.bias"}
    assert not any(p.requires_grad for p in model.backbone.norm.parameters())


def test_layers_for_lr_decay():
    model = small()
    layers = {name: model.layer_of(name) for name, _ in model.named_parameters()}
    assert layers["backbone.cls_token"] == layers["backbone.pos_embed"] == layers["backbone.patch_embed.proj.bias"] == 0
    assert layers["backbone.blocks.0.norm1.weight"] == 1
    assert layers["backbone.blocks.3.norm1.weight"] == 4
    assert (
        layers["neck.projections.0.weight"] == layers["decode_head.conv_seg.bias"] == layers["backbone.norm.bias"] == 5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 1}, "data::num_classes must be an integer of at least 2 .*got 1"),
        ({"img_size": 250}, "data::img_size must be a positive multiple of 16, got 250"),
        ({"img_size": 0}, "data::img_size must be a positive multiple of 16, got 0"),
        ({"out_indices": (0, 1, 2)}, "out_indices must be four rising block indices below depth 4"),
        ({"out_indices": (0, 2, 1, 3)}, "out_indices must be four rising"),
        ({"out_indices": (0, 1, 2, 4)}, "out_indices must be four rising"),
    ],
)
def test_argument_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_features_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="return_features must be None, neck or backbone, got True"):
        small(return_features=True)


@pytest.mark.parametrize("shape", [(2, 2, 32, 32), (2, 4, 32, 32), (1, 32, 32)])
def test_other_channel_counts_are_refused(shape):
    with pytest.raises(ValueError, match=r"student images must be \(B, 1 or 3, H, W\), got"):
        small()(torch.rand(shape))


def test_other_image_size_is_refused():
    with pytest.raises(ValueError, match="must be 32 x 32 pixels, got 32 x 48; .*--data::img_size"):
        small()(torch.rand(1, 1, 32, 48))
