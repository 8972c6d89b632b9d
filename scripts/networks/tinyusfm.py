"""TinyUSFM for segmentation: the student, a ViT of width 192 with an FPN head.

Follows `model/tinyusfm_seg.py` of MacDunno/TinyUSFM with its state-dict names, on timm's VisionTransformer (Dosovitskiy
et al. 2021, arXiv:2010.11929) and the FPN of Lin et al. 2017, arXiv:1612.03144. Surprise: the features are taken before
the ViT's final norm, so `backbone.norm` is in every file and never used.

Shapes: B batch, C classes, D channels, H W pixels (H = W = img_size), N tokens, h w patches (img_size / 16).
"""

from __future__ import annotations

import logging
from functools import partial
from typing import NamedTuple, Optional

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from ..utils.options import NECK, STUDENT_FEATURES, check_img_size, check_num_classes, logit_channels
from .presence import PRESENCE, Presence, presence_inputs

logger = logging.getLogger(__name__)

PATCH_SIZE = 16
RESCALES = (4.0, 2.0, 1.0, 0.5)
STRIDE_16 = 2  # the neck level that is not rescaled
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class StudentOutput(NamedTuple):
    """What the student says of a training batch when features are wanted.

    logits: (B, 1 or C, H, W), unnormalized. features: (B, D, h, w), the neck's stride-16 level, D = embed_dim / 4, or
    the last block's output, D = embed_dim.
    """

    logits: torch.Tensor
    features: torch.Tensor


class StudentAttention(Attention):
    """timm's attention (B, N, D) -> (B, N, D), its products in fp32 where the student trains in bf16 on the CPU.

    torch's fused bf16 backward there is slower than the rest of the step together: 40 ms a block against 9 ms in fp32,
    at batch size 16 and 224 pixels on two cores.
    """

    def forward(
        self, x: torch.Tensor, attn_mask: Optional[torch.Tensor] = None, is_causal: bool = False
    ) -> torch.Tensor:
        B, N, _ = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if not torch.jit.is_scripting() and self.training and q.dtype == torch.bfloat16 and q.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                x = F.scaled_dot_product_attention(
                    q.float(), k.float(), v.float(), attn_mask=attn_mask, is_causal=is_causal
                )
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        return self.proj(x.transpose(1, 2).reshape(B, N, self.attn_dim))


