"""progress.png: what history.csv holds, as a picture that is drawn anew while a training runs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..run.history import KEY_METRIC, NO_CURVES, Row, read_history
from ..utils.files import atomic_path

logger = logging.getLogger(__name__)

PROGRESS_PICTURE = "progress.png"
WAITING = "waiting for data"  # a part of the seconds
SHARE = 0.05  # of the time
SIZE, DPI = (10, 6.2), 80  # inches, and pixels of one


class ProgressPicture:
    """Draws losses, validation Dice, rate and time over the epochs, after each epoch that was validated.

    It takes at most SHARE of the time: where epochs are short, some are passed over, but never the last one. A picture
    that cannot be drawn is a line in the log, and the training goes on without further ones.

    Args:
        folder: the run's folder, with its history.csv.
        evaluator: tells which epochs were validated; None draws every epoch.
    """

    def __init__(self, folder: str | Path, evaluator: Engine | None = None) -> None:
        self.folder, self.evaluator = Path(folder), evaluator
        self.due = -math.inf
        self.broken = False

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after what keeps the epoch; of several ranks with the first."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw progress.png where it is due."""
        started, state = time.perf_counter(), engine.state
        last = state.epoch >= state.max_epochs or getattr(engine, "should_terminate", False)
        validated = self.evaluator is None or self.evaluator.state.epoch == state.epoch
        if self.broken or not (last or (validated and started >= self.due)):
            return
        try:
            draw_progress(read_history(self.folder), self.folder / PROGRESS_PICTURE)
        except Exception as error:  # whatever it is, the training is worth more
            self.broken = True
            logger.warning("%s is not drawn any more: %s", PROGRESS_PICTURE, error)
        stopped = time.perf_counter()
        self.due = stopped + (stopped - started) * (1 / SHARE - 1)


def draw_progress(rows: Sequence[Row], path: Path) -> None:
    """Write a picture of four plots in one step: the terms of the loss, validation Dice, learning rate, and seconds.

    Args:
        rows: of `read_history`.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # costs a second, and only a training needs it
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE)
    figure.subplots_adjust(
        0.07, 0.08, 0.98, 0.95, 0.18, 0.32
    )  # a layout that is computed would take as long as all else
    FigureCanvasAgg(figure)
    terms = [name for name in _columns(rows) if name not in NO_CURVES and not name.startswith("val_")]
    timed = [{**row, WAITING: row["seconds"] * row["data_wait"]} for row in rows if {"seconds", "data_wait"} <= {*row}]
    plots = {
        "Loss and its terms": (rows, terms),
        "Validation Dice": (rows, [KEY_METRIC]),
        "Learning rate": (rows, ["lr"]),
        "Seconds an epoch": (timed, ["seconds", WAITING]),
    }
    for ax, (title, (lines, names)) in zip(figure.subplots(2, 2).flat, plots.items()):
        for name in names:
            points = [(row["epoch"], row[name]) for row in lines if name in row]
            if points:
                ax.plot(
                    *zip(*points), label=name, linewidth=1.4, marker="o" if len(points) <= 20 else None, markersize=3
                )
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.grid(alpha=0.25)
        if len(names) > 1 and ax.has_data():
            ax.legend(fontsize=8)
    with atomic_path(path, flush=False) as partial:
        figure.savefig(partial, dpi=DPI, format="png")


def _columns(rows: Sequence[Row]) -> list[str]:
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name != "epoch"]
