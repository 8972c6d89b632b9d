"""What a user sees: a few lines that matter, and how far a long step has come.

`tell` prints a line and keeps it in the run's log; everything else that modules log goes to the log file alone, but for
warnings. `track` and `Progress` draw a bar on a terminal; elsewhere, as in a batch job's output, they print a line a
minute.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

SCREEN = logging.getLogger("scripts.screen")
INTERVAL = 60.0  # seconds between two lines where there is no terminal
Item = TypeVar("Item")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # also line ends and changes of direction


def printable(text: str) -> str:
    r"""A text as one line that every terminal and file takes: control characters and bytes that are no UTF-8, which a
    file's name can hold, become escapes such as \n, \x1b and \udcfc.
    """
    text = text.encode("utf-8", "backslashreplace").decode()
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def plural(number: int, noun: str) -> str:
    """Such as "1 case" or "2 cases"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def tell(message: str) -> None:
    """Print a message, and keep it in the log; see `printable` for its lines."""
    SCREEN.info("\n".join(map(printable, message.split("\n"))))


def show_messages() -> None:
    """Let a program print what is told, and warnings; configs/logging.conf does it for runs of monai.bundle."""
    if SCREEN.handlers:
        return
    logging.getLogger("scripts").setLevel(logging.INFO)
    for logger, stream, form, level in (
        (SCREEN, "stdout", "%(message)s", logging.INFO),
        (logging.getLogger(), "stderr", "warning: %(message)s", logging.WARNING),
    ):
        handler = Console(stream)
        handler.setFormatter(logging.Formatter(form))
        handler.setLevel(level)
        logger.addHandler(handler)


class Console(logging.StreamHandler):
    """Writes to sys.stdout or sys.stderr as it is at the time of a record: programs may redirect it.

    Args:
        name: `stdout` or `stderr`.
    """

    def __init__(self, name: str) -> None:
        logging.Handler.__init__(self)
        self.target = name

    @property
    def stream(self) -> TextIO:
        return getattr(sys, self.target)


class EarlyRecords(logging.Handler):
    """Keeps what is logged before a run has its log file."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: deque[logging.LogRecord] = deque(maxlen=1000)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


EARLY_RECORDS = EarlyRecords()


def keep_early_records() -> None:
    """Begin to keep what is logged, until a log file takes it."""
    logging.getLogger().addHandler(EARLY_RECORDS)  # a handler that is there already is not added again


def take_early_records() -> list[logging.LogRecord]:
    """What was kept so far, once."""
    records = list(EARLY_RECORDS.records)
    EARLY_RECORDS.records.clear()
    return records


def duration(seconds: float) -> str:
    """Such as "45 s", "12 min" or "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """How many of `total` steps are done: a bar on a terminal, otherwise a line a minute with what is left.

    Args:
        title: what is done, such as "Evaluating".
        total: number of steps.
        unit: of the steps, such as "images".
        show: False shows nothing, as in all processes but the first.
    """

    def __init__(self, title: str, total: int, unit: str = "images", show: bool = True) -> None:
        self.title, self.total, self.unit, self.show = title, total, unit, show
        self.done = 0
        self.started = self.shown = time.monotonic()
        on_terminal = show and sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=title, unit=f" {unit}", leave=False) if on_terminal else None

    def update(self, steps: int = 1, **values: Any) -> None:
        """Count steps as done.

        Args:
            steps: since the last call.
            values: to show beside the bar, such as the latest loss.
        """
        self.done += steps
        if self.bar is not None:
            self.bar.set_postfix(values, refresh=False)
            self.bar.update(steps)
        elif self.show and time.monotonic() - self.shown >= INTERVAL:
            self.shown = time.monotonic()
            tell(self._line())

    def _line(self) -> str:
        left = (self.shown - self.started) / max(1, self.done) * (self.total - self.done)
        return f"{self.title}: {self.done} of {self.total} {self.unit}, {duration(left)} left"

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def track(items: Iterable[Item], title: str, total: int, unit: str = "images", show: bool = True) -> Iterator[Item]:
    """The items, one by one, while a `Progress` with these arguments counts them."""
    with Progress(title, total, unit, show) as progress:
        for item in items:
            yield item
            progress.update()
