"""Files that are whole or not there: written beside their name, flushed to the disk, then renamed; and texts of any
system.
"""

from __future__ import annotations

import codecs
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUNDLE_ROOT = Path(__file__).resolve().parents[2]
CONFIGS = BUNDLE_ROOT / "configs"


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
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        partial = Path(folder) / path.name
        yield partial
        if flush:
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)


def read_text(path: str | Path) -> str:
    """A text file as Unicode, whichever system wrote it: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        ValueError: another encoding.
    """
    content = Path(path).read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8.") from None
