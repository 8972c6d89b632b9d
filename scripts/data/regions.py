"""The regions of an ultrasound image in DICOM, and where its pixels have a size (DICOM PS3.3, C.8.5.5).

A region is calibrated where it is two-dimensional and in centimeters. Areas are in mm2 inside of such regions alone.

Legend: W columns, H rows, R regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .geometry import SPACING

if TYPE_CHECKING:
    from pydicom import Dataset

SAME_SCALE = 1e-3  # relative: what scanners round may differ between regions of one scale
REGIONS = "regions"  # in the metadata, see `calibrated_regions`
TISSUE = "tissue_region"  # in the metadata: the box of the one tissue region
# codes of RegionSpatialFormat, RegionDataType and PhysicalUnits
_TWO_DIMENSIONAL, _TISSUE, _NO_UNIT, _CENTIMETERS = 1, 1, 0, 3
_CORNERS = ("RegionLocationMinX0", "RegionLocationMaxX1", "RegionLocationMinY0", "RegionLocationMaxY1")


def pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Width and height of a pixel in mm; None where the file does not say, says different things of its regions, or has
    a region that does not fit the image.

    The calibrated regions go before PixelSpacing, which ultrasound images seldom have.
    """
    regions = calibrated_regions(dataset)
    if regions is None:
        return _plain_spacing(dataset) if not _regions(dataset) else None
    return _one_scale(regions[~np.isnan(regions[:, 4]), 4:])


def calibrated_regions(dataset: Dataset) -> np.ndarray | None:
    """Boxes and pixel sizes (R, 6): first and last + 1 column, first and last + 1 row, width and height of a pixel in
    mm, which are nan where a region has no millimeters.

    With PixelSpacing and without a calibrated region, the first row is the whole image, and regions that say nothing of
    their own have no row. None where nothing is known: the file names no region and no scale, or one of its regions
    does not fit the image.
    """
    regions = _regions(dataset)
    boxes = [_box(region, dataset) for region in regions]
    if not regions or None in boxes:
        return None
    rows = [(*box, *(_region_spacing(region) or (np.nan, np.nan))) for box, region in zip(boxes, regions)]
    if np.isnan([row[4] for row in rows]).all():
        spacing = _plain_spacing(dataset)
        if spacing is None:
            return None
        others = [row for row, region in zip(rows, regions) if not _says_nothing(region)]
        rows = [(0, dataset.Columns, 0, dataset.Rows, *spacing), *others]
    return np.asarray(rows, dtype=np.float64)


def tissue_box(dataset: Dataset) -> np.ndarray | None:
    """First and last + 1 column, first and last + 1 row of the tissue region; None unless there is one alone, and it
    fits the image.
    """
    kinds = {"RegionSpatialFormat": _TWO_DIMENSIONAL, "RegionDataType": _TISSUE}
    tissue = [r for r in _regions(dataset) if all(r.get(name) == code for name, code in kinds.items())]
    box = _box(tissue[0], dataset) if len(tissue) == 1 else None
    return None if box is None else np.asarray(box)


def spacing_of(mask: np.ndarray, meta: Mapping[str, Any]) -> tuple[float, float] | None:
    """Width and height of the pixels of a mask in mm; None where they are not known or not the same.

    Args:
        mask: bool (W, H), of the whole image.
        meta: of its image.
    """
    if REGIONS not in meta or not mask.any():
        return tuple(float(length) for length in meta[SPACING]) if SPACING in meta else None
    columns, rows = np.nonzero(mask)
    known, scales = np.zeros(len(columns), bool), []
    for left, right, top, bottom, width, height in np.asarray(meta[REGIONS]):
        inside = (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
        if inside.any():
            scales.append((width, height))  # nan is like no other
            known |= inside
    return _one_scale(scales) if known.all() else None


def _one_scale(scales: np.ndarray | list) -> tuple[float, float] | None:
    """The scale of all, or None."""
    if len(scales) == 0 or not np.allclose(scales, scales[0], rtol=SAME_SCALE, atol=0):
        return None
    return float(scales[0][0]), float(scales[0][1])


def _regions(dataset: Dataset) -> list[Dataset]:
    return list(dataset.get("SequenceOfUltrasoundRegions") or [])


def _box(region: Dataset, dataset: Dataset) -> tuple[int, int, int, int] | None:
    """First and last + 1 column, first and last + 1 row; None where the region does not fit the image."""
    corners = [region.get(name) for name in _CORNERS]
    if None in corners:
        return None
    left, right, top, bottom = (int(corner) for corner in corners)
    # the last column and row are in the region; some scanners write the one after them
    if not (0 <= left < right <= dataset.Columns and 0 <= top < bottom <= dataset.Rows):
        return None
    return left, min(right + 1, dataset.Columns), top, min(bottom + 1, dataset.Rows)


def _region_spacing(region: Dataset) -> tuple[float, float] | None:
    units = {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")}
    deltas = abs(region.get("PhysicalDeltaX") or 0), abs(region.get("PhysicalDeltaY") or 0)
    if (
        region.get("RegionSpatialFormat", _TWO_DIMENSIONAL) != _TWO_DIMENSIONAL
        or units != {_CENTIMETERS}
        or 0 in deltas
    ):
        return None
    return round(10 * deltas[0], 6), round(10 * deltas[1], 6)


def _says_nothing(region: Dataset) -> bool:
    """Whether a two-dimensional region names no unit, so that PixelSpacing holds in it; an M-mode has seconds."""
    units = {region.get(name) or _NO_UNIT for name in ("PhysicalUnitsXDirection", "PhysicalUnitsYDirection")}
    return region.get("RegionSpatialFormat", _TWO_DIMENSIONAL) == _TWO_DIMENSIONAL and units == {_NO_UNIT}


def _plain_spacing(dataset: Dataset) -> tuple[float, float] | None:
    spacing = dataset.get("PixelSpacing")
    return (float(spacing[1]), float(spacing[0])) if spacing and min(spacing) > 0 else None
