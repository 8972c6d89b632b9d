"""Entries as versions up to 0.7 kept them, a safetensors file each: read, and no longer written.

Their metadata say whose output they hold, and under which key, and have a checksum over all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..utils.digests import entry_digest

logger = logging.getLogger(__name__)

SUFFIX, CHECKSUM = ".safetensors", "blake2b"
LABELS = ("owner", "key")  # what an entry is of


def entry_file(folder: Path, key: str) -> Path:
    """The file of an entry, in one of 256 subfolders."""
    return folder / key[:2] / f"{key}{SUFFIX}"


def listed_keys(folder: Path) -> Iterator[str]:
    """The keys of all files of a folder."""
    return (path.name.removesuffix(SUFFIX) for path in sorted(folder.glob(f"[0-9a-f][0-9a-f]/*{SUFFIX}")))


def read_entry_file(folder: Path, owner: str, key: str) -> dict[str, torch.Tensor] | None:
    """The tensors of an entry; None where there is none, or, with a warning, where its file is damaged or another's."""
    path = entry_file(folder, key)
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
    if labels != dict(zip(LABELS, (owner, key))):
        logger.warning("cache entry %s is another's (of %s, key %s): it counts as missing.", path, *labels.values())
        return None
    return tensors
