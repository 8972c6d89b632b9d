"""Synthetic data sets of many images: the memory and the time that their prepared items take.

The images are random numbers in the student's size, with a label of two classes, and no files: what is measured is what
grows with the data set. One that is larger than `scripts.data.prepared.MOST_BYTES` lies in a file in TMPDIR.
"""

from __future__ import annotations

import time
from statistics import median

import torch

from scripts.data.dataset import ViewDataset
from scripts.utils.hardware import keep_freed_memory

from .measure import peak_memory
from .settings import Settings

BATCH, BATCHES = 16, 50


def keep_items(settings: Settings, count: int) -> dict[str, float]:
    """Seconds to keep an item and to read a batch of 16 in random order, before augmentation, and peak memory.

    Args:
        settings: of the run.
        count: of the images.
    """
    keep_freed_memory()
    drawn = _draw(settings)
    dataset = ViewDataset([{"image": str(number)} for number in range(count)], lambda _: _copied(drawn))
    start = time.perf_counter()
    dataset.fill()
    keep_seconds = (time.perf_counter() - start) / count
    order = torch.randint(count, (BATCHES, BATCH), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    seconds = []
    for batch in order:
        start = time.perf_counter()
        for index in batch:
            dataset[index]
        seconds.append(time.perf_counter() - start)
    return {"keep_seconds": keep_seconds, "batch_seconds": median(seconds), "images": count, **peak_memory()}


def _copied(item: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Another item of the same numbers."""
    return {key: tensor.clone() for key, tensor in item.items()}


def _draw(settings: Settings) -> dict[str, torch.Tensor]:
    """An image in [0, 1] and a label, (1, H, W) each."""
    image = torch.rand(1, settings.img_size, settings.img_size, generator=torch.Generator().manual_seed(settings.seed))
    return {"image": image, "label": (image > 0.5).float()}
