"""Before the first batch: the teacher computes what its cache lacks."""

from __future__ import annotations

from ignite.engine import Engine, Events
from torch import nn


class CacheFill:
    """Calls the teacher's `fill` when the training starts.

    Args:
        teacher: one without `fill` (online), or None (the control), has nothing to do.
    """

    def __init__(self, teacher: nn.Module | None) -> None:
        self.fill = getattr(teacher, "fill", None)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the run's log."""
        if self.fill is not None:
            engine.add_event_handler(Events.STARTED, self.fill)
