"""Writes the export that a program asks for when it first runs a student with OpenVINO or ONNX Runtime.

    python -m scripts.export.on_demand CHECKPOINT FOLDER openvino onnx

`inference/exports.py` starts it as a process of its own, so that the asking program needs neither torch nor MONAI.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from ..inference.exports import FORMATS
from ..run.errors import run_program
from ..utils.digests import file_digest

NUM_IMAGES = 8  # phantoms that a new export is checked on, and timed


def main(arguments: Sequence[str]) -> int:
    """Write an export: a checkpoint, the folder to make and the engines; 0, or 1 after a message on stderr."""
    checkpoint, folder, *engines = arguments
    return run_program("export", lambda: _export(Path(checkpoint), Path(folder), engines))


def _export(checkpoint: Path, folder: Path, engines: Sequence[str]) -> int:
    from ..networks.student import student_of_file
    from . import formats as all_formats
    from .cases import phantom_cases
    from .check import Check, export_student

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
