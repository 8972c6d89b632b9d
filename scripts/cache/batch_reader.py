"""What the cache holds of the views of a batch, read where the batch is made: in a loader's worker if there is one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.utils.data import Dataset

from ..data.dataset import BASE
from .entries import differing
from .entry_store import EntryStore

SOURCE = "outputs_of"  # whose outputs are beside a view


class BatchReader:
    """Views of a batch -> the teacher's outputs for them, as they are stored.

    Args:
        store: of the entries.
        dataset: of the views.
        base: read the outputs for the images before augmentation (mode warp); otherwise for the views, whose images
            are compared with those of the entries.
        keep_features: read embeddings too.
    """

    def __init__(self, store: EntryStore, dataset: Dataset, base: bool, keep_features: bool) -> None:
        self.store, self.base = store, base
        # not the data set, which will hold this reader: MONAI walks through its attributes in every worker
        self.view_key = dataset.view_key
        self.parts = ("masks", "features") if keep_features else ("masks",)
        self.source = f"{store.owner} {'base' if base else 'views'} {' '.join(self.parts)}"
        self._keys: dict[tuple[int, int], str] = {}

    def keys(self, view: Mapping[str, torch.Tensor]) -> list[str]:
        """The names of the entries of a batch's views."""
        numbers = [BASE] * len(view["index"]) if self.base else view["number"].tolist()
        return [self.key(pair) for pair in zip(view["index"].tolist(), numbers)]

    def key(self, view: tuple[int, int]) -> str:
        """The name of the entry of a view (index, number)."""
        if view not in self._keys:
            self._keys[view] = self.view_key(*view)
        return self._keys[view]

    def __call__(self, view: Mapping[str, torch.Tensor], image: torch.Tensor) -> dict[str, torch.Tensor | str]:
        """The parts (B, ...) fp16, and whose they are; nothing where an entry is missing, damaged or of another image.

        Args:
            view: "index" (B,) and "number" (B,).
            image: (B, 1 or 3, H, W), of the views.
        """
        found = self.store.read_batch(self.keys(view))
        if found is None or not found.keys() >= set(self.parts):
            return {}
        if not self.base and differing(found["thumbnail"], image):
            return {}
        return {SOURCE: self.source, **{part: found[part] for part in self.parts}}
