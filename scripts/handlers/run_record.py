"""The record of a run: its folder, its configuration and its log file."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..run.run_folder import LAUNCH
from ..utils.files import atomic_path

OWN_LOGGER = logging.getLogger("scripts")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunRecord:
    """Makes the run's folder when the training starts, and writes config.json and the log there.

    Args:
        folder: the run's folder.
        config: the configuration as run, with all overrides.
        log_name: of the log file; a resumed run appends to it.
        resumed: whether the run goes on in the folder of an earlier one; a new run must not write into an existing
            folder.
        launch: see `RunFolder`; None leaves no record of it.
    """

    def __init__(
        self,
        folder: str | Path,
        config: dict,
        log_name: str = "distill.log",
        resumed: bool = False,
        launch: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.config = config
        self.log_name = log_name
        self.resumed = resumed
        self.launch = launch
        self.log_handler: logging.Handler | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, first of all handlers; of several ranks with the first."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.COMPLETED, self.stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self) -> None:
        """Make the folder and open the log.

        Raises:
            FileExistsError: the folder of a new run is there already, such as another run's of the same second.
        """
        self._make_folder()
        self.resumed = True  # a trainer that runs again, as in each round of a federation, goes on in it
        if self.launch:
            with atomic_path(self.folder / LAUNCH) as partial:
                partial.write_text(self.launch)
        with atomic_path(self.folder / "config.json") as partial:
            partial.write_text(json.dumps(self.config, indent=4, default=str) + "\n")
        self.log_handler = logging.FileHandler(self.folder / self.log_name)
        self.log_handler.setFormatter(logging.Formatter(LOG_FORMAT))
        self.log_handler.setLevel(logging.INFO)
        logging.getLogger().addHandler(self.log_handler)
        self.former_level = OWN_LOGGER.level
        OWN_LOGGER.setLevel(logging.INFO)  # whatever the program around us shows, the file has it all
        logging.getLogger(__name__).info("run folder: %s", self.folder)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=self.resumed)  # one system call: of two runs at once, one makes it
        except FileExistsError as error:
            raise FileExistsError(
                f"the run folder {self.folder} is there already, and a new run would write over it; start again for a "
                "folder of "
                "another second, pass --run_folder::timestamp NAME, or go on with that run by --training::resume "
                f"{self.folder}."
            ) from error

    def stop(self) -> None:
        """Close the log."""
        OWN_LOGGER.setLevel(self.former_level)
        logging.getLogger().removeHandler(self.log_handler)
        self.log_handler.close()
        self.log_handler = None

    def fail(self, error: BaseException) -> None:
        """Log what ended the run, and raise it again; ignite calls this at each level of its loop."""
        if self.log_handler:
            logging.getLogger(__name__).error("the run ends: %s", error)
            self.stop()
        raise error
