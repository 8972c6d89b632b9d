"""TensorBoard: loss terms and rate of every iteration, the metrics of every validation, and the panels."""

from __future__ import annotations

from pathlib import Path

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events

from ..run.tracking import small_picture
from ..utils.files import naming_path


class TensorBoard:
    """Writes scalars and images for `tensorboard --logdir`; the folder is made when the training starts.

    Args:
        folder: of the event files.
        evaluator: its metrics are written under val/.
        panels: folder in which epoch_{N}.png appears where `PanelWriter` has drawn epoch N; None shows none.
    """

    def __init__(self, folder: str | Path, evaluator: Engine | None = None, panels: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.evaluator = evaluator
        self.panels = Path(panels) if panels else None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the handlers of validation and panels and what sets the iteration of a
        resumed run; of several ranks with the first.
        """
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._log_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_epoch)
        engine.add_event_handler(Events.COMPLETED, lambda: self.writer.close())

    def _open(self, engine: Engine) -> None:
        from torch.utils.tensorboard import SummaryWriter  # costs seconds, and only a training needs it

        done = engine.state.iteration
        # the steps from purge_step on, which the earlier run logged after its last checkpoint, are hidden
        with naming_path(self.folder):
            self.writer = SummaryWriter(str(self.folder), purge_step=done + 1 if done else None)

    def _log_iteration(self, engine: Engine) -> None:
        step = engine.state.iteration
        with naming_path(self.folder):
            self.writer.add_scalar("train/loss", float(engine.state.output[0]["loss"]), step)
            for name, value in engine.state.loss_terms.items():
                self.writer.add_scalar(f"train/{name}", value, step)
            self.writer.add_scalar("train/lr", max(group["lr"] for group in engine.optimizer.param_groups), step)

    def _log_epoch(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        panel = self.panels / f"epoch_{epoch:03d}.png" if self.panels else None
        with naming_path(self.folder):
            if self.evaluator is not None and self.evaluator.state.epoch == epoch:
                for name, value in self.evaluator.state.metrics.items():
                    self.writer.add_scalar(f"val/{name}", float(value), epoch)
            if panel and panel.is_file():
                self.writer.add_image("panels", np.asarray(small_picture(panel)), epoch, dataformats="HWC")
            self.writer.flush()
