"""The teacher's outputs, computed once and read from then on: what makes distillation as cheap as plain training.

A teacher is frozen, so what it says of an image never changes. Two modes use that:

- replay: each image has K seeded augmented views; the logits of every view (and its embedding where the loss reads it)
  are kept. Exact: the student sees what it would see with the teacher beside it and the same views.
- warp: the logits of each image as it is (and its embedding where the loss reads it) are kept and moved along with its
  rotation, zoom, shift and flip, which may differ in every epoch; gamma and contrast change the image alone. An
  approximation, see warp.py.

An entry is found by what it depends on: the teacher's files by content, its settings and precision, the image file, the
preprocessing, the augmentation and the seed. Anything else is a miss.

Shapes: B batch, C classes, H W pixels of the student's image, S pixels of the teacher's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from ..data.dataset import BASE
from ..data.views import VIEW_KEYS
from ..utils.options import MODES, ONLINE, REPLAY, WARP, check_choice
from .batch_reader import SOURCE, BatchReader
from .entries import TeacherEntries, content_key, stack
from .filling import Filling, View, fitting_batch
from .warp import warp, warp_features

logger = logging.getLogger(__name__)

PARTS = ("masks", "features")


class CachedOutput(NamedTuple):
    """What a teacher says of a batch.

    logits: (B, 1 or C, S, S), unnormalized. features: (B, 256, h', w'), or None where they are not kept.
    """

    logits: torch.Tensor
    features: torch.Tensor | None


def teacher_for_mode(
    teacher: nn.Module,
    loss: nn.Module,
    mode: str,
    dataset: Dataset,
    device: torch.device,
    num_epochs: int,
    batch_size: int | None = None,
    num_workers: int = 0,
) -> nn.Module | None:
    """The teacher to train with: itself (online), or a `CachedTeacher`; None where the loss reads no teacher.

    Its weights are loaded if they are going to be needed.

    Args:
        teacher: see `CachedTeacher`; its `cache_dir` is where the entries are kept.
        loss: `needs_teacher` and `needs_features` tell what it reads.
        mode: `online`, `replay` or `warp`.
        dataset: the training views.
        device: of the teacher.
        num_epochs: of the training; views that it does not reach are left out.
        batch_size: images a teacher pass while the cache fills; None takes what fits the device.
        num_workers: processes that prepare views while the cache fills.

    Raises:
        ValueError: an unknown mode, or files of the teacher that do not fit.
        OSError: entries are missing and the folder cannot be written or has too little space.
    """
    check_choice("distillation::mode", mode, MODES)
    if not loss.needs_teacher:
        logger.info("no term of the loss reads the teacher: it is neither loaded nor evaluated")
        return None
    teacher.to(device)
    if mode == ONLINE:
        teacher.load()
        return teacher
    if not teacher.cache_dir:
        raise ValueError(
            f"distillation::mode {mode} needs a folder, got {teacher.cache_dir!r}; pass --teacher::cache_dir PATH."
        )
    cached = CachedTeacher(
        teacher, mode, dataset, teacher.cache_dir, num_epochs, loss.needs_features, batch_size, num_workers
    )
    return cached.to(device)


class CachedTeacher(nn.Module):
    """A teacher whose outputs for the views of a data set are read from disk: (images, view) -> `CachedOutput`.

    Images without a view (panels, an evaluation) are looked up by their pixels, and computed where `fill` was not told
    of them.

    Args:
        teacher: frozen; offers `segment`, `enlarge`, `load`, `key`, `description`, `mask_shape` and `feature_shape`, as
            `FrozenTeacher` does.
        mode: `replay` or `warp`.
        dataset: the training views.
        cache_dir: of the entries.
        num_epochs: see `teacher_for_mode`.
        keep_features: whether the loss reads embeddings.
        batch_size: see `teacher_for_mode`; likewise num_workers.

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
        batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.teacher, self.mode, self.dataset = teacher, mode, dataset
        self.keep_features = keep_features
        self.entries = TeacherEntries(teacher, cache_dir, keep_features)
        self.reader = BatchReader(self.entries.store, dataset, mode == WARP, keep_features)
        views = _views(dataset, mode, num_epochs)
        batch_size = batch_size or fitting_batch(self.entries.device, teacher.feature_shape[-1])
        self.filling = Filling(self.entries, dataset, self.reader, views, num_epochs, batch_size, num_workers)
        if self.filling.missing:
            teacher.load()  # a file that does not fit shows before the run has written anything
            self.filling.require_space()

    def forward(self, image: torch.Tensor, view: Mapping[str, torch.Tensor] | None = None) -> CachedOutput:
        """What the teacher says of a batch.

        Args:
            image: (B, 1 or 3, H, W) in [0, 1].
            view: "index" (B,) and "number" (B,) of the views, for warp "theta" (B, 2, 3), and what a loader has read
                beside them; None looks the images up by content.

        Raises:
            ValueError: an entry belongs to another image than this one, or is gone and cannot be computed.
            FloatingPointError: the teacher, asked anew, gives no finite numbers.
        """
        if view is None:
            keys, names = [content_key(one) for one in image], ["an image without a name"] * len(image)
            entries = self.entries.of_images(keys, image, names, keep_features=False)
            return CachedOutput(self.teacher.enlarge(stack(entries, "masks", image.device)), None)
        outputs = view if view.get(SOURCE) == self.reader.source else self.reader(view, image)
        if outputs:
            masks, features = (outputs[part].to(image.device).float() if part in outputs else None for part in PARTS)
        else:
            masks, features = self._single(image, view)
        if self.mode == WARP and "theta" in view:
            theta, mirror, sector = (view[key].to(masks.device) if key in view else None for key in VIEW_KEYS)
            masks = warp(masks, theta, mirror, sector)
            features = warp_features(features, theta, mirror) if self.keep_features else None
        return CachedOutput(self.teacher.enlarge(masks), features)

    def _single(
        self, image: torch.Tensor, view: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits and embeddings, entry by entry, where a batch is not read whole."""
        keys = self.reader.keys(view)
        if self.mode == WARP:
            entries = self.entries.present(keys)
        else:
            names = [str(self.dataset.data[index]["image"]) for index in view["index"].tolist()]
            entries = self.entries.of_images(keys, image, names, self.keep_features)
        features = stack(entries, "features", image.device) if self.keep_features else None
        return stack(entries, "masks", image.device), features

    @property
    def key(self) -> str:
        """The teacher's own, whatever the mode."""
        return self.teacher.key

    def fill(self, images: Iterable[torch.Tensor] = (), count: int = 0) -> None:
        """Compute the entries that are missing, see `Filling.run`; from then on they are read where a batch is made.

        Args:
            images: further ones (1, H, W), that the run will ask about without a view.
            count: of these images.
        """
        self.dataset.beside = None
        self.filling.run(images, count, self)
        self.dataset.beside = self.reader


def _views(dataset: Dataset, mode: str, num_epochs: int) -> list[View]:
    """(index, number) of every view that the training will ask for."""
    if mode == WARP:
        if dataset.augmentation is not None and "theta" not in dataset[0, 0]["view"]:
            raise ValueError(
                "distillation::mode warp needs an augmentation that gives 'theta', where its pixels come from, as "
                "joint_augmentation does; pass --distillation::mode replay."
            )
        return [(index, BASE) for index in range(len(dataset))]
    if mode == REPLAY and dataset.views is None:
        raise ValueError("distillation::mode replay needs views that come back, but train::dataset::views is null.")
    count = min(dataset.views or num_epochs, num_epochs)
    # how often an image without a label comes is not the number of epochs
    last = dataset.views if dataset.num_labeled < len(dataset) else count
    views = [(index, number) for number in range(last) for index in range(len(dataset))]
    return [(index, number) for index, number in views if number < count or index >= dataset.num_labeled]
