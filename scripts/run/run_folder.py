"""Where a run writes: `logs/{kind}/{dataset}/{timestamp}/`, made when the training starts and not before."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..utils.files import naming_path

LAST_CHECKPOINT, BEST, MODELS, LAUNCH = "last.pt", "best_epoch", "models", "launch.txt"
RESULTS = ("test_results.txt", "report.html")  # a final evaluation that has ended has both, the page last
LOCK, PATIENCE = ".lock", 15.0  # seconds: the data loader's processes hold it some seconds longer than one killed
WHOLE = ".pt"  # suffix of a file of best weights that holds the whole network


class RunFolder:
    """The paths of one run.

    Args:
        root: such as logs/distillation.
        dataset: name of the data set.
        resume: an earlier run's folder or one of its checkpoints: this run then writes there; None starts a new folder.
        timestamp: name of a new folder; None takes the time.
        launch: name of the program's start, where it is started again under the same name when it is killed. Such a run
            goes on in the folder that it began (its LAUNCH says so), from the last epoch that was completed.
        log_name: of the log file.

    Raises:
        FileNotFoundError: there is nothing to resume from.
        ValueError: the checkpoint to resume from is outside of a run folder.
    """

    def __init__(
        self,
        root: str,
        dataset: str,
        resume: str | None = None,
        timestamp: str | None = None,
        launch: str | None = None,
        log_name: str = "distill.log",
    ) -> None:
        self.launch, self.log_name = launch, log_name
        self.resume_checkpoint = find_checkpoint(Path(resume)) if resume else None
        begun = (
            find_launch(launch, [*_runs(self.resume_checkpoint), *(Path(root) / dataset).glob("*")]) if launch else None
        )
        self.restarted = begun is not None
        if begun:
            last = begun / MODELS / LAST_CHECKPOINT
            self.path, self.resume_checkpoint = begun, last.resolve() if last.is_file() else None
        elif self.resume_checkpoint:
            self.path = self.resume_checkpoint.parent.parent
        else:
            self.path = Path(root) / dataset / (timestamp or datetime.now().strftime("%Y%m%d_%H%M%S"))

    @property
    def resumed(self) -> bool:
        """Whether the run goes on in an earlier run's folder."""
        return self.restarted or self.resume_checkpoint is not None

    @property
    def models(self) -> Path:
        """Checkpoints."""
        return self.path / MODELS

    @property
    def visualizations(self) -> Path:
        """Panels."""
        return self.path / "visualizations"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    def best_model(self) -> Path:
        """The best weights so far.

        Raises:
            FileNotFoundError: no validation has run yet.
        """
        best = find_best(self.models)
        if best is None:
            raise FileNotFoundError(
                f"{self.models} holds no best_epoch* file: no validation has ended in this run yet."
            )
        return best

    def lock(self) -> None:
        """Keep other processes from writing into the folder, which is there, until the end of this one, or until
        `unlock` was called as often.

        Raises:
            ValueError: another process has it.
        """
        with naming_path(self.path / LOCK):
            try:
                self._held.acquire(timeout=PATIENCE)
            except Timeout:
                raise ValueError(
                    f"the run folder {self.path} is in use by another process; wait for its end, or end it, and start "
                    "this command again."
                ) from None

    def unlock(self) -> None:
        """Let other processes write into the folder."""
        self._held.release()

    @cached_property
    def _held(self) -> FileLock:
        return FileLock(self.path / LOCK)


def best_epoch(path: Path) -> int:
    """The epoch in the name of a file of best weights; 0 where it has none."""
    number = re.match(BEST + r"(\d+)", path.name)
    return int(number[1]) if number else 0


def find_best(models: Path) -> Path | None:
    """The file of best weights in a run's folder of models: of several that a kill has left, the latest epoch's.

    The name tells; times of files depend on clocks and copies.
    """
    return max(models.glob(f"{BEST}*"), key=best_epoch, default=None)


def lacks_evaluation(run_folder: RunFolder, evaluation: Any | None) -> bool:
    """Whether a run that has completed its epochs goes on all the same.

    It does where the final evaluation has not been written, or where what had started the program has started it again.

    Args:
        run_folder: of the run.
        evaluation: the final evaluation; None is a run without one.
    """
    whole = all((run_folder.path / name).is_file() for name in RESULTS)
    return run_folder.restarted or (evaluation is not None and not whole)


def find_launch(launch: str, folders: Iterable[Path]) -> Path | None:
    """The run folder that a launch of this name has begun."""
    for folder in folders:
        record = folder / LAUNCH
        if record.is_file() and record.read_text() == launch:
            return folder
    return None


def _runs(checkpoint: Path | None) -> list[Path]:
    return [checkpoint.parent.parent] if checkpoint else []


def find_checkpoint(resume: Path) -> Path:
    """The checkpoint that `training::resume` means: the file itself, or a run folder's models/last.pt."""
    checkpoint = resume / MODELS / LAST_CHECKPOINT if resume.is_dir() else resume
    if resume.is_dir() and not checkpoint.is_file():
        raise FileNotFoundError(
            f"training::resume: {resume} holds no {MODELS}/{LAST_CHECKPOINT}, so that no epoch of a run is complete; "
            "start that run again without --training::resume, or name the folder of another run."
        )
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"training::resume: {resume} does not exist; name the folder of a run, or one of its checkpoints."
        )
    checkpoint = checkpoint.resolve()
    if checkpoint.parent.name != MODELS:  # the run would write beside somebody's files
        raise ValueError(
            f"training::resume: {checkpoint} is not in the folder {MODELS} of a run; pass the run's folder."
        )
    return checkpoint
