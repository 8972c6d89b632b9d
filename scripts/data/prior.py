"""A prior of position in a data set: where its lesions lie, told before a network learns to look there alone.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 20  # lesions, to tell anything
SHARE = 0.95  # of the lesions
# Of the width: a strip in the middle, twice as wide, that holds so many lesions. Measured: 0.11 to 0.17 in sets of
# breasts, heads, livers and thyroids, 0.30 and 0.32 in sets of nerves and carotids, 0.475 if they lay anywhere.
NARROW = 0.2
MOST_SHIFT, STEP = 0.35, 0.05  # of the width; see docs/robustness.md, which shift helps
MIRROR_PROB = 0.7


class Center(NamedTuple):
    """Where the foreground of a mask lies: its centroid and its width, each a share (0 to 1) of the image's side."""

    y: float
    x: float
    width: float


def center_of(mask: np.ndarray) -> Center | None:
    """Of all foreground pixels of a mask (H, W); None without any."""
    points = np.argwhere(mask > 0)
    if not len(points):
        return None
    y, x = ((points.mean(axis=0) + 0.5) / mask.shape).tolist()
    return Center(y, x, float(np.ptp(points[:, 1]) + 1) / mask.shape[1])


class Spread(NamedTuple):
    """Where SHARE of the lesions lie.

    offset: from the middle, at most, a share of the width. top, bottom: a share of the depth. room: how far a lesion of
    median width, in the middle, is from the edge, a share of the width.
    """

    offset: float
    top: float
    bottom: float
    room: float

    @property
    def is_narrow(self) -> bool:
        """Whether a network learns to look there alone."""
        return self.offset <= NARROW

    @property
    def remedy(self) -> dict[str, float]:
        """Settings that help: shifts up to the edge, since farther ones cut off what is wide; none without room."""
        shift = min(MOST_SHIFT, round(math.floor(self.room / STEP + 1e-9) * STEP, 2))
        return {"augmentation::shift_fraction": shift, "augmentation::mirror_prob": MIRROR_PROB} if shift else {}


def spread_of(centers: Sequence[Center | None]) -> Spread | None:
    """Where the lesions of a list lie; None where they are too few to tell.

    Args:
        centers: of the masks of a list; None has no lesion.
    """
    known = np.array([center for center in centers if center is not None])
    if len(known) < FEWEST:
        return None
    top, bottom = np.quantile(known[:, 0], [(1 - SHARE) / 2, (1 + SHARE) / 2])
    offset, room = np.quantile(np.abs(known[:, 1] - 0.5), SHARE), (1 - np.median(known[:, 2])) / 2
    return Spread(float(offset), float(top), float(bottom), float(room))


def position_notes(centers: Sequence[Center | None]) -> list[str]:
    """A sentence where lesions lie in a narrow strip in the middle; none where they are spread, or few.

    Args:
        centers: see `spread_of`.
    """
    spread, share = spread_of(centers), f"{100 * SHARE:g} %"
    if spread is None or not spread.is_narrow:
        return []
    remedy = " ".join(f"--{key} {value}" for key, value in spread.remedy.items())
    advice = f"; if you expect lesions elsewhere, train with {remedy}" if remedy else ""
    return [
        f"{share} of the lesions lie within {spread.offset:.2f} of the width from the middle, and {share} between "
        f"{spread.top:.2f} and {spread.bottom:.2f} of the depth: a network learns to look there{advice} "
        "(docs/robustness.md)"
    ]
