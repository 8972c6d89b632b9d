"""Checkpoints that survive a kill: the best weights, one every few epochs, and the last one, to resume from.

Each file is written beside its name, flushed to the disk and then renamed, so that a name always holds a whole file;
monai's CheckpointSaver writes in place.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from ..run.run_folder import BEST, LAST_CHECKPOINT, WHOLE, best_epoch, find_best
from ..utils.files import atomic_path, clear_leftovers, require_writable
from ..utils.screen import tell
from ..utils.weight_files import read_weight_file
from .last_epoch import LastEpoch

logger = logging.getLogger(__name__)

OTHER_RUN = (
    "pass the folder of a run; where last.pt is damaged, copy a checkpoint_epoch*.pt beside it to the folder models/ "
    "of a new run and pass the copy"
)
SHOWN = 80  # characters of a setting in a message


def save_atomically(content: Any, path: Path) -> None:
    """torch.save to `path`; a crash at any moment leaves the old file or the new one.

    Raises:
        WriteError: the disk is full, and so on.
    """
    # given a path, torch.save would not tell what the system says against it
    with atomic_path(path) as partial, open(partial, "wb") as file:
        torch.save(content, file)


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


def misfits(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """What keeps the state dict `saved` from being loaded into one like `current`: a line for each key that differs."""
    lines = []
    for key in [*current, *(key for key in saved if key not in current)]:
        if key not in saved:
            lines.append(f"{key} is missing in the checkpoint")
        elif key not in current:
            lines.append(f"{key} is in the checkpoint only")
        elif _shape(saved[key]) != _shape(current[key]):
            lines.append(f"{key} is {_shape(saved[key])} in the checkpoint and {_shape(current[key])} in this run")
    return lines


def _shape(value: Any) -> tuple | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


class Checkpoints:
    """Saves and resumes a training.

    In `folder`: `best_epoch{N}_dice{D}` (weights alone, the latest best), `checkpoint_epoch{N}.pt` and `last.pt`
    (everything that a resumed run needs). Of several ranks the first writes, and all of them read. Where nothing is
    validated (`LastEpoch`) the latest epoch's weights are `best_epoch{N}`.

    last.pt is written after all else of its epoch: a run that is killed before repeats the epoch. What it replaces, the
    former best file, goes after it.

    The best file holds the network's state dict, with the suffix .pt. A network with `best_state` and `best_suffix`,
    such as a teacher that is tuned, decides on both itself.

    Args:
        folder: the run's models folder.
        network: whose weights the best file holds.
        evaluator: its key metric decides what is best; higher is better.
        states: what last.pt holds by name; each offers state_dict and load_state_dict. None is left out.
        interval: epochs between the checkpoints that are kept.
        model_file: gets a copy of the run's best file when the training is complete, such as the bundle's
            models/model.pt; null leaves it out. [path, null]
        resume: checkpoint that the training goes on from.
        settings: what a resumed run must have in common with the earlier one, nested as the configuration is; the
            restored states would silently win over other values.
        unfinished: whether a run that has completed its epochs goes on with what follows them.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        evaluator: Engine,
        states: dict[str, Any | None],
        interval: int = 20,
        model_file: str | Path | None = None,
        resume: str | Path | None = None,
        settings: dict[str, Any] | None = None,
        unfinished: bool = False,
    ) -> None:
        if interval < 1:
            raise ValueError(f"the checkpoint interval must be at least 1 epoch, got {interval}.")
        self.folder = Path(folder)
        self.best_state = getattr(network, "best_state", network.state_dict)
        self.best_suffix = getattr(network, "best_suffix", WHOLE)
        self.evaluator = evaluator
        self.states = {name: state for name, state in states.items() if state is not None}
        self.interval = interval
        self.model_file = Path(model_file) if model_file else None
        self.resume = Path(resume) if resume else None
        self.settings = flatten(settings or {})
        self.unfinished = unfinished

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the validation handler and before all that read the epoch at the start.

        Raises:
            ValueError: `resume` is of another kind of run, of one that had ended, of one with other settings or
                networks, or is older than the last checkpoint of its folder.
            WriteError: `model_file` could not be written when the run is complete.
        """
        if self.model_file and idist.get_rank() == 0:
            require_writable(self.model_file)
        if self.resume:
            self._check(engine)  # refused before anything is written
            engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.STARTED, self._save_last)
        if self.model_file and idist.get_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self.publish)

    def _save_last(self, engine: Engine) -> None:
        """Let `save` be the last thing of an epoch: what other handlers write is then there or is written again."""
        if engine.has_event_handler(self.save, Events.EPOCH_COMPLETED):
            engine.remove_event_handler(self.save, Events.EPOCH_COMPLETED)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

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
        if epoch % self.interval == 0:
            save_atomically(content, self.folder / f"checkpoint_epoch{epoch:03d}.pt")
        save_atomically(content, self.folder / LAST_CHECKPOINT)
        self._remove_former(best.best_metric_epoch)

    def publish(self) -> None:
        """Copy the run's best file to `model_file`; a run without one leaves what is there."""
        best = find_best(self.folder)
        if best is None:
            logger.warning("%s holds no %s* file: %s is not written", self.folder, BEST, self.model_file)
            return
        clear_leftovers(self.model_file.parent)
        with atomic_path(self.model_file) as partial:
            shutil.copyfile(best, partial)
        tell(f"best weights: {best}, copied to {self.model_file}")

    def restore(self, engine: Engine) -> None:
        """Load `resume` into the network and all states, and set the trainer to its epoch."""
        idist.barrier()  # the first rank has waited for the end of another run in this folder
        content = self._read()
        progress = content.pop("progress")
        for name, state in content.items():
            self.states[name].load_state_dict(state)
        engine.state.epoch = progress["epoch"]
        engine.state.iteration = progress["epoch"] * engine.state.epoch_length
        if idist.get_rank() == 0:
            self._remove_former(progress["best_metric_epoch"])
        # else, in a checkpoint's new folder, the best weights are still to be found
        if find_best(self.folder):
            self.evaluator.state.best_metric = progress["best_metric"]
            self.evaluator.state.best_metric_epoch = progress["best_metric_epoch"]
        tell(f"resumed after epoch {progress['epoch']} from {self.resume}")

    def _read(self, mmap: bool = False) -> dict[str, Any]:
        """The checkpoint to resume from, its states under today's names."""
        content = _load(self.resume, mmap)
        for name, state in self.states.items():
            if name in content and hasattr(state, "rename_former"):
                content[name] = state.rename_former(content[name])
        return content

    def _check(self, engine: Engine) -> None:
        content = self._read(mmap=True)
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
                "former values (only training::num_epochs and patience may change), or leave training::resume out to "
                "start a new run."
            )

    def _check_epoch(self, epoch: int, max_epochs: int) -> None:
        if epoch >= max_epochs and not self.unfinished:
            raise ValueError(
                f"training::resume: {self.resume} has completed {epoch} epochs of {max_epochs}; "
                "pass a higher --training::num_epochs to go on."
            )
        last = self.resume.parent / LAST_CHECKPOINT
        is_other = last.is_file() and last.resolve() != self.resume.resolve()
        newest = _load(last, mmap=True)["progress"]["epoch"] if is_other else epoch
        if epoch < newest:
            raise ValueError(
                f"training::resume: {self.resume} is of epoch {epoch}, but {last} is of epoch {newest}, and its run's "
                "later weights would be replaced; pass the run's folder to go on from the last epoch, or copy the "
                "checkpoint to the folder models/ of a new run and pass the copy."
            )

    def _check_shapes(self, content: dict[str, Any]) -> None:
        for name, state in self.states.items():
            lines = misfits(content[name], state.state_dict()) if isinstance(state, nn.Module) else []
            if lines:
                more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
                raise ValueError(
                    f"training::resume: the {name} in {self.resume} does not fit this run's: "
                    f"{'; '.join(lines[:5])}{more}. "
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
        score = "" if isinstance(self.evaluator, LastEpoch) else f"_dice{metric:.4f}"
        path = self.folder / f"{BEST}{epoch:03d}{score}{self.best_suffix}"
        save_atomically(self.best_state(), path)
        logger.info("new best in epoch %d: %s%s", epoch, f"Dice {metric:.4f}, " if score else "", path)

    def _remove_former(self, epoch: int) -> None:
        """Of several best files keep the epoch's: a later one is of an epoch that was not completed."""
        files = list(self.folder.glob(BEST + "*"))
        if any(best_epoch(path) == epoch for path in files):
            for path in files:
                if best_epoch(path) != epoch:
                    path.unlink(missing_ok=True)


def _shown(former: Any, value: Any) -> list[str]:
    """Both values as they are written; of long ones the part where they begin to differ."""
    texts = [repr(former), repr(value)]
    if max(map(len, texts)) <= SHOWN:
        return texts
    start = max(0, len(os.path.commonprefix(texts)) - SHOWN // 2)
    ends = ["..." if start + SHOWN < len(text) else "" for text in texts]
    return [f"{'...' if start else ''}{text[start : start + SHOWN]}{end}" for text, end in zip(texts, ends)]


def _load(path: Path, mmap: bool = False) -> dict[str, Any]:
    return read_weight_file(path, "training::resume", mmap=mmap, remedy=OTHER_RUN)
