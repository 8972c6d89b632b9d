"""Shards: many rows of one size in one file, and beside it an index that says whose they are.

    shard-NAME.rows    one row after another, the parts of an entry as bytes
    shard-NAME.index   a line of JSON (`format`, `owner`, `parts`), then 52 bytes a row: `RECORD` and its CRC-32
    shard-NAME.checked size and times of the rows when all of them were found whole, or had been written

A shard has one writer, which only appends: first the row, then its record. So a row counts from the moment when its
record is whole, whatever has ended the writer, and any number of processes may read meanwhile. A record has a checksum
of its own and one of its row. The process that writes rows trusts them. Rows are read anew when size or times of their
file differ, as after a copy.

Surprise: rows are read, not mapped into memory. Both take them from the system's page cache, but a file that is cut
off while it is mapped ends the process by a bus error; read, its rows are missing.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np

from ..utils.digests import labeled_digest
from ..utils.files import atomic_path
from .layout import Layout

FORMAT = 1  # of the files: raised when older code could not read them
INDEX, ROWS, CHECKED = ".index", ".rows", ".checked"
KEY_BYTES, DIGEST_BYTES = 20, 16
RECORD = struct.Struct(f"<{KEY_BYTES}sIQ{DIGEST_BYTES}s")  # key, generation, number of the row, its digest
CHECK = struct.Struct("<I")  # CRC-32 of the record
RECORD_BYTES = RECORD.size + CHECK.size
MOST_HEADER = 2**16  # bytes
LARGEST = 2**30  # bytes of a shard's rows; from there on its writer begins another


class ShardError(ValueError):
    """An index that cannot be used; the message says why."""


class Record(NamedTuple):
    """What an index says of a row. Of two rows of a key the higher generation counts."""

    key: bytes
    generation: int
    number: int
    digest: bytes


class Shard:
    """A shard as its readers see it.

    Args:
        path: of the index.
        owner: whose entries are asked for.

    Raises:
        ShardError: the index is damaged, of another format, or another owner's.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path, self.rows_path = path, path.with_suffix(ROWS)
        with open(path, "rb") as file:
            line = file.readline(MOST_HEADER)
        self.layout = _read_header(line, owner)
        self.end = len(line)  # of what was read of the index
        self.live: dict[int, Record] = {}  # the rows that count, by their number
        self.verified: set[int] = set()  # by this process: written, or read with the right checksum
        self.damaged: set[int] = set()

    def news(self) -> tuple[list[Record], int]:
        """The records that were added since the last call, and how many more are damaged; a last one that is cut off
        is not there yet.
        """
        if self.path.stat().st_size - self.end < RECORD_BYTES:
            return [], 0
        with open(self.path, "rb") as file:
            file.seek(self.end)
            content = file.read()
        starts = range(0, len(content) - RECORD_BYTES + 1, RECORD_BYTES)
        self.end += len(starts) * RECORD_BYTES
        whole = [start for start in starts if _is_whole(content[start : start + RECORD_BYTES])]
        return [Record(*RECORD.unpack_from(content, start)) for start in whole], len(starts) - len(whole)

    def read(self, numbers: Sequence[int], into: Sequence[np.ndarray], start: int = 0) -> list[bool]:
        """Put rows, or a slice of their bytes, into arrays; whether each was there in full.

        Args:
            numbers: of the rows.
            into: (bytes,) uint8 each.
            start: first byte of the slice.
        """
        try:
            # opened anew: it may be read in forked processes, and be deleted at any time
            with io.FileIO(self.rows_path) as file:
                return [self._read_row(file, number, row, start) for number, row in zip(numbers, into)]
        except OSError:
            return [False] * len(numbers)

    def _read_row(self, file: io.FileIO, number: int, row: np.ndarray, start: int) -> bool:
        file.seek(number * self.layout.row_bytes + start)
        return file.readinto(row) == len(row)

    def state(self) -> dict[str, int] | None:
        """By what a change of the rows shows: their bytes, when these and their file changed last (ns), and how many
        of them count; None where they are gone.
        """
        try:
            found = self.rows_path.stat()
        except OSError:
            return None
        return {
            "bytes": found.st_size,
            "changed_ns": found.st_mtime_ns,
            "touched_ns": found.st_ctime_ns,
            "rows": len(self.live),
        }

    def is_remembered(self, state: dict[str, int] | None) -> bool:
        """Whether all rows were whole when the file was in this state."""
        try:
            return state is not None and json.loads(self.path.with_suffix(CHECKED).read_bytes()) == state
        except (OSError, ValueError):
            return False

    def remember(self, state: dict[str, int]) -> None:
        """Keep the state of a file whose rows are whole; where that cannot be written, the next start looks again."""
        with suppress(OSError):
            with open(self.rows_path, "rb") as file:
                os.fsync(file.fileno())  # what is whole in memory alone may be lost with the machine
            with atomic_path(self.path.with_suffix(CHECKED), flush=False) as partial:
                partial.write_text(json.dumps(state))

    def forget(self) -> None:
        """Let the next start look at all rows."""
        with suppress(OSError):
            self.path.with_suffix(CHECKED).unlink(missing_ok=True)


