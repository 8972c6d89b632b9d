"""Outlines of masks, drawn into pictures. Needs neither torch nor MONAI.

Legend: H rows, W columns. Masks are class indices.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import ImageColor
from scipy.ndimage import binary_erosion

from .colors import CLASS_COLORS, SOURCE_COLORS

OUTLINE_COLORS = (SOURCE_COLORS["student"], *CLASS_COLORS)  # of the classes 1, 2, ...


def draw_outlines(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with the `outlines` of its mask in their colors.

    Args:
        image: uint8 (H, W, 3).
        mask: (H, W).

    Returns:
        uint8 (H, W, 3).
    """
    drawn = image.copy()
    for number, box, line in outlines(mask):
        drawn[box][line] = ImageColor.getrgb(color_of(number))
    return drawn


def color_of(number: int) -> str:
    """The color of a class, counted from 1."""
    return OUTLINE_COLORS[(number - 1) % len(OUTLINE_COLORS)]


def outlines(mask: np.ndarray) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray]]:
    """Of each class in a mask (H, W) its number, its box, and in the box, bool, the line along its inner border.

    A line is as thick as a 300th of the longer side and at least a pixel.
    """
    width = max(1, round(max(mask.shape) / 300))
    for number in range(1, int(mask.max(initial=0)) + 1):
        inside = mask == number
        if box := box_of(inside):
            yield number, box, inside[box] & ~binary_erosion(inside[box], iterations=width)


def box_of(inside: np.ndarray) -> tuple[slice, slice] | None:
    """The smallest box with every pixel of a bool mask (H, W); None of an empty one."""
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else None
