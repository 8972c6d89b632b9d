"""Files that are whole or not there: written beside their name, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUNDLE_ROOT = Path(__file__).resolve().parents[2]
CONFIGS = BUNDLE_ROOT / "configs"
_PARTIAL = ".partial-"  # folders of files that are being written; the name is short, since the file's may be long


@contextmanager
def atomic_path(path: str | Path, flush: bool = True) -> Iterator[Path]:
    """A path beside `path` to write to, with its suffix; it takes the place of `path` when the block ends without an
    error.

    Args:
        path: of the file; its folder is made.
        flush: wait until the disk has it, so that it is whole after a crash of the machine too, not only of the
            process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PARTIAL) as folder:
        partial = Path(folder) / path.name
        yield partial
        if flush:
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)


def remove_partials(folder: str | Path) -> None:
    """Remove what killed programs were writing right in a folder; call it where no other program writes there."""
    for partial in Path(folder).glob(f"{_PARTIAL}*"):
        shutil.rmtree(partial, ignore_errors=True)
