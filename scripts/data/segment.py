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
from torch import nn
from torch.nn import functional as F

from ..utils.hardware import full_precision
from .resizing import SQRT_HALF, blur_sigmas, blur_tail

SMALL = 20480  # numbers of an image up to which torch convolves by itself and not with oneDNN


@full_precision
def resize_image(image: torch.Tensor, img_size: int) -> torch.Tensor:
    """An image (C, H, W) as a network gets it, float32 (C, S, S): resized as in configs/train.json.

    It has the bits of MONAI's Resize with anti_aliasing, a Gaussian blur by skimage's rule, then bilinear. MONAI itself
    is not needed, so that a program that segments starts at once. `data/resizing.py` is the same without torch.
    """
    image, size = image.as_subclass(torch.Tensor), (img_size, img_size)
    if image.shape[1:] == size:
        return image.float()
    sigmas = blur_sigmas(image.shape[1:], size)
    if any(sigmas):
        image = _blur(image.float(), sigmas)
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0].float()


def _blur(image: torch.Tensor, sigmas: Sequence[float]) -> torch.Tensor:
    """(C, H, W) after a Gaussian, cut off at four sigmas and black outside, along rows and columns; float32.

    A convolution is slow for windows of a few pixels. `_weighted_sum` adds them in the order in which torch's
    convolution of a large image does, so that both have the same bits; for small images torch has another order.
    """
    windows = [_gaussian(sigma).to(image) for sigma in sigmas]
    if image.numel() <= SMALL:
        return _convolve(image, *windows)
    for axis, sigma, window in zip((-2, -1), sigmas, windows):
        if sigma:
            image = _weighted_sum(image, window.tolist(), axis)
    return image


def _convolve(image: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(C, H, W) after the two windows as MONAI's GaussianFilter convolves."""
    channels = len(image)
    padded = F.pad(image[None], [len(columns) // 2] * 2)
    padded = F.pad(padded, [0, 0, len(rows) // 2, len(rows) // 2])
    blurred = F.conv2d(padded, rows.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(blurred, columns.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)[0]


def _weighted_sum(image: torch.Tensor, weights: Sequence[float], axis: int) -> torch.Tensor:
    """(C, H, W), each pixel the sum of its neighbors along an axis times their weights."""
    tail, length = len(weights) // 2, image.shape[axis]
    padded = F.pad(image, [0, 0, tail, tail] if axis == -2 else [tail, tail])
    total = padded.narrow(axis, 0, length) * weights[0]
    for offset, weight in enumerate(weights[1:], start=1):
        total.add_(padded.narrow(axis, offset, length), alpha=weight)
    return total


def _gaussian(sigma: float) -> torch.Tensor:
    """The integral of a Gaussian over each pixel of a window; [0, 1, 0] where sigma is 0."""
    tail = blur_tail(sigma)
    x = torch.arange(-tail, tail + 1, dtype=torch.float)
    scale = SQRT_HALF / torch.tensor(sigma, dtype=torch.float)
    return (0.5 * ((scale * (x + 0.5)).erf() - (scale * (x - 0.5)).erf())).clamp(min=0)


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
    return segment_frames(network, [image], img_size, device, autocast)[0]


@torch.inference_mode()
def segment_frames(
    network: nn.Module,
    frames: Sequence[torch.Tensor],
    img_size: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None = None,
) -> list[tuple[torch.Tensor, float | None]]:
    """What `segment_and_detect` gives of each of the frames (1, H, W), which go through the network together."""
    resized = torch.stack([resize_image(frame, img_size) for frame in frames]).to(device)
    with autocast or nullcontext():
        logits, presence = detect(network, resized)
    restored = [restore_logits(one[None], frame.shape[-2:])[0].cpu() for one, frame in zip(logits, frames)]
    return list(zip(restored, [None] * len(frames) if presence is None else presence.tolist()))
