"""Images of a user, from memory or from a file, as the network's gray frames and as what a person looks at.

Files are read by `inference/frame_files.py`, arrays by the same rules of brightness and color.

Legend: H rows, W columns, N frames.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps

from ..data.brightness import has_known_white, looks_like_mask, unit_range
from ..data.dicom import MODALITIES
from ..data.geometry import SPACING
from ..data.pictures import FORMATS, check_depth, colors_from_picture, gray_from_picture, open_picture
from ..data.refusals import Refused
from ..data.regions import REGIONS
from ..inference.frame_files import FrameDecoder, luma
from ..utils.screen import plural

SHAPES = "(H, W), (H, W, 1) or (H, W, 3)"
KINDS = "an array, a PIL image, a path or a list of them"


class Frames(NamedTuple):
    """An image that can be segmented.

    name: for messages. gray: float32 (N, H, W) in [0, 1]. colors: gives uint8 (N, H, W, 3). loop: it has a time axis.
    meta: of a reader, with the size of a pixel where it is known.
    """

    name: str
    gray: np.ndarray
    colors: Callable[[], np.ndarray]
    loop: bool
    meta: dict[str, Any]


def read_frames(
    image: Any,
    spacing: Sequence[float] | None = None,
    accept_masks: bool = False,
    modalities: Sequence[str] = MODALITIES,
    name: str = "image",
) -> Frames:
    """The frames of one image.

    Args:
        image: an array (H, W), (H, W, 1) or (H, W, 3), also RGBA of 8 bits; a PIL image; or the path of a picture, a
            NIfTI or a DICOM file.
        spacing: width and height of a pixel in mm, where the file does not say it.
        accept_masks: take what looks like a mask too.
        modalities: of DICOM files that are taken.
        name: of an image that is no file, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, has pixels without a known range, or looks like a mask.
    """
    is_path = isinstance(image, (str, os.PathLike))
    frames = _from_file(image, modalities) if is_path else _from_memory(image, name)
    if spacing is not None:
        frames = frames._replace(meta={**frames.meta, SPACING: _checked_spacing(spacing, frames)})
    if not accept_masks and looks_like_mask(frames.gray):
        grays = plural(len(np.unique(frames.gray)), "gray value")
        raise ValueError(
            f"{frames.name} looks like a mask, not like an ultrasound image: it has {grays}, nearly all black or "
            "white; pass the image, or accept_masks=True."
        )
    return frames


def _from_file(path: str | os.PathLike, modalities: Sequence[str]) -> Frames:
    path, decoder = Path(path).expanduser(), FrameDecoder(modalities)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass a file or a list of files, or run sam_tinyusfm segment {path}.")
    try:
        pixels, meta = decoder.decode(path)  # (W, H, N)
    except ValueError as error:  # it names an option of the command line
        raise ValueError(re.sub(r'--modalities "(.*)"', r"modalities=\1", str(error))) from error.__cause__
    gray = np.ascontiguousarray(pixels.transpose(2, 1, 0))
    return Frames(f"file {path}", gray, partial(_colors_of_file, decoder, path), len(gray) > 1, meta)


def _colors_of_file(decoder: FrameDecoder, path: Path) -> np.ndarray:
    return np.ascontiguousarray(decoder.colors(path)[0].transpose(2, 1, 0, 3))  # (W, H, N, 3) -> (N, H, W, 3)


def _from_memory(image: Any, name: str) -> Frames:
    try:
        picture = _upright(image) if isinstance(image, Image.Image) else _picture_of(_checked(image, name))
        if isinstance(picture, Image.Image):
            gray, colors = gray_from_picture(picture), colors_from_picture(picture)
            gray, colors = unit_range(gray), colors if colors.dtype == np.uint8 else unit_range(colors)
        else:
            colors = unit_range(picture)
            gray = luma(colors) if colors.ndim == 3 else colors
    except Refused as error:
        raise ValueError(f"{name} {error}") from None
    if colors.dtype != np.uint8:
        colors = np.rint(255 * colors).astype(np.uint8)
    colors = colors if colors.ndim == 3 else np.repeat(colors[..., None], 3, axis=2)
    return Frames(name, gray[None].astype(np.float32), lambda: colors[None], False, {})


def _upright(picture: Image.Image) -> Image.Image:
    """A picture as it is looked at, refused where its file would be."""
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise Refused(f"holds {frames} frames; expected one: pass the frame that is wanted as picture.copy().")
    if isinstance(picture, ImageFile.ImageFile):
        if picture.format in FORMATS and os.path.isfile(picture.filename):
            with open_picture(picture.filename) as stored:  # a picture that was decoded does not tell its depth
                check_depth(stored)
        else:
            check_depth(picture)
    return ImageOps.exif_transpose(picture)


def _picture_of(array: np.ndarray) -> Image.Image | np.ndarray:
    """8 bits as the picture that a file of it would be, others as they are."""
    return Image.fromarray(array) if array.dtype == np.uint8 else array


def _checked(image: Any, name: str) -> np.ndarray:
    """The array (H, W), (H, W, 3) or (H, W, 4) of a user, refused where its meaning is not certain."""
    try:
        array = np.asarray(image) if hasattr(image, "__array__") else None
    except (TypeError, ValueError, RuntimeError) as error:  # such as a tensor of a GPU, or one that needs its gradient
        raise ValueError(f"{name} cannot be read as an array ({error}); expected {KINDS}.") from None
    if array is None or array.dtype.kind not in "uif":
        kind = type(image).__name__ if array is None else f"an array of type {array.dtype}"
        raise ValueError(f"{name} must be {KINDS}, with pixels that are numbers, got {kind}.")
    if array.size == 0:
        raise ValueError(f"{name} is empty: it has shape {array.shape}; expected {SHAPES}.")
    colors = array.shape[2:]
    if array.ndim not in (2, 3) or colors not in ((), (1,), (3,), *([(4,)] if array.dtype == np.uint8 else [])):
        raise ValueError(
            f"{name} has shape {array.shape}; expected {SHAPES}; pass a loop or a batch as a list of images."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds nan or infinite pixels; expected finite values.")
    if not has_known_white(array):
        raise ValueError(
            f"{name} has values from {array.min():g} to {array.max():g}, whose black and white are not known; expected "
            "0 to 1, or whole numbers from 0 to 65535: scale it."
        )
    return np.ascontiguousarray(array[..., 0] if colors == (1,) else array)


def _checked_spacing(spacing: Sequence[float], frames: Frames) -> np.ndarray:
    if SPACING in frames.meta or REGIONS in frames.meta:
        raise ValueError(f"{frames.name} says itself how large its pixels are; leave spacing out.")
    try:
        width, height = map(float, spacing)
    except (TypeError, ValueError):
        width = height = -1.0
    if not (0 < width < np.inf and 0 < height < np.inf):
        raise ValueError(f"spacing must be the width and height of a pixel in mm, such as (0.1, 0.1), got {spacing!r}.")
    return np.asarray((width, height))
