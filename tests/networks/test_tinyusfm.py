"""The student: shapes, names, upstream's formula, and the files that it reads and refuses."""

import logging

import pytest
import torch
from torch.nn import functional as F

from scripts.networks.tinyusfm import StudentOutput, TinyUSFMSeg, build_student, load_student, load_trained_student

SMALL = dict(img_size=32, embed_dim=16, depth=4, num_heads=2, out_indices=(0, 1, 2, 3), channels=8)
CHECKPOINT = "student::checkpoint"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(**changes):
    return TinyUSFMSeg(**{**SMALL, **changes})


def as_pretraining(model):
    """The backbone as TinyUSFM.pth names it."""
    return {k.replace("backbone.", "model."): v for k, v in model.state_dict().items() if k.startswith("backbone.")}


def assert_same(model, state, prefix=""):
    found = model.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items() if key.startswith(prefix))


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
        ({"num_classes": 1}, "data::num_classes must be an integer of 2 or more .*got 1"),
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


def test_random_start_is_warned_of(caplog):
    build_student(img_size=32)
    assert "without a checkpoint (initialization mimetic); pass --student::checkpoint PATH" in caplog.text
    caplog.clear()
    build_student(img_size=32, pretrained=False)
    assert not caplog.text


def test_unknown_model_name_lists_the_known():
    with pytest.raises(ValueError, match="student::model_name must be one of TinyUSFM_Seg, got 'USFM_Seg'"):
        build_student("USFM_Seg")


def test_checkpoint_without_pretrained_is_refused():
    with pytest.raises(ValueError, match="x.pth, but student::pretrained is False"):
        build_student(pretrained=False, checkpoint="x.pth")


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "network"])
def test_segmentation_file_is_loaded_in_full(tmp_path, wrapper):
    state = build_student(num_classes=3, img_size=32).state_dict()
    torch.save({wrapper: state} if wrapper else state, tmp_path / "x.pt")
    assert_same(build_student(num_classes=3, img_size=32, checkpoint=tmp_path / "x.pt"), state)


def test_pretrained_backbone_is_loaded_and_the_head_left_new(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source, model = small(), small()
    head = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    pretraining = {
        **as_pretraining(source),
        "model.head.weight": torch.ones(3, 16),
        "decoder.w": torch.ones(1),
        "epoch": 3,
    }
    torch.save(pretraining, tmp_path / "TinyUSFM.pth")
    load_student(model, tmp_path / "TinyUSFM.pth")
    assert_same(model, source.state_dict(), "backbone.")
    assert_same(model, head)
    assert f"{len(head)} entries of neck and head left new" in caplog.text
    assert "1 keys outside model.* left out: decoder.w" in caplog.text
    assert "pretraining head left out: backbone.head.weight" in caplog.text


def test_backbone_file_may_lack_the_unused_norm_but_no_block(tmp_path):
    state = as_pretraining(small())
    torch.save({k: v for k, v in state.items() if ".norm." not in k}, tmp_path / "good.pth")
    load_student(small(), tmp_path / "good.pth")
    torch.save({k: v for k, v in state.items() if ".blocks.1." not in k}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"12 missing: backbone.blocks.1.attn.proj.bias.* and 2 more"):
        load_student(small(), tmp_path / "bad.pth")


@pytest.mark.parametrize("convert", [lambda m: m.state_dict(), as_pretraining])
def test_position_embeddings_of_another_size_are_resized(tmp_path, convert):
    source, model = small(img_size=64), small(img_size=32)
    torch.save(convert(source), tmp_path / "x.pth")
    load_student(model, tmp_path / "x.pth")
    found, original = model.backbone.pos_embed, source.backbone.pos_embed
    assert torch.equal(found[:, 0], original[:, 0])  # the class token's
    grid = original[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(2, 2), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found[:, 1:], expected)


def test_trained_student_is_read_once_and_loaded_in_full(tmp_path, monkeypatch):
    source, reads = small(), []
    torch.save(source.state_dict(), tmp_path / "x.pt")
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: reads.append(args) or load(*args, **kwargs))
    model = small()
    assert load_trained_student(model, tmp_path / "x.pt") is model
    assert len(reads) == 1
    assert_same(model, source.state_dict())


def test_trained_student_of_another_img_size_is_refused(tmp_path):
    torch.save(small(img_size=128).state_dict(), tmp_path / "x.pt")
    model = small(img_size=224)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    message = (
        r"x.pt was trained at 128 pixels, but the student is built for 224; pass --img_size 128 "
        r"\(--data::img_size 128 in evaluate.json\)\."
    )
    with pytest.raises(ValueError, match=message):
        load_trained_student(model, tmp_path / "x.pt")
    assert_same(model, before)


def test_backbone_is_no_trained_student(tmp_path):
    torch.save(as_pretraining(small()), tmp_path / "TinyUSFM.pth")
    with pytest.raises(
        ValueError, match="^checkpoint .*TinyUSFM.pth is a pretrained TinyUSFM backbone .*, not a TinyUSFM student"
    ):
        load_trained_student(small(), tmp_path / "TinyUSFM.pth")


def test_trained_student_needs_a_file(tmp_path):
    with pytest.raises(ValueError, match="student::checkpoint is required, got None; pass --student::checkpoint PATH"):
        load_trained_student(small(), None, CHECKPOINT)
    with pytest.raises(
        FileNotFoundError, match="student::checkpoint .*gone.pt does not exist; pass --student::checkpoint PATH"
    ):
        load_trained_student(small(), tmp_path / "gone.pt", CHECKPOINT)


def test_other_class_count_is_refused(tmp_path):
    torch.save(small(num_classes=3).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="segments 3 classes, but data::num_classes is 2; pass --data::num_classes 3"):
        load_student(small(), tmp_path / "x.pth")


def test_other_width_is_refused_with_the_keys(tmp_path):
    torch.save(small(embed_dim=32).state_dict(), tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"x.pth does not fit TinyUSFMSeg: .*of another shape: backbone.cls_token \(1, 1, 32\)"
    ):
        load_student(small(), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("image_encoder.pos_embed", "is a SAM base file .*; it is for teacher::sam_checkpoint"),
        ("w_a_000", "is a LoRA adapter .*; it is for teacher::lora_checkpoint"),
        ("mask_decoder.mask_tokens.weight", "is a tuned mask decoder .*; it is for teacher::lora_checkpoint"),
        ("layer1.0.conv1.weight", "is neither a student, a SAM nor an adapter"),
    ],
)
def test_file_of_another_network_is_refused_by_name(tmp_path, key, message):
    torch.save({key: torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"{CHECKPOINT} .*x.pth {message}"):
        load_student(small(), tmp_path / "x.pth")


def test_missing_file_names_the_config_id(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{CHECKPOINT} .*gone.pth does not exist"):
        build_student(checkpoint=tmp_path / "gone.pth")
