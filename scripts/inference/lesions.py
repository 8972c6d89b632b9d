"""What is told of a lesion: its area, box and parts, the names of classes, and the columns of lesions.csv.

Needs neither torch nor MONAI; `lesion_table` writes the table.

Legend: W columns, H rows, N frames. Masks are class indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.ndimage import label

from ..data.regions import spacing_of
from ..utils.outlines import box_of
from .confidence import Certainty

COLUMNS = (
    "file",
    "frame",
    "class",
    "area_px",
    "area_mm2",
    "pixel_width_mm",
    "pixel_height_mm",
    "components",
    "x_min",
    "y_min",
    "x_max",
    "y_max",
    "empty",
    "presence",
    "confidence",
    "look",
    "note",
)
FORMER_COLUMNS = COLUMNS[:-4]  # of version 0.7 and before, whose folders can be gone on with
_TOUCHING = np.ones((3, 3))  # corners too


def foreground_names(num_classes: int, names: Sequence[str] | None = None) -> list[str]:
    """Names of the classes 1, 2, ...

    Without `names` the one class of a binary student is "lesion", and those of others are "class 1", "class 2", ...

    Args:
        num_classes: with the background.
        names: of the classes in the outputs, without the background; null calls one class lesion and several class 1,
            class 2 and so on. [list of names, null]

    Raises:
        ValueError: there are more or fewer names than classes.
    """
    if names is None:
        return ["lesion"] if num_classes == 2 else [f"class {c}" for c in range(1, num_classes)]
    if isinstance(names, str) or len(names) != num_classes - 1:
        raise ValueError(f"class_names must name the {num_classes - 1} classes without the background, got {names!r}.")
    return list(names)


def measure(mask: np.ndarray, spacing: Sequence[float] | None = None) -> dict[str, Any]:
    """The measuring columns of one class in one frame.

    Args:
        mask: bool (W, H).
        spacing: width and height of a pixel in mm; None where they are not known.

    Returns:
        x counts columns from the left, y rows from the top, both from 0. x_max and y_max are the last column and row
        of the class. What is not known or not there is an empty text.
    """
    box = box_of(mask)
    inside = mask[box] if box else mask[:0]
    area = int(np.count_nonzero(inside))
    width, height = spacing if spacing is not None else ("", "")
    corners = (box[0].start, box[1].start, box[0].stop - 1, box[1].stop - 1) if box else ("",) * 4
    return {
        "area_px": area,
        "area_mm2": "" if spacing is None else round(area * width * height, 4),
        "pixel_width_mm": width,
        "pixel_height_mm": height,
        "components": int(label(inside, _TOUCHING)[1]),
        **dict(zip(("x_min", "y_min", "x_max", "y_max"), corners)),
        "empty": "no" if area else "yes",
    }


def frame_rows(
    masks: np.ndarray, meta: Mapping[str, Any], class_names: Sequence[str], certainty: Certainty | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each frame and class, also where the class is not in the frame.

    Args:
        masks: class indices (W, H, N), as the image is looked at.
        meta: of the image, with the size of its pixels where it is known.
        class_names: of the classes 1, 2, ...
        certainty: of the image; its columns are left out without one.
    """
    for frame in range(masks.shape[2]):
        for c, name in enumerate(class_names, start=1):
            inside = masks[:, :, frame] == c
            spacing = spacing_of(inside, meta)
            yield {
                "frame": frame,
                "class": name,
                **measure(inside, None if spacing is None else [round(length, 6) for length in spacing]),
                **(certainty.columns(frame, c) if certainty else {}),
            }
