"""Resizing as `data/segment.py` does it, of arrays and without torch, whose import takes seconds.

For programs that run an exported student. Values differ from torch's by rounding alone, less than 1e-5; a test holds
the two together.

Legend: C channels or classes, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import correlate1d
from scipy.special import erf

SQRT_HALF = 0.70710678  # as many digits as MONAI's blur takes
SIGMAS = 4.0  # at which the blur is cut off


def blur_sigmas(size: Sequence[int], target: Sequence[int]) -> list[float]:
    """Sigma in pixels of the blur before an image shrinks, by axis: (s - 1) / 2 at a factor s, 0 where it grows.

    The rule of skimage.transform.resize, which MONAI follows, in float32 as there.

    Args:
        size: of the image.
        target: that it gets.
    """
    factors = np.asarray(size, np.float32) / np.asarray(target, np.float32)
    return [float(sigma) for sigma in np.maximum(0, (factors - 1) / 2)]


def blur_tail(sigma: float) -> int:
    """Pixels of the blur's window on each side of the middle, at least 1."""
    return int(max(float(np.float32(sigma)) * SIGMAS, 0.5) + 0.5)


def resize_array(image: np.ndarray, img_size: int) -> np.ndarray:
    """An image (H, W) as a network gets it, float32 (S, S); see `segment.resize_image`."""
    image = image.astype(np.float32, copy=False)
    for axis, sigma in enumerate(blur_sigmas(image.shape, (img_size, img_size))):
        if sigma:
            edges = np.arange(-blur_tail(sigma) - 0.5, blur_tail(sigma) + 1) * (SQRT_HALF / sigma)
            image = correlate1d(image, 0.5 * np.diff(erf(edges)), axis, mode="constant")
    return interpolate(image, (img_size, img_size))


def interpolate(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Maps (..., H, W) at another size, float32, bilinear, as torch's F.interpolate with align_corners=False."""
    for axis, length in zip((-2, -1), size):
        if maps.shape[axis] != length:
            maps = _stretch(maps, axis, length)
    return np.ascontiguousarray(maps, dtype=np.float32)


def _stretch(maps: np.ndarray, axis: int, length: int) -> np.ndarray:
    old = maps.shape[axis]
    scale = np.float32(old) / np.float32(length)
    position = np.maximum(scale * (np.arange(length, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    low = np.minimum(position.astype(int), old - 1)
    weight = position - low.astype(np.float32)
    weight = weight[:, None] if axis == -2 else weight
    first, second = maps.take(low, axis), maps.take(np.minimum(low + 1, old - 1), axis)
    return first + (second - first) * weight
