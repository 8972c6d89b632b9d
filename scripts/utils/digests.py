"""Hashes of content: what tells one file, setting or network from another, whatever its name.

No function here needs torch to be imported, so that programs without networks start at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

BLOCK = 2**24  # bytes read at once


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()  # hashlib.file_digest is not in Python 3.10
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def bytes_digest(content: bytes) -> str:
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def content_digest(content: bytes) -> str:
    """BLAKE2b of bytes, in hex."""
    return hashlib.blake2b(content).hexdigest()


def text_digest(text: str, size: int = 20) -> str:
    """BLAKE2b of a text, in hex, of `size` bytes."""
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def json_digest(value: Any, size: int = 20) -> str:
    """BLAKE2b, in hex, of what JSON can write, whatever the order of keys; other values count as their text."""
    return text_digest(json.dumps(value, sort_keys=True, default=str), size)


def labeled_digest(content: bytes | np.ndarray, label: bytes, size: int) -> bytes:
    """The first `size` bytes of the SHA-256 of a label and of bytes; processors of today have an instruction for it."""
    digest = hashlib.sha256(label)
    digest.update(content)
    return digest.digest()[:size]


def array_digest(array: np.ndarray, note: str) -> str:
    """BLAKE2b of 20 bytes, in hex, over the bytes of an array in C order and a note on how to read them, such as its
    shape.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(array), digest_size=20)
    digest.update(note.encode())
    return digest.hexdigest()


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256, in hex, over names, types, shapes and bytes of a state dict, whatever its order."""
    return _add_tensors(hashlib.sha256(), state)


def entry_digest(tensors: Mapping[str, torch.Tensor], labels: Mapping[str, str] | None = None) -> str:
    """BLAKE2b of 16 bytes, in hex, over names, types, shapes and bytes, whatever the order, and over labels."""
    return _add_tensors(hashlib.blake2b(json.dumps(labels or {}, sort_keys=True).encode(), digest_size=16), tensors)


def _add_tensors(digest: Any, tensors: Mapping[str, torch.Tensor]) -> str:
    """The hex digest with all tensors added, in the order of their names."""
    import torch

    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
