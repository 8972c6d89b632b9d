"""NIfTI as frames (W, H, N), upright, with the size of their pixels.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.

Legend: W columns, H rows, N frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from .geometry import (
    AFFINE,
    AXES,
    FRAME_TIME,
    ORIENTED,
    ORIGINAL_AFFINE,
    RAS,
    SHAPE,
    SPACE,
    SPACING,
    SPATIAL_SHAPE,
    Place,
)
from .refusals import Refused, check_pixel_count

SUFFIXES = (".nii", ".nii.gz")
WINDOW = "window"  # in the metadata: the values that the file says to show black and white
MIN_SIDE = 32  # pixels; a side that is shorter may be the frames or the colors of another layout
_TO_MM = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_TO_MS = {"sec": 1000.0, "msec": 1.0, "usec": 0.001}
_LOOPS = "an image (W, H), a loop (W, H, N), or RGB: save an image as (W, H), a loop as (W, H, 1, N), colors as RGB24"
_STILLS = "(W, H) or (W, H, 1): save the slices or frames as separate files, and colors as gray"


def is_nifti(path: str | Path) -> bool:
    """Whether a file is NIfTI, by its name."""
    return Path(path).name.lower().endswith(SUFFIXES)


def read_nifti(path: Path, still: bool = False) -> tuple[np.ndarray, dict]:
    """Pixels (W, H, N), or (W, H, N, 3) of colors, with the values of the file, and their metadata.

    Colors are RGB24 or RGBA32 pixels, or the fifth dimension. A still may have axes of length 1 in any place; a loop
    runs along the third axis, or along the fourth. Frames whose axes are swapped in space are turned upright.

    Args:
        path: of the file.
        still: take one gray frame alone.

    Raises:
        Refused: it is no still and no loop for certain, has pixels that are no numbers, or claims more than the limit.
    """
    array, volume, axes, shape = _frames(path, still)
    return array, _meta(volume, axes, shape, array.shape[:3])


def read_values(path: Path) -> np.ndarray:
    """The values (W, H) of a still, upright. Raises what `read_nifti` raises."""
    return _frames(path, still=True)[0][..., 0]


def place_of(path: Path) -> Place:
    """Where a still lies, by its header. Raises what `read_nifti` raises."""
    volume = nibabel.load(path)
    axes = _axes(volume, _four_axes(tuple(volume.shape)), color=False)
    sizes = (*volume.shape, 1)
    affine = np.asarray(volume.affine, dtype=np.float64)[:, [*axes, 3]]
    return Place(str(path), (sizes[axes[0]], sizes[axes[1]]), affine, _is_oriented(volume), axes[0] > axes[1])


def _frames(path: Path, still: bool) -> tuple[np.ndarray, nibabel.Nifti1Image, tuple[int, int, int], tuple[int, ...]]:
    """The array of `read_nifti`, its volume, the order of its axes, and its stored shape without colors."""
    volume = nibabel.load(path)
    check_pixel_count(math.prod(volume.shape))
    kind = volume.get_data_dtype()
    fields = bool(kind.fields) and {"R", "G", "B"} <= set(kind.fields)
    if kind.kind not in "biuf" and (still or not fields):
        raise Refused(
            f"has pixels of type {kind}; expected {'one gray channel' if still else 'gray or RGB'}: convert it."
        )
    shape = tuple(volume.shape)
    if still and len([n for n in shape if n != 1]) > 2:
        raise Refused(f"has shape {shape}; expected {_STILLS}.")
    vector = len(shape) == 5 and shape[4] in (3, 4)
    if vector:
        shape = shape[:3] if shape[3] == 1 else shape[:4]
    sizes = _four_axes(shape)
    axes = _axes(volume, sizes, fields or vector)
    array = np.asanyarray(volume.dataobj)
    if fields:
        array = np.stack([array[name] for name in "RGB"], axis=-1)
    elif vector:
        array = array[..., :3]
    padded = (*sizes, *[1] * (4 - len(sizes)))
    colors = array.shape[-1:] if fields or vector else ()
    array = array.reshape(*padded, *colors).transpose(*axes, *range(3, 4 + len(colors)))
    return array.reshape(*array.shape[:2], -1, *colors), volume, axes, shape


def _four_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A stored shape without the axes of length 1 behind the fourth."""
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _axes(volume: nibabel.Nifti1Image, shape: tuple[int, ...], color: bool) -> tuple[int, int, int]:
    """The stored axes of columns, rows and the rest, among the first three."""
    _check_frames(shape, color)
    columns, rows = frame_axes(shape)
    if _is_swapped(volume, columns, rows):
        columns, rows = rows, columns
    return columns, rows, 3 - columns - rows


