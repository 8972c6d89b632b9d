"""Stored pixel values -> gray in [0, 1], by what the values use and not by the type that holds them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .refusals import Refused

DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras and scanners deliver
MIN_GRAYS = 9  # different values in an image; a mask has fewer
SAMPLE = 65536  # pixels
BLUR = 8 / 255  # how far from black and white the compression of a mask moves its values
WHOLE = 1e-3  # how far from a whole number a float may lie that was one


def unit_range(pixels: np.ndarray, window: Sequence[float] | None = None) -> np.ndarray:
    """Pixels in [0, 1]. All frames of a loop have one scale.

    1. uint8 is divided by 255. Floats in [0, 1] stay.
    2. Other whole numbers from 0 to 65535 are divided by 2^bits - 1. bits is the smallest of DEPTHS that holds the
       largest value. So a picture is the same in every type: uint16, int32 or float with 0 to 255 is divided by 255.
    3. What is left (negative values, fractions, values above 65535) is stretched from `window`, or from its minimum and
       maximum.

    Args:
        pixels: numbers of any real type and shape.
        window: the values that are shown black and white, where the file names them.

    Raises:
        Refused: pixels are nan or infinite.
    """
    if pixels.dtype == np.uint8:
        return pixels / np.float32(255)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise Refused("holds nan or infinite pixels; expected finite values: save it anew.")
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.dtype.kind not in "ui" and low >= 0 and high <= 1:
        return pixels.astype(np.float64)
    if low > -WHOLE and high < 65535 + WHOLE and _is_whole(pixels):
        return np.rint(pixels).astype(np.uint16) / np.float32(full_scale(round(high)))
    low, high = (low, high) if window is None else window
    return np.clip((pixels.astype(np.float64) - low) / ((high - low) or 1), 0, 1)


def has_known_white(pixels: np.ndarray) -> bool:
    """Whether `unit_range` scales finite pixels by the first two of its rules, and does not stretch them."""
    low, high = float(pixels.min()), float(pixels.max())
    in_unit = pixels.dtype.kind == "f" and low >= 0 and high <= 1
    return in_unit or (low > -WHOLE and high < 65535 + WHOLE and _is_whole(pixels))


def full_scale(largest: int) -> int:
    """White, for values up to `largest`, which is at most 65535: 255, 1023, 4095, 16383 or 65535."""
    return next(2**bits - 1 for bits in DEPTHS if largest < 2**bits)


def _is_whole(pixels: np.ndarray) -> bool:
    return pixels.dtype.kind in "ui" or bool((np.abs(pixels - np.rint(pixels)) < WHOLE).all())


def looks_like_mask(pixels: np.ndarray) -> bool:
    """Whether gray values in [0, 1] are those of a label image.

    A label image has fewer than MIN_GRAYS values. One that a compression has blurred has more, but 99 % of its pixels
    are near black or white, and some are near white.
    """
    few = len(np.unique(pixels.ravel("K")[:SAMPLE])) < MIN_GRAYS  # all pixels are sorted only where these leave it open
    if few and len(np.unique(pixels)) < MIN_GRAYS:
        return True
    white = float((pixels > 1 - BLUR).mean())
    return white > 0.002 and white + float((pixels < BLUR).mean()) > 0.99
