"""The MONAI reader of inference: pictures, NIfTI and DICOM, stills and loops, as gray frames (W, H, N).

A still has one frame. Trainings read with `data/readers.py`, which refuses loops. The metadata's `original_shape` is
that of the stored image without its colors, (W, H), (W, H, 1) or (W, H, N). A mask of the image gets this shape.

Legend: W columns, H rows, N frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys
from nibabel.affines import voxel_sizes

from ..data.dicom import FRAME_TIME, MODALITIES, SPACING, decode_dicom, is_dicom
from ..data.readers import (
    FileReader,
    Refused,
    colors_from_picture,
    decode_picture,
    errors_of,
    gray_from_picture,
    nifti_meta,
    unit_range,
)

# of 65536: ITU-R 601 as Pillow computes it, so that a color is the same gray in every format
_LUMA = (19595, 38470, 7471)
_TO_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_TO_MS = {"sec": 1000.0, "msec": 1.0, "usec": 0.001}


class FrameReader(FileReader):
    """Reads the gray frames of a file, float32 (W, H, N) in [0, 1]. `colors` reads the frames in their colors.

    Args:
        modalities: of the DICOM files that are read; others are refused. [list of DICOM codes]

    Raises:
        ValueError: modalities is no list of texts.
    """

    def __init__(self, modalities: Sequence[str] = MODALITIES) -> None:
        ImageReader.__init__(self)
        if isinstance(modalities, str) or not all(isinstance(name, str) for name in modalities):
            raise ValueError(f"modalities must be a list such as ['US'], got {modalities!r}.")
        self.modalities = tuple(modalities)

    def decode(self, path: str | Path) -> tuple[np.ndarray, dict]:
        """Gray frames float32 (W, H, N) in [0, 1], scaled as `readers.read_image` does, and their metadata.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be decoded, is no still or loop, is of another modality, or holds nan or inf.
        """
        with errors_of(path):
            pixels, meta = self._stored(Path(path), gray_from_picture)
            gray = unit_range(luma(pixels) if pixels.ndim == 4 else pixels)
        return gray.astype(np.float32), {MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel", **meta}

    def colors(self, path: str | Path) -> tuple[np.ndarray, dict]:
        """The frames in their colors, uint8 (W, H, N, 3), and their metadata. Raises what `decode` raises."""
        with errors_of(path):
            pixels, meta = self._stored(Path(path), colors_from_picture)
            if pixels.dtype != np.uint8:
                pixels = np.rint(255 * unit_range(pixels)).astype(np.uint8)
        return (pixels if pixels.ndim == 4 else np.broadcast_to(pixels[..., None], (*pixels.shape, 3))), meta

    def _stored(self, path: Path, from_picture: Callable) -> tuple[np.ndarray, dict]:
        """Pixels (W, H, N) or (W, H, N, 3) as stored, and their metadata."""
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return _decode_nifti(path)
        if is_dicom(path):
            return decode_dicom(path, self.modalities)
        pixels, meta = decode_picture(path, from_picture)
        return np.expand_dims(pixels, 2), meta  # (W, H[, 3]) -> (W, H, 1[, 3])


def luma(pixels: np.ndarray) -> np.ndarray:
    """Gray (W, H, N) of RGB (W, H, N, 3); uint8 stays uint8."""
    kind = np.uint32 if pixels.dtype == np.uint8 else np.float64
    weighted = sum(weight * pixels[..., channel].astype(kind) for channel, weight in enumerate(_LUMA))
    return ((weighted + 32768) >> 16).astype(np.uint8) if kind is np.uint32 else weighted / 65536


def _decode_nifti(path: Path) -> tuple[np.ndarray, dict]:
    """Pixels and metadata of a NIfTI file.

    Colors are RGB24 or RGBA32 pixels, or the fifth dimension. A loop runs along the third or fourth.
    """
    volume = nibabel.load(path)
    array = np.asanyarray(volume.dataobj)
    if array.dtype.fields and {"R", "G", "B"} <= set(array.dtype.fields):
        array = np.stack([array[name] for name in "RGB"], axis=-1)
        shape, color = volume.shape, True
    else:
        color = array.ndim == 5 and array.shape[4] in (3, 4)
        shape = (array.shape[:3] if array.shape[3] == 1 else array.shape[:4]) if color else array.shape
        array = array[..., :3] if color else array
    if array.dtype.kind not in "biuf":
        raise Refused(f"has pixels of type {array.dtype}; expected gray or RGB: convert it.")
    if not 2 <= len(shape) <= 4 or 0 in shape or (len(shape) == 4 and 1 not in shape[2:]):
        raise Refused(
            f"has shape {volume.shape}; expected an image (W, H), a loop (W, H, N), or RGB: save it as one of them."
        )
    frames = int(np.prod(shape[2:]))
    pixels = array.reshape(*shape[:2], frames, *((3,) if color else ()))
    return pixels, {**nifti_meta(volume, (*shape[:2], frames), shape), **_units(volume)}


def _units(volume: nibabel.Nifti1Image) -> dict:
    """Size of a pixel in mm and time of a frame in ms, where the header says so.

    A size of 1 without a unit says nothing: files whose affine nobody set have it. Where the affine and the pixel sizes
    of the header differ, the affine counts.
    """
    header = volume.header
    length, time = header.get_xyzt_units()
    zooms = header.get_zooms()
    spacing = voxel_sizes(volume.affine)[:2] * _TO_MM[length]
    is_set = length != "unknown" or not np.allclose(spacing, 1)
    units = {SPACING: spacing} if is_set and np.all(spacing > 0) else {}
    if len(zooms) > 3 and zooms[3] > 0 and time in _TO_MS:
        units[FRAME_TIME] = float(zooms[3]) * _TO_MS[time]
    return units
