"""Pictures that look the same: encoded anew, in another size, or two frames of one recording.

Each picture is reduced to 256 bits of its coarse structure (pHash, of the library ImageHash); pictures of which few
bits differ look alike. Needs neither torch nor MONAI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .nifti import is_nifti, read_values
from .pictures import check_depth, open_picture
from .refusals import errors_of
from .splits import TRAINED_ON, map_in_threads

SIDE = 16  # of the hash, in bits
# Of 256 bits. Measured on six sets of ultrasound images: a JPEG of quality 30 or half the size changes at most 14,
# images of different patients differ in 58 or more, neighboring frames of a recording in 12 to 60.
MOST_BITS = 40
BLOCK = 1024  # pictures compared at once
Placed = tuple[str, str]  # an image and its list


def look_alikes(paths: Sequence[str | Path]) -> list[list[int]]:
    """Groups of two or more pictures that look alike, as indices; also through a third one.

    Args:
        paths: of PNG, JPEG, BMP, TIFF or NIfTI images.

    Raises:
        ValueError: a file that cannot be read.
    """
    if not paths:
        return []
    bits = np.stack(map_in_threads(picture_hash, paths)).astype(np.float32)
    signs = 2 * bits - 1  # the product of two rows is bits that agree less bits that differ
    group = np.arange(len(paths))
    for start in range(0, len(paths), BLOCK):
        differ = (signs.shape[1] - signs[start : start + BLOCK] @ signs.T) / 2
        for one, other in np.argwhere(differ <= MOST_BITS):
            first, second = group[start + one], group[other]
            if first != second:
                group[group == max(first, second)] = min(first, second)
    order = sorted(range(len(paths)), key=lambda index: group[index])
    groups = [list(members) for _, members in groupby(order, key=lambda index: group[index])]
    return [members for members in groups if len(members) > 1]


def alike_in_lists(lists: Mapping[str, Sequence[dict]]) -> list[list[Placed]]:
    """Groups of images that look alike, each image with its list.

    Args:
        lists: items with the absolute path "image", by the list's name.

    Raises:
        ValueError: see `look_alikes`.
    """
    places = [(item["image"], split) for split, items in lists.items() for item in items]
    return [[places[index] for index in group] for group in look_alikes([image for image, _ in places])]


def is_across(group: Sequence[Placed]) -> bool:
    """Whether a group is in two lists that are kept apart; both lists that are trained on count as one."""
    splits = {split for _, split in group}
    return len(splits) > 1 and not splits <= TRAINED_ON


def describe_group(group: Sequence[Placed]) -> str:
    """Such as a.png (training) = b.png (test)."""
    return " = ".join(f"{image} ({split})" for image, split in group)


def picture_hash(path: str | Path) -> np.ndarray:
    """The hash of a picture, bool (SIDE * SIDE,).

    Raises:
        ValueError: the file cannot be read.
    """
    from imagehash import phash  # with PyWavelets, which only this needs

    with errors_of(path):
        gray = _gray(Path(path))
    return phash(Image.fromarray(gray), hash_size=SIDE).hash.ravel()


def _gray(path: Path) -> np.ndarray:
    """uint8, from the smallest to the largest value of the picture."""
    if is_nifti(path):
        pixels = read_values(path).T
    else:
        with open_picture(path) as picture:
            check_depth(picture)
            upright = ImageOps.exif_transpose(picture)
            wide = upright.mode.startswith("I") or upright.mode == "F"
            pixels = np.asarray(upright if wide else upright.convert("L"))
    pixels = pixels.astype(np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    return np.round((pixels - low) * (255 / ((high - low) or 1))).astype(np.uint8)
