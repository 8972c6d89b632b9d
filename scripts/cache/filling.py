"""Filling the cache: the teacher's pass over every view that a training will ask for, once.

It is resumable at any moment, shared by all ranks, and tells before it starts how large the cache gets and from which
epoch on it pays.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import ignite.distributed as idist
import torch
from torch.utils.data import Dataset

from ..data.dataset import ViewLoader
from ..utils.files import atomic_path, clear_leftovers
from ..utils.screen import Progress, duration, tell, track
from .batch_reader import BatchReader
from .entries import TeacherEntries
from .entry_files import entry_file
from .entry_store import explain

logger = logging.getLogger(__name__)

SPARE_BYTES = 2**26  # of the disk, left free
COMPARED = 64  # images at once
CPU_BATCH, MOST_IMAGES = 4, 64  # of a teacher pass
TOKEN_BYTES, PAIR_BYTES = 2**18, 2**7  # of SAM's largest encoder for each token, and for each pair of tokens
View = tuple[int, int]  # index of a case, number of its view


class Filling:
    """The views of a data set, and which of them have no entry yet.

    Args:
        entries: of the teacher.
        dataset: of the views.
        reader: of the training's batches; knows the names of the entries. Where it reads outputs for images before
            augmentation, entries are compared with their images, which takes these into memory; otherwise an entry
            counts by its name.
        views: that the training will ask for.
        num_epochs: of the training, for what is told.
        batch_size: images of a teacher pass.
        num_workers: processes that prepare views.
    """

    def __init__(
        self,
        entries: TeacherEntries,
        dataset: Dataset,
        reader: BatchReader,
        views: Sequence[View],
        num_epochs: int,
        batch_size: int = CPU_BATCH,
        num_workers: int = 0,
    ) -> None:
        self.entries, self.dataset, self.views = entries, dataset, views
        self.key, self.check_images, self.num_epochs = reader.key, reader.base, num_epochs
        self.batch_size, self.num_workers = batch_size, num_workers
        self.missing = self._without_entry(views)

    def require_space(self) -> None:
        """Refuse a folder that cannot hold what is missing, before anything is computed; makes nothing that stays.

        Raises:
            OSError: it cannot be written, or has too little space.
        """
        needed, free = len(self.missing) * self.entries.entry_bytes, self._free()
        if free < needed + SPARE_BYTES:
            text = explain(self.entries.store.folder, f"it needs {_size(needed)} and {_size(free)} are free")
            raise OSError(errno.ENOSPC, text)

    def _free(self) -> int:
        """Bytes that can be written into the folder.

        Raises:
            OSError: none can.
        """
        folder = self.entries.store.folder
        try:
            place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
            with tempfile.TemporaryFile(dir=place):
                pass
            return shutil.disk_usage(place).free
        except OSError as error:
            raise OSError(error.errno, explain(folder, error)) from error

    def run(self, images: Iterable[torch.Tensor], count: int, ask: Callable[[torch.Tensor], object]) -> None:
        """Compute the entries that are missing, and ask about further images.

        Args:
            images: (1, H, W) each, that the run will ask about without a view.
            count: of these images.
            ask: asks the cached teacher about images (1, 1, H, W), as an evaluation does.

        Raises:
            OSError: the disk is full or the folder cannot be written.
            FloatingPointError: the teacher gives no finite numbers.
        """
        if idist.get_rank() == 0:
            clear_leftovers(self.entries.store.folder, deep=True)
        self._adopt()
        share = self.views[idist.get_rank() :: idist.get_world_size()]
        mine = self._with_other_pixels(share) if self.check_images else self._without_entry(share)
        if mine:
            self._fill_views(mine, self._groups(share, mine))
        self._fill_images(islice(images, idist.get_rank(), None, idist.get_world_size()), count, ask)
        idist.barrier()
        self.missing = self._without_entry(self.views) if self.missing or mine else []
        if self.missing:
            folder = self.entries.store.folder
            raise OSError(
                errno.EIO,
                f"{len(self.missing)} entries of the cache {folder} vanished while it was filled; let nothing else "
                "remove files there, and start again.",
            )
        unused = "" if self.entries.teacher.is_loaded else "; the teacher's weights are not loaded"
        logger.info("teacher cache: complete, %d entries in %s%s", len(self.views), self.entries.store.folder, unused)

    def _without_entry(self, views: Sequence[View]) -> list[View]:
        """The views without a whole entry."""
        there = self.entries.are_there([self.key(view) for view in views])
        return [view for view, is_there in zip(views, there) if not is_there]

    def _with_other_pixels(self, views: Sequence[View]) -> list[View]:
        """The views without an entry of their pixels."""
        self.dataset.fill()
        missing = []
        for start in range(0, len(views), COMPARED):
            some = views[start : start + COMPARED]
            images = torch.stack([self.dataset[view]["image"] for view in some])
            are_of = self.entries.are_of([self.key(view) for view in some], images)
            missing += [view for view, is_of in zip(some, are_of) if not is_of]
        store = self.entries.store
        stale = sum(store.has(self.key(view)) for view in missing)
        if stale:
            logger.warning(
                "%d entries in %s are of other pixels or damaged: they are computed again.", stale, store.folder
            )
        return missing

    def _adopt(self) -> None:
        """Copy the entries of earlier versions into shards, where there is space; they are read from files until
        then.
        """
        store = self.entries.store
        keys = store.files_alone()
        idist.barrier()  # all ranks have the same list, of which none is copied yet
        is_first = idist.get_rank() == 0
        share = keys[idist.get_rank() :: idist.get_world_size()]
        try:
            if share and self._free() > _file_bytes(store.folder, keys) + SPARE_BYTES:
                store.adopt(track(share, "copying entries into shards", len(share), show=is_first))
        except OSError as error:
            logger.warning("%s The entries of an earlier version are read as they are.", error.strerror)
        idist.barrier()
        store.refresh()
        copied, left = len(keys), len(store.files_alone()) if keys else 0
        if copied > left and is_first:
            tell(
                f"teacher cache: {copied - left} entries that an earlier version kept as a file each are in shards "
                f"now; its folders 00 to ff in {store.folder} may be deleted once the cache is complete"
            )

    def _groups(self, share: Sequence[View], missing: Sequence[View]) -> list[View]:
        """The views of every batch that lacks one, in the batches of a filling from the start: what a teacher says of
        an image may depend, in the last bit, on those beside it, and must not on when a filling was stopped.
        """
        lost = set(missing)
        batches = [share[i : i + self.batch_size] for i in range(0, len(share), self.batch_size)]
        return [view for batch in batches if not lost.isdisjoint(batch) for view in batch]

    def _fill_views(self, missing: Sequence[View], views: Sequence[View]) -> None:
        show = idist.get_rank() == 0
        if show:
            tell(self._plan(len(missing)))
        with atomic_path(self.entries.store.folder / "about.json") as partial:
            partial.write_text(json.dumps(self.entries.about, indent=4) + "\n")
        loader = ViewLoader(self.dataset, batch_size=self.batch_size, sampler=views, num_workers=self.num_workers)
        seconds: list[float] = []
        with Progress("filling the teacher cache", len(views), "views", show) as progress:
            for batch in loader:
                started = time.perf_counter()
                computed = self._fill_batch(batch)
                if computed:
                    seconds.append((time.perf_counter() - started) / len(batch["case"]))
                if computed and len(seconds) == 2 and show:  # the first pass of a process is slow
                    tell(self._payback(seconds[-1], len(missing)))
                progress.update(len(batch["case"]))

    def _fill_images(self, images: Iterable[torch.Tensor], count: int, ask: Callable[[torch.Tensor], object]) -> None:
        """Ask about images (1, H, W) one by one; ends where nothing can be kept."""
        share = -(-count // idist.get_world_size())
        show = idist.get_rank() == 0
        for image in track(images, "filling the cache for panels and evaluation", share, show=show):
            ask(image[None].to(self.entries.device))
            if not self.entries.writable:
                break

    def _fill_batch(self, batch: Mapping) -> int:
        """Compute what another run has not done by now; returns how many views that were."""
        views = list(zip(batch["view"]["index"].tolist(), batch["view"]["number"].tolist()))
        keys = [self.key(view) for view in views]
        todo = self.entries.lacking(keys, batch["image"])
        if todo:
            entries = self.entries.compute(batch["image"], batch["case"], self.entries.keep_features)
            for i in todo:
                self.entries.write(keys[i], entries[i])
        return len(todo)

    def _plan(self, missing: int) -> str:
        total, images = len(self.views), len(self.dataset)
        kind = "1 view" if total == images else f"{total // images} views"
        size = _size(total * self.entries.entry_bytes)
        ranks = " by this process" if idist.get_world_size() > 1 else ""
        return (
            f"teacher cache: {images} images, {kind} each, {size}; {missing} of {total} to compute{ranks}, once\n"
            f"teacher cache: {self.entries.store.folder}"
        )

    def _payback(self, seconds: float, missing: int) -> str:
        """When the cache has cost less than the teacher in every step."""
        epochs = missing / len(self.dataset)
        later = "" if self.num_epochs > epochs else ", and in later runs that share it"
        return (
            f"teacher cache: {seconds:.2f} s a view, {duration(missing * seconds)} in all; it pays from epoch "
            f"{int(epochs) + 1} of {self.num_epochs} on{later}"
        )


def fitting_batch(device: torch.device, side: int) -> int:
    """Images of a teacher pass that take at most half of a GPU's memory, a power of two; few on the CPU, where more are
    not faster.

    It depends on the kind of device alone: with the batch the last bit of what a teacher says may change.

    Args:
        device: of the teacher.
        side: tokens along a side of its embedding.
    """
    if device.type != "cuda":
        return CPU_BATCH
    memory, tokens = torch.cuda.get_device_properties(device).total_memory, side**2
    fitting = memory // 2 // (tokens * (TOKEN_BYTES + PAIR_BYTES * tokens))
    return min(MOST_IMAGES, 2 ** (max(1, fitting).bit_length() - 1))


def _file_bytes(folder: Path, keys: Iterable[str]) -> int:
    """Of entries that are a file each; a row takes no more."""
    return sum(entry_file(folder, key).stat().st_size for key in keys)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
