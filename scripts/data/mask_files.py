"""Masks as people save them, made into masks of class values: several of an image, colored ones, JPEGs.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once. Arrays are (H, W), (H, W, 3) in color.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ImageOps

from .classes import MAX_LISTED, check_label_values, foreground_classes
from .nifti import is_nifti, read_values
from .pictures import open_picture
from .refusals import errors_of

HALF = 128  # of 256 grays: from here on a compressed pixel is white
Color = tuple[int, int, int]


def examine(paths: Sequence[Path], num_classes: int, colors: Sequence[Color] = ()) -> tuple[bool, frozenset[int]]:
    """Whether an image's masks are one file that trainings can read as it is, and the foreground classes in them.

    Args:
        paths: see `clean_mask`, likewise the others.

    Raises:
        ValueError: as `clean_mask`.
    """
    if len(paths) == 1:
        mask = stored_values(paths[0])
        if mask.ndim == 2 and _fits(mask, num_classes):
            return True, foreground_classes(mask, num_classes)
    return False, foreground_classes(clean_mask(paths, num_classes, colors), num_classes)


def clean_mask(paths: Sequence[Path], num_classes: int, colors: Sequence[Color] = ()) -> np.ndarray:
    """The class indices uint8 of an image's masks, put together.

    Args:
        paths: of its masks.
        num_classes: with the background.
        colors: RGB of each class, the background first; without them one color on black is the class 1.

    Raises:
        ValueError: values or colors that are no classes, masks of several sizes, or two classes in one pixel.
    """
    merged = _classes(paths[0], num_classes, colors)
    for path in paths[1:]:
        mask = _classes(path, num_classes, colors)
        if mask.shape != merged.shape:
            raise ValueError(
                f"masks {paths[0]} and {path} of one image have sizes {merged.shape[::-1]} and {mask.shape[::-1]}; "
                "expected equal sizes: correct or remove one."
            )
        if ((mask > 0) & (merged > 0) & (mask != merged)).any():
            raise ValueError(f"masks {paths[0]} and {path} give one pixel two classes; correct or remove one.")
        merged = np.maximum(merged, mask)
    return merged


def stored_values(path: Path) -> np.ndarray:
    """Values as stored; of colors RGB, black where they are transparent. Equal color channels are one.

    Raises:
        ValueError: the file cannot be read.
    """
    with errors_of(path):
        return read_values(path).T.astype(np.float32) if is_nifti(path) else _picture(path)


def _picture(path: Path) -> np.ndarray:
    with open_picture(path) as picture:
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("1", "L", "P", "F") or picture.mode.startswith("I"):
            return np.asarray(picture).astype(np.float32)
        channels = np.asarray(picture.convert("RGBA"))  # (H, W, 4)
    color = np.where(channels[..., 3:] > 0, channels[..., :3], 0)
    return color if (color != color[..., :1]).any() else color[..., 0].astype(np.float32)


def _fits(mask: np.ndarray, num_classes: int) -> bool:
    try:
        check_label_values(mask, num_classes, "")
    except ValueError:
        return False
    return True


def _classes(path: Path, num_classes: int, colors: Sequence[Color]) -> np.ndarray:
    mask = stored_values(path)
    compressed = path.suffix.lower() in (".jpg", ".jpeg")
    if mask.ndim == 3 or colors:
        rgb = mask if mask.ndim == 3 else np.repeat(mask[..., None], 3, axis=-1)
        return _from_colors(path, rgb, num_classes, colors, compressed)
    if num_classes == 2 and compressed and mask.max() >= HALF:
        mask = mask >= HALF
    check_label_values(mask.astype(np.float32), num_classes, path)
    return ((mask > 0) if num_classes == 2 else mask).astype(np.uint8)


def _from_colors(
    path: Path, rgb: np.ndarray, num_classes: int, colors: Sequence[Color], compressed: bool
) -> np.ndarray:
    found = np.unique(rgb.reshape(-1, 3).astype(np.uint8), axis=0)
    if not colors and num_classes == 2 and len(found) == 2 and not found[0].any():
        colors = [tuple(color) for color in found.tolist()]
    if not colors:
        raise ValueError(
            f"mask {path} has the colors {_list_colors(found)}; pass --clean_masks DIR and --mask_colors with the "
            "color of each class, the background first."
        )
    distances = np.stack([np.abs(rgb.astype(np.int64) - color).sum(axis=-1) for color in colors])
    if not compressed and distances.min(axis=0).any():
        raise ValueError(f"mask {path} has the colors {_list_colors(found)}, and not only those of --mask_colors.")
    return distances.argmin(axis=0).astype(np.uint8)


def _list_colors(found: np.ndarray) -> str:
    more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    return ", ".join(bytes(color).hex() for color in found[:MAX_LISTED]) + more
