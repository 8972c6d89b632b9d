"""What a user sees while a training runs, and the seed of each epoch."""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar as IgniteProgressBar

from ..utils.files import atomic_path

logger = logging.getLogger(__name__)


class ProgressBar(IgniteProgressBar):
    """A bar an epoch on stderr, with the latest loss terms; options as ignite's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"persist": False, "bar_format": None, **kwargs})

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        """Register with a trainer or an evaluator; of several ranks with the first."""
        if idist.get_rank() > 0:
            return
        super().attach(engine, *args, output_transform=lambda _: getattr(engine.state, "loss_terms", {}), **kwargs)


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
    """One line an epoch in the log and a row in history.csv: mean loss and its terms, rate, time, share of it spent
    waiting for data, and the validation metrics. Losses are means over the images of all ranks; the times are the first
    rank's.

    Args:
        folder: the run's folder.
        evaluator: its metrics are added in epochs in which it ran.
    """

    def __init__(self, folder: str | Path, evaluator: Engine | None = None) -> None:
        self.path = Path(folder) / "history.csv"
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the validation handler and before the checkpoints.

        A run that is killed between the two repeats the epoch, whose row is then replaced; the other way round it would
        be missing.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._wait)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._waited)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._summarize)

    def _start(self, engine: Engine) -> None:
        self.sums: dict[str, float] = {}
        self.images = 0
        self.started = self.wait_started = time.perf_counter()
        self.stopped = self.started
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
        row = {
            "epoch": engine.state.epoch,
            **{name: idist.all_reduce(total) / images for name, total in self.sums.items()},
        }
        row["lr"] = max(group["lr"] for group in engine.optimizer.param_groups)
        row["seconds"] = seconds
        row["data_wait"] = self.waiting / seconds
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            row.update({name: float(value) for name, value in self.evaluator.state.metrics.items()})
        if idist.get_rank() == 0:
            logger.info("epoch %d of %d: %s", engine.state.epoch, engine.state.max_epochs, _format(row))
            self._append(row)

    def _append(self, row: dict[str, float]) -> None:
        rows = []
        if self.path.is_file():
            with open(self.path, newline="") as file:
                rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
        rows.append(row)
        columns = list(dict.fromkeys(name for one in rows for name in one))
        with atomic_path(self.path) as partial, open(partial, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def _format(row: dict[str, float]) -> str:
    shown = {name: f"{value:.4g}" for name, value in row.items() if name not in ("epoch", "seconds", "data_wait")}
    timing = f"{row['seconds']:.1f} s, {row['data_wait']:.0%} waiting for data"
    return ", ".join(f"{name} {value}" for name, value in shown.items()) + f" ({timing})"
