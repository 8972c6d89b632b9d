"""A prior of position in a data set: where its lesions lie, told before a network learns to look there alone.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 20  # lesions, to tell anything
SHARE = 0.95  # of the lesions
# Of the width: a strip in the middle, twice as wide, that holds so many lesions. Measured: 0.11 to 0.17 in sets of
# breasts, heads, livers and thyroids, 0.30 and 0.32 in sets of nerves and carotids, 0.475 if they lay anywhere.
NARROW = 0.2
SETTINGS = {"augmentation::shift_fraction": 0.35, "augmentation::mirror_prob": 0.7}  # that help, see docs/robustness.md
REMEDY = " ".join(f"--{key} {value}" for key, value in SETTINGS.items())

Center = tuple[float, float]


def center_of(mask: np.ndarray) -> Center | None:
    """Position (y, x) of the centroid of all foreground pixels of a mask (H, W), each from 0 to 1; None without any."""
    points = np.argwhere(mask > 0)
    return tuple(((points.mean(axis=0) + 0.5) / mask.shape).tolist()) if len(points) else None


class Spread(NamedTuple):
    """Where SHARE of the lesions lie.

    offset: from the middle, at most, a share of the width. top, bottom: a share of the depth.
    """

    offset: float
    top: float
    bottom: float

    @property
    def is_narrow(self) -> bool:
        """Whether a network learns to look there alone."""
        return self.offset <= NARROW


def spread_of(centers: Sequence[Center | None]) -> Spread | None:
    """Where the lesions of a list lie; None where they are too few to tell.

    Args:
        centers: of the masks of a list; None has no lesion.
    """
    known = np.array([center for center in centers if center is not None])
    if len(known) < FEWEST:
        return None
    top, bottom = np.quantile(known[:, 0], [(1 - SHARE) / 2, (1 + SHARE) / 2])
    return Spread(float(np.quantile(np.abs(known[:, 1] - 0.5), SHARE)), float(top), float(bottom))


def position_notes(centers: Sequence[Center | None]) -> list[str]:
    """A sentence where lesions lie in a narrow strip in the middle; none where they are spread, or few.

    Args:
        centers: see `spread_of`.
    """
    spread, share = spread_of(centers), f"{100 * SHARE:g} %"
    if spread is None or not spread.is_narrow:
        return []
    return [
        f"{share} of the lesions lie within {spread.offset:.2f} of the width from the middle, and {share} between "
        f"{spread.top:.2f} and {spread.bottom:.2f} of the depth: a network learns to look there; train with {REMEDY} "
        "(docs/robustness.md)"
    ]
