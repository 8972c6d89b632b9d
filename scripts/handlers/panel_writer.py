"""Panels while training: epoch_010.png and so on, the same validation cases each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.data import Dataset


class PanelWriter:
    """Draws a few validation cases every few epochs.

    Args:
        folder: the run's visualizations folder.
        dataset: gives image (1, H, W) and label (1, H, W); None draws nothing.
        student: the network in training; images -> logits in eval mode.
        inferer: runs a network on a batch.
        device: of the networks.
        draw: (cases, path) -> None; a case is a dict of arrays (H, W) image, label, student and, with a teacher,
            teacher.
        classify: logits (B, 1 or C, H, W) -> class indices (B, 1, H, W).
        teacher: drawn beside the student; its masks are computed once.
        interval: epochs between panels.
        num_cases: of the data set's first cases.
    """

    def __init__(
        self,
        folder: str | Path,
        dataset: Dataset | None,
        student: nn.Module,
        inferer: Callable,
        device: torch.device,
        draw: Callable,
        classify: Callable[[torch.Tensor], torch.Tensor],
        teacher: nn.Module | None = None,
        interval: int = 10,
        num_cases: int = 4,
    ) -> None:
        self.folder = Path(folder)
        self.dataset = dataset
        self.student = student
        self.teacher = teacher
        self.inferer = inferer
        self.device = device
        self.draw = draw
        self.classify = classify
        self.interval = interval
        self.num_cases = num_cases
        self.teacher_masks: list | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; of several ranks with the first."""
        if idist.get_rank() == 0 and self.dataset is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        """Draw epoch_{N}.png."""
        cases = [self.dataset[i] for i in range(min(self.num_cases, len(self.dataset)))]
        images = torch.stack([case["image"] for case in cases]).to(self.device)
        self.student.eval()
        student = self._masks(self.student, images)
        if self.teacher is not None and self.teacher_masks is None:
            self.teacher_masks = self._masks(self.teacher, images)
        rows = []
        for i, case in enumerate(cases):
            row = {"image": case["image"][0].numpy(), "label": case["label"][0].numpy(), "student": student[i]}
            if self.teacher_masks is not None:
                row["teacher"] = self.teacher_masks[i]
            rows.append(row)
        self.draw(rows, self.folder / f"epoch_{engine.state.epoch:03d}.png")

    def _masks(self, network: nn.Module, images: torch.Tensor) -> list:
        logits = self.inferer(images, network)
        logits = getattr(logits, "logits", logits)
        logits = nn.functional.interpolate(logits.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return [mask[0].cpu().numpy() for mask in self.classify(logits)]
