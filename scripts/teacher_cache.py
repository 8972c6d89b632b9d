"""The teacher's outputs, computed once and read from then on: what makes distillation cost no more than plain training.

A teacher is frozen, so what it says of an image never changes. Two modes use that:

- replay: each image has K seeded augmented views; the logits of every view (and its embedding when gamma > 0) are kept. Exact: the
  student sees what it would see with the teacher beside it and the same views.
- warp: the logits of each image as it is are kept and moved along with its rotation, zoom and flip, which may differ in every epoch;
  gamma and contrast change the image alone. An approximation: a teacher is not quite equivariant.

Entries are fp16 at the decoder's resolution (8 KiB a view for SAM at 256 pixels, two classes) and are enlarged as the teacher does it.
Each is found by what it depends on: the teacher's files by content and its settings, the image file, the preprocessing, the
augmentation and the seed. Anything else is a miss. Beside its outputs an entry holds a thumbnail of the image that the teacher saw, so
that even a view whose name is the same, but not its pixels (code that changed), is refused.

Shapes: B batch, C classes, H W pixels of the student's image, h w of the decoder's logits.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from .data.dataset import BASE, ViewLoader
from .entry_store import EntryStore, explain
from .files import atomic_path
from .sections import MODES, ONLINE, REPLAY, WARP

logger = logging.getLogger(__name__)

VERSION = 1  # of the entries: raised when their content changes
THUMBNAIL, TOLERANCE = 16, 3  # pixels a side; gray levels of 255: other processors round differently
SPARE_BYTES = 2**26  # of the disk, left free


class CachedOutput(NamedTuple):
    """What a teacher says of a batch: logits (B, 1 or C, S, S), unnormalized; features (B, 256, h', w') or None where not kept."""

    logits: torch.Tensor
    features: torch.Tensor | None


def teacher_for_mode(
    teacher: nn.Module,
    mode: str,
    dataset: Dataset,
    cache_dir: str | Path | None,
    inferer: Callable,
    device: torch.device,
    num_epochs: int,
    keep_features: bool = False,
    precision: str = "auto",
    batch_size: int = 4,
    num_workers: int = 0,
) -> nn.Module:
    """The teacher to train with: itself (online), or a `CachedTeacher`; its weights are loaded if they are going to be needed.

    Args:
        teacher: see `CachedTeacher`.
        mode: `online`, `replay` or `warp`.
        dataset: the training views.
        cache_dir: of the entries.
        inferer: runs a network on a batch in the run's precision.
        device: of the teacher.
        num_epochs: of the training; views that it does not reach are left out.
        keep_features: whether the loss reads embeddings.
        precision: that was asked for, part of every key.
        batch_size: images a teacher pass while the cache fills.
        num_workers: processes that prepare views while the cache fills.

    Raises:
        ValueError: an unknown mode, or files of the teacher that do not fit.
        OSError: entries are missing and the folder cannot be written or has too little space.
    """
    if mode not in MODES:
        raise ValueError(f"distillation::mode must be one of {', '.join(MODES)}, got {mode!r}.")
    teacher.to(device)
    if mode == ONLINE:
        teacher.load()
        return teacher
    if not cache_dir:
        raise ValueError(f"distillation::mode {mode} needs a folder, got {cache_dir!r}; pass --teacher::cache_dir PATH.")
    cached = CachedTeacher(teacher, mode, dataset, cache_dir, inferer, num_epochs, keep_features, precision, batch_size, num_workers)
    return cached.to(device)


class CachedTeacher(nn.Module):
    """A teacher whose outputs for the views of a data set are read from disk: (images, view) -> `CachedOutput`.

    Images without a view (panels, an evaluation) are looked up by their pixels and computed at the first meeting.

    Args:
        teacher: frozen; offers `segment`, `enlarge`, `load`, `key`, `description`, `mask_shape` and `feature_shape`, as
            `FrozenTeacher` does.
        others: see `teacher_for_mode`.

    Raises:
        ValueError, OSError: see `teacher_for_mode`.
    """

    reads_views = True

    def __init__(
        self,
        teacher: nn.Module,
        mode: str,
        dataset: Dataset,
        cache_dir: str | Path,
        inferer: Callable,
        num_epochs: int,
        keep_features: bool = False,
        precision: str = "auto",
        batch_size: int = 4,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.teacher, self.mode, self.dataset, self.inferer = teacher, mode, dataset, inferer
        self.keep_features = keep_features
        self.batch_size, self.num_workers = batch_size, num_workers
        self.num_epochs = num_epochs
        self.about = {"version": VERSION, "precision": precision, "teacher": teacher.description}
        name = hashlib.blake2b(json.dumps(self.about, sort_keys=True).encode(), digest_size=10).hexdigest()
        self.store = EntryStore(Path(cache_dir) / f"teacher-{name}")
        self.views = self._views()
        self.missing = self._find_missing(self.views)
        if self.missing:
            self._require_space()
            teacher.load()  # a file that does not fit shows before the run has written anything

    def forward(self, image: torch.Tensor, view: Mapping[str, torch.Tensor] | None = None) -> CachedOutput:
        """What the teacher says of a batch.

        Args:
            image: (B, 1 or 3, H, W) in [0, 1].
            view: "index" (B,) and "number" (B,) of the views, and for warp "theta" (B, 2, 3); None looks the images up by content.

        Raises:
            ValueError: an entry belongs to another image than this one.
        """
        if view is None:
            keys, numbers = [self._content_key(one) for one in image], None
        else:
            numbers = [BASE] * len(image) if self.mode == WARP else view["number"].tolist()
            keys = [self._key(index, number) for index, number in zip(view["index"].tolist(), numbers)]
        entries = self._entries(keys, image, computable=view is None or self.mode == REPLAY)
        if view is None or self.mode == REPLAY:
            self._check_thumbnails(keys, entries, image)
        masks = _stack(entries, "masks", image.device)
        if view is not None and "theta" in view and self.mode == WARP:
            masks = warp(masks, view["theta"].to(masks))
        features = None
        if all("features" in entry for entry in entries):
            features = _stack(entries, "features", image.device)
        return CachedOutput(self.teacher.enlarge(masks), features)

    def fill(self) -> None:
        """Compute the entries that are missing, with a progress bar; resumable at any moment, and shared by all ranks.

        Raises:
            OSError: the disk is full or the folder cannot be written.
        """
        if not self.missing:
            logger.info("teacher cache: complete, %d entries in %s; the teacher's weights are not loaded", len(self.views), self.store.folder)
            return
        logger.info("teacher cache: %s", self._plan())
        with atomic_path(self.store.folder / "about.json") as partial:
            partial.write_text(json.dumps(self.about, indent=4) + "\n")
        mine = self.missing[idist.get_rank() :: idist.get_world_size()]
        loader = ViewLoader(self.dataset, batch_size=self.batch_size, sampler=mine, num_workers=self.num_workers)
        seconds = []
        with tqdm(total=len(mine), desc="Filling the teacher cache", unit="view", disable=None) as progress:
            for batch in loader:
                started = time.perf_counter()
                done = self._fill_batch(batch)
                seconds += [(time.perf_counter() - started) / done] if done else []
                if len(seconds) == 2:  # the first pass of a process is slow
                    logger.info("teacher cache: %s", self._payback(seconds[-1]))
                progress.update(len(batch["case"]))
        idist.barrier()
        self.missing = self._find_missing(self.views)
        if self.missing:
            raise OSError(errno.EIO, f"{len(self.missing)} entries of the cache {self.store.folder} vanished while it was filled.")
        logger.info("teacher cache: complete, %d entries in %s", len(self.views), self.store.folder)

    def _views(self) -> list[tuple[int, int]]:
        """(index, number) of every view that the training will ask for."""
        count = 1 if self.mode == WARP else min(self.dataset.views or self.num_epochs, self.num_epochs)
        first = BASE if self.mode == WARP else 0
        if self.mode == REPLAY and self.dataset.views is None:
            raise ValueError("distillation::mode replay needs views that come back, but train::dataset::views is null.")
        if self.mode == WARP and self.dataset.augmentation is not None and "theta" not in self.dataset[0, 0]["view"]:
            raise ValueError(
                "distillation::mode warp needs an augmentation that gives 'theta', where its pixels come from, as joint_augmentation "
                "does; pass --distillation::mode replay."
            )
        return [(index, first + number) for number in range(count) for index in range(len(self.dataset))]

    def _key(self, index: int, number: int) -> str:
        return self.dataset.view_key(index, number)

    def _content_key(self, image: torch.Tensor) -> str:
        digest = hashlib.blake2b(image.detach().contiguous().cpu().numpy(), digest_size=20)
        digest.update(f"{tuple(image.shape)}".encode())
        return digest.hexdigest()

    def _find_missing(self, views: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The views without a whole entry; damaged ones count."""
        return [view for view in views if not self._is_usable(self.store.read(self._key(*view)))]

    def _is_usable(self, entry: Mapping[str, torch.Tensor] | None) -> bool:
        return entry is not None and (not self.keep_features or "features" in entry)

    def _fill_batch(self, batch: Mapping) -> int:
        """Compute what another run has not done by now; returns how many views that were."""
        pairs = zip(batch["view"]["index"].tolist(), batch["view"]["number"].tolist())
        todo = [(i, self._key(*pair)) for i, pair in enumerate(pairs)]
        todo = [(i, key) for i, key in todo if not self._is_usable(self.store.read(key))]
        if todo:
            self._compute([key for _, key in todo], batch["image"][[i for i, _ in todo]], self.keep_features)
        return len(todo)

    @torch.inference_mode()
    def _compute(self, keys: list[str], images: torch.Tensor, keep_features: bool) -> list[dict[str, torch.Tensor]]:
        """Run the teacher on images (B, 1, H, W), and keep what it says in fp16."""
        device = next(self.teacher.buffers()).device
        masks, features = self.inferer(images.to(device), self.teacher.segment)
        entries = []
        for i, key in enumerate(keys):
            entry = {"masks": masks[i], "thumbnail": thumbnails(images[i : i + 1])[0]}
            if keep_features:
                entry["features"] = features[i]
            entry = {name: _storable(tensor) for name, tensor in entry.items()}
            self.store.write(key, entry)
            entries.append(entry)
        return entries

    def _entries(self, keys: list[str], image: torch.Tensor, computable: bool) -> list[dict[str, torch.Tensor]]:
        entries = [self.store.read(key) for key in keys]
        lost = [i for i, entry in enumerate(entries) if not (self._is_usable(entry) or (entry and not computable))]
        if lost and not computable:
            raise ValueError(
                f"{len(lost)} entries of the teacher cache {self.store.folder} are gone or damaged since the run started; start it "
                "again, which computes them, by --training::resume."
            )
        for i, entry in zip(lost, self._compute([keys[i] for i in lost], image[lost], self.keep_features) if lost else ()):
            entries[i] = entry
        return entries

    def _check_thumbnails(self, keys: list[str], entries: list[dict[str, torch.Tensor]], image: torch.Tensor) -> None:
        stored = torch.stack([entry["thumbnail"] for entry in entries]).int()
        wrong = ((stored - thumbnails(image).int()).abs().flatten(1).amax(1) > TOLERANCE).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(
                f"the teacher cache entry {self.store.path(keys[wrong[0]])} was computed from another image than the one it is to go "
                f"with: preprocessing or augmentation have changed in the code. Delete {self.store.folder}, or pass another "
                "--teacher::cache_dir."
            )

    def _entry_bytes(self) -> int:
        numbers = torch.Size(self.teacher.mask_shape).numel()
        numbers += torch.Size(self.teacher.feature_shape).numel() if self.keep_features else 0
        return 2 * numbers + THUMBNAIL**2 + 256  # the file's header

    def _require_space(self) -> None:
        """Refuse a folder that cannot hold what is missing, before anything is computed."""
        needed, folder = len(self.missing) * self._entry_bytes(), self.store.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise OSError(error.errno, explain(folder, error)) from error
        if free < needed + SPARE_BYTES:
            raise OSError(errno.ENOSPC, explain(folder, f"it needs {_size(needed)} and {_size(free)} are free"))

    def _plan(self) -> str:
        kind = "one view" if self.mode == WARP else f"{len(self.views) // len(self.dataset)} views"
        total, missing = len(self.views), len(self.missing)
        return (
            f"{len(self.dataset)} images, {kind} each, {_size(total * self._entry_bytes())} in {self.store.folder}; "
            f"{missing} of {total} are to be computed, once"
        )

    def _payback(self, seconds: float) -> str:
        """When the cache has cost less than the teacher in every step."""
        epochs = len(self.missing) / len(self.dataset)
        return (
            f"{seconds:.2f} s a view, about {len(self.missing) * seconds / 60:.1f} min in all, what the teacher would take in "
            f"{epochs:.2g} epochs online: it pays from epoch {int(epochs) + 1} of {self.num_epochs} on"
            + ("" if self.num_epochs > epochs else ", and in later runs that share it")
        )


