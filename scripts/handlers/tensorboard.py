"""TensorBoard: the loss terms and the rate of every iteration, the metrics of every validation."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events


class TensorBoard:
    """Writes scalars for `tensorboard --logdir`; the folder is made when the training starts.

    Args:
        folder: of the event files.
        evaluator: its metrics are written under val/.
    """

    def __init__(self, folder: str | Path, evaluator: Engine | None = None) -> None:
        self.folder = folder
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the validation handler and after what sets the iteration of a resumed run."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._log_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._log_epoch)
        engine.add_event_handler(Events.COMPLETED, lambda: self.writer.close())

    def _open(self, engine: Engine) -> None:
        from torch.utils.tensorboard import SummaryWriter  # costs seconds, and only a training needs it

        done = engine.state.iteration
        # the steps from purge_step on, which the earlier run logged after its last checkpoint, are hidden
        self.writer = SummaryWriter(str(self.folder), purge_step=done + 1 if done else None)

    def _log_iteration(self, engine: Engine) -> None:
        step = engine.state.iteration
        self.writer.add_scalar("train/loss", float(engine.state.output[0]["loss"]), step)
        for name, value in engine.state.loss_terms.items():
            self.writer.add_scalar(f"train/{name}", value, step)
        self.writer.add_scalar("train/lr", max(group["lr"] for group in engine.optimizer.param_groups), step)

    def _log_epoch(self, engine: Engine) -> None:
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            for name, value in self.evaluator.state.metrics.items():
                self.writer.add_scalar(f"val/{name}", float(value), engine.state.epoch)
        self.writer.flush()
