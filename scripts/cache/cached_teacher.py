"""The teacher's outputs, computed once and read from then on: what makes distillation cost no more than plain training.

A teacher is frozen, so what it says of an image never changes. Two modes use that:

- replay: each image has K seeded augmented views; the logits of every view (and its embedding where the loss reads it)
  are kept. Exact: the student sees what it would see with the teacher beside it and the same views.
- warp: the logits of each image as it is (and its embedding where the loss reads it) are kept and moved along with its
  rotation, zoom, shift and flip, which may differ in every epoch; gamma and contrast change the image alone. An
  approximation: a teacher is not quite equivariant, and outside of the image there is nothing to move: logits are
  background there, embeddings those of the border.

Entries are fp16 at the decoder's resolution (8 KiB a view for SAM at 256 pixels, two classes) and are enlarged as the
teacher does it. Each is found by what it depends on: the teacher's files by content, its settings and precision, the
image file, the preprocessing, the augmentation and the seed. Anything else is a miss. Beside its outputs an entry holds
a thumbnail of the image that the teacher saw, so that even a view whose name is the same, but not its pixels (code that
changed), is refused (replay) or computed again (warp).

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
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from ..data.dataset import BASE, ViewLoader
from ..utils.files import atomic_path
from ..utils.options import MODES, ONLINE, REPLAY, WARP
from .entry_store import EntryStore, explain

logger = logging.getLogger(__name__)

VERSION = 2  # of the entries: raised when their content changes
THUMBNAIL, TOLERANCE = 16, 3  # pixels a side; gray levels of 255: other processors round differently
SPARE_BYTES = 2**26  # of the disk, left free


class CachedOutput(NamedTuple):
    """What a teacher says of a batch: logits (B, 1 or C, S, S), unnormalized; features (B, 256, h', w') or None
    where not kept.
    """

    logits: torch.Tensor
    features: torch.Tensor | None


def teacher_for_mode(
    teacher: nn.Module,
    mode: str,
    dataset: Dataset,
    cache_dir: str | Path | None,
    device: torch.device,
    num_epochs: int,
    needed: bool = True,
    keep_features: bool = False,
    batch_size: int = 4,
    num_workers: int = 0,
) -> nn.Module | None:
    """The teacher to train with: itself (online), or a `CachedTeacher`; its weights are loaded if they are going to be
    needed.

    Args:
        teacher: see `CachedTeacher`.
        mode: `online`, `replay` or `warp`.
        dataset: the training views.
        cache_dir: of the entries.
        device: of the teacher.
        num_epochs: of the training; views that it does not reach are left out.
        needed: whether the loss reads the teacher; if not, there is none.
        keep_features: whether the loss reads embeddings.
        batch_size: images a teacher pass while the cache fills.
        num_workers: processes that prepare views while the cache fills.

    Raises:
        ValueError: an unknown mode, or files of the teacher that do not fit.
        OSError: entries are missing and the folder cannot be written or has too little space.
    """
    if mode not in MODES:
        raise ValueError(f"distillation::mode must be one of {', '.join(MODES)}, got {mode!r}.")
    if not needed:
        logger.info("no term of the loss reads the teacher: it is neither loaded nor evaluated")
        return None
    teacher.to(device)
    if mode == ONLINE:
        teacher.load()
        return teacher
    if not cache_dir:
        raise ValueError(
            f"distillation::mode {mode} needs a folder, got {cache_dir!r}; pass --teacher::cache_dir PATH."
        )
    cached = CachedTeacher(teacher, mode, dataset, cache_dir, num_epochs, keep_features, batch_size, num_workers)
    return cached.to(device)


def teacher_key(teacher: nn.Module | None) -> str:
    """What tells a teacher of `teacher_for_mode` from others, as a hash in hex; `none` where there is none (the
    control).
    """
    return "none" if teacher is None else teacher.key  # a None would vanish from the settings that the config collects


class CachedTeacher(nn.Module):
    """A teacher whose outputs for the views of a data set are read from disk: (images, view) -> `CachedOutput`.

    Images without a view (panels, an evaluation) are looked up by their pixels, and computed where `fill` was not told
    of them. What is computed after the fill and cannot be written is used all the same.

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
        num_epochs: int,
        keep_features: bool = False,
        batch_size: int = 4,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.teacher, self.mode, self.dataset = teacher, mode, dataset
        self.keep_features = keep_features
        self.batch_size, self.num_workers = batch_size, num_workers
        self.num_epochs = num_epochs
        self.writable = True  # until a write fails
        self.about = {"version": VERSION, "teacher": teacher.description}
        owner = hashlib.blake2b(json.dumps(self.about, sort_keys=True).encode(), digest_size=20).hexdigest()
        self.store = EntryStore(Path(cache_dir) / f"teacher-{owner[:20]}", owner)
        self.views = self._views()
        self.missing = self._find_missing(self.views)
        if self.missing:
            teacher.load()  # a file that does not fit shows before the run has written anything
            self._require_space()

    def forward(self, image: torch.Tensor, view: Mapping[str, torch.Tensor] | None = None) -> CachedOutput:
        """What the teacher says of a batch.

        Args:
            image: (B, 1 or 3, H, W) in [0, 1].
            view: "index" (B,) and "number" (B,) of the views, and for warp "theta" (B, 2, 3); None looks the images up
                by content.

        Raises:
            ValueError: an entry belongs to another image than this one, or is gone and cannot be computed.
            FloatingPointError: the teacher, asked anew, gives no finite numbers.
        """
        if view is None:
            keys, names = [self._content_key(one) for one in image], ["an image without a name"] * len(image)
            entries = self._entries(keys, image, names, keep_features=False)
            return CachedOutput(self.teacher.enlarge(_stack(entries, "masks", image.device)), None)
        numbers = [BASE] * len(image) if self.mode == WARP else view["number"].tolist()
        indices = view["index"].tolist()
        keys = [self._key(index, number) for index, number in zip(indices, numbers)]
        if self.mode == WARP:
            entries = self._present(keys)
        else:
            entries = self._entries(keys, image, [self._case(index) for index in indices], self.keep_features)
        masks = _stack(entries, "masks", image.device)
        features = _stack(entries, "features", image.device) if self.keep_features else None
        if self.mode == WARP and "theta" in view:
            masks = warp(masks, view["theta"].to(masks))
            if self.keep_features:
                features = warp_features(features, view["theta"].to(features))
        return CachedOutput(self.teacher.enlarge(masks), features)

    @property
    def key(self) -> str:
        """The teacher's own, whatever the mode."""
        return self.teacher.key

    def fill(self, images: Iterable[torch.Tensor] = ()) -> None:
        """Compute the entries that are missing, with a progress bar; resumable at any moment, and shared by all ranks.

        Args:
            images: further ones (1, H, W), that the run will ask about without a view.

        Raises:
            OSError: the disk is full or the folder cannot be written.
            FloatingPointError: the teacher gives no finite numbers.
        """
        mine = self._find_missing(self.views[idist.get_rank() :: idist.get_world_size()], look=self.mode == WARP)
        if mine:
            self._fill_views(mine)
        self._fill_images(islice(images, idist.get_rank(), None, idist.get_world_size()))
        idist.barrier()
        self.missing = self._find_missing(self.views) if self.missing or mine else []
        if self.missing:
            raise OSError(
                errno.EIO, f"{len(self.missing)} entries of the cache {self.store.folder} vanished while it was filled."
            )
        unused = "" if self.teacher.is_loaded else "; the teacher's weights are not loaded"
        logger.info("teacher cache: complete, %d entries in %s%s", len(self.views), self.store.folder, unused)

    def _fill_views(self, missing: list[tuple[int, int]]) -> None:
        logger.info("teacher cache: %s", self._plan(len(missing)))
        with atomic_path(self.store.folder / "about.json") as partial:
            partial.write_text(json.dumps(self.about, indent=4) + "\n")
        loader = ViewLoader(self.dataset, batch_size=self.batch_size, sampler=missing, num_workers=self.num_workers)
        seconds = []
        hidden = idist.get_rank() > 0 or None  # None: where there is no terminal
        with tqdm(total=len(missing), desc="Filling the teacher cache", unit="view", disable=hidden) as progress:
            for batch in loader:
                started = time.perf_counter()
                done = self._fill_batch(batch)
                seconds += [(time.perf_counter() - started) / done] if done else []
                if len(seconds) == 2:  # the first pass of a process is slow
                    logger.info("teacher cache: %s", self._payback(seconds[-1], len(missing)))
                progress.update(len(batch["case"]))

    def _fill_images(self, images: Iterable[torch.Tensor]) -> None:
        """Ask about images (1, H, W) without a view, one by one as an evaluation does; ends where nothing can be
        kept.
        """
        hidden = idist.get_rank() > 0 or None
        for image in tqdm(images, "Filling for panels and evaluation", unit="image", leave=False, disable=hidden):
            self(image[None].to(self._device))
            if not self.writable:
                break

    def _views(self) -> list[tuple[int, int]]:
        """(index, number) of every view that the training will ask for."""
        count = 1 if self.mode == WARP else min(self.dataset.views or self.num_epochs, self.num_epochs)
        first = BASE if self.mode == WARP else 0
        if self.mode == REPLAY and self.dataset.views is None:
            raise ValueError("distillation::mode replay needs views that come back, but train::dataset::views is null.")
        if self.mode == WARP and self.dataset.augmentation is not None and "theta" not in self.dataset[0, 0]["view"]:
            raise ValueError(
                "distillation::mode warp needs an augmentation that gives 'theta', where its pixels come from, as "
                "joint_augmentation "
                "does; pass --distillation::mode replay."
            )
        return [(index, first + number) for number in range(count) for index in range(len(self.dataset))]

    def _key(self, index: int, number: int) -> str:
        return self.dataset.view_key(index, number)

    def _content_key(self, image: torch.Tensor) -> str:
        digest = hashlib.blake2b(image.detach().contiguous().cpu().numpy(), digest_size=20)
        digest.update(f"{tuple(image.shape)}".encode())
        return digest.hexdigest()

    def _case(self, index: int) -> str:
        return str(self.dataset.data[index]["image"])

    @property
    def _device(self) -> torch.device:
        return next(self.teacher.buffers()).device

    def _find_missing(self, views: Sequence[tuple[int, int]], look: bool = False) -> list[tuple[int, int]]:
        """The views without a whole entry; damaged ones count, and after a look at the images those of other pixels
        too.
        """
        if not look:
            return [
                view for view in views if not self._is_usable(self.store.read(self._key(*view)), self.keep_features)
            ]
        self.dataset.fill()
        missing = [view for view in views if not self._is_of(self._key(*view), self.dataset[view]["image"])]
        stale = sum(self.store.path(self._key(*view)).is_file() for view in missing)
        if stale:
            logger.warning(
                "%d entries in %s are of other pixels or damaged: they are computed again.", stale, self.store.folder
            )
        return missing

    def _is_usable(self, entry: Mapping[str, torch.Tensor] | None, keep_features: bool) -> bool:
        return entry is not None and (not keep_features or "features" in entry)

    def _is_of(self, key: str, image: torch.Tensor) -> bool:
        """Whether a key has a usable entry, and it was computed from this image (1 or 3, H, W)."""
        entry = self.store.read(key)
        return self._is_usable(entry, self.keep_features) and not _differing([entry], image[None])

    def _is_superseded(self, key: str, entry: Mapping[str, torch.Tensor]) -> bool:
        """Whether another run has written more than this entry meanwhile, its embedding too."""
        found = self.store.read(key) if self.store.path(key).is_file() else None
        return found is not None and found.keys() > entry.keys() and torch.equal(found["thumbnail"], entry["thumbnail"])

    def _fill_batch(self, batch: Mapping) -> int:
        """Compute what another run has not done by now; returns how many views that were."""
        pairs = zip(batch["view"]["index"].tolist(), batch["view"]["number"].tolist())
        todo = [(i, self._key(*pair)) for i, pair in enumerate(pairs)]
        todo = [(i, key) for i, key in todo if not self._is_of(key, batch["image"][i])]
        if todo:
            entries = self._compute(
                batch["image"][[i for i, _ in todo]], [batch["case"][i] for i, _ in todo], self.keep_features
            )
            for (_, key), entry in zip(todo, entries):
                if not self._is_superseded(key, entry):
                    self.store.write(key, entry)
        return len(todo)

    @torch.inference_mode()
    def _compute(self, images: torch.Tensor, names: list[str], keep_features: bool) -> list[dict[str, torch.Tensor]]:
        """What the teacher says of images (B, 1 or 3, H, W), in fp16."""
        masks, features = self.teacher.segment(images.to(self._device))
        entries = []
        for i, name in enumerate(names):
            parts = {"masks": masks[i], **({"features": features[i]} if keep_features else {})}
            _require_finite(parts, name)
            parts = {part: _storable(tensor) for part, tensor in parts.items()}
            entries.append({**parts, "thumbnail": thumbnails(images[i : i + 1])[0].clone()})
        return entries

    def _entries(
        self, keys: list[str], image: torch.Tensor, names: list[str], keep_features: bool
    ) -> list[dict[str, torch.Tensor]]:
        """Entries of images (B, 1 or 3, H, W) that are at hand; what is missing is computed, and kept if possible."""
        entries = [self.store.read(key) for key in keys]
        lost = [i for i, entry in enumerate(entries) if not self._is_usable(entry, keep_features)]
        for i, entry in zip(lost, self._compute(image[lost], [names[i] for i in lost], keep_features) if lost else ()):
            entries[i] = entry
            self._try_to_keep(keys[i], entry)
        if wrong := _differing(entries, image):
            raise ValueError(
                f"the teacher cache entry {self.store.path(keys[wrong[0]])} was computed from another image than the "
                "one it is to go "
                f"with: preprocessing or augmentation have changed in the code. Delete {self.store.folder}, or pass "
                "another "
                "--teacher::cache_dir."
            )
        return entries

    def _present(self, keys: list[str]) -> list[dict[str, torch.Tensor]]:
        """Entries whose images are not at hand."""
        entries = [self.store.read(key) for key in keys]
        lost = sum(not self._is_usable(entry, self.keep_features) for entry in entries)
        if lost:
            raise ValueError(
                f"{lost} entries of the teacher cache {self.store.folder} are gone or damaged since the run started; "
                "start it "
                "again, which computes them, by --training::resume."
            )
        return entries

    def _try_to_keep(self, key: str, entry: Mapping[str, torch.Tensor]) -> None:
        if not self.writable or self._is_superseded(key, entry):
            return
        try:
            self.store.write(key, entry)
        except OSError as error:
            self.writable = False
            logger.warning("%s The run goes on, and computes what it cannot keep each time anew.", error.strerror)

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

    def _plan(self, missing: int) -> str:
        kind = "one view" if self.mode == WARP else f"{len(self.views) // len(self.dataset)} views"
        total = len(self.views)
        return (
            f"{len(self.dataset)} images, {kind} each, {_size(total * self._entry_bytes())} in {self.store.folder}; "
            f"{missing} of {total} are to be computed{' by this process' if idist.get_world_size() > 1 else ''}, once"
        )

    def _payback(self, seconds: float, missing: int) -> str:
        """When the cache has cost less than the teacher in every step."""
        epochs = missing / len(self.dataset)
        return (
            f"{seconds:.2f} s a view, about {missing * seconds / 60:.1f} min in all, what the teacher would take in "
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


def warp_features(features: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """An embedding (B, D, h, w) of an image, placed as its view is: bilinear, and outside of the image as at its
    border.

    Args:
        features: of the teacher.
        theta: (B, 2, 3), see `RandFlipRotateZoomd`.
    """
    grid = F.affine_grid(theta, list(features.shape), align_corners=False)
    return F.grid_sample(features, grid, padding_mode="border", align_corners=False)


def thumbnails(image: torch.Tensor) -> torch.Tensor:
    """Images (B, 1 or 3, H, W) in [0, 1] -> (B, 16, 16) uint8."""
    return (F.adaptive_avg_pool2d(image.float().mean(1), THUMBNAIL) * 255).round().to(torch.uint8).cpu()


def _differing(entries: Sequence[Mapping[str, torch.Tensor]], image: torch.Tensor) -> list[int]:
    """Which entries are not of their images (B, 1 or 3, H, W), by the thumbnails."""
    stored = torch.stack([entry["thumbnail"] for entry in entries]).int()
    return ((stored - thumbnails(image).int()).abs().flatten(1).amax(1) > TOLERANCE).nonzero().flatten().tolist()


def _require_finite(parts: Mapping[str, torch.Tensor], name: str) -> None:
    for part, tensor in parts.items():
        if not tensor.isfinite().all():
            raise FloatingPointError(
                f"the teacher's {part} of {name} are not finite; look at this file and at teacher::lora_checkpoint, or "
                "pass "
                "--teacher::precision fp32."
            )


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
