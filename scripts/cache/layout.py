"""How the tensors of an entry lie in a row of bytes.

Shapes: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch

ALIGNMENT = 8  # bytes of a row are a multiple of it


class Layout:
    """How the parts of an entry lie in a row: larger numbers first, so that each part is aligned.

    Args:
        parts: name -> name of a torch dtype, shape.
    """

    def __init__(self, parts: Mapping[str, tuple[str, Sequence[int]]]) -> None:
        self.parts = {name: (dtype, tuple(shape)) for name, (dtype, shape) in parts.items()}
        self.names = frozenset(self.parts)
        order = sorted(parts, key=lambda name: (-_dtype(parts[name][0]).itemsize, name))
        self.places: dict[str, tuple[int, int]] = {}  # first byte, and the one after the last
        end = 0
        for name in order:
            dtype, shape = self.parts[name]
            self.places[name] = (end, end + prod(shape) * _dtype(dtype).itemsize)
            end = self.places[name][1]
        self.row_bytes = -(-end // ALIGNMENT) * ALIGNMENT
        self._hash = hash(tuple(sorted(self.parts.items())))

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Layout:
        """Of the rows of entries like this one."""
        return cls({name: (str(t.dtype).removeprefix("torch."), t.shape) for name, t in tensors.items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.parts == other.parts

    def __hash__(self) -> int:
        return self._hash

    def pack(self, tensors: Mapping[str, torch.Tensor]) -> bytes:
        """The row of an entry."""
        row = bytearray(self.row_bytes)
        for name, (start, end) in self.places.items():
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            row[start:end] = flat.view(torch.uint8).numpy().tobytes()
        return bytes(row)

    def unpack(self, rows: torch.Tensor, start: int = 0) -> dict[str, torch.Tensor]:
        """Parts (B, ...) of rows (B, bytes) uint8, as views of them; those parts that lie whole in the rows.

        Args:
            rows: or a slice of their bytes.
            start: first byte of the slice.
        """
        parts, stop = {}, start + rows.shape[1]
        for name, (first, end) in self.places.items():
            if start <= first and end <= stop:
                dtype, shape = self.parts[name]
                part = rows[:, first - start : end - start].view(_dtype(dtype))
                parts[name] = part.reshape(len(rows), *shape) if shape else part[:, 0]
        return parts


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)
