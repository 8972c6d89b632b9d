"""A handler that waits in the middle of an epoch, for a test that stops the run there."""

import time
from pathlib import Path

from ignite.engine import Engine, Events


class PauseOnce:
    """Waits after the first iteration of an epoch, once: the file `marker` says that it was there.

    Args:
        marker: written when the run waits.
        epoch: in which it waits.
    """

    def __init__(self, marker: str, epoch: int) -> None:
        self.marker, self.epoch = Path(marker), epoch

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch == self.epoch and not self.marker.exists():
            self.marker.touch()
            time.sleep(300)
