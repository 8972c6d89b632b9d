"""Tells an experiment tracker of a training while it runs."""

from __future__ import annotations

from ignite.engine import Engine, Events

from ..run.distributed import bare
from ..run.tracking import Record


class Tracker:
    """Opens a record when the training starts, and brings it up to date after every epoch; `finish` is the config's
    `finalize`.

    Args:
        record: of the run.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after what makes the run's folder and writes its history."""
        engine.add_event_handler(Events.STARTED, lambda: self.record.start(bare(engine.network)))
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.record.log_epochs)
