"""Checkpoints that survive a kill: the best weights, one every few epochs, and the last one, to resume from.

Each file is written beside its name, flushed to the disk and then renamed, so that a name always holds a whole file; monai's
CheckpointSaver writes in place.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from ..files import atomic_path

logger = logging.getLogger(__name__)


def save_atomically(content: Any, path: Path) -> None:
    """torch.save to `path`; a crash at any moment leaves the old file or the new one."""
    with atomic_path(path) as partial:
        torch.save(content, partial)


class Checkpoints:
    """Saves and resumes a training.

    In `folder`: `best_epoch{N}_dice{D}{suffix}` (weights alone, the latest best), `checkpoint_epoch{N}.pt` and `last.pt`
    (everything that a resumed run needs).

    Args:
        folder: the run's models folder.
        network: whose weights the best file holds.
        evaluator: its key metric decides what is best; higher is better.
        states: what last.pt holds by name; each offers state_dict and load_state_dict.
        interval: epochs between the checkpoints that are kept.
        export: network -> what the best file holds; None takes its state_dict.
        suffix: of the best file.
        model_file: gets a copy of each new best, such as the bundle's models/model.pt; None publishes nothing.
        resume: checkpoint that the training goes on from.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        evaluator: Engine,
        states: dict[str, Any],
        interval: int = 20,
        export: Callable[[nn.Module], dict] | None = None,
        suffix: str = ".pt",
        model_file: str | Path | None = None,
        resume: str | Path | None = None,
    ) -> None:
        if interval < 1:
            raise ValueError(f"the checkpoint interval must be at least 1 epoch, got {interval}.")
        self.folder = Path(folder)
        self.network = network
        self.evaluator = evaluator
        self.states = states
        self.interval = interval
        self.export = export or nn.Module.state_dict
        self.suffix = suffix
        self.model_file = Path(model_file) if model_file else None
        self.resume = resume

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the validation handler; see `restore` for what is refused."""
        if self.resume:
            self._read(engine, mmap=True)  # refused before anything is written
            engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Write what this epoch is due."""
        epoch, best = engine.state.epoch, self.evaluator.state
        if best.best_metric_epoch == epoch and not math.isfinite(best.best_metric):
            logger.warning("the key metric is %s in epoch %d, which is not taken as best", best.best_metric, epoch)
            best.best_metric, best.best_metric_epoch = -1, -1  # nothing compares as better than nan
        if best.best_metric_epoch == epoch:
            self._save_best(epoch, float(best.best_metric))
        content = {name: state.state_dict() for name, state in self.states.items()}
        content["progress"] = self._progress(epoch)
        save_atomically(content, self.folder / "last.pt")
        if epoch % self.interval == 0:
            save_atomically(content, self.folder / f"checkpoint_epoch{epoch:03d}.pt")

    def restore(self, engine: Engine) -> None:
        """Load `resume` into the network and all states, and set the trainer to its epoch.

        Raises:
            ValueError: the checkpoint is of another kind of run, or its run had ended.
        """
        content = self._read(engine)
        progress = content.pop("progress")
        for name, state in content.items():
            self.states[name].load_state_dict(state)
        engine.state.epoch = progress["epoch"]
        engine.state.iteration = progress["epoch"] * engine.state.epoch_length
        self.evaluator.state.best_metric = progress["best_metric"]
        self.evaluator.state.best_metric_epoch = progress["best_metric_epoch"]
        logger.info("resumed after epoch %d from %s", progress["epoch"], self.resume)

    def _read(self, engine: Engine, mmap: bool = False) -> dict[str, Any]:
        try:
            content = torch.load(self.resume, weights_only=True, map_location="cpu", mmap=mmap)
        except (RuntimeError, UnpicklingError) as error:
            raise ValueError(f"training::resume: {self.resume} is no checkpoint; pass the folder of a run.") from error
        expected = sorted([*self.states, "progress"])
        if sorted(content) != expected:
            raise ValueError(
                f"training::resume: {self.resume} holds {', '.join(sorted(content)[:5])}, expected {', '.join(expected)}: "
                "it was not written by this kind of training (last.pt and checkpoint_epoch*.pt can be resumed)."
            )
        if content["progress"]["epoch"] >= engine.state.max_epochs:
            raise ValueError(
                f"training::resume: {self.resume} has completed {content['progress']['epoch']} epochs of "
                f"{engine.state.max_epochs}; pass a higher --training::num_epochs to go on."
            )
        return content

    def _progress(self, epoch: int) -> dict[str, float]:
        state = self.evaluator.state
        return {"epoch": epoch, "best_metric": float(state.best_metric), "best_metric_epoch": int(state.best_metric_epoch)}

    def _save_best(self, epoch: int, metric: float) -> None:
        former = set(self.folder.glob("best_epoch*"))
        content = self.export(self.network)
        path = self.folder / f"best_epoch{epoch:03d}_dice{metric:.4f}{self.suffix}"
        save_atomically(content, path)
        if self.model_file:
            save_atomically(content, self.model_file)
        for old in former - {path}:
            old.unlink()
        logger.info("new best in epoch %d: Dice %.4f, %s", epoch, metric, path)
