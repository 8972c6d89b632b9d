"""Masks as people save them, made into masks of class values: several of an image, colored ones, JPEGs.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once. Arrays are (H, W), (H, W, 3) in color.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageOps

from .classes import MAX_LISTED, check_label_values, foreground_classes
from .geometry import Place, flips_to_match
from .nifti import is_nifti, place_of, read_values
from .pictures import check_depth, open_picture, values_or_colors
from .prior import Center, center_of
from .refusals import errors_of
from .splits import map_in_threads

HALF = 128  # of 256 grays: from here on a compressed pixel is white
Color = tuple[int, int, int]


class Examined(NamedTuple):
    """What an image's masks show.

    Args:
        ready: whether they are one file that trainings can read as it is.
        classes: of the foreground; empty without a lesion.
        center: of the foreground, see `prior.center_of`.
    """

    ready: bool
    classes: frozenset[int]
    center: Center | None


def examine(paths: Sequence[Path], num_classes: int, colors: Sequence[Color] = ()) -> Examined:
    """What an image's masks show, and whether they can stay as they are.

    Args:
        paths: see `clean_mask`, likewise the others.

    Raises:
        ValueError: as `clean_mask`.
    """
    if len(paths) == 1 and (not colors or is_nifti(paths[0])):
        mask = stored_values(paths[0])
        if mask.ndim == 2 and _fits(mask, num_classes):
            return Examined(True, foreground_classes(mask, num_classes), center_of(mask))
    mask = clean_mask(paths, num_classes, colors)
    return Examined(False, foreground_classes(mask, num_classes), center_of(mask))


def read_masks(
    images: Sequence[Path], masks: Sequence[Sequence[Path]], num_classes: int, colors: Sequence[Color], clean: bool
) -> list[Examined]:
    """What the masks of each image show, and whether they can stay as they are.

    Args:
        images: their files.
        masks: of each image.
        num_classes: with the background.
        colors: see `clean_mask`.
        clean: whether masks that cannot stay are going to be written anew.

    Raises:
        ValueError: a mask that is none, or that would have to be written anew.
    """

    def read(image: Path, paths: Sequence[Path]) -> Examined:
        examined = examine(paths, num_classes, colors)
        check_places(image, paths, examined.ready)
        return examined

    try:
        examined = map_in_threads(lambda pair: read(*pair), list(zip(images, masks)))
    except ValueError as error:  # it names config ids
        raise ValueError(str(error).replace("data::", "--")) from None
    poor = [paths for paths, one in zip(masks, examined) if not one.ready]
    if poor and not clean:
        several = [paths for paths in poor if len(paths) > 1]
        names = ", ".join(path.name for path in (several or poor)[0])
        what = (
            f"{len(several)} of {len(masks)} images have several masks ({names})"
            if several
            else (f"{len(poor)} of {len(masks)} masks are colored or compressed ({names})")
        )
        raise ValueError(f"{what}; pass --clean_masks DIR to write one mask of class values for each of them there.")
    if num_classes == 2 and not colors:
        check_one_color(poor)
    return examined


def clean_mask(paths: Sequence[Path], num_classes: int, colors: Sequence[Color] = ()) -> np.ndarray:
    """The class indices uint8 of an image's masks, put together.

    Args:
        paths: of its masks.
        num_classes: with the background.
        colors: RGB of each class in pictures, the background first; without them one color on black is the class 1.

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


def check_one_color(masks: Sequence[Sequence[Path]]) -> None:
    """Refuse masks of two classes of which some are in one color on black and others in another.

    Args:
        masks: of each image that has colored ones.

    Raises:
        ValueError: naming two colors and their files.
    """
    first: dict[str, Path] = {}
    for path in (path for paths in masks for path in paths):
        mask = stored_values(path)
        if mask.ndim == 3:
            first.setdefault(_list_colors(np.unique(mask[mask.any(axis=-1)], axis=0)), path)
    if len(first) > 1:
        told = " and ".join(f"{color} ({path})" for color, path in list(first.items())[:2])
        raise ValueError(
            f"masks hold the colors {told} on black, which may be two classes; pass --mask_colors with the color of "
            "each class, the background first, and --num_classes."
        )


def check_places(image: Path, masks: Sequence[Path], ready: bool) -> None:
    """Refuse NIfTI masks that do not lie as their image, or as each other where one PNG is to be made of them.

    Args:
        image: its file.
        masks: of the image.
        ready: the mask stays as it is, so that a training turns it by its affine.

    Raises:
        ValueError: naming the files.
    """
    places = [_place(path) for path in (image, *masks) if is_nifti(path)]
    if not places:
        return
    home = places.pop(0) if is_nifti(image) else Place(str(image), places[0].shape)
    if home.swapped and not ready:
        raise ValueError(
            f"the axes of image {image} are swapped and a cleaned mask is a PNG, which does not say how it lies; save "
            "one NIfTI mask of class values with the affine of its image."
        )
    pictures = [Place(str(path), home.shape) for path in masks if not is_nifti(path)]
    turned = [place for place in (*places, *pictures) if flips_to_match(home, place)]
    turned += [place for place in places[1:] if _differs(places[0], place)]
    if turned and not ready:
        raise ValueError(
            f"mask {turned[0].name} runs in another direction than its image or the first mask by its affine; save it "
            "with the affine of its image."
        )


def _differs(mask: Place, other: Place) -> bool:
    try:
        return bool(flips_to_match(mask, other))
    except ValueError:
        raise ValueError(
            f"masks {mask.name} and {other.name} of one image lie in different places by their affines; save both with "
            "one affine."
        ) from None


def _place(path: Path) -> Place:
    with errors_of(path):
        return place_of(path)


def stored_values(path: Path, as_shown: bool = False) -> np.ndarray:
    """Values as stored; of colors RGB, black where they are transparent. Equal color channels are one.

    Args:
        path: of the mask.
        as_shown: see `values_or_colors`.

    Raises:
        ValueError: the file cannot be read.
    """
    with errors_of(path):
        if is_nifti(path):
            return read_values(path).T.astype(np.float32)
        with open_picture(path) as picture:
            check_depth(picture)
            mask = values_or_colors(ImageOps.exif_transpose(picture), as_shown)
    return mask if mask.ndim == 3 else mask.astype(np.float32)


def _fits(mask: np.ndarray, num_classes: int) -> bool:
    try:
        check_label_values(mask, num_classes, "")
    except ValueError:
        return False
    return True


def _classes(path: Path, num_classes: int, colors: Sequence[Color]) -> np.ndarray:
    named = bool(colors) and not is_nifti(path)
    mask = stored_values(path, as_shown=named)
    compressed = path.suffix.lower() in (".jpg", ".jpeg")
    if mask.ndim == 3 or named:
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


def parse_colors(text: str | None, num_classes: int) -> list[Color]:
    """The colors of --mask_colors, such as 000000,ff0000; [] where there are none.

    Raises:
        ValueError: they are no colors, or not one a class.
    """
    if text is None:
        return []
    words = [word.strip().lstrip("#") for word in text.split(",")]
    if len(words) != num_classes or not all(re.fullmatch("[0-9a-fA-F]{6}", word) for word in words):
        raise ValueError(
            f"--mask_colors must hold {num_classes} colors such as 000000,ff0000, the background first, got {text!r}."
        )
    return [tuple(bytes.fromhex(word)) for word in words]
