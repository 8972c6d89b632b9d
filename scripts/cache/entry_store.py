"""Tensors kept on disk under a key, one file an entry: written whole or not at all, memory-mapped and checked when
read.

The files are safetensors. Their metadata say whose output they hold, and under which key, so that a folder or file
under another's name is no hit, and have a checksum over all of it. Any number of processes may read and write one
folder: the same key always means the same content, and a file takes its name only when it is complete.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..utils.digests import entry_digest
from ..utils.files import FULL, atomic_path

logger = logging.getLogger(__name__)

CHECKSUM = "blake2b"
LABELS = ("owner", "key")  # what an entry is of


class EntryStore:
    """Entries of named tensors in a folder.

    Args:
        folder: made when the first entry is written.
        owner: what the entries of the folder depend on beside their keys, as a text such as a hash.
    """

    def __init__(self, folder: str | Path, owner: str) -> None:
        self.folder = Path(folder)
        self.owner = owner

    def path(self, key: str) -> Path:
        """The file of an entry, in one of 256 subfolders."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def read(self, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors of an entry; None where there is none, or, with a warning, where its file is damaged or
        another's.
        """
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                # copied, so that a file that is cut off later cannot end the process by a bus error
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  not iterable
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            logger.warning("cache entry %s is damaged (%s): it counts as missing.", path, error)
            return None
        labels = {name: metadata.get(name, "") for name in LABELS}
        if entry_digest(tensors, labels) != metadata.get(CHECKSUM):
            logger.warning("cache entry %s is damaged (its checksum differs): it counts as missing.", path)
            return None
        if labels != self._labels(key):
            logger.warning("cache entry %s is another's (of %s, key %s): it counts as missing.", path, *labels.values())
            return None
        return tensors

    def write(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep the tensors under a key; an entry that is there is replaced.

        Raises:
            OSError: the disk is full or the folder cannot be written; the message says what can be done.
        """
        path = self.path(key)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        labels = self._labels(key)
        try:
            # not flushed to the disk: after a crash of the machine the checksum tells
            with atomic_path(path, flush=False) as partial:
                save_file(tensors, partial, {**labels, CHECKSUM: entry_digest(tensors, labels)})
        except (OSError, SafetensorError) as error:
            raise OSError(getattr(error, "errno", None) or errno.EIO, explain(self.folder, error)) from error

    def _labels(self, key: str) -> dict[str, str]:
        return dict(zip(LABELS, (self.owner, key)))


def explain(folder: Path, error: BaseException | str) -> str:
    """What to do about a folder that cannot be written."""
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
    free = "Free space, or pass" if isinstance(error, str) or error.errno in FULL else "Pass"
    return (
        f"the cache {folder} cannot be written ({reason}); entries written before are kept. {free} "
        "--teacher::cache_dir PATH to a folder with space that can be written, or --distillation::mode online."
    )
