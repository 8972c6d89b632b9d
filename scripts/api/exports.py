"""Exports of checkpoints that are made when they are first used, and kept in a cache folder.

An export is written and checked against torch by a process of its own, `python -m scripts.api.exports`, so that the
user's process imports neither torch nor MONAI. The folder is SAM_TINYUSFM_CACHE of the environment, or sam_tinyusfm in
the user's cache folder; whoever deletes it loses some seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from ..export.names import EXPORT_RECORD
from ..utils.digests import file_digest
from ..utils.files import BUNDLE_ROOT, naming_path

logger = logging.getLogger(__name__)

VARIABLE = "SAM_TINYUSFM_CACHE"
# by engine: its library, and the formats that it runs, see export/formats.py
LIBRARIES = {"openvino": "openvino", "onnx": "onnxruntime"}
FORMATS = {"openvino": ("openvino_bf16", "openvino"), "onnx": ("onnx",)}
WRITERS = ("onnx", "onnxscript")
NUM_IMAGES = 8  # phantoms that a new export is checked on, and timed


def installed(engine: str) -> bool:
    """Whether the library of an engine is there."""
    return find_spec(LIBRARIES[engine]) is not None


def can_write() -> bool:
    """Whether the libraries that write an export are there."""
    return all(find_spec(name) is not None for name in WRITERS)


def cache_dir() -> Path:
    """The folder of all exports, which may not be there yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(VARIABLE) or Path(home) / "sam_tinyusfm")


def export_dir(checkpoint: Path) -> Path:
    """The folder of a checkpoint's export: named by its content and the bundle's version."""
    version = json.loads((BUNDLE_ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]
    return cache_dir() / f"{file_digest(checkpoint)[:32]}-{version}"


def read_record(folder: Path) -> dict | None:
    """What export.json says; None where there is no export."""
    record = folder / EXPORT_RECORD
    return json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None


def fastest_format(record: dict | None, engines: Sequence[str]) -> tuple[str, str] | None:
    """Engine and format that took the least time for an image when the export was written; None where there is none."""
    formats = (record or {}).get("formats", {})
    known = [(engine, format) for engine in engines for format in FORMATS[engine] if format in formats]
    return min(known, key=lambda pair: formats[pair[1]]["ms"], default=None)


def ensure_export(checkpoint: Path, engines: Sequence[str]) -> Path:
    """The folder of an export of a checkpoint that one of the engines runs.

    Where it is not there, it is written for all engines that are installed, so that no engine takes another's away.

    Args:
        checkpoint: of a trained student.
        engines: whose libraries are installed.

    Raises:
        ValueError: the file is no trained student, or no format is within its limit of torch.
        OSError: the cache folder cannot be written.
    """
    folder = export_dir(checkpoint)
    with naming_path(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):  # the second process finds it written
            if fastest_format(read_record(folder), engines) is None:
                logger.warning(
                    "writing the student as %s into %s: once, for half a minute", " and ".join(engines), folder
                )
                reason = _write(checkpoint, folder, [name for name in LIBRARIES if installed(name)])
                if fastest_format(read_record(folder), engines) is None:
                    raise ValueError(reason)
    return folder


def _write(checkpoint: Path, folder: Path, engines: Sequence[str]) -> str:
    """Write an export in a process of its own; the last line that it tells of what went wrong."""
    command = [sys.executable, "-m", "scripts.api.exports", checkpoint.resolve(), folder.resolve(), *engines]
    done = subprocess.run(command, cwd=BUNDLE_ROOT, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines() or [f"no export of {checkpoint} was written; pass engine='torch'."]
    return lines[-1].removeprefix("export: ")


def main(arguments: Sequence[str]) -> int:
    """Write an export: a checkpoint, the folder to make and the engines; 0, or 1 after a message on stderr."""
    from ..run.errors import run_program

    checkpoint, folder, *engines = arguments
    return run_program("export", lambda: _export(Path(checkpoint), Path(folder), engines))


def _export(checkpoint: Path, folder: Path, engines: Sequence[str]) -> int:
    from ..export import formats as all_formats
    from ..export.cases import phantom_cases
    from ..export.check import Check, export_student
    from ..networks.student import student_of_file

    student = student_of_file(checkpoint).eval()
    num_classes = max(2, student.decode_head.conv_seg.out_channels)
    wanted = {format for engine in engines for format in FORMATS[engine]}
    formats = [name for name, row in all_formats.FORMATS.items() if name in wanted and not row.lacks()]
    with contextlib.redirect_stdout(io.StringIO()):  # the table of formats
        check = Check(student, phantom_cases(NUM_IMAGES, student.img_size), num_classes)
        about = {"checkpoint": checkpoint.name, "checkpoint_sha256": file_digest(checkpoint)}
        refusals = export_student(student, formats, check, [], folder, about)
    for reason in refusals.values():
        print(f"export: {reason}", file=sys.stderr)
    return int(len(refusals) == len(formats))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
