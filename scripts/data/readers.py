"""MONAI readers that turn every common 2D file into one gray channel (images) or class values (masks).

Use them by name: ``LoadImaged(keys="image", reader="scripts.data.readers.GrayImageReader")``.

One surprise: `read` only keeps the path and `get_data` decodes. LoadImage answers an error in `read` by trying its
built-in readers, which would load a refused file after all; an error in `get_data` reaches the user as it is.

Arrays are in MONAI's layout: (W, H), columns first.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from PIL import Image, ImageOps

# where pydicom is installed, LoadImage says at each start that a decoder on the GPU, which nobody asked for, is not
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "NvImgCodecPydicomReader", UserWarning)

_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


def read_image(path: str | Path) -> tuple[np.ndarray, dict]:
    """Gray image float32 (W, H) in [0, 1], and its metadata.

    8-bit pixels are divided by 255 and 16-bit pixels by 65535. Other types (float, signed, 32-bit NIfTI; float TIFF)
    are taken as they are when every value is in [0, 1] and are otherwise stretched from their minimum and maximum.
    Color becomes luma (ITU-R 601); alpha is composited over black; EXIF rotation is applied.

    Args:
        path: PNG, JPEG, BMP, TIFF or NIfTI; NIfTI of shape (W, H) or (W, H, 1).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file cannot be decoded, is no single 2D gray or color image, or holds nan or inf.
    """
    return _read(path, gray_from_picture, unit_range)


def read_mask(path: str | Path) -> tuple[np.ndarray, dict]:
    """Mask values as stored, float32 (W, H) of whole numbers, and its metadata.

    Palette files give the palette index, color files their one value (fully transparent pixels are 0).

    Args:
        path: PNG, BMP, TIFF or NIfTI; NIfTI of shape (W, H) or (W, H, 1).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file cannot be decoded, has unequal color channels or values that are no whole numbers.
    """
    return _read(path, _values_from_picture, _whole_numbers)


class Refused(Exception):
    """The file is readable, but is no image of the kind asked for; the text goes on from the file's name."""


@contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """Names the file in whatever its decoding raises.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the block refused it or failed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"file {path} does not exist; check data::dataset_dir and the paths in data::datalist.")
    try:
        yield
    except Refused as error:
        raise ValueError(f"file {path} {error}") from None
    except Exception as error:
        raise ValueError(
            f"file {path} cannot be read as an image ({type(error).__name__}: {error}); replace it or take it out of "
            "the list."
        ) from error


def _read(path: str | Path, from_picture: Callable, finish: Callable) -> tuple[np.ndarray, dict]:
    with errors_of(path):
        path = Path(path)
        if path.name.lower().endswith((".nii", ".nii.gz")):
            array, meta = _decode_nifti(path)
        else:
            array, meta = decode_picture(path, from_picture)
        array = finish(array)
    return array.astype(np.float32), {MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel", **meta}


def decode_picture(path: Path, from_picture: Callable) -> tuple[np.ndarray, dict]:
    """What `from_picture` gives of a PNG, JPEG, BMP or TIFF as it is looked at, columns first, and its metadata."""
    with Image.open(path) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise Refused(f"holds {picture.n_frames} frames; expected one 2D image: save the frames as separate files.")
        kind, mode = picture.format, picture.mode
        array = from_picture(ImageOps.exif_transpose(picture)).swapaxes(0, 1)  # (H, W) -> (W, H)
    shape = np.asarray(array.shape[:2])
    return array, {"format": kind, "mode": mode, MetaKeys.SPATIAL_SHAPE: shape, "original_shape": shape}


def _decode_nifti(path: Path) -> tuple[np.ndarray, dict]:
    volume = nibabel.load(path)
    shape = volume.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)) or 0 in shape:
        raise Refused(f"has shape {shape}; expected (W, H) or (W, H, 1): save the slices or frames as separate files.")
    array = np.asanyarray(volume.dataobj)
    if array.dtype.kind not in "biuf":
        raise Refused(f"has pixels of type {array.dtype}; expected one gray channel: convert it to gray.")
    return array.reshape(shape[:2]), nifti_meta(volume, shape[:2], shape)  # (W, H, 1) -> (W, H)


def nifti_meta(volume: nibabel.Nifti1Image, spatial_shape: Sequence[int], original_shape: Sequence[int]) -> dict:
    """Metadata of a NIfTI image that was read as `spatial_shape`."""
    affine = np.asarray(volume.affine, dtype=np.float64)
    return {
        MetaKeys.AFFINE: affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: affine,
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.asarray(spatial_shape),
        "original_shape": np.asarray(original_shape),
    }


def gray_from_picture(picture: Image.Image) -> np.ndarray:
    """Pixels (H, W): uint8 or uint16 as stored, float where alpha was composited or the file is float."""
    if picture.mode.startswith("I"):
        return _sixteen_bit(np.asarray(picture))
    if picture.mode == "F":
        return np.asarray(picture)
    if picture.mode in _ALPHA_MODES or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"), dtype=np.float32) / 255
        return np.asarray(picture.convert("RGB").convert("L")) / np.float32(255) * alpha
    return np.asarray(picture if picture.mode == "L" else picture.convert("RGB").convert("L"))


def colors_from_picture(picture: Image.Image) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a color picture, alpha over black; gray (H, W) as `gray_from_picture` of others."""
    gray = picture.mode in ("1", "L", "F", "LA", "La") or picture.mode.startswith("I")
    if gray:
        return gray_from_picture(picture)
    if picture.mode in _ALPHA_MODES or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return np.asarray(picture.convert("RGB"))


def _sixteen_bit(array: np.ndarray) -> np.ndarray:
    if array.min() < 0 or array.max() > 65535:
        raise Refused(f"has values from {array.min()} to {array.max()}; expected 0 to 65535: save it as 16-bit gray.")
    return array.astype(np.uint16)


def unit_range(array: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1], scaled by their type; see `read_image`."""
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return array / np.float32(np.iinfo(array.dtype).max)
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise Refused("holds nan or infinite pixels; expected finite values.")
    low, high = array.min(), array.max()
    if low >= 0 and high <= 1:
        return array
    return (array - low) / ((high - low) or 1)


def _values_from_picture(picture: Image.Image) -> np.ndarray:
    """Stored values (H, W); of equal color channels the first."""
    if picture.mode in ("1", "L", "P", "F") or picture.mode.startswith("I"):
        return np.asarray(picture)
    channels = np.asarray(picture.convert("RGBA"))  # (H, W, 4)
    color, visible = channels[..., :3], channels[..., 3] > 0
    if (color[visible] != color[visible][:, :1]).any():
        raise Refused(f"is a {picture.mode} mask with unequal color channels; expected one class value a pixel.")
    return np.where(visible, color[..., 0], 0)


def _whole_numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not np.array_equal(array, np.round(array)):
        raise Refused("has mask values that are no whole numbers; expected class indices or 0 and 255.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused("holds nan or infinite pixels; expected finite values.")
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
