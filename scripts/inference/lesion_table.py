"""The lesions as lesions.csv: a row for each file, frame and class, also where the class is not in the frame.

Areas in pixels and in mm2 have separate columns. mm2 is empty where the file does not say how large a pixel is.

Legend: W columns, H rows, N frames. Masks are class indices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys as Keys

from ..utils.files import naming_path
from ..utils.screen import tell
from ..utils.tables import append_rows, write_table
from .certainty import CERTAINTY
from .confidence import Certainty
from .lesions import COLUMNS, frame_rows
from .masks import image_path, shown_mask
from .outputs import LESIONS_FILE, relative_path
from .writer import OutputWriter


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
    for row in frame_rows(shown_mask(mask), mask.meta, class_names, certainty):
        yield {"file": file, **row}


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
        writer: adds the rows; None does so at once.
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        key: str = Keys.PRED,
        dataset_dir: str | Path | None = None,
        writer: OutputWriter | None = None,
    ) -> None:
        self.path = Path(output_dir) / LESIONS_FILE
        self.class_names = list(class_names)
        self.key = key
        self.dataset_dir = dataset_dir
        self.writer = writer or OutputWriter()
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
            self.writer.submit(partial(self._append, item[self.key], item.get(CERTAINTY)))

    def _append(self, mask: torch.Tensor, certainty: Certainty | None) -> None:
        name = name_in_table(image_path(mask), self.dataset_dir)
        with naming_path(self.path):
            if not self.path.exists():
                write_table(self.path, COLUMNS, [])
            append_rows(self.path, COLUMNS, rows_of(mask, self.class_names, name, certainty))
        self.files += 1

    def finish(self, engine: Engine) -> None:
        """Print where the outputs are, if there are any, when they are written."""
        self.writer.flush()
        if self.files:
            files = "1 file" if self.files == 1 else f"{self.files} files"
            tell(f"segmented {files} into {self.path.parent}; {LESIONS_FILE} holds the areas")
