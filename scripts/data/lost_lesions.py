"""Views that lose their lesion: an augmentation that pushes it out of the image teaches to find nothing."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from monai.utils import CommonKeys

from .views import RandFlipRotateZoomd

logger = logging.getLogger(__name__)

IMAGES, VIEWS = 50, 4  # looked at: images spread over the list, and views of each
MOST_LOST, MANY_LOST = 0.5, 0.2  # shares of the views: refused above the first, told above the second


def lost_share(dataset: Any) -> float:
    """Of some views of images with a lesion, the share whose label has no foreground left; 0 without a lesion.

    Args:
        dataset: a `ViewDataset`.
    """
    indices = {int(index) for index in np.linspace(0, len(dataset) - 1, IMAGES)}
    shown = [index for index in sorted(indices) if _has_lesion(dataset, index, base=True)]
    lost = [not _has_lesion(dataset, index, number) for index in shown for number in range(VIEWS)]
    return float(np.mean(lost)) if lost else 0.0


def _has_lesion(dataset: Any, index: int, number: int = 0, base: bool = False) -> bool:
    label = dataset[index, -1 if base else number].get(CommonKeys.LABEL)
    return label is not None and bool((label > 0).any())


def check_lesions_kept(dataset: Any) -> None:
    """Refuse an augmentation that pushes most lesions out of the image, and warn of one that pushes out many.

    Args:
        dataset: a `ViewDataset`, of the training; some of its images are read.

    Raises:
        ValueError: naming the settings.
    """
    if dataset.augmentation is None:
        return
    geometry = _geometry(dataset)
    wanted = geometry.lesion_free_prob if geometry else 0.0
    share = max(0.0, lost_share(dataset) - wanted) / (1 - wanted) if wanted < 1 else 0.0
    if share <= MANY_LOST:
        return
    told = (
        f"the augmentation pushes the lesion out of {share:.0%} of the views ({_settings(geometry)}); lower "
        "augmentation::shift_fraction, or augmentation::zoom_range above 1 and augmentation::sector_prob"
    )
    if share > MOST_LOST:
        raise ValueError(f"{told}: a network would learn to find nothing (at most {MOST_LOST:.0%} are taken).")
    logger.warning("%s, if these are too many.", told)


def _geometry(dataset: Any) -> RandFlipRotateZoomd | None:
    """The bundle's own geometry of an augmentation, where it has it."""
    parts = getattr(dataset.augmentation, "transforms", [])
    return next((part for part in parts if isinstance(part, RandFlipRotateZoomd)), None)


def _settings(geometry: RandFlipRotateZoomd | None) -> str:
    if geometry is None:
        return "by train::dataset::augmentation"
    low, high = geometry.zoom_range
    values = {"shift_fraction": geometry.shift_fraction, "zoom_range": f"[{low}, {high}]"}
    return ", ".join(f"{key} {value}" for key, value in {**values, "sector_prob": geometry.sector_prob}.items())
