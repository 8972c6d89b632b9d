"""The prepared items of a data set: kept in memory where they are few, otherwise in a temporary file.

Nothing is rounded. Labels are kept in a byte a pixel where that holds all their values, images as they are. The file
has no name, so that it is gone with the process that made it, however that ends; TMPDIR says on which disk. It is read
by position, so that worker processes read it too, and what the system keeps of it in memory it can take back.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from math import prod
from multiprocessing.reduction import DupFd
from threading import Lock
from typing import Any, NamedTuple

import torch

from ..utils.screen import tell

MOST_BYTES = 2**31  # of a data set's items in memory
SPARE_BYTES = 2**30  # of the disk, left free
Item = Mapping[str, torch.Tensor]


class Packed(NamedTuple):
    """A tensor with fewer bytes, and the type that it has again when it is read."""

    tensor: torch.Tensor
    dtype: torch.dtype


class Place(NamedTuple):
    """Where a packed tensor lies in the file."""

    start: int
    shape: torch.Size
    kept: torch.dtype
    dtype: torch.dtype


class PreparedItems:
    """Items by their index; what `get` returns is the caller's own.

    Args:
        count: of the items of the data set.
    """

    def __init__(self, count: int) -> None:
        self._items: list[dict[str, Packed | Place] | None] = [None] * count
        self._file: int | None = None
        self._owner, self._end, self._planned = os.getpid(), 0, False
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process that is started, not forked."""
        file = None if self._file is None else DupFd(self._file)
        return {**self.__dict__, "_lock": None, "_file": file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        file = state["_file"]
        self.__dict__.update(state, _lock=Lock(), _file=None if file is None else file.detach())

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)

    def missing(self) -> list[int]:
        """The indices of which there is no item."""
        return [index for index, item in enumerate(self._items) if item is None]

    def get(self, index: int) -> dict[str, torch.Tensor] | None:
        """A copy of an item; None where there is none."""
        item = self._items[index]
        return None if item is None else {key: self._read(part) for key, part in item.items()}

    def put(self, index: int, item: Item) -> None:
        """Keep an item."""
        packed = {key: _pack(tensor) for key, tensor in item.items()}
        with self._lock:
            if not self._planned:
                self._plan(sum(part.tensor.nbytes for part in packed.values()) * len(self._items))
            # another process would write to the same places
            if self._file is not None and os.getpid() == self._owner:
                packed = {key: self._write(part) for key, part in packed.items()}
            self._items[index] = packed

    def _plan(self, size: int) -> None:
        """Choose memory or a file for items of so many bytes in all."""
        self._planned = True
        if size <= MOST_BYTES or not hasattr(os, "preadv"):
            return
        folder, gigabytes = tempfile.gettempdir(), f"{size / 1e9:.0f} GB"
        free = shutil.disk_usage(folder).free
        self._file = _reserved(folder, size) if free >= size + SPARE_BYTES else None
        if self._file is None:
            tell(
                f"the prepared images take {gigabytes} and stay in memory: {folder} cannot hold them "
                f"({free / 1e9:.0f} GB free). Set TMPDIR to a folder with space to keep them there."
            )
            return
        tell(f"the prepared images take {gigabytes} and are kept in a file in {folder} (TMPDIR) while the run lasts")

    def _write(self, packed: Packed) -> Packed | Place:
        if type(packed.tensor) is not torch.Tensor or not packed.tensor.numel():  # metadata stay in memory
            return packed
        content = packed.tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        place = Place(self._end, packed.tensor.shape, packed.tensor.dtype, packed.dtype)
        written = 0
        while written < len(content):
            try:
                written += os.pwrite(self._file, content[written:], self._end + written)
            except OSError as error:
                folder = tempfile.gettempdir()
                raise OSError(
                    error.errno,
                    f"the prepared images cannot be kept in {folder} ({os.strerror(error.errno)}); free space there, "
                    "or set TMPDIR to a folder with space.",
                ) from error
        self._end += len(content)
        return place

    def _read(self, part: Packed | Place) -> torch.Tensor:
        if isinstance(part, Packed):
            same = part.tensor.dtype == part.dtype
            return part.tensor.clone() if same else part.tensor.to(part.dtype)
        content = torch.empty(prod(part.shape) * part.kept.itemsize, dtype=torch.uint8)
        view, done = memoryview(content.numpy()), 0
        while done < len(content):
            got = os.preadv(self._file, [view[done:]], part.start + done)
            if not got:
                raise OSError(errno.EIO, "the file of the prepared images ends too early; start the run again.")
            done += got
        return content.view(part.kept).reshape(part.shape).to(part.dtype)


def _reserved(folder: str, size: int) -> int | None:
    """A file without a name; its space is taken at once, so that other processes do not count on it. None where there
    is none.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError:
                return None
        return os.dup(file.fileno())


def _pack(tensor: torch.Tensor) -> Packed:
    """Bytes in place of larger numbers, where they give back the same."""
    if type(tensor) is torch.Tensor and tensor.dtype not in (torch.uint8, torch.bool):
        small = tensor.clamp(0, 255).to(torch.uint8)  # other numbers would wrap around
        if torch.equal(small.to(tensor.dtype), tensor):
            return Packed(small, tensor.dtype)
    return Packed(tensor, tensor.dtype)
