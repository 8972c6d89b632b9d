"""SHA-256 sums of exported files: recorded in export.json as each is written, compared before one is run.

ONNX and OpenVINO look at no checksum themselves, and a damaged file would segment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..utils.digests import file_digest
from ..utils.weight_files import AGAIN, check_archive, check_sum, is_archive, warn_unguarded
from .export_names import EXPORT_RECORD

SUMS = "sha256"  # in the record
REMEDY = f"{AGAIN}, or write it again with python -m scripts.export"
CHECKED_WHEN_READ = (".pt", ".pth", ".safetensors", ".ts")


def record_sums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Add the sums of files just written to the record in their folder; returns all sums by name."""
    sums = {**read_sums(folder), **{name: file_digest(folder / name) for name in names}}
    (folder / EXPORT_RECORD).write_text(json.dumps({SUMS: sums}), encoding="utf-8")
    return sums


def read_sums(folder: Path) -> dict[str, str]:
    """The sums in a folder's record by name; empty where there is none, as in exports of version 0.6 and before."""
    record = folder / EXPORT_RECORD
    try:
        return dict(json.loads(record.read_text(encoding="utf-8")).get(SUMS, {})) if record.is_file() else {}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{record} is damaged ({error}); {REMEDY}.") from None


def check_files(path: Path, names: Iterable[str]) -> None:
    """Check a format's files before they are run; of one that nothing guards a warning says so.

    Args:
        path: the one to start.
        names: of all files of the format, where they have their names of an export.

    Raises:
        ValueError: a file is damaged.
    """
    sums = read_sums(path.parent)
    names = list(names)
    # OpenVINO's weights lie beside its .xml, under the same name
    files = [path.with_name(name) for name in names] if path.name in names else [path, path.with_suffix(".bin")]
    files = files if path.name in names or path.suffix == ".xml" else [path]
    for file in filter(Path.is_file, files):
        if file.name in sums:
            if file_digest(file) != sums[file.name]:
                raise ValueError(f"{file} is damaged: its SHA-256 is not the one in {EXPORT_RECORD}; {REMEDY}.")
        elif not check_sum(file, "export", REMEDY):
            if is_archive(file):
                check_archive(file, "export", REMEDY)
            elif file.suffix not in CHECKED_WHEN_READ:
                warn_unguarded(file, "export")
