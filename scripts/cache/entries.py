"""The teacher's outputs as entries on disk: read where they are there, computed where they are not.

An entry holds logits in fp16 at the decoder's resolution (8 KiB a view for SAM at 256 pixels, two classes), the
embedding where a loss reads it, and a thumbnail of the image that the teacher saw. By the thumbnail even a view whose
name is the same, but not its pixels (code that changed), is found out.

Shapes: B batch, C classes, H W pixels of the student's image, h w of the decoder's logits.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..utils.digests import array_digest, json_digest
from .entry_store import EntryStore
from .shards import RECORD_BYTES

logger = logging.getLogger(__name__)

VERSION = 2  # of the entries: raised when their content changes
THUMBNAIL, TOLERANCE = 16, 3  # pixels a side; gray levels of 255: other processors round differently
Entry = Mapping[str, torch.Tensor]


class TeacherEntries:
    """What a frozen teacher says of images, by key.

    What cannot be written is used all the same; `writable` is False from the first failure on.

    Args:
        teacher: see `CachedTeacher`.
        cache_dir: of the entries; each teacher has a folder in it.
        keep_features: keep embeddings too.
    """

    def __init__(self, teacher: nn.Module, cache_dir: str | Path, keep_features: bool = False) -> None:
        self.teacher, self.keep_features = teacher, keep_features
        self.about = {"version": VERSION, "teacher": teacher.description}
        owner = json_digest(self.about)
        self.store = EntryStore(Path(cache_dir) / f"teacher-{owner[:20]}", owner)
        self.writable = True
        self._fitting = sys.maxsize  # images of a teacher pass

    @property
    def device(self) -> torch.device:
        """Where the teacher is."""
        return next(self.teacher.buffers()).device

    @property
    def entry_bytes(self) -> int:
        """Size of an entry on disk."""
        numbers = torch.Size(self.teacher.mask_shape).numel()
        numbers += torch.Size(self.teacher.feature_shape).numel() if self.keep_features else 0
        return 2 * numbers + THUMBNAIL**2 + RECORD_BYTES

    def are_there(self, keys: Sequence[str]) -> list[bool]:
        """Whether each key has a whole entry; damaged ones count as missing."""
        needed = {"masks", "features"} if self.keep_features else {"masks"}
        return [needed <= parts for parts in self.store.whole_parts(keys)]

    def are_of(self, keys: Sequence[str], images: torch.Tensor) -> list[bool]:
        """Whether each key has a whole entry, and it was computed from its image of (B, 1 or 3, H, W)."""
        there = self.are_there(keys)
        found = self.store.read_part(keys, "thumbnail")
        pairs = zip(found, thumbnails(images))
        return [is_there and not _differs(one, other) for is_there, (one, other) in zip(there, pairs)]

    def lacking(self, keys: Sequence[str], images: torch.Tensor) -> list[int]:
        """Which of the keys have no whole entry of their image of (B, 1 or 3, H, W) by now; reads these rows alone."""
        self.store.refresh()
        entries = self.store.read(keys)
        others = differing([entry and entry.get("thumbnail") for entry in entries], images)
        return [i for i, entry in enumerate(entries) if i in others or not is_usable(entry, self.keep_features)]

    @torch.inference_mode()
    def compute(self, images: torch.Tensor, names: Sequence[str], keep_features: bool) -> list[Entry]:
        """What the teacher says of images (B, 1 or 3, H, W), in fp16.

        Raises:
            FloatingPointError: it gives no finite numbers.
        """
        masks, features = self._segment(images.to(self.device))
        entries = []
        for i, name in enumerate(names):
            parts = {"masks": masks[i], **({"features": features[i]} if keep_features else {})}
            _require_finite(parts, name)
            parts = {part: _storable(tensor) for part, tensor in parts.items()}
            entries.append({**parts, "thumbnail": thumbnails(images[i : i + 1])[0].clone()})
        return entries

    def _segment(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The teacher's pass, from then on in halves where the GPU's memory is too small."""
        if len(images) <= self._fitting:
            try:
                return self.teacher.segment(images)
            except torch.OutOfMemoryError:
                if len(images) == 1:
                    raise
            self._fitting = -(-len(images) // 2)
            logger.warning(
                "the GPU's memory is too small for %d images: the teacher gets at most %d at once from now on.",
                len(images),
                self._fitting,
            )
        masks, features = zip(*(self._segment(half) for half in images.chunk(2)))
        return torch.cat(masks), None if features[0] is None else torch.cat(features)

    def write(self, key: str, entry: Entry) -> None:
        """Keep an entry, unless another run has written more of the same image meanwhile."""
        self.store.refresh()
        (present,) = self.store.read([key])
        more = present is not None and present.keys() > entry.keys()
        if not (more and torch.equal(present["thumbnail"], entry["thumbnail"])):
            self.store.write(key, entry)

    def present(self, keys: Sequence[str]) -> list[Entry]:
        """Entries whose images are not at hand.

        Raises:
            ValueError: one is gone.
        """
        entries = self.store.read(keys)
        lost = sum(not is_usable(entry, self.keep_features) for entry in entries)
        if lost:
            raise ValueError(
                f"{lost} entries of the teacher cache {self.store.folder} are gone or damaged since the run started; "
                "start it again, which computes them (with --training::resume where an epoch is complete)."
            )
        return entries

    def of_images(
        self, keys: Sequence[str], image: torch.Tensor, names: Sequence[str], keep_features: bool
    ) -> list[Entry]:
        """Entries of images (B, 1 or 3, H, W) that are at hand; what is missing is computed, and kept if possible.

        Raises:
            ValueError: an entry was computed from another image.
        """
        entries = self.store.read(keys)
        if any(entry is None for entry in entries):
            self.store.refresh()
            entries = self.store.read(keys)
        lost = [i for i, entry in enumerate(entries) if not is_usable(entry, keep_features)]
        computed = self.compute(image[lost], [names[i] for i in lost], keep_features) if lost else ()
        for i, entry in zip(lost, computed):
            entries[i] = entry
            self._try_to_write(keys[i], entry)
        if wrong := differing((entry["thumbnail"] for entry in entries), image):
            raise ValueError(
                f"the teacher cache entry {self.store.where(keys[wrong[0]])} was computed from another image than the "
                "one it is to go with: preprocessing or augmentation have changed in the code. Delete "
                f"{self.store.folder}, or pass another --teacher::cache_dir."
            )
        return entries

    def _try_to_write(self, key: str, entry: Entry) -> None:
        if not self.writable:
            return
        try:
            self.write(key, entry)
        except OSError as error:
            self.writable = False
            logger.warning("%s The run goes on, and computes what it cannot keep each time anew.", error.strerror)


def is_usable(entry: Entry | None, keep_features: bool) -> bool:
    """Whether an entry is there, with the embedding where it is asked for."""
    return entry is not None and (not keep_features or "features" in entry)


def content_key(image: torch.Tensor) -> str:
    """The key of an image (1 or 3, H, W) without a name: its pixels."""
    return array_digest(image.detach().cpu().numpy(), f"{tuple(image.shape)}")


def stack(entries: Iterable[Entry], part: str, device: torch.device) -> torch.Tensor:
    """One part of entries as (B, ...) float32; made float first, since autocast on the CPU does not stack fp16."""
    return torch.stack([entry[part].float() for entry in entries]).to(device)


def thumbnails(image: torch.Tensor) -> torch.Tensor:
    """Images (B, 1 or 3, H, W) in [0, 1] -> (B, 16, 16) uint8."""
    return (F.adaptive_avg_pool2d(image.float().mean(1), THUMBNAIL) * 255).round().to(torch.uint8).cpu()


def differing(stored: Iterable[torch.Tensor | None], image: torch.Tensor) -> list[int]:
    """Which thumbnails (16, 16) are not of their images (B, 1 or 3, H, W)."""
    return [i for i, (one, other) in enumerate(zip(stored, thumbnails(image))) if _differs(one, other)]


def _differs(stored: torch.Tensor | None, thumbnail: torch.Tensor) -> bool:
    return stored is None or bool(((stored.int() - thumbnail.int()).abs() > TOLERANCE).any())


def _require_finite(parts: Entry, name: str) -> None:
    for part, tensor in parts.items():
        if not tensor.isfinite().all():
            raise FloatingPointError(
                f"the teacher's {part} of {name} are not finite; look at this file and at teacher::lora_checkpoint, or "
                "pass --teacher::precision fp32."
            )


def _storable(tensor: torch.Tensor) -> torch.Tensor:
    """fp16, within its range, on the CPU."""
    if tensor.is_floating_point():
        limit = torch.finfo(torch.float16).max
        tensor = tensor.float().clamp(-limit, limit).half()
    return tensor.cpu().clone()
