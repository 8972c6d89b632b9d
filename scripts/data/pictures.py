"""PNG, JPEG, BMP and TIFF as arrays, read with Pillow: gray, colors, or the values of a mask.

Pillow tells formats by their content and would open many more, some of them with other programs (EPS). Every picture of
a user is opened by `open_picture`, which takes the formats of FORMATS alone.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once. Arrays of this module's pictures are
(H, W) until `decode_picture` turns them to MONAI's layout (W, H).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .brightness import DEPTHS
from .geometry import SHAPE
from .refusals import Refused, check_pixel_count, max_megapixels, too_large

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # check_pixel_count has the say


@contextmanager
def open_picture(path: str | Path) -> Iterator[Image.Image]:
    """A picture of one frame whose header is read and checked, and whose pixels are not yet.

    Raises:
        Refused: it is of another format, has several frames, or claims more pixels than the limit.
    """
    limit = max_megapixels()
    Image.MAX_IMAGE_PIXELS = round(limit * 1e6)  # Pillow raises from twice this on
    try:
        picture = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused(
            f"cannot be read as an image: its content is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}; replace it or "
            "take it out."
        ) from None
    except Image.DecompressionBombError:
        raise too_large(f"more than {2 * limit:g} megapixels") from None
    with picture:
        check_pixel_count(picture.width * picture.height)
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            raise Refused(f"holds {frames} frames; expected one 2D image: save the frames as separate files.")
        yield picture


def decode_picture(path: Path, from_picture: Callable) -> tuple[np.ndarray, dict]:
    """What `from_picture` gives of a picture as it is looked at, columns first, and its metadata."""
    with open_picture(path) as picture:
        kind, mode = picture.format, picture.mode
        check_depth(picture)
        array = from_picture(ImageOps.exif_transpose(picture)).swapaxes(0, 1)  # (H, W) -> (W, H)
    shape = np.asarray(array.shape[:2])
    return array, {"format": kind, "mode": mode, "spatial_shape": shape, SHAPE: shape}


def check_depth(picture: Image.Image) -> None:
    """Refuse 16-bit colors that use less than 16 bits: Pillow keeps the upper 8 bits alone.

    Raises:
        Refused: so it is.
    """
    stored = str(picture.tile[0].args) if picture.tile else ""
    if ";16" not in stored or picture.mode.startswith("I"):
        return
    largest = max(high for _, high in picture.convert("RGB").getextrema())  # of the upper 8 bits
    if largest < 2 ** (DEPTHS[-2] - 8):
        raise Refused("has colors of 16 bits, but uses at most 14 of them; save it with 8 bits a color.")


def is_eight_bit(path: Path) -> bool:
    """Whether a picture's pixels come from 8 bits or fewer, by its header. What cannot be read has no more."""
    try:
        with open_picture(path) as picture:
            return not picture.mode.startswith(("I", "F"))
    except (Refused, OSError):
        return True


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


def values_from_picture(picture: Image.Image) -> np.ndarray:
    """Stored values (H, W) of a mask; of equal color channels the first."""
    values = values_or_colors(picture)
    if values.ndim == 3:
        raise Refused(f"is a {picture.mode} mask with unequal color channels; expected one class value a pixel.")
    return values


def values_or_colors(picture: Image.Image, as_shown: bool = False) -> np.ndarray:
    """Stored values (H, W) of a mask, or RGB (H, W, 3), black where it is transparent, of unequal color channels.

    Args:
        picture: of the mask.
        as_shown: give black and white as 0 and 255, and the colors of a palette instead of its indices.
    """
    if picture.mode in ("L", "F") or picture.mode.startswith("I") or (picture.mode in ("1", "P") and not as_shown):
        return np.asarray(picture)
    channels = np.asarray(picture.convert("RGBA"))  # (H, W, 4)
    color = np.where(channels[..., 3:] > 0, channels[..., :3], 0)
    return color if (color != color[..., :1]).any() else color[..., 0]


def _sixteen_bit(array: np.ndarray) -> np.ndarray:
    if array.min() < 0 or array.max() > 65535:
        raise Refused(f"has values from {array.min()} to {array.max()}; expected 0 to 65535: save it as 16-bit gray.")
    return array.astype(np.uint16)
