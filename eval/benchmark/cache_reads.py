"""Reading of a complete cache: a batch from shards and from a file an image, and the look at all of it before a
training.

The entries are random numbers in the sizes of SAM at 256 pixels: neither depends on what they say. All files are in the
system's page cache.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from scripts.cache.entries import stack
from scripts.cache.entry_files import CHECKSUM, LABELS, entry_file, read_entry_file
from scripts.cache.entry_store import EntryStore
from scripts.utils.digests import entry_digest
from scripts.utils.hardware import keep_freed_memory

from .measure import peak_memory
from .settings import Settings

BATCH, BATCHES, OWNER = 16, 16, "benchmark"
MASKS, FEATURES, THUMBNAIL = (1, 64, 64), (256, 16, 16), (16, 16)
DEVICE = torch.device("cpu")


def read_batches(settings: Settings, features: bool) -> dict[str, float]:
    """Seconds of a batch of 16: read from shards (`batch_seconds`), read for the first time in a process, when
    checksums are compared (`first_seconds`), read and made float32 (`float_seconds`), and from a file an image, made
    float32, as version 0.7 did (`file_seconds`).

    Args:
        settings: of the run.
        features: with embeddings.
    """
    keep_freed_memory()
    folder = settings.folder / f"cache_read_{features}"
    keys = _write(folder, BATCH * BATCHES, features, settings.seed)
    store = EntryStore(folder / "shards", OWNER)
    parts = ("masks", "features") if features else ("masks",)

    def from_files(some: list[str]) -> None:
        entries = [read_entry_file(folder / "files", OWNER, key) for key in some]
        for part in parts:
            stack(entries, part, DEVICE)

    def made_float(some: list[str]) -> None:
        batch = store.read_batch(some)
        for part in parts:
            batch[part].to(DEVICE).float()

    ways = {"first": store.read_batch, "batch": store.read_batch, "float": made_float, "file": from_files}
    figures = {f"{name}_seconds": median(_seconds(way, keys)) for name, way in ways.items()}
    return {**figures, "images": BATCH}


def look(settings: Settings, count: int) -> dict[str, float]:
    """Seconds until a new process knows that a complete cache is complete: where it has to read every row
    (`first_look_seconds`), since nothing was kept about the files, as after a filling that was stopped, and from
    then on (`look_seconds`). The process that writes rows trusts them: a start after a whole filling reads none.

    Args:
        settings: of the run.
        count: of the images.
    """
    folder = settings.folder / f"cache_look_{count}"
    keys = _write(folder, count, features=False, seed=settings.seed, files=False)
    first, again = _look(folder / "shards", keys), _look(folder / "shards", keys)
    return {"first_look_seconds": first, "look_seconds": again, "images": count, **peak_memory()}


def _look(folder: Path, keys: list[str]) -> float:
    start = time.perf_counter()
    parts = EntryStore(folder, OWNER).whole_parts(keys)
    seconds = time.perf_counter() - start
    if not all(parts):
        raise RuntimeError("the cache that was written is not complete.")
    return seconds


def _seconds(way, keys: list[str]) -> list[float]:
    seconds = []
    for i in range(0, len(keys), BATCH):
        start = time.perf_counter()
        way(keys[i : i + BATCH])
        seconds.append(time.perf_counter() - start)
    return seconds


def _write(folder: Path, count: int, features: bool, seed: int, files: bool = True) -> list[str]:
    """Write a cache in both forms; its keys, in another order than they lie in."""
    rng = random.Random(seed)
    keys = [f"{rng.getrandbits(160):040x}" for _ in range(count)]
    store = EntryStore(folder / "shards", OWNER)
    for key, entry in zip(keys, _entries(features, seed)):
        store.write(key, entry)
        if files:
            write_entry_file(folder / "files", OWNER, key, entry)
    rng.shuffle(keys)
    return keys


def _entries(features: bool, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"masks": MASKS, **({"features": FEATURES} if features else {})}
    while True:
        entry = {name: torch.randn(shape, generator=generator).half() for name, shape in shapes.items()}
        yield {**entry, "thumbnail": torch.zeros(THUMBNAIL, dtype=torch.uint8)}


def write_entry_file(folder: Path, owner: str, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write an entry as version 0.7 did, see `scripts/cache/entry_files.py`."""
    path, labels = entry_file(folder, key), dict(zip(LABELS, (owner, key)))
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, {**labels, CHECKSUM: entry_digest(tensors, labels)})
