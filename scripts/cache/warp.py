"""What a teacher said of an image, moved along with a view of it: the approximation of the mode warp.

A teacher is not quite equivariant. Outside of the image a view shows its tissue, mirrored, and there logits and
embeddings are mirrored too. Or it shows black: logits are background there, embeddings those of the border. Around a
probe's sector logits are background as well. The training calls this under autocast; the grid is computed without it.

Shapes: B batch, C classes, D channels, h w of what is moved.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..data.views import sector_mask, view_grid
from ..utils.hardware import full_precision


@full_precision
def warp(
    logits: torch.Tensor, theta: torch.Tensor, mirror: torch.Tensor | None = None, sector: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits (B, C, h, w) of an image, seen as its view is: bilinear, and outside of the image as background.

    Outside, every pixel gets the logits of the image's surest background pixel.

    Args:
        logits: unnormalized; channel 0 is the background where there are several.
        theta: (B, 2, 3), see data/views.py, as the others.
        mirror: (B, 1) bool; None mirrors none.
        sector: (B, 5); None cuts none.
    """
    flat = logits.flatten(2)
    background = -flat[:, 0] if flat.shape[1] == 1 else flat.log_softmax(1)[:, 0]
    surest = background.argmax(1)[:, None, None].expand(-1, flat.shape[1], 1)
    outside = flat.gather(2, surest)[..., None]  # (B, C, 1, 1)
    moved = F.grid_sample(logits - outside, _grid(logits, theta, mirror), align_corners=False)
    if sector is not None:
        moved = moved * sector_mask(sector, logits.shape[-2:])
    return moved + outside


@full_precision
def warp_features(features: torch.Tensor, theta: torch.Tensor, mirror: torch.Tensor | None = None) -> torch.Tensor:
    """An embedding (B, D, h, w) of an image, placed as its view is: bilinear, and outside as at the image's border.

    Args:
        features: of the teacher.
        theta: (B, 2, 3), see data/views.py, as the other.
        mirror: (B, 1) bool; None mirrors none.
    """
    return F.grid_sample(features, _grid(features, theta, mirror), padding_mode="border", align_corners=False)


def _grid(maps: torch.Tensor, theta: torch.Tensor, mirror: torch.Tensor | None) -> torch.Tensor:
    none = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
    return view_grid(theta, maps.shape[-2:], none if mirror is None else mirror)
