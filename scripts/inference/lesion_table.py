"""The lesions as lesions.csv: a row for each file, frame and class, also where the class is not in the frame.

Areas in pixels and in mm2 have separate columns. mm2 is empty where the file does not say how large a pixel is.

Legend: W columns, H rows, N frames. Masks are class indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys as Keys
from scipy.ndimage import label

from ..data.regions import spacing_of
from ..utils.files import naming_path
from ..utils.screen import tell
from ..utils.tables import append_rows, write_table
from .certainty import CERTAINTY, Certainty
from .masks import image_path, shown_mask
from .outputs import LESIONS_FILE, relative_path

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
    area = int(mask.sum())
    width, height = spacing if spacing is not None else ("", "")
    x, y = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = (x[0], y[0], x[-1], y[-1]) if area else ("",) * 4
    return {
        "area_px": area,
        "area_mm2": "" if spacing is None else round(area * width * height, 4),
        "pixel_width_mm": width,
        "pixel_height_mm": height,
        "components": int(label(mask, _TOUCHING)[1]),
        **dict(zip(("x_min", "y_min", "x_max", "y_max"), box)),
        "empty": "no" if area else "yes",
    }


def rows_of(
    mask: torch.Tensor, class_names: Sequence[str], file: str, certainty: Certainty | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of a mask with the metadata of its image (sizes of pixels where they are known).

    Args:
        mask: what ToStoredShaped gives.
        class_names: of the classes 1, 2, ...
        file: name of the image in the table.
        certainty: of the image; its columns are empty without one.
    """
    frames = shown_mask(mask)
    for frame in range(frames.shape[2]):
        for c, name in enumerate(class_names, start=1):
            inside = frames[:, :, frame] == c
            spacing = spacing_of(inside, mask.meta)
            yield {
                "file": file,
                "frame": frame,
                "class": name,
                **measure(inside, None if spacing is None else [round(length, 6) for length in spacing]),
                **(certainty.columns(frame, c) if certainty else {}),
            }


def name_in_table(image: str | Path, dataset_dir: str | Path | None) -> str:
    """How the table calls an image: its path in the folder of all images, with slashes."""
    return relative_path(image, dataset_dir).as_posix()


class LesionTable:
    """Adds to output_dir/lesions.csv while an evaluator runs: the rows of an image are there as soon as it is
    segmented. `OutputFolder` begins the table.

    Args:
        output_dir: of the table.
        class_names: of the classes 1, 2, ...
        key: of the masks in the evaluator's output.
        dataset_dir: folder of the images, to name them; None takes the files' names alone.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        key: str = Keys.PRED,
        dataset_dir: str | Path | None = None,
    ) -> None:
        self.path = Path(output_dir) / LESIONS_FILE
        self.class_names = list(class_names)
        self.key = key
        self.dataset_dir = dataset_dir
        self.files = 0

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Begin to count."""
        self.files = 0

    def __call__(self, engine: Engine) -> None:
        """Add the rows of the images of this iteration, none where it failed."""
        for item in engine.state.output:
            mask = item[self.key]
            name = name_in_table(image_path(mask), self.dataset_dir)
            with naming_path(self.path):
                if not self.path.exists():
                    write_table(self.path, COLUMNS, [])
                append_rows(self.path, COLUMNS, rows_of(mask, self.class_names, name, item.get(CERTAINTY)))
            self.files += 1

    def finish(self, engine: Engine) -> None:
        """Print where the outputs are, if there are any."""
        if self.files:
            files = "1 file" if self.files == 1 else f"{self.files} files"
            tell(f"segmented {files} into {self.path.parent}; {LESIONS_FILE} holds the areas")
