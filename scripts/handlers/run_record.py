"""The record of a run: its folder, its configuration and its log file."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress

import ignite.distributed as idist
from ignite.engine import Engine, Events

from ..run.run_folder import LAST_CHECKPOINT, LAUNCH, MODELS, RunFolder
from ..utils.files import atomic_path, clear_leftovers, naming_path
from ..utils.screen import take_early_records, tell

logger = logging.getLogger(__name__)
BUNDLE_LOGGER = logging.getLogger("scripts")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class LogFile(logging.FileHandler):
    """A log that a full disk ends with a warning, and not the run; what matters is in the checkpoints."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Warn once on the screen, and write no more."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
            return
        self.setLevel(logging.CRITICAL + 1)
        tell(f"warning: {self.baseFilename} cannot be written ({sys.exc_info()[1]}); the run goes on without its log.")

    def close(self) -> None:
        """Close the file, whose last bytes may not fit on the disk."""
        with suppress(OSError):
            super().close()


class RunRecord:
    """Makes the run's folder when the training starts, and writes config.json and the log there.

    Args:
        run_folder: of the run; a new run must not write into a folder that exists, a resumed one appends to its log.
        config: the configuration as run, with all overrides.
    """

    def __init__(self, run_folder: RunFolder, config: dict) -> None:
        self.run_folder, self.folder = run_folder, run_folder.path
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
        """Make the folder, take its lock and open the log; what a killed run has left half written is cleared.

        Raises:
            FileExistsError: the folder of a new run is there already, such as another run's of the same second.
            ValueError: another process writes there.
            WriteError: the folder cannot be written.
        """
        with naming_path(self.folder):
            self._make_folder()
        self.run_folder.lock()
        if leftovers := clear_leftovers(self.folder, deep=True):
            logger.info("%d partial files of a run that was killed are cleared away", leftovers)
        self.resumed = True  # a trainer that runs again, as in each round of a federation, goes on in it
        if self.launch:
            with atomic_path(self.folder / LAUNCH) as partial:
                partial.write_text(self.launch)
        with atomic_path(self.folder / "config.json") as partial:
            partial.write_text(json.dumps(self.config, indent=4, default=str) + "\n")
        with naming_path(self.folder / self.log_name):
            self.log_handler = LogFile(self.folder / self.log_name)
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
            has_epochs = (self.folder / MODELS / LAST_CHECKPOINT).is_file()
            resume = f", or go on with that run by --training::resume {self.folder}" if has_epochs else ""
            raise FileExistsError(
                f"the run folder {self.folder} is there already, and a new run would write over it; pass another "
                f"--run_folder::timestamp{resume}."
            ) from error

    def stop(self) -> None:
        """Close the log, and let others into the folder."""
        self.run_folder.unlock()
        BUNDLE_LOGGER.setLevel(self.former_level)
        logging.getLogger().removeHandler(self.log_handler)
        self.log_handler.close()
        self.log_handler = None
        take_early_records()  # what this run has logged is in its file, and not for the next run of this process

    def fail(self, error: BaseException) -> None:
        """Log what ended the run, and raise it again; ignite calls this at each level of its loop."""
        if self.log_handler:
            if not isinstance(error, SystemExit):  # a signal, which has its own line
                logger.info("the run ends: %s", error)
            self.stop()
        raise error
