"""Checkpoints that survive a kill: the best weights, one every few epochs, and the last one, to resume from.

Each file is written beside its name, flushed to the disk and then renamed, so that a name always holds a whole file;
monai's CheckpointSaver writes in place.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from ..run.run_folder import BEST, LAST_CHECKPOINT
from ..utils.files import atomic_path

logger = logging.getLogger(__name__)

SHOWN = 80  # characters of a setting in a message


def save_atomically(content: Any, path: Path) -> None:
    """torch.save to `path`; a crash at any moment leaves the old file or the new one."""
    with atomic_path(path) as partial:
        torch.save(content, partial)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {id: value}, such as {"training::lr": 1e-4}; values that JSON does not have are taken as
    text.
    """
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}::"))
        else:
            flat[prefix + name] = value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
    return flat


def misfits(saved: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """What keeps the state dict `saved` from being loaded into one like `own`: a line for each key that differs."""
    found = []
    for key in [*own, *(key for key in saved if key not in own)]:
        if key not in saved:
            found.append(f"{key} is missing in the checkpoint")
        elif key not in own:
            found.append(f"{key} is in the checkpoint only")
        elif _shape(saved[key]) != _shape(own[key]):
            found.append(f"{key} is {_shape(saved[key])} in the checkpoint and {_shape(own[key])} in this run")
    return found


def _shape(value: Any) -> tuple | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


class Checkpoints:
    """Saves and resumes a training.

    In `folder`: `best_epoch{N}_dice{D}{suffix}` (weights alone, the latest best), `checkpoint_epoch{N}.pt` and
    `last.pt` (everything that a resumed run needs). Of several ranks the first writes, and all of them read.

    Args:
        folder: the run's models folder.
        network: whose weights the best file holds.
        evaluator: its key metric decides what is best; higher is better.
        states: what last.pt holds by name; each offers state_dict and load_state_dict. None is left out.
        interval: epochs between the checkpoints that are kept.
        export: network -> what the best file holds; None takes its state_dict.
        suffix: of the best file.
        model_file: gets a copy of the run's best file when the training is complete, such as the bundle's
            models/model.pt; None publishes nothing.
        resume: checkpoint that the training goes on from.
        restarted: whether the program was started again by what had started it, see `RunFolder`: a run that has
            completed its epochs then goes on with what follows them.
        settings: what a resumed run must have in common with the earlier one, nested as the configuration is; the
            restored states would silently win over other values.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        evaluator: Engine,
        states: dict[str, Any | None],
        interval: int = 20,
        export: Callable[[nn.Module], dict] | None = None,
        suffix: str = ".pt",
        model_file: str | Path | None = None,
        resume: str | Path | None = None,
        settings: dict[str, Any] | None = None,
        restarted: bool = False,
    ) -> None:
        if interval < 1:
            raise ValueError(f"the checkpoint interval must be at least 1 epoch, got {interval}.")
        self.folder = Path(folder)
        self.network = network
        self.evaluator = evaluator
        self.states = {name: state for name, state in states.items() if state is not None}
        self.interval = interval
        self.export = export or nn.Module.state_dict
        self.suffix = suffix
        self.model_file = Path(model_file) if model_file else None
        self.resume = Path(resume) if resume else None
        self.settings = flatten(settings or {})
        self.restarted = restarted

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the validation handler and before all that read the epoch at the start.

        Raises:
            ValueError: `resume` is of another kind of run, of one that had ended, of one with other settings or
                networks, or is older than the last checkpoint of its folder.
        """
        if self.resume:
            self._check(engine)  # refused before anything is written
            engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        if self.model_file and idist.get_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self.publish)

    def save(self, engine: Engine) -> None:
        """Write what this epoch is due."""
        epoch, best = engine.state.epoch, self.evaluator.state
        if best.best_metric_epoch == epoch and not math.isfinite(best.best_metric):
            logger.warning("the key metric is %s in epoch %d, which is not taken as best", best.best_metric, epoch)
            best.best_metric, best.best_metric_epoch = -1, -1  # nothing compares as better than nan
        if idist.get_rank() > 0:
            return
        if best.best_metric_epoch == epoch:
            self._save_best(epoch, float(best.best_metric))
        content = {name: state.state_dict() for name, state in self.states.items()}
        content["progress"] = self._progress(epoch)
        save_atomically(content, self.folder / LAST_CHECKPOINT)
        if epoch % self.interval == 0:
            save_atomically(content, self.folder / f"checkpoint_epoch{epoch:03d}.pt")

    def publish(self) -> None:
        """Copy the run's best file to `model_file`; a run without one leaves what is there."""
        found = sorted(self.folder.glob(BEST + "*"), key=lambda path: path.stat().st_mtime)
        if not found:
            logger.warning("%s holds no %s* file: %s is not written", self.folder, BEST, self.model_file)
            return
        with atomic_path(self.model_file) as partial:
            shutil.copyfile(found[-1], partial)
        logger.info("published %s as %s", found[-1], self.model_file)

    def restore(self, engine: Engine) -> None:
        """Load `resume` into the network and all states, and set the trainer to its epoch."""
        content = _load(self.resume)
        progress = content.pop("progress")
        for name, state in content.items():
            self.states[name].load_state_dict(state)
        engine.state.epoch = progress["epoch"]
        engine.state.iteration = progress["epoch"] * engine.state.epoch_length
        # else, in a checkpoint's new folder, the best weights are still to be found
        if any(self.folder.glob(BEST + "*")):
            self.evaluator.state.best_metric = progress["best_metric"]
            self.evaluator.state.best_metric_epoch = progress["best_metric_epoch"]
        logger.info("resumed after epoch %d from %s", progress["epoch"], self.resume)

    def _check(self, engine: Engine) -> None:
        content = _load(self.resume, mmap=True)
        if "progress" in content:
            self._check_settings(content["progress"].get("settings", {}))
        expected = sorted([*self.states, "progress"])
        if sorted(content) != expected:
            raise ValueError(
                f"training::resume: {self.resume} holds {', '.join(sorted(content)[:5])}, expected "
                f"{', '.join(expected)}: "
                "it was not written by this kind of training (last.pt and checkpoint_epoch*.pt can be resumed)."
            )
        self._check_epoch(content["progress"]["epoch"], engine.state.max_epochs)
        self._check_shapes(content)

    def _check_settings(self, saved: dict[str, Any]) -> None:
        absent = "not recorded"
        values = {name: (saved.get(name, absent), self.settings.get(name, absent)) for name in [*self.settings, *saved]}
        changed = [
            "{} was {} and is {}".format(name, *_shown(*pair)) for name, pair in values.items() if pair[0] != pair[1]
        ]
        if changed:
            raise ValueError(
                f"training::resume: {self.resume} was trained with other settings: {'; '.join(changed)}. Pass the "
                "former values "
                "(only training::num_epochs may change), or leave training::resume out to start a new run."
            )

    def _check_epoch(self, epoch: int, max_epochs: int) -> None:
        if epoch >= max_epochs and not self.restarted:
            raise ValueError(
                f"training::resume: {self.resume} has completed {epoch} epochs of {max_epochs}; "
                "pass a higher --training::num_epochs to go on."
            )
        last = self.resume.parent / LAST_CHECKPOINT
        newest = _load(last, mmap=True)["progress"]["epoch"] if last.is_file() else epoch
        if epoch < newest:
            raise ValueError(
                f"training::resume: {self.resume} is of epoch {epoch}, but {last} is of epoch {newest}, and its run's "
                "later "
                "weights would be replaced; pass the run's folder to go on from the last epoch, or copy the checkpoint "
                "to the "
                "folder models/ of a new run and pass the copy."
            )

    def _check_shapes(self, content: dict[str, Any]) -> None:
        for name, state in self.states.items():
            found = misfits(content[name], state.state_dict()) if isinstance(state, nn.Module) else []
            if found:
                more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
                raise ValueError(
                    f"training::resume: the {name} in {self.resume} does not fit this run's: "
                    f"{'; '.join(found[:5])}{more}. "
                    "Pass the configuration of the run that wrote it (config.json in its folder)."
                )

    def _progress(self, epoch: int) -> dict[str, Any]:
        state = self.evaluator.state
        return {
            "epoch": epoch,
            "best_metric": float(state.best_metric),
            "best_metric_epoch": int(state.best_metric_epoch),
            "settings": self.settings,
        }

    def _save_best(self, epoch: int, metric: float) -> None:
        former = set(self.folder.glob(BEST + "*"))
        path = self.folder / f"{BEST}{epoch:03d}_dice{metric:.4f}{self.suffix}"
        save_atomically(self.export(self.network), path)
        for old in former - {path}:
            old.unlink()
        logger.info("new best in epoch %d: Dice %.4f, %s", epoch, metric, path)


def _shown(former: Any, value: Any) -> list[str]:
    """Both values as they are written; of long ones the part where they begin to differ."""
    texts = [repr(former), repr(value)]
    if max(map(len, texts)) <= SHOWN:
        return texts
    start = max(0, len(os.path.commonprefix(texts)) - SHOWN // 2)
    ends = ["..." if start + SHOWN < len(text) else "" for text in texts]
    return [f"{'...' if start else ''}{text[start : start + SHOWN]}{end}" for text, end in zip(texts, ends)]


def _load(path: Path, mmap: bool = False) -> dict[str, Any]:
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
    except (RuntimeError, UnpicklingError) as error:
        raise ValueError(f"training::resume: {path} is no checkpoint; pass the folder of a run.") from error
