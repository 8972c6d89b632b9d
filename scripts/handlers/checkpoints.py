"""Checkpoints that survive a kill: the best weights, one every few epochs, and the last one, to resume from.

Each file is written beside its name, flushed to the disk and then renamed, so that a name always holds a whole file; monai's
CheckpointSaver writes in place.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

logger = logging.getLogger(__name__)


def save_atomically(content: Any, path: Path) -> None:
    """torch.save to `path`; a crash at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


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
        """Register with the trainer, after the validation handler."""
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Write what this epoch is due."""
        epoch = engine.state.epoch
        if self.evaluator.state.best_metric_epoch == epoch:
            self._save_best(epoch, float(self.evaluator.state.best_metric))
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
        content = torch.load(self.resume, weights_only=True, map_location="cpu")
        if set(content) != {*self.states, "progress"}:
            raise ValueError(
                f"training::resume: {self.resume} holds {sorted(content)}, expected {sorted([*self.states, 'progress'])}: "
                "it was not written by this kind of training (last.pt and checkpoint_epoch*.pt can be resumed)."
            )
        progress = content.pop("progress")
        if progress["epoch"] >= engine.state.max_epochs:
            raise ValueError(
                f"training::resume: {self.resume} has completed {progress['epoch']} epochs of {engine.state.max_epochs}; "
                "pass a higher --training::num_epochs to go on."
            )
        for name, state in content.items():
            self.states[name].load_state_dict(state)
        engine.state.epoch = progress["epoch"]
        engine.state.iteration = progress["epoch"] * engine.state.epoch_length
        self.evaluator.state.best_metric = progress["best_metric"]
        self.evaluator.state.best_metric_epoch = progress["best_metric_epoch"]
        logger.info("resumed after epoch %d from %s", progress["epoch"], self.resume)

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
