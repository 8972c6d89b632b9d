"""What a teacher said of an image, moved along with a view of it: the approximation of the mode warp.

A teacher is not quite equivariant, and outside of the image there is nothing to move: logits are background there,
embeddings those of the border. The training calls this under autocast; the grid is computed without it.

Shapes: B batch, C classes, D channels, h w of what is moved.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..utils.hardware import full_precision


@full_precision
def warp(logits: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Logits (B, C, h, w) of an image, seen as its view is: bilinear, and outside of the image as background.

    Outside, every pixel gets the logits of the image's surest background pixel.

    Args:
        logits: unnormalized; channel 0 is the background where there are several.
        theta: (B, 2, 3), see `RandFlipRotateZoomd`.
    """
    flat = logits.flatten(2)
    background = -flat[:, 0] if flat.shape[1] == 1 else flat.log_softmax(1)[:, 0]
    surest = background.argmax(1)[:, None, None].expand(-1, flat.shape[1], 1)
    outside = flat.gather(2, surest)[..., None]  # (B, C, 1, 1)
    grid = F.affine_grid(theta, list(logits.shape), align_corners=False)
    return F.grid_sample(logits - outside, grid, align_corners=False) + outside


@full_precision
def warp_features(features: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """An embedding (B, D, h, w) of an image, placed as its view is: bilinear, and outside as at the image's border.

    Args:
        features: of the teacher.
        theta: (B, 2, 3), see `RandFlipRotateZoomd`.
    """
    grid = F.affine_grid(theta, list(features.shape), align_corners=False)
    return F.grid_sample(features, grid, padding_mode="border", align_corners=False)