def warp(logits: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Logits (B, C, h, w) of an image, seen as its view is: bilinear, and outside of the image as background.

    Outside, every pixel gets the logits of the image's surest background pixel.

    Args:
        logits: unnormalized; channel 0 is the background where there are several.
        theta: (B, 2, 3), see `RandFlipRotateZoomd`.
    """
    flat = logits.flatten(2)
    background = -flat[:, 0] if flat.shape[1] == 1 else flat.log_softmax(1)[:, 0]
    surest = background.argmax(1)[:, None, None].expand(-1, flat.shape[1], 1)
    outside = flat.gather(2, surest)[..., None]  # (B, C, 1, 1)
    grid = F.affine_grid(theta, list(logits.shape), align_corners=False)
    return F.grid_sample(logits - outside, grid, align_corners=False) + outside


def thumbnails(image: torch.Tensor) -> torch.Tensor:
    """Images (B, 1 or 3, H, W) in [0, 1] -> (B, 16, 16) uint8."""
    return (F.adaptive_avg_pool2d(image.float().mean(1), THUMBNAIL) * 255).round().to(torch.uint8).cpu()


def _stack(entries: Iterable[Mapping[str, torch.Tensor]], name: str, device: torch.device) -> torch.Tensor:
    """(B, ...) float32; made float first, since autocast on the CPU does not stack fp16."""
    return torch.stack([entry[name].float() for entry in entries]).to(device)


def _storable(tensor: torch.Tensor) -> torch.Tensor:
    """fp16, within its range, on the CPU."""
    if tensor.is_floating_point():
        limit = torch.finfo(torch.float16).max
        tensor = tensor.float().clamp(-limit, limit).half()
    return tensor.cpu().clone()


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