class FeaturePyramidNeck(nn.Module):
    """Four maps (B, D, h, w) of one size -> four of D / 4 channels, at 4, 2, 1 and 0.5 times that size."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(embed_dim, embed_dim // 4, kernel_size=1) for _ in RESCALES)
        self.rescales = RESCALES

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        levels: list[torch.Tensor] = []
        for i, projection in enumerate(self.projections):
            level = projection(features[i])
            if self.rescales[i] != 1.0:
                level = F.interpolate(level, scale_factor=self.rescales[i], mode="bilinear", align_corners=False)
            levels.append(level)
        return levels


class FPNHead(nn.Module):
    """Pyramid levels, finest first -> logits (B, num_channels, 4 h, 4 w), all levels summed at the finest.

    Args:
        in_channels: of every level.
        channels: inside the head.
        num_channels: logits.
        dropout: of whole channels, before the classifier.
    """

    def __init__(self, in_channels: int, channels: int, num_channels: int, dropout: float) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_conv_block(in_channels, channels, 1) for _ in RESCALES)
        self.fpn_convs = nn.ModuleList(_conv_block(channels, channels, 3) for _ in RESCALES)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_channels, kernel_size=1)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        laterals: list[torch.Tensor] = []
        for i, lateral_conv in enumerate(self.lateral_convs):
            laterals.append(lateral_conv(levels[i]))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + resize_like(laterals[i], laterals[i - 1])
        outputs: list[torch.Tensor] = []
        for i, fpn_conv in enumerate(self.fpn_convs):
            outputs.append(fpn_conv(laterals[i]))
        fused = outputs[0]
        for output in outputs[1:]:
            fused = fused + resize_like(output, fused)
        return self.conv_seg(self.dropout(fused))


class TinyUSFMSeg(nn.Module):
    """Logits of ultrasound images in [0, 1]; 6.18 M parameters as it stands.

    Args:
        num_classes: number of classes, the background counts; 2 gives one logit channel. [2 or more]
        img_size: rows and columns of the network's input in pixels: what the student was trained with. [multiple of 16]
        embed_dim: ViT width, a multiple of 4 and of num_heads.
        depth: ViT blocks.
        num_heads: of every block.
        out_indices: the four blocks whose output the neck reads, counted from 0.
        channels: inside the FPN head.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        dropout: of the head's channels.
        return_features: in train mode, return `StudentOutput` for the feature loss, with features of the `neck` or the
            `backbone`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_classes: int = 2,
        img_size: int = 224,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 12,
        out_indices: tuple[int, ...] = (3, 5, 7, 11),
        channels: int = 128,
        drop_path_rate: float = 0.1,
        dropout: float = 0.1,
        return_features: str | None = None,
    ) -> None:
        super().__init__()
        _check_arguments(num_classes, img_size, depth, out_indices, return_features)
        self.img_size = img_size
        self.num_layers = depth + 1  # see layer_of
        self.out_indices = tuple(out_indices)
        self.return_features = return_features
        self.backbone = VisionTransformer(
            img_size=img_size,
            patch_size=PATCH_SIZE,
            num_classes=0,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            drop_path_rate=drop_path_rate,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            attn_layer=StudentAttention,
        )
        # never used: a gradient that never comes would stop DistributedDataParallel
        self.backbone.norm.requires_grad_(False)
        self.neck = FeaturePyramidNeck(embed_dim)
        self.decode_head = FPNHead(embed_dim // 4, channels, logit_channels(num_classes), dropout)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.presence: Presence | None = None  # weights that hold it bring it, see _load_from_state_dict

    def forward(self, image: torch.Tensor):
        """Segment a batch.

        Args:
            image: (B, 1 or 3, H, W) float in [0, 1]; one channel is repeated.

        Returns:
            Logits (B, 1 or C, H, W), unnormalized, in eval mode after the decision of `detect`; in train mode with
            `return_features`, a `StudentOutput`.

        Raises:
            ValueError: another size or channel count.
        """
        features, levels, logits = self._segment(image)
        if not torch.jit.is_scripting():  # TorchScript leaves out the block, not a part of a condition
            if self.training and torch.is_grad_enabled():
                self._forget_presence()
            if self.training and self.return_features:
                return StudentOutput(logits, levels[STRIDE_16] if self.return_features == NECK else features[-1])
        return self._decide(logits, features[-1])[0]

    @torch.jit.export
    def detect(self, image: torch.Tensor) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        """As `forward`, with the probability (B,) that an image shows any foreground; None where it is not calibrated.

        In eval mode the mask of an image whose probability is below the stored threshold is empty: every foreground
        class is below the background in its logits.

        Args:
            image: as in `forward`.
        """
        features, _, logits = self._segment(image)
        return self._decide(logits, features[-1])

    @torch.jit.unused
    def add_presence(self) -> Presence:
        """A presence that is not calibrated yet, in the place of any that is there."""
        self.presence = Presence(self.backbone.embed_dim).to(self.mean.device)
        return self.presence

    @torch.jit.unused
    def _forget_presence(self) -> None:
        """Presence holds for the weights that it was calibrated with: a training step drops it."""
        if self.presence is not None:
            logger.warning("the student's presence is dropped, since its weights are trained; calibrate it again")
            self.presence = None

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args) -> None:
        """Weights with a presence bring it, also where other programs load them, such as MONAI's export."""
        if self.presence is None and f"{prefix}{PRESENCE}weight" in state_dict:
            self.add_presence()
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.jit.unused
    def presence_inputs(self, image: torch.Tensor) -> torch.Tensor:
        """What a presence probability is made of (B, 1 + D), see `presence.presence_inputs`, whatever is stored."""
        features, _, logits = self._segment(image)
        return presence_inputs(logits, features[-1])

    def _segment(self, image: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Block outputs, levels of the neck, and logits before any decision."""
        if not torch.jit.is_scripting():
            self._check_image(image)
        features = self.encode(image)
        levels = self.neck(features)
        logits = F.interpolate(self.decode_head(levels), size=image.shape[-2:], mode="bilinear", align_corners=False)
        return features, levels, logits

    def _decide(self, logits: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, Optional[torch.Tensor]]:
        if self.presence is None:
            return logits, None
        presence = self.presence(logits, features)
        if self.training:
            return logits, presence
        return self.presence.decide(logits, presence), presence

    def encode(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Four block outputs (B, D, h, w), not normed, of images (B, 1 or 3, H, W) in [0, 1]."""
        x = (image.expand(-1, 3, -1, -1) - self.mean) / self.std
        x = self.backbone._pos_embed(self.backbone.patch_embed(x))  # (B, 3, H, W) -> (B, 1 + h w, D)
        side = self.img_size // 16
        features: list[torch.Tensor] = []
        for i, block in enumerate(self.backbone.blocks):
            x = block(x)
            if i in self.out_indices:
                # (B, 1 + N, D) -> (B, D, h, w), without the class token
                features.append(x[:, 1:].transpose(1, 2).reshape(x.shape[0], x.shape[2], side, side))
        return features

    @torch.jit.unused
    def layer_of(self, name: str) -> int:
        """The layer of a parameter for layer-wise lr decay: 0 the embedding, i + 1 block i, `num_layers` the rest.

        Args:
            name: as `named_parameters` gives it.
        """
        if name.startswith(("backbone.cls_token", "backbone.pos_embed", "backbone.patch_embed.")):
            return 0
        if name.startswith("backbone.blocks."):
            return int(name.split(".")[2]) + 1
        return self.num_layers

    @torch.jit.unused
    def _check_image(self, image: torch.Tensor) -> None:
        if image.ndim != 4 or image.shape[1] not in (1, 3):
            raise ValueError(f"student images must be (B, 1 or 3, H, W), got {tuple(image.shape)}.")
        if image.shape[-2:] != (self.img_size, self.img_size):
            raise ValueError(
                f"student images must be {self.img_size} x {self.img_size} pixels, got {image.shape[-2]} x "
                f"{image.shape[-1]}; resize them or pass --data::img_size."
            )


def resize_like(x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(B, D, H, W) resized bilinearly to the reference's H and W."""
    return F.interpolate(x, size=reference.shape[-2:], mode="bilinear", align_corners=False)


def _conv_block(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _check_arguments(
    num_classes: int, img_size: int, depth: int, out_indices: tuple[int, ...], return_features: str | None
) -> None:
    check_num_classes(num_classes)
    check_img_size(img_size)
    if return_features not in (None, *STUDENT_FEATURES):
        raise ValueError(f"return_features must be None, {' or '.join(STUDENT_FEATURES)}, got {return_features!r}.")
    rising = len(out_indices) == len(RESCALES) and list(out_indices) == sorted(set(out_indices))
    if not rising or not 0 <= out_indices[0] <= out_indices[-1] < depth:
        raise ValueError(
            f"out_indices must be four rising block indices below depth {depth}, got {tuple(out_indices)}."
        )
