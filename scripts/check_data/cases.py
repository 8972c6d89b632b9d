"""What one image and its mask show: size, brightness, lesions and where they lie.

Files are read and refused as a training does it. Needs neither torch nor MONAI. Legend: H rows, W columns.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from scipy.ndimage import label as label_parts

from ..data.brightness import unit_range
from ..data.classes import check_label_values, foreground_classes
from ..data.geometry import Place, flips_to_match
from ..data.mask_files import stored_values
from ..data.nifti import WINDOW, is_nifti, place_of, read_nifti
from ..data.pictures import check_depth, gray_from_picture, open_picture
from ..data.prior import Center, center_of
from ..data.refusals import errors_of

GRID = 32  # cells of a side, of the map of where lesions lie
TOUCHING = np.ones((3, 3))  # pixels that touch at a corner are one part, as in lesions.csv
SPECK = 5  # pixels; an isolated part of a mask up to this size is a slip of the pen, and can decide the HD95
DEPTHS = {"1": "1 bit", "L": "8-bit gray", "LA": "8-bit gray", "P": "palette", "F": "float"}  # by Pillow's mode


class Lesions(NamedTuple):
    """What a mask shows.

    shares: of the image, by class. center: see `prior.center_of`. parts, specks: connected parts, and those of at most
    SPECK pixels. coverage: float32 (GRID, GRID), how much of each cell is foreground.
    """

    shares: dict[int, float]
    center: Center | None
    parts: int
    specks: int
    coverage: np.ndarray


class Seen(NamedTuple):
    """What an image shows.

    item: of the datalist, with absolute paths. split: its list. size: (W, H). kind: how pixels are stored.
    brightness, contrast: mean and standard deviation of its gray values, which lie in [0, 1]. lesions: None without a
    mask.
    """

    item: dict
    split: str
    size: tuple[int, int]
    kind: str
    brightness: float
    contrast: float
    lesions: Lesions | None


class Refused(NamedTuple):
    """An item that a training would refuse, and why."""

    item: dict
    split: str
    reason: str
    is_missing: bool = False


def read_case(item: dict, split: str, num_classes: int) -> Seen | Refused:
    """What an item shows, or why its files cannot be used.

    Args:
        item: of the datalist, with absolute paths.
        split: its list.
        num_classes: with the background.
    """
    try:
        gray, kind = read_gray(Path(item["image"]))
        lesions = None
        if "label" in item:
            lesions = read_lesions(Path(item["label"]), Path(item["image"]), gray.shape, num_classes)
    except FileNotFoundError as error:
        return Refused(item, split, str(error), is_missing=True)
    except ValueError as error:
        return Refused(item, split, str(error))
    return Seen(item, split, gray.shape[::-1], kind, float(gray.mean()), float(gray.std()), lesions)


def read_gray(path: Path) -> tuple[np.ndarray, str]:
    """An image as trainings see it, float (H, W) in [0, 1], and how its pixels are stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read.
    """
    with errors_of(path):
        if is_nifti(path):
            frames, meta = read_nifti(path, still=True)
            return unit_range(frames[..., 0].T, meta.get(WINDOW)), "NIfTI"
        with open_picture(path) as picture:
            check_depth(picture)
            kind = f"{picture.format}, {_depth(picture.mode)}"
            return unit_range(gray_from_picture(ImageOps.exif_transpose(picture))), kind


def _depth(mode: str) -> str:
    return "16-bit gray" if mode.startswith("I") else DEPTHS.get(mode, "color")


def read_mask(path: Path, image: Path, shape: tuple[int, int], num_classes: int) -> np.ndarray:
    """The class indices (H, W) of a mask, as its image lies.

    Args:
        path: of the mask.
        image: its file.
        shape: of the image, (H, W).
        num_classes: with the background.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, holds values that are no classes, or does not fit its image.
    """
    mask = stored_values(path)
    if mask.ndim != 2:
        raise ValueError(
            f"label {path} is colored; write masks of class values with python -m scripts.make_datalist --clean_masks."
        )
    flips = flips_to_match(_place(image, shape), _place(path, mask.shape))
    check_label_values(mask, num_classes, path)
    mask = np.flip(mask, [1 - axis for axis in flips])  # axis 0 of a place are the columns
    return ((mask > 0) if num_classes == 2 else mask).astype(np.uint8)


def _place(path: Path, shape: tuple[int, ...]) -> Place:
    return place_of(path) if is_nifti(path) else Place(str(path), tuple(shape[::-1]))


def read_lesions(path: Path, image: Path, shape: tuple[int, int], num_classes: int) -> Lesions:
    """What a mask shows. Arguments and errors are those of `read_mask`."""
    mask = read_mask(path, image, shape, num_classes)
    shares = {index: float((mask == index).mean()) for index in sorted(foreground_classes(mask, num_classes))}
    sizes = np.bincount(label_parts(mask > 0, TOUCHING)[0].ravel())[1:]
    cells = Image.fromarray(np.where(mask > 0, np.uint8(255), np.uint8(0))).resize((GRID, GRID), Image.Resampling.BOX)
    coverage = np.asarray(cells, np.float32) / 255
    return Lesions(shares, center_of(mask), len(sizes), int((sizes <= SPECK).sum()), coverage)
