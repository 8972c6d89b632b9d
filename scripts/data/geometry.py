"""How an array lies in its file and in space: frames that are read upright and masks that go back.

Files hold a frame along any two axes. Readers give (W, H, N), columns first, as the frame is looked at, and note in the
metadata what they turned. `as_stored` undoes it, `as_shown` does it again.

Legend: W columns, H rows, N frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

AXES = "axes"  # in the metadata: the first three axes of the stored array, in the order in which they were read
STORED_AXES = "stored_axes"  # in the metadata of a mask: the same, of one that is stored again
CROP = "crop"  # in the metadata: first and last + 1 column, first and last + 1 row of what was read
ORIENTED = "oriented"  # in the metadata: true where the file says how its axes lie
SHAPE = "original_shape"  # in the metadata: of the stored array, without colors
FRAME_TIME = "frame_time_ms"  # in the metadata: how long a frame lasts, where it is known
SPACING = "spacing_mm"  # in the metadata: width and height of a pixel, where they are known
# MONAI's MetaKeys as texts, and its SpaceKeys.RAS: whoever imports them imports all of MONAI
AFFINE, ORIGINAL_AFFINE, SPATIAL_SHAPE = "affine", "original_affine", "spatial_shape"
CHANNEL_DIM, NO_CHANNEL, SPACE, RAS = "original_channel_dim", "no_channel", "space", "RAS"
TOLERANCE = 0.5  # pixels by which the corners of an image and its label may differ


class Place(NamedTuple):
    """A frame in space.

    name: of the file. shape: (W, H). affine: (4, 4), of an array (W, H, 1) to mm. oriented: the file says so. swapped:
    the axes were swapped when it was read.
    """

    name: str
    shape: tuple[int, int]
    affine: np.ndarray | None = None
    oriented: bool = False
    swapped: bool = False

    @classmethod
    def read(cls, name: str, shape: Sequence[int], affine: np.ndarray | None, meta: Mapping[str, Any]) -> Place:
        """The place of what a reader gave, with its metadata."""
        columns, rows, _ = _axes(meta.get(AXES))
        return cls(name, tuple(shape), affine, bool(meta.get(ORIENTED, False)), columns > rows)


def flips_to_match(image: Place, label: Place) -> tuple[int, ...]:
    """The axes (0 columns, 1 rows) along which a label has to be flipped to lie as its image does.

    Where one of the two does not say how it lies (pictures; NIfTI without a qform and an sform), they are paired as
    they are. So they are where one has the affine that nobody set, 1 mm and no turn, and both run the same way. Axes
    that were swapped need an affine on both sides.

    Raises:
        ValueError: sizes or places differ; it names both files.
    """
    if image.shape != label.shape:
        raise ValueError(
            f"label {label.name} has size {label.shape} (width, height) and image {image.name} {image.shape}; "
            "expected equal sizes: correct the mask or the pair in data::datalist."
        )
    if image.oriented and label.oriented:
        limit = TOLERANCE * min(np.linalg.norm(image.affine[:3, axis]) for axis in (0, 1))
        for flips in ((), (0,), (1,), (0, 1)):
            if _distance(image, label, flips) <= limit:
                return flips
    if not (image.swapped or label.swapped) and _says_nothing(image, label):
        return ()
    if not (image.oriented and label.oriented):
        turned, other = (image, label) if image.swapped else (label, image)
        remedy = "as NIfTI with the affine of its image" if image.swapped else "with columns on its first axis"
        raise ValueError(
            f"the axes of {turned.name} are swapped and {other.name} does not say how it lies; save the label {remedy}."
        )
    raise ValueError(
        f"label {label.name} and image {image.name} lie in different places by their affines "
        f"({_distance(image, label):.4g} mm); save the label with the affine of its image."
    )


def _says_nothing(image: Place, label: Place) -> bool:
    """Whether one does not say where it lies: no orientation, or an affine that nobody set but runs as the other."""
    if not (image.oriented and label.oriented):
        return True
    unset = any(np.allclose(np.abs(place.affine), np.eye(4)) for place in (image, label))
    return unset and np.allclose(_directions(image.affine), _directions(label.affine), atol=0.1)


def _distance(image: Place, label: Place, flips: tuple[int, ...] = ()) -> float:
    """The largest distance of the corners, in mm."""
    return float(np.linalg.norm(_corners(image) - _corners(label, flips), axis=1).max())


def _corners(place: Place, flips: tuple[int, ...] = ()) -> np.ndarray:
    """Positions (4, 3) of the corner pixels, in mm."""
    ends = [(0, n - 1)[:: -1 if axis in flips else 1] for axis, n in enumerate(place.shape)]
    indices = np.array([(column, row, 0, 1) for column in ends[0] for row in ends[1]])
    return (indices @ np.asarray(place.affine, dtype=np.float64).T)[:, :3]


def _directions(affine: np.ndarray) -> np.ndarray:
    columns = np.asarray(affine)[:3, :2]
    return columns / np.linalg.norm(columns, axis=0)


def is_turned(meta: Mapping[str, Any]) -> bool:
    """Whether what was read is not laid out as the stored image: axes in another order, or a part of it."""
    return CROP in meta or _axes(meta.get(AXES)) != (0, 1, 2)


def as_stored(mask: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """A mask (W, H[, N]) in the shape and the order of axes of the stored image, outside of a crop 0.

    Args:
        mask: class indices, as large as what was read.
        meta: of its image.
    """
    shape, axes = tuple(int(n) for n in meta[SHAPE]), _axes(meta.get(AXES))
    sizes = (*shape, *[1] * (4 - len(shape)))
    mask = mask.reshape(*mask.shape[:2], -1)
    if CROP in meta:
        left, right, top, bottom = (int(n) for n in meta[CROP])
        part, mask = mask, np.zeros((sizes[axes[0]], sizes[axes[1]], mask.shape[2]), mask.dtype)
        mask[left:right, top:bottom] = part
    turned = mask.reshape(*(sizes[axis] for axis in axes), sizes[3])
    return turned.transpose(*np.argsort(axes), 3).reshape(shape)


def as_shown(mask: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
    """A stored mask as (W, H, N), as its image is looked at.

    Args:
        mask: as `as_stored` gives it.
        meta: its own.
    """
    sizes = (*mask.shape, *[1] * (4 - mask.ndim))
    mask = mask.reshape(sizes).transpose(*_axes(meta.get(STORED_AXES)), 3)
    return mask.reshape(*mask.shape[:2], -1)


def _axes(axes: Sequence | None) -> tuple[int, ...]:
    return (0, 1, 2) if axes is None else tuple(int(axis) for axis in axes)