def read_owner(path: Path) -> str:
    """Whose entries an index is of.

    Raises:
        ShardError: it is damaged.
    """
    with open(path, "rb") as file:
        return _header(file.readline(MOST_HEADER))["owner"]


def _is_whole(record: bytes) -> bool:
    return CHECK.unpack_from(record, RECORD.size)[0] == zlib.crc32(record[: RECORD.size])


def _read_header(line: bytes, owner: str) -> Layout:
    header = _header(line)
    if header["owner"] != owner:
        raise ShardError(f"it is another's, of {header['owner']}")
    return Layout(header["parts"])


def _header(line: bytes) -> dict:
    try:
        header = json.loads(line)
        header["owner"], Layout(header["parts"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError("its first line is damaged") from error
    if header["format"] != FORMAT:
        raise ShardError(f"its format is {header['format']}, this version reads {FORMAT}")
    return header


class ShardWriter:
    """A new shard, with a name of its own.

    Args:
        folder: made where it is not there.
        owner: of the entries.
        layout: of the rows.

    Raises:
        OSError: the files cannot be made; none is left then.
    """

    def __init__(self, folder: Path, owner: str, layout: Layout) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.layout, self.count = folder / f"shard-{uuid4().hex}{INDEX}", layout, 0
        header = json.dumps({"format": FORMAT, "owner": owner, "parts": layout.parts}).encode() + b"\n"
        self.header_bytes, self.is_torn = len(header), False
        try:
            # the rows first: an index always has them
            self._rows = open(self.path.with_suffix(ROWS), "xb", buffering=0)  # noqa: SIM115  as long as this object
            self._index = open(self.path, "xb", buffering=0)  # noqa: SIM115
            _write(self._index, header)
        except BaseException:
            for suffix in (INDEX, ROWS):
                self.path.with_suffix(suffix).unlink(missing_ok=True)
            raise

    @property
    def is_full(self) -> bool:
        """Whether another row would make it too large, or it could not be cut back after a failure."""
        return self.is_torn or (self.count > 0 and (self.count + 1) * self.layout.row_bytes > LARGEST)

    def append(self, record: Record, row: bytes) -> None:
        """Add a row and then its record, of the number `count`.

        Raises:
            OSError: the disk is full; the shard is as before.
        """
        content = RECORD.pack(*record)
        try:
            _write(self._rows, row)
            _write(self._index, content + CHECK.pack(zlib.crc32(content)))
        except BaseException:
            self._cut_back()
            raise
        self.count += 1

    def _cut_back(self) -> None:
        self.is_torn = True
        ends = (self.count * self.layout.row_bytes, self.header_bytes + self.count * RECORD_BYTES)
        for file, end in zip((self._rows, self._index), ends):
            file.truncate(end)
            file.seek(end)
        self.is_torn = False


def _write(file: io.RawIOBase, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def row_digest(row: bytes | np.ndarray, owner: str, key: bytes) -> bytes:
    """The checksum of a row: of its bytes, and of whose it is."""
    return labeled_digest(row, owner.encode() + key, DIGEST_BYTES)
