"""MONAI's evaluator for a folder of files: it goes on past a file that fails, and names it at the end."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from monai.utils import CommonKeys as Keys

from ..utils.screen import printable
from .failures import FAILURE, FILE, reason_of, write_error
from .output_folder import OutputFolder
from .writer import OutputWriter

logger = logging.getLogger(__name__)


class FileEvaluator(SupervisedEvaluator):
    """Segments the files of an `ImageFiles`, one by one, into a folder that no other run writes to meanwhile.

    A file may fail in reading, in the network or in what is made of its mask. Its outputs are taken away, those of an
    earlier run too, the engine's output is [], and `failures` has the reason by its path. One that fails for its name
    alone keeps what is there: it may belong to a file of another name.

    Args:
        outputs: folder of the outputs.
        writer: that the transforms and handlers write with; None where they write by themselves.
        kwargs: of SupervisedEvaluator.

    Raises:
        ValueError: the data loader makes batches of several files.
    """

    def __init__(self, outputs: OutputFolder, writer: OutputWriter | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if self.data_loader.batch_size != 1:
            raise ValueError(
                f"dataloader::batch_size must be 1, got {self.data_loader.batch_size}: files are segmented one by one; "
                "inferer::frames of a loop go through the network together."
            )
        self.outputs, self.writer = outputs, writer or OutputWriter()
        self.failures: dict[str, str] = {}
        self._refused: set[str] = set()  # for their names, before anything was read

    def run(self, global_epoch: int = 1) -> None:
        """Segment every file that is not segmented yet.

        Raises:
            ValueError: files failed. Warnings name them; the others are segmented.
            WriteError: the outputs cannot be written.
        """
        dataset = self.data_loader.dataset
        listed, self.failures = dataset.data, {}
        self._refused = {item[Keys.IMAGE] for item in listed if FAILURE in item}
        try:
            with self.outputs.opened(listed) as items:
                dataset.data, self.state.epoch_length = items, len(items)
                if items:
                    with self.writer.opened(self.outputs.path, self._fail):
                        super().run(global_epoch)
        except BaseException:  # a full disk or Ctrl-C: what was found until then is told all the same
            self._log_failures()
            raise
        finally:
            dataset.data = listed
        self._name_failures(len(listed))

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict | list:
        (file,) = batchdata[FILE]
        self.writer.begin(file)
        if FAILURE in batchdata:
            self.failures[file] = batchdata[FAILURE][0]
            if file not in self._refused:
                self._discard(file)
            return []
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:  # whatever it is, the other files can be segmented
            if stop := write_error(error):
                raise stop from None
            self.failures[file] = reason_of(error, file)
            self._discard(file)
            return []

    def _discard(self, file: str) -> None:
        """Take the outputs of a file away, after those that are being written."""
        self.writer.submit(partial(self.outputs.discard, file))

    def _fail(self, file: str, error: Exception) -> None:
        """Note a file whose output could not be made; the writer calls it."""
        self.failures[file] = reason_of(error, file)
        self.outputs.discard(file)

    def _name_failures(self, number: int) -> None:
        reasons = list(self.failures.values())
        if len(reasons) == 1:
            raise ValueError(f"1 file of {number} was not segmented: {reasons[0]}")
        self._log_failures()
        if reasons:
            raise ValueError(
                f"{len(reasons)} files of {number} were not segmented; the lines above name them. Repair them or take "
                "them out, and run again with --resume True."
            )

    def _log_failures(self) -> None:
        for reason in self.failures.values():
            logger.warning("%s", printable(reason))
