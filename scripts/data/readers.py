"""MONAI readers that turn every common 2D file into one gray channel (images) or class values (masks).

Use them by name: ``LoadImaged(keys="image", reader="scripts.data.readers.GrayImageReader")``.

One surprise: `read` only keeps the path and `get_data` decodes. LoadImage answers an error in `read` by trying its
built-in readers, which would load a refused file after all; an error in `get_data` reaches the user as it is.

Arrays are in MONAI's layout: (W, H), columns first.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, ensure_tuple

from . import nifti, pictures
from .brightness import unit_range
from .nifti import WINDOW, is_nifti, read_nifti
from .refusals import Refused, errors_of

# where pydicom is installed, LoadImage says at each start that a decoder on the GPU, which nobody asked for, is not
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "NvImgCodecPydicomReader", UserWarning)

READING_RULE = "brightness by content, frames upright"  # how files are read that are not 8-bit and upright anyway


def read_image(path: str | Path) -> tuple[np.ndarray, dict]:
    """Gray image float32 (W, H) in [0, 1], and its metadata.

    Brightness is scaled by `brightness.unit_range`. Color becomes luma (ITU-R 601); alpha is composited over black;
    EXIF rotation is applied; NIfTI whose axes are swapped is turned upright.

    Args:
        path: PNG, JPEG, BMP, TIFF or NIfTI; NIfTI of shape (W, H), or with further axes of length 1.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file cannot be decoded, is no single 2D gray or color image, claims more pixels than the
            limit, or holds nan or inf.
    """
    return _read(path, pictures.gray_from_picture, unit_range)


def read_mask(path: str | Path) -> tuple[np.ndarray, dict]:
    """Mask values as stored, float32 (W, H) of whole numbers, and its metadata.

    Palette files give the palette index, color files their one value (fully transparent pixels are 0).

    Args:
        path: as in `read_image`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file cannot be decoded, has unequal color channels or values that are no whole numbers.
    """
    return _read(path, pictures.values_from_picture, _whole_numbers)


def reading_rule(path: str | Path) -> str:
    """Name of the rule that decides how an image is read; "" where there is nothing to decide: 8 bits, upright.

    It is a part of the names under which caches keep what was computed from an image.
    """
    path = Path(path)
    plain = nifti.is_eight_bit(path) if is_nifti(path) else pictures.is_eight_bit(path)
    return "" if plain else READING_RULE


def _read(path: str | Path, from_picture: Callable, finish: Callable) -> tuple[np.ndarray, dict]:
    with errors_of(path):
        path = Path(path)
        array, meta = _read_plane(path) if is_nifti(path) else pictures.decode_picture(path, from_picture)
        array = finish(array, meta.pop(WINDOW, None))
    return array.astype(np.float32), {MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel", **meta}


def _read_plane(path: Path) -> tuple[np.ndarray, dict]:
    array, meta = read_nifti(path, still=True)
    return array[..., 0], {**meta, MetaKeys.SPATIAL_SHAPE: meta[MetaKeys.SPATIAL_SHAPE][:2]}


def _whole_numbers(array: np.ndarray, window: Sequence[float] | None = None) -> np.ndarray:
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise Refused("has mask values that are no whole numbers; expected class indices or 0 and 255.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused("holds nan or infinite pixels; expected finite values: save it anew.")
    return array


class FileReader(ImageReader):
    """Shared half of the readers: hands the path from `read` to `get_data`."""

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        return True

    def read(self, data: Sequence[str | Path] | str | Path, **kwargs) -> tuple:
        """The path, not yet decoded."""
        return ensure_tuple(data)

    def get_data(self, img: tuple) -> tuple[np.ndarray, dict]:
        """Array (W, H) and metadata of the one path in `img`."""
        if len(img) != 1:
            raise ValueError(f"expected one file for each item, got {len(img)}: {', '.join(map(str, img))}.")
        return self.decode(img[0])


class GrayImageReader(FileReader):
    """Reads an image with `read_image`: float32 (W, H) in [0, 1]."""

    decode = staticmethod(read_image)


class MaskReader(FileReader):
    """Reads a mask with `read_mask`: float32 (W, H), values as stored."""

    decode = staticmethod(read_mask)
