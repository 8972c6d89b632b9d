"""Images without labels in a distillation: which ones teach, and how they are mixed into the batches.

They bring the teacher's terms of the loss alone. Each batch holds a fixed number of them beside the labeled ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any, Protocol

import numpy as np
import torch

from ..utils.screen import tell


class ReadsTeacher(Protocol):
    """A loss that says whether any of its terms reads the teacher."""

    needs_teacher: bool


def check_share(share: float) -> None:
    """Refuse a share of unlabeled images that is no number from 0 to below 1.

    Raises:
        ValueError: naming the key.
    """
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share < 1:
        raise ValueError(
            f"data::unlabeled_share must be a number from 0 (off) to below 1, got {share!r}: some images of each batch "
            "have labels. configs/pretrain.json trains without any label."
        )


def unlabeled_cases(data: Any, loss: ReadsTeacher) -> list[dict]:
    """The unlabeled images that a training learns from; [] where `data::unlabeled_share` is 0.

    Args:
        data: the section `data`, with `unlabeled`, `unlabeled_share` and `training`.
        loss: that they are to teach by.

    Raises:
        ValueError: no term of the loss reads the teacher, so that they would teach nothing.
    """
    if not data.unlabeled_share:
        return []
    if not loss.needs_teacher:
        raise ValueError(
            f"data::unlabeled_share is {data.unlabeled_share:g}, but no term of the loss reads a teacher, so that "
            "images without labels teach nothing; pass --data::unlabeled_share 0 (a control and a teacher's tuning "
            "learn from labels alone), or --distillation::beta 0.5."
        )
    beside = f" beside {len(data.training)} with labels" if data.unlabeled_share < 1 else ""
    tell(f"images without labels: {len(data.unlabeled)} teach{beside}")
    return data.unlabeled


def count_unlabeled(batch_size: int, share: float) -> int:
    """Unlabeled images of each batch.

    Args:
        batch_size: images of a batch.
        share: from 0 to below 1.

    Raises:
        ValueError: a batch would hold none of one kind.
    """
    if not share:
        return 0
    count = round(batch_size * share)
    if not 0 < count < batch_size:
        raise ValueError(
            f"data::unlabeled_share {share:g} of training::batch_size {batch_size} is {count} images, so that a batch "
            f"holds none {'with' if count else 'without'} a label; pass a share from {1 / batch_size:.2g} to "
            f"{1 - 1 / batch_size:.2g}, or a larger --training::batch_size."
        )
    return count


def endless_passes(count: int, seed: int, start: int, step: int) -> Iterator[tuple[int, int]]:
    """(index, pass) along an endless row of shuffles of `count` images, each of which is a pass over all of them.

    So every image comes equally often, and each time in another view, however few or many an epoch takes.

    Args:
        count: of the images, positive.
        seed: of the order.
        start: place in the row to begin at.
        step: from one place to the next.
    """
    number, order = -1, torch.arange(0)
    for place in iter(range(start, 2**62, step)):
        if place // count != number:
            number = place // count
            mixed = int(np.random.SeedSequence((seed, number, count)).generate_state(1)[0])
            order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed))
        yield int(order[place % count]), number
