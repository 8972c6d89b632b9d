"""Outlines of masks, drawn into pictures. Needs neither torch nor MONAI.

Legend: H rows, W columns. Masks are class indices.
"""

from __future__ import annotations

import numpy as np
from PIL import ImageColor
from scipy.ndimage import binary_erosion

from .colors import CLASS_COLORS, SOURCE_COLORS

OUTLINE_COLORS = (SOURCE_COLORS["student"], *CLASS_COLORS)  # of the classes 1, 2, ...


def draw_outlines(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with a line along the inner border of each class, as thick as a 300th of the longer side and at least a
    pixel.

    Args:
        image: uint8 (H, W, 3).
        mask: (H, W).

    Returns:
        uint8 (H, W, 3).
    """
    drawn, width = image.copy(), max(1, round(max(mask.shape) / 300))
    for c in np.unique(mask[mask > 0]):
        inside = mask == c
        color = ImageColor.getrgb(OUTLINE_COLORS[(c - 1) % len(OUTLINE_COLORS)])
        drawn[inside & ~binary_erosion(inside, iterations=width)] = color
    return drawn
