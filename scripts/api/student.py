"""The student in three lines: `load`, and `Student.segment`.

docs/python.md describes the engines.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..inference.exports import (
    AUTO,
    ENGINES,
    LIBRARIES,
    TORCH,
    can_write,
    ensure_export,
    fastest_format,
    installed_engines,
    read_record,
    runnable_precisions,
    start_session,
)
from ..inference.lesions import foreground_names
from ..share.pretrained_files import WEIGHTS, check_fits, find_pretrained, is_repository, read_config
from ..utils.files import BUNDLE_ROOT
from ..utils.libraries import library
from ..utils.options import check_choice, is_whole
from .engines import Engine, SessionEngine, TorchEngine
from .images import read_frames
from .result import Result, make_result

logger = logging.getLogger(__name__)

SHARED = BUNDLE_ROOT / "models" / "model.pt"


def load(
    checkpoint: str | Path | None = None,
    engine: str = AUTO,
    threads: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Student:
    """A trained student, ready to segment.

    Args:
        checkpoint: of a trained student, such as a run's best file; a folder with config.json and model.safetensors, or
            OWNER/NAME of a model on the Hugging Face Hub; None is the shared student for breast lesions.
        engine: auto takes the export that was the fastest on this machine, or torch where the libraries for exports
            are not installed; openvino and onnx write an export at their first use; torch gives the masks of
            configs/inference.json bit for bit.
        threads: of the computation; None leaves them to the library.
        class_names: without the background; None takes those of config.json, or calls one class lesion and several
            class 1, class 2 and so on.

    Raises:
        FileNotFoundError: no such checkpoint, or a file is missing in the folder.
        ImportError: the engine is not installed.
        OSError: the hub does not give it, or cannot be reached.
        ValueError: the file is no trained student, or an argument is out of range.
    """
    check_choice("engine", engine, ENGINES)
    if threads is not None and not is_whole(threads, 1):
        raise ValueError(f"threads must be a positive integer or None, got {threads!r}.")
    path = SHARED if checkpoint is None else Path(checkpoint).expanduser()
    if path.is_dir() or is_repository(checkpoint):
        return _load_pretrained(path, engine, threads, class_names)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist; pass the path of a trained student.")
    return Student(_start(path, engine, threads), class_names)


def _load_pretrained(source: Path, engine: str, threads: int | None, class_names: Sequence[str] | None) -> Student:
    folder = find_pretrained(source.as_posix())
    config = read_config(folder)
    started = _start(folder / WEIGHTS, engine, threads)
    check_fits(folder, config, {"num_classes": started.num_classes, "img_size": started.img_size})
    return Student(started, class_names or config["class_names"])


class Student:
    """A trained student with the engine that runs it; `load` makes it.

    Args:
        engine: of the student.
        class_names: as in `load`.
    """

    def __init__(self, engine: Engine, class_names: Sequence[str] | None = None) -> None:
        self.engine = engine
        self.class_names = foreground_names(engine.num_classes, class_names)

    def segment(
        self,
        image: Any,
        spacing: Sequence[float] | None = None,
        accept_masks: bool = False,
        modalities: Sequence[str] = ("US",),
    ) -> Result | list[Result]:
        """What the student finds in an image, or in each image of a list.

        Args:
            image: an array, gray (H, W) or RGB (H, W, 3), of 8 or 16 bits or in [0, 1]; a PIL image; the path of a
                picture, a NIfTI or a DICOM file; or a list of them.
            spacing: width and height of a pixel in mm, for areas in mm2, where the image does not say it.
            accept_masks: segment what looks like a mask too.
            modalities: of DICOM files that are taken; others are refused.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: an image that cannot be read, or whose meaning is not certain.
        """
        options = (spacing, accept_masks, modalities)
        if isinstance(image, (list, tuple)):
            return [self._segment(one, *options, f"image {number} of the list") for number, one in enumerate(image)]
        return self._segment(image, *options, "image")

    def _segment(self, image: Any, *options: Any) -> Result:
        frames = read_frames(image, *options)
        return make_result(frames, self.engine.run(frames.gray), self.class_names, self.engine.threshold)

    def __repr__(self) -> str:
        size = self.engine.img_size
        return f"<Student of {', '.join(self.class_names)}, {size} x {size} pixels, engine {self.engine.name}>"


def _start(checkpoint: Path, engine: str, threads: int | None) -> Engine:
    if engine == TORCH:
        return TorchEngine(checkpoint, threads)
    if engine != AUTO:
        library(LIBRARIES[engine])
        return _start_export(checkpoint, [engine], threads)
    engines = installed_engines()
    if not engines or not can_write():
        return TorchEngine(checkpoint, threads)
    try:
        return _start_export(checkpoint, engines, threads)
    except (OSError, ValueError) as error:
        reason = error
    torch_engine = TorchEngine(checkpoint, threads)  # it says by itself what is wrong with a checkpoint
    logger.warning("engine auto takes torch, since no export can be used: %s", reason)
    return torch_engine


def _start_export(checkpoint: Path, engines: Sequence[str], threads: int | None) -> Engine:
    folder = ensure_export(checkpoint, engines)
    record = read_record(folder)
    engine, format = fastest_format(record, engines, runnable_precisions(engines))
    return SessionEngine(engine, start_session(folder, engine, format, threads), record)
