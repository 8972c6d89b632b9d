"""The frames of a file, pictures, NIfTI and DICOM, stills and loops: gray (W, H, N), or in their colors.

Needs neither torch nor MONAI, so that a program that segments starts at once; `frame_reader` is the reader for MONAI.
The metadata's `original_shape` is that of the stored image without its colors, (W, H), (W, H, 1) or (W, H, N). A mask
of the image gets this shape.

Legend: W columns, H rows, N frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.brightness import unit_range
from ..data.dicom import MODALITIES, decode_dicom, is_dicom
from ..data.geometry import AFFINE, CHANNEL_DIM, CROP, NO_CHANNEL, SPATIAL_SHAPE
from ..data.nifti import WINDOW, is_nifti, read_nifti
from ..data.pictures import colors_from_picture, decode_picture, gray_from_picture
from ..data.refusals import errors_of
from ..data.regions import TISSUE

# of 65536: ITU-R 601 as Pillow computes it, so that a color is the same gray in every format
_LUMA = (19595, 38470, 7471)


class FrameDecoder:
    """Decodes the gray frames of a file, float32 (W, H, N) in [0, 1]. `colors` gives the frames in their colors.

    Args:
        modalities: of the DICOM files that are read; others are refused.
        crop_to_region: read the tissue region alone of DICOM files that name exactly one.

    Raises:
        ValueError: modalities is no list of texts.
    """

    def __init__(self, modalities: Sequence[str] = MODALITIES, crop_to_region: bool = False) -> None:
        if isinstance(modalities, str) or not all(isinstance(name, str) for name in modalities):
            raise ValueError(f"modalities must be a list such as ['US'], got {modalities!r}.")
        self.modalities = tuple(modalities)
        self.crop_to_region = crop_to_region
        self._held: _Held | None = None

    def hold(self, path: str | Path) -> tuple[np.ndarray, dict]:
        """What `decode` gives, kept for the next call of `decode` and of `colors` for this file.

        So a program that looks at a file, segments it and draws it decodes it once.
        """
        looked: list[np.ndarray] = []

        def gray_and_colors(picture: Image.Image) -> np.ndarray:
            looked.append(np.expand_dims(colors_from_picture(picture).swapaxes(0, 1), 2))
            return gray_from_picture(picture)

        self._held = None
        with errors_of(path):
            pixels, meta = self._stored(Path(path), gray_and_colors)
            colors = _as_bytes(_unit_unless_bytes(looked[0]) if looked else pixels)
            gray = self._as_gray(pixels, meta)
        self._held = _Held(str(path), gray, (colors, meta))
        return gray

    def decode(self, path: str | Path) -> tuple[np.ndarray, dict]:
        """Gray frames float32 (W, H, N) in [0, 1], scaled as `brightness.unit_range` does, and their metadata.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be decoded, is no still or loop, is of another modality, claims more pixels than the
                limit, or holds nan or inf.
        """
        if self._held and self._held.path == str(path) and self._held.gray:
            gray, self._held = self._held.gray, self._held._replace(gray=None)  # a loop's is large
            return gray
        with errors_of(path):
            return self._as_gray(*self._stored(Path(path), gray_from_picture))

    def colors(self, path: str | Path) -> tuple[np.ndarray, dict]:
        """The frames in their colors, uint8 (W, H, N, 3), and their metadata. Raises what `decode` raises."""
        held, self._held = self._held, None
        if held and held.path == str(path):
            return held.colors
        with errors_of(path):
            pixels, meta = self._stored(Path(path), colors_from_picture)
            return _as_bytes(pixels), meta

    def _as_gray(self, pixels: np.ndarray, meta: dict) -> tuple[np.ndarray, dict]:
        """What `decode` gives of what `_stored` gives."""
        gray = luma(pixels) if pixels.ndim == 4 else pixels
        gray = unit_range(gray) if gray.dtype == np.uint8 else gray
        if self.crop_to_region and TISSUE in meta:
            gray, meta = _cropped(gray, meta)
        return gray.astype(np.float32), {CHANNEL_DIM: NO_CHANNEL, **meta}

    def _stored(self, path: Path, from_picture: Callable) -> tuple[np.ndarray, dict]:
        """Pixels (W, H, N) or (W, H, N, 3), uint8 or in [0, 1], and their metadata."""
        if is_nifti(path):
            pixels, meta = read_nifti(path)
        elif is_dicom(path):
            return decode_dicom(path, self.modalities)
        else:
            pixels, meta = decode_picture(path, from_picture)
            pixels = np.expand_dims(pixels, 2)  # (W, H[, 3]) -> (W, H, 1[, 3])
        window = meta.pop(WINDOW, None)
        return _unit_unless_bytes(pixels, window), meta


class _Held(NamedTuple):
    """A file that `hold` has decoded: its path, what `decode` gives of it until that was asked for, and its colors."""

    path: str
    gray: tuple[np.ndarray, dict] | None
    colors: tuple[np.ndarray, dict]


def _unit_unless_bytes(pixels: np.ndarray, window: Sequence[float] | None = None) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else unit_range(pixels, window)


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels (W, H, N[, 3]), uint8 or in [0, 1], as uint8 (W, H, N, 3)."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * pixels).astype(np.uint8)
    return pixels if pixels.ndim == 4 else np.broadcast_to(pixels[..., None], (*pixels.shape, 3))


def _cropped(frames: np.ndarray, meta: dict) -> tuple[np.ndarray, dict]:
    """The tissue region of frames (W, H, N), and metadata that say where it lies in them."""
    left, right, top, bottom = meta[TISSUE]
    cropped, affine = frames[left:right, top:bottom], meta[AFFINE].copy()
    affine[:, 3] = affine @ (left, top, 0, 1)
    changed = {AFFINE: affine, SPATIAL_SHAPE: np.asarray(cropped.shape), CROP: meta[TISSUE]}
    return cropped, {**meta, **changed}


def luma(pixels: np.ndarray) -> np.ndarray:
    """Gray (W, H, N) of RGB (W, H, N, 3); uint8 stays uint8."""
    kind = np.uint32 if pixels.dtype == np.uint8 else np.float64
    weighted = sum(weight * pixels[..., channel].astype(kind) for channel, weight in enumerate(_LUMA))
    return ((weighted + 32768) >> 16).astype(np.uint8) if kind is np.uint32 else weighted / 65536
