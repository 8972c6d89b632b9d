"""The record of a run: its folder, its configuration and its log file."""

from __future__ import annotations

import json
import logging

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..run.run_folder import LAUNCH, RunFolder
from ..utils.files import atomic_path
from ..utils.screen import take_early_records, tell

BUNDLE_LOGGER = logging.getLogger("scripts")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class RunRecord:
    """Makes the run's folder when the training starts, and writes config.json and the log there.

    Args:
        run_folder: of the run; a new run must not write into a folder that exists, a resumed one appends to its log.
        config: the configuration as run, with all overrides.
    """

    def __init__(self, run_folder: RunFolder, config: dict) -> None:
        self.folder = run_folder.path
        self.resumed = run_folder.resumed
        self.launch = run_folder.launch
        self.log_name = run_folder.log_name
        self.config = config
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
        for record in take_early_records():
            self.log_handler.emit(record)
        logging.getLogger().addHandler(self.log_handler)
        self.former_level = BUNDLE_LOGGER.level
        BUNDLE_LOGGER.setLevel(logging.INFO)  # whatever the program around us shows, the file has it all
        tell(f"run folder: {self.folder}")

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=self.resumed)  # one system call: of two runs at once, one makes it
        except FileExistsError as error:
            raise FileExistsError(
                f"the run folder {self.folder} is there already, and a new run would write over it; start again for a "
                "folder of another second, pass --run_folder::timestamp NAME, or go on with that run by "
                f"--training::resume {self.folder}."
            ) from error

    def stop(self) -> None:
        """Close the log."""
        BUNDLE_LOGGER.setLevel(self.former_level)
        logging.getLogger().removeHandler(self.log_handler)
        self.log_handler.close()
        self.log_handler = None
        take_early_records()  # what this run has logged is in its file, and not for the next run of this process

    def fail(self, error: BaseException) -> None:
        """Log what ended the run, and raise it again; ignite calls this at each level of its loop."""
        if self.log_handler:
            if not isinstance(error, SystemExit):  # a signal, which has its own line
                logging.getLogger(__name__).error("the run ends: %s", error)
            self.stop()
        raise error
