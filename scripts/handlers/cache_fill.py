"""Before the first batch: the teacher computes what its cache lacks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from ignite.engine import Engine, Events
from monai.utils import CommonKeys
from torch import nn
from torch.utils.data import Dataset

from ..data.segment import resize_image


class CacheFill:
    """Calls the teacher's `fill` when the training starts, with the images that panels and final evaluation ask about.

    Args:
        teacher: one without `fill` (online), or None (the control), has nothing to do.
        panels: data set whose first images `PanelWriter` draws; None draws nothing.
        evaluation: `run_evaluation` with its arguments, as the run will call it; None where it ends without.
        num_panels: as num_cases of `PanelWriter`.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        panels: Dataset | None = None,
        evaluation: partial | None = None,
        num_panels: int = 4,
    ) -> None:
        self.teacher, self.panels, self.evaluation, self.num_panels = teacher, panels, evaluation, num_panels
        self.filled = False

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the run's log."""
        if hasattr(self.teacher, "fill"):
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self) -> None:
        """Fill the cache, once: a trainer that runs again, as in each round of a federation, finds it filled."""
        if not self.filled:
            self.teacher.fill(self._images(), self._count())
        self.filled = True

    def _count(self) -> int:
        return self._num_drawn() + (len(self.evaluation.keywords["dataset"]) if self._evaluates_teacher() else 0)

    def _num_drawn(self) -> int:
        return min(self.num_panels, len(self.panels)) if self.panels is not None else 0

    def _evaluates_teacher(self) -> bool:
        networks = self.evaluation.keywords["networks"].values() if self.evaluation is not None else ()
        return any(network is self.teacher for network in networks)

    def _images(self) -> Iterator[torch.Tensor]:
        """Images (1, H, W), one by one, exactly as the teacher will be given them."""
        for index in range(self._num_drawn()):
            yield self.panels[index][CommonKeys.IMAGE]
        if self._evaluates_teacher():
            dataset, img_size = (self.evaluation.keywords[key] for key in ("dataset", "img_size"))
            for index in range(len(dataset)):
                yield resize_image(torch.as_tensor(dataset[index][CommonKeys.IMAGE]).float(), img_size)
