"""A small teacher, views of phantoms and a cache of both, for the tests of the cache.

A test file makes fixtures of the functions `make_...`: `cached = pytest.fixture(make_cached)`, and so on; the names of
their arguments are those of fixtures.
"""

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

from eval.benchmark.cache_reads import write_entry_file
from scripts.cache.cached_teacher import teacher_for_mode
from scripts.cache.entry_store import EntryStore, read_cache
from scripts.cache.layout import Layout
from scripts.cache.shards import ShardWriter
from scripts.data.dataset import ViewDataset
from scripts.data.transforms import joint_augmentation
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.tuning import tunable_teacher

SETTINGS = {"preprocessing": "resize to 64", "augmentation": "the default"}


def make_frozen(sam_checkpoint, lora_checkpoint, tmp_path):
    """A function that builds the teacher, its arguments those of the section teacher."""
    return partial(
        FrozenTeacher,
        "vit_test",
        img_size=64,
        sam_checkpoint=str(sam_checkpoint),
        lora_checkpoint=str(lora_checkpoint),
        precision="fp32",
        cache_dir=str(tmp_path / "cache"),
    )


def make_other_lora(sam_checkpoint, tmp_path):
    """The file of another adapter."""
    torch.manual_seed(5)
    state = tunable_teacher(FrozenTeacher("vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint))).best_state()
    state |= {key: torch.randn_like(value) for key, value in state.items() if key.startswith("w_b_")}
    torch.save(state, tmp_path / "other.pth")
    return str(tmp_path / "other.pth")


def make_views(phantoms):
    """A function that makes the views of three phantoms, read without the config."""
    data = [{"image": str(path)} for path in sorted((phantoms / "images").glob("*.png"))[:3]]

    def read(entry):
        generator = torch.Generator().manual_seed(len(entry["image"]) + int(entry["image"][-6:-4]))
        return {"image": torch.rand(1, 64, 64, generator=generator)}

    def make(views=2, augmentation=joint_augmentation, seed=0, settings=SETTINGS):
        return ViewDataset(data, read, augmentation() if augmentation else None, seed, views, settings=settings)

    return make


def reading(needs_teacher=True, needs_features=False):
    """What is asked of a loss."""
    return SimpleNamespace(needs_teacher=needs_teacher, needs_features=needs_features)


def make_cached(frozen, views):
    """A function that builds the cached teacher of a mode."""

    def make(mode="replay", teacher=None, dataset=None, num_epochs=10, keep_features=False, **options):
        dataset = dataset or views(None if mode == "warp" else 2)
        loss = reading(needs_features=keep_features)
        return teacher_for_mode(teacher or frozen(), loss, mode, dataset, torch.device("cpu"), num_epochs, **options)

    return make


def batch(dataset, *pairs):
    """Images and the item "view" of a batch."""
    items = [dataset[pair] for pair in pairs]
    view = {key: torch.stack([torch.as_tensor(item["view"][key]) for item in items]) for key in items[0]["view"]}
    return torch.stack([item["image"] for item in items]), view


def kept(tmp_path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All whole entries of the cache."""
    return read_cache(tmp_path / "cache")


def row_files(tmp_path: Path) -> list[Path]:
    """The rows of all shards of the cache."""
    return sorted((tmp_path / "cache").rglob("*.rows"))


def as_files(store: EntryStore) -> None:
    """Keep the entries of a folder as version 0.7 did."""
    for key in store.all_keys():
        (entry,) = store.read([key])
        write_entry_file(store.folder, store.owner, key, entry)
    for path in store.folder.glob("shard-*"):
        path.unlink()


def spoil(store: EntryStore, key: str) -> Path:
    """Turn the first bit of an entry's row; returns the file of the rows."""
    path, _, number = store.where(key).rpartition(", row ")
    row_bytes = Layout.of(store.read([key])[0]).row_bytes
    with open(path, "r+b") as file:
        file.seek(int(number) * row_bytes)
        first = file.read(1)[0]
        file.seek(int(number) * row_bytes)
        file.write(bytes([first ^ 1]))
    return Path(path)


def refuse_writing(monkeypatch, number: int, after: int = 0) -> None:
    """Let appending of rows fail with the system's error `number`, after some that succeed."""
    append, calls = ShardWriter.append, []

    def refuse(self, record, row):
        calls.append(record)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        append(self, record, row)

    monkeypatch.setattr(ShardWriter, "append", refuse)