def frame_axes(shape: Sequence[int]) -> tuple[int, int]:
    """The two axes of a frame: of the first three those longer than 1 where they are two, otherwise the first two."""
    long = [axis for axis, length in enumerate(shape[:3]) if length > 1]
    return (long[0], long[1]) if len(long) == 2 else (0, 1)


def _check_frames(shape: tuple[int, ...], color: bool) -> None:
    """Refuse a stored shape of which it is not certain what its axes are.

    (W, H), (W, H, 1) and (W, H, 1, N) are. With another third axis, a short side may be what counts frames or colors.

    Raises:
        Refused: so it is.
    """
    found = f"has shape {shape}; expected {_LOOPS}."
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise Refused(found)
    if len(shape) == 2:
        return
    long = sum(length > 1 for length in shape[:3])
    if long < 2 or (long == 3 and shape[3:] not in ((), (1,))):
        raise Refused(found)
    if shape[2] > 1 and min(shape[axis] for axis in frame_axes(shape)) < MIN_SIDE:
        raise Refused(found)
    if long == 3 and shape[2] in (3, 4) and not color:
        raise Refused(
            f"has shape {shape}, which may be a loop of {shape[2]} frames or one picture in color; expected {_LOOPS}."
        )


def _is_swapped(volume: nibabel.Nifti1Image, columns: int, rows: int) -> bool:
    """Whether the first axis of a frame runs down in the usual view of its plane, and the second across.

    Axial, coronal and sagittal views have the earlier of the world's axes x, y, z across and the later one down.
    """
    if not _is_oriented(volume):
        return False
    world = nibabel.io_orientation(volume.affine)[:, 0]
    return bool(world[columns] > world[rows])


def _is_oriented(volume: nibabel.Nifti1Image) -> bool:
    return bool(volume.header["qform_code"] > 0 or volume.header["sform_code"] > 0)


def _meta(volume: nibabel.Nifti1Image, axes: Sequence[int], stored_shape: Sequence[int], shape: Sequence[int]) -> dict:
    affine = np.asarray(volume.affine, dtype=np.float64)
    low, high = (float(volume.header[name]) for name in ("cal_min", "cal_max"))
    return {
        AFFINE: affine[:, [*axes, 3]],
        ORIGINAL_AFFINE: affine,
        SPACE: RAS,
        SPATIAL_SHAPE: np.asarray(shape),
        SHAPE: np.asarray(stored_shape),
        AXES: np.asarray(axes),
        ORIENTED: _is_oriented(volume),
        **({WINDOW: np.asarray((low, high))} if low < high else {}),
        **_units(volume, axes),
    }


def _units(volume: nibabel.Nifti1Image, axes: Sequence[int]) -> dict:
    """Size of a pixel in mm and time of a frame in ms, where the header says so.

    A size of 1 without a unit says nothing: files whose affine nobody set have it. Where the affine and the pixel sizes
    of the header differ, the affine counts.
    """
    header = volume.header
    length, time = header.get_xyzt_units()
    zooms = header.get_zooms()
    spacing = voxel_sizes(volume.affine)[list(axes[:2])] * _TO_MM[length]
    is_set = length != "unknown" or not np.allclose(spacing, 1)
    units = {SPACING: spacing} if is_set and np.all(spacing > 0) else {}
    if len(zooms) > 3 and zooms[3] > 0 and time in _TO_MS:
        units[FRAME_TIME] = float(zooms[3]) * _TO_MS[time]
    return units


def is_eight_bit(path: Path) -> bool:
    """Whether a file holds 8-bit pixels that lie as they are read, by its header. What cannot be read has no others."""
    try:
        volume = nibabel.load(path)
        axes = _axes(volume, _four_axes(tuple(volume.shape)), color=False)
        as_read = (volume.dataobj.slope, volume.dataobj.inter) == (1, 0) and axes == (0, 1, 2)
        return volume.get_data_dtype() == np.uint8 and as_read
    except (Refused, OSError, EOFError, ImageFileError, HeaderDataError):
        return True
