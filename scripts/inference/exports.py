"""Exports of checkpoints that are made when they are first used, and kept in a cache folder.

An export is written and checked against torch by a process of its own, `python -m scripts.export.on_demand`, so that
this one needs neither torch nor MONAI. The folder is SAM_TINYUSFM_CACHE of the environment, or sam_tinyusfm in the
user's cache folder; whoever deletes it loses some seconds. An export is found by the content of its checkpoint, so that
it is never one of other weights.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from ..utils.digests import file_digest
from ..utils.files import BUNDLE_ROOT, bundle_version, naming_path
from ..utils.libraries import library
from .export_names import EXPORT_RECORD
from .export_sums import check_files
from .sessions import Session, onnx_session, openvino_has_bf16, openvino_session

logger = logging.getLogger(__name__)

VARIABLE = "SAM_TINYUSFM_CACHE"
AUTO, TORCH = "auto", "torch"
# by engine: its library, and the formats that it runs, see export/formats.py
LIBRARIES = {"openvino": "openvino", "onnx": "onnxruntime"}
BF16_FORMAT = "openvino_bf16"
FORMATS = {"openvino": (BF16_FORMAT, "openvino"), "onnx": ("onnx",)}
PRECISIONS = BF16, FP32 = ("bf16", "fp32")
ENGINES = (AUTO, *LIBRARIES, TORCH)
WRITERS = ("onnx", "onnxscript")


class ExportError(ValueError):
    """An export could not be written; the message says why."""


def installed(engine: str) -> bool:
    """Whether the library of an engine is there."""
    return find_spec(LIBRARIES[engine]) is not None


def installed_engines() -> list[str]:
    """Those whose libraries are there."""
    return [name for name in LIBRARIES if installed(name)]


def can_write() -> bool:
    """Whether the libraries that write an export are there."""
    return all(find_spec(name) is not None for name in WRITERS)


def cache_dir() -> Path:
    """The folder of all exports, which may not be there yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(VARIABLE) or Path(home) / "sam_tinyusfm")


def export_dir(checkpoint: Path, cache: Path | None = None) -> Path:
    """The folder of a checkpoint's export: named by its content and the bundle's version.

    Args:
        checkpoint: of a trained student.
        cache: folder of exports; None is `cache_dir`.
    """
    return (cache or cache_dir()) / f"{file_digest(checkpoint)[:32]}-{bundle_version()}"


def read_record(folder: Path) -> dict | None:
    """What export.json says; None where there is no export.

    Raises:
        ValueError: it is damaged.
    """
    record = folder / EXPORT_RECORD
    try:
        return dict(json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{record} is damaged ({error}); {_remedy(folder)}") from None


def _remedy(folder: Path) -> str:
    return f"remove the folder {folder}, and the next run writes it again."


def precision_of(format: str) -> str:
    """The one in which a format computes."""
    return BF16 if format == BF16_FORMAT else FP32


def fastest_format(
    record: dict | None, engines: Sequence[str], precisions: Sequence[str] = PRECISIONS
) -> tuple[str, str] | None:
    """Engine and format that took the least time for an image when the export was written; None where there is none.

    Args:
        record: what export.json says.
        engines: that may be taken.
        precisions: in which it may compute.
    """
    formats = (record or {}).get("formats", {})
    known = [(engine, format) for engine in engines for format in FORMATS[engine] if format in formats]
    known = [pair for pair in known if precision_of(pair[1]) in precisions]
    return min(known, key=lambda pair: formats[pair[1]]["ms"], default=None)


def ensure_export(checkpoint: Path, engines: Sequence[str], cache: Path | None = None) -> Path:
    """The folder of an export of a checkpoint that one of the engines runs.

    Where it is not there, it is written for all engines that are installed, so that no engine takes another's away.
    One that is there is taken from a folder that cannot be written too.

    Args:
        checkpoint: of a trained student.
        engines: whose libraries are installed.
        cache: folder of exports; None is `cache_dir`.

    Raises:
        ExportError: the file is no trained student, no format is within its limit of torch, or the disk is full.
        ValueError: the record is damaged.
        ImportError: a library that writes an export is not installed.
        OSError: the cache folder cannot be written.
    """
    folder = export_dir(checkpoint, cache)
    if fastest_format(read_record(folder), engines):
        return folder
    for name in WRITERS:
        library(name)
    with naming_path(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):  # the second process finds it written
            if fastest_format(read_record(folder), engines) is None:
                wanted = installed_engines()
                logger.warning(
                    "writing the student as %s into %s: once, for half a minute", " and ".join(wanted), folder
                )
                reason = _write(checkpoint, folder, wanted)
                if fastest_format(read_record(folder), engines) is None:
                    raise ExportError(reason)
    return folder


def _write(checkpoint: Path, folder: Path, engines: Sequence[str]) -> str:
    """Write an export in a process of its own; the last line that it tells of what went wrong."""
    command = [sys.executable, "-m", "scripts.export.on_demand", checkpoint.resolve(), folder.resolve(), *engines]
    done = subprocess.run(command, cwd=BUNDLE_ROOT, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines() or [f"no export of {checkpoint} was written; take the engine torch."]
    return lines[-1].removeprefix("export: ")


def runnable_precisions(engines: Sequence[str]) -> tuple[str, ...]:
    """Those that this processor computes in by one of the engines; an export may come from another one."""
    return PRECISIONS if "openvino" in engines and openvino_has_bf16() else (FP32,)


def start_session(folder: Path, engine: str, format: str, threads: int | None) -> Session:
    """A session of a format in an export.

    Args:
        folder: of the export.
        engine: of LIBRARIES.
        format: of FORMATS[engine].
        threads: of the computation; None leaves them to the library.

    Raises:
        ValueError: a file is damaged.
    """
    files = read_record(folder)["formats"][format]["files"]
    path = folder / files[0]
    try:
        check_files(path, files)
    except ValueError as error:
        raise ValueError(f"{str(error).partition(';')[0]}; {_remedy(folder)}") from None
    if engine == "onnx":
        return onnx_session(path, threads)
    return openvino_session(path, threads, "bf16" if format == BF16_FORMAT else "f32")
