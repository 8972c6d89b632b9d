"""What a user sees while a training runs, and the seed of each epoch."""

from __future__ import annotations

import logging
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events

from ..run.errors import NOTHING_KEPT, stopping, this_command
from ..run.history import append_row, read_history
from ..utils.screen import Progress, duration, tell
from .last_epoch import LastEpoch

logger = logging.getLogger(__name__)


class ProgressBar:
    """How far an epoch has come, with the latest terms of the loss: a bar on a terminal, otherwise a line a minute.

    Args:
        desc: what the engine does, such as train.
        output_dir: folder whose files are kept when the engine is stopped; None where another says what is kept.
    """

    def __init__(self, desc: str, output_dir: str | Path | None = None) -> None:
        self.desc, self.output_dir = desc, output_dir
        self.advising = ExitStack()
        self.progress: Progress | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator; of several ranks with the first."""
        if idist.get_rank() == 0:
            if self.output_dir is not None:
                engine.add_event_handler(Events.STARTED, lambda: self.advising.enter_context(stopping(self._advice)))
                engine.add_event_handler(Events.COMPLETED, self.advising.close)
            engine.add_event_handler(Events.EPOCH_STARTED, self._open)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Engine) -> None:
        epochs = f" {engine.state.epoch}/{engine.state.max_epochs}" if engine.state.max_epochs > 1 else ""
        self.progress = Progress(f"{self.desc}{epochs}", engine.state.epoch_length, "batches")

    def _update(self, engine: Engine) -> None:
        terms = getattr(engine.state, "loss_terms", {})
        self.progress.update(1, **{name: f"{value:.3g}" for name, value in terms.items()})
        if self.progress.done == self.progress.total:  # before the lines that an epoch ends with
            self.progress.close()

    def _advice(self) -> str:
        done, files = self.progress.done if self.progress else 0, f"the outputs so far are kept in {self.output_dir}"
        return f"{files if done else NOTHING_KEPT}; go on with: {this_command(resume='True')}"

    def _fail(self, error: BaseException) -> None:
        if self.progress:
            self.progress.close()
        with self.advising:  # which may add its advice
            raise error


class EpochSeed:
    """Seeds torch and the sampler from the epoch, so that a resumed run draws what the whole run would have drawn.

    Each rank draws its own dropout; the sampler, and with it the views of the images, does not depend on the rank.

    Args:
        seed: of the run.
        sampler: offers set_epoch(epoch); None seeds torch alone.
    """

    def __init__(self, seed: int, sampler: Any = None) -> None:
        self.seed = seed
        self.sampler = sampler

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed the epoch that starts; epochs count from 1, the sampler's from 0."""
        torch.manual_seed(self.seed * 100_003 + engine.state.epoch + idist.get_rank() * 50_021)
        if self.sampler is not None:
            self.sampler.set_epoch(engine.state.epoch - 1)


class EpochSummary:
    """An epoch as a line on the screen, a longer one in the log, and a row of history.csv.

    The row has the mean loss and its terms, the rate, the time, the share of it spent waiting for data, and the
    validation metrics. Losses are means over the images of all ranks; the times are the first rank's.

    Args:
        folder: the run's folder.
        evaluator: its metrics are added in epochs in which it ran.
    """

    def __init__(self, folder: str | Path, evaluator: Engine | None = None) -> None:
        self.folder = Path(folder)
        self.evaluator = evaluator
        self.epochs = 0  # of this process
        self.begun = 0.0

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the validation handler and before the checkpoints.

        A run that is killed between the two repeats the epoch, whose row is then replaced; the other way round it would
        be missing.
        """
        engine.add_event_handler(Events.STARTED, lambda: read_history(self.folder))  # refused before it costs an epoch
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._wait)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._waited)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._summarize)

    def _start(self, engine: Engine) -> None:
        self.sums: dict[str, float] = {}
        self.images = 0
        self.started = self.wait_started = self.stopped = time.perf_counter()
        self.begun = self.begun or self.started
        self.waiting = 0.0

    def _wait(self, engine: Engine) -> None:
        self.wait_started = time.perf_counter()

    def _waited(self, engine: Engine) -> None:
        self.waiting += time.perf_counter() - self.wait_started

    def _add(self, engine: Engine) -> None:
        outputs = engine.state.output
        weight = len(outputs)
        values = {"loss": float(outputs[0]["loss"]), **engine.state.loss_terms}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + weight * value
        self.images += weight
        self.stopped = time.perf_counter()

    def _summarize(self, engine: Engine) -> None:
        seconds = self.stopped - self.started
        images = idist.all_reduce(self.images)
        means = {name: idist.all_reduce(total) / images for name, total in self.sums.items()}
        row = {"epoch": engine.state.epoch, **means}
        row["lr"] = max(group["lr"] for group in engine.optimizer.param_groups)
        row["seconds"] = seconds
        row["data_wait"] = self.waiting / seconds
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            row.update({name: float(value) for name, value in self.evaluator.state.metrics.items()})
        self.epochs += 1
        if idist.get_rank() == 0:
            left = (time.perf_counter() - self.begun) / self.epochs * (engine.state.max_epochs - engine.state.epoch)
            tell(epoch_line(row, engine.state.max_epochs, self._best(), left))
            logger.info("epoch %d: %s", engine.state.epoch, _details(row))
            append_row(self.folder, row)

    def _best(self) -> tuple[float, int] | None:
        """The best key metric so far and its epoch."""
        state = self.evaluator.state if self.evaluator is not None else None
        epoch = getattr(state, "best_metric_epoch", -1)
        measured = epoch > 0 and not isinstance(self.evaluator, LastEpoch)
        return (float(state.best_metric), epoch) if measured and math.isfinite(state.best_metric) else None


def epoch_line(row: dict[str, float], max_epochs: int, best: tuple[float, int] | None, left: float) -> str:
    """An epoch in one line of at most 110 characters.

    Args:
        row: of history.csv.
        max_epochs: of the training.
        best: the best validation Dice so far and its epoch; None where there is none.
        left: seconds until the last epoch ends.
    """
    width = len(str(max_epochs))
    dice = f"{row['val_mean_dice']:.4f}" if "val_mean_dice" in row else "     -"
    record = f"{best[0]:.4f} (epoch {best[1]:>{width}})" if best else "-"
    return (
        f"epoch {row['epoch']:>{width}}/{max_epochs}  loss {row['loss']:<8.4g}  Dice {dice}  best {record}  "
        f"{row['seconds']:.1f} s  left {duration(left)}"
    )


def _details(row: dict[str, float]) -> str:
    shown = {name: f"{value:.4g}" for name, value in row.items() if name not in ("epoch", "seconds", "data_wait")}
    timing = f"{row['seconds']:.1f} s, {row['data_wait']:.0%} waiting for data"
    return ", ".join(f"{name} {value}" for name, value in shown.items()) + f" ({timing})"
