"""One image through a network that reads squares: resized to its input, its logits resized to the image's own size.

Validation, evaluation, preflight, the check of exports, inference and MONAI Label all take these functions, so that
they find the same mask, bit for bit. Both resizings run in float32, whatever the network's precision. A student that
tells whether an image shows anything at all empties the masks of those that do not by itself: in its logits.

Shapes: B batch, C channels or classes, H W pixels of the image, S side of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from monai.transforms import Resize
from monai.utils import convert_to_tensor
from torch import nn
from torch.nn import functional as F

from ..utils.hardware import full_precision


@full_precision
def resize_image(image: torch.Tensor, img_size: int) -> torch.Tensor:
    """An image (C, H, W) as a network gets it, (C, S, S): resized as in configs/train.json."""
    resize = Resize((img_size, img_size), mode="bilinear", anti_aliasing=True)
    return convert_to_tensor(resize(convert_to_tensor(image, track_meta=False)), track_meta=False)


@full_precision
def restore_logits(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Logits (B, C, S, S) at the image's size (H, W), float32 (B, C, H, W)."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


def detect(
    network: nn.Module, images: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits (B, C, S, S) of images (B, 1, S, S), and the probability (B,) of each to show any foreground.

    The second is None of a network that does not tell it: most do not, see `networks/presence.py`.

    Args:
        network: images -> logits, or a named tuple with `logits`.
        images: at the network's size.
        args: further ones of the network.
        kwargs: likewise.
    """
    if getattr(network, "presence", None) is None:
        logits = network(images, *args, **kwargs)
        return getattr(logits, "logits", logits), None
    return network.detect(images, *args, **kwargs)


def segment(
    network: nn.Module,
    image: torch.Tensor,
    img_size: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None = None,
) -> torch.Tensor:
    """The logits of `segment_and_detect` alone, with its arguments."""
    return segment_and_detect(network, image, img_size, device, autocast)[0]


@torch.inference_mode()
def segment_and_detect(
    network: nn.Module,
    image: torch.Tensor,
    img_size: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None = None,
) -> tuple[torch.Tensor, float | None]:
    """Logits (C, H, W), float32, of an image (1, H, W) in [0, 1], on the CPU, and its presence as in `detect`.

    Args:
        network: (1, 1, S, S) -> logits, or a named tuple with `logits`.
        image: at its own size.
        img_size: S.
        device: of the network.
        autocast: context in which the network runs.
    """
    resized = resize_image(image, img_size)[None].to(device)
    with autocast or nullcontext():
        logits, presence = detect(network, resized)
    restored = restore_logits(logits, image.shape[-2:])[0].cpu()
    return restored, None if presence is None else float(presence)
