"""One image through a network that reads squares: resized to its input, its logits resized to the image's own size.

Validation, evaluation, preflight, the check of exports, inference and MONAI Label all take these functions, so that
they find the same mask, bit for bit. Both resizings run in float32, whatever the network's precision.

Shapes: B batch, C channels or classes, H W pixels of the image, S side of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

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


@torch.inference_mode()
def segment(
    network: nn.Module,
    image: torch.Tensor,
    img_size: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None = None,
) -> torch.Tensor:
    """Logits (C, H, W), float32, of an image (1, H, W) in [0, 1], on the CPU.

    Args:
        network: (1, 1, S, S) -> logits, or a named tuple with `logits`.
        image: at its own size.
        img_size: S.
        device: of the network.
        autocast: context in which the network runs.
    """
    resized = resize_image(image, img_size)[None].to(device)
    with autocast or nullcontext():
        logits = network(resized)
    return restore_logits(getattr(logits, "logits", logits), image.shape[-2:])[0].cpu()
