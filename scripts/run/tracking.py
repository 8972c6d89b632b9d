"""What an experiment tracker is told of a run, whichever tracker it is; scripts/handlers/ has one record for each.

All of it comes from the run's configuration, data and folder, so that the trackers agree with the files. Names of
metrics are those of the TensorBoard files: train/task, val/val_mean_dice, and so on.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image
from torch import nn

from ..data.datalist import SegmentationData
from ..data.datalist_file import locate, read_datalist
from ..data.splits import LISTS, SPLITS, UNLABELED
from ..utils.digests import bytes_digest, file_digest
from ..utils.files import atomic_path
from ..utils.machine import DIRTY, describe_machine, git_revision, list_versions
from .history import read_history
from .references import RESERVED, follow
from .run_folder import WHOLE, RunFolder

SECTIONS = ("data", "teacher", "student", "distillation", "augmentation", "training", "hardware")
# objects that the sections are given, and no choices of a user
WIRING = (
    "training.trainer",
    "training.evaluator",
    "training.run_folder",
    "training.final_evaluation",
    "training.on_completion",
)
FILES = ("config.json", "history.csv", "metrics.csv", "test_results.txt", "report.html", "report.json")
PANEL_WIDTH = 960  # pixels


def require(package: str) -> ModuleType:
    """The module of an optional package.

    Raises:
        ValueError: it is not installed; the extra that brings it has its name.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ValueError(
            f"the package {package} is not installed, and configs/{package}.json needs it; install the extra: "
            f"python -m uv run --extra {package} ..., or pip install .[{package}]."
        ) from None


def small_picture(path: Path, width: int = PANEL_WIDTH) -> Image.Image:
    """A PNG in RGB, at most `width` pixels wide."""
    with Image.open(path, formats=["PNG"]) as picture:
        picture = picture.convert("RGB")
    picture.thumbnail((width, 100 * width), Image.Resampling.LANCZOS)
    return picture


def flatten_sections(config: Mapping[str, Any]) -> dict[str, Any]:
    """The user's sections as {"training.lr": 1e-4, ...}.

    A reference to a value is replaced by the value; one to an object stays a text.

    Args:
        config: as `checked_config` returns it.
    """
    return {
        f"{section}.{key}": _plain(value, config)
        for section in SECTIONS
        for key, value in (config.get(section) or {}).items()
        if key not in RESERVED and f"{section}.{key}" not in WIRING
    }


def _plain(value: Any, config: Mapping[str, Any]) -> Any:
    target = follow(value, config)
    if isinstance(target, dict):
        return value
    return target if isinstance(target, (bool, int, float, str, type(None))) else str(target)


def data_hashes(data: SegmentationData) -> dict[str, str]:
    """Hashes of the datalist's file, of its lists (`SegmentationData.digest`), and of all images and labels."""
    images = {UNLABELED: [case["image"] for case in data.unlabeled]}
    content, digests = read_datalist(data.datalist) if data.datalist else images, []
    lists = LISTS if data.unlabeled_share else SPLITS
    for item in (item for split in lists for item in content.get(split, [])):
        names = [item] if isinstance(item, str) else [item["image"], item.get("label")]
        digests += [bytes.fromhex(file_digest(locate(name, data.dataset_dir))) if name else b"none" for name in names]
    return {
        **({"data.datalist_sha256": file_digest(data.datalist)} if data.datalist else {}),
        "data.lists": data.digest,
        "data.files_sha256": bytes_digest(b"".join(digests)),
    }


def describe_origin() -> dict[str, str]:
    """Revision of the code, machine and versions, as texts."""
    revision = git_revision() or "unknown"
    origin = {"git.revision": revision.removesuffix(DIRTY), "git.dirty": str(revision.endswith(DIRTY)).lower()}
    origin |= {f"machine.{key}": _text(value) for key, value in describe_machine().items()}
    return origin | {f"version.{key}": value for key, value in list_versions().items() if value}


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


class TrackedRun:
    """What is known of a run.

    Args:
        config: as `checked_config` returns it.
        data: the section `data`.
        run_folder: where the run writes.
    """

    def __init__(self, config: Mapping[str, Any], data: SegmentationData, run_folder: RunFolder) -> None:
        self.config, self.data, self.folder = config, data, run_folder

    @property
    def name(self) -> str:
        """Kind and time, such as distillation/20261101_120000."""
        return f"{self.folder.path.parent.parent.name}/{self.folder.path.name}"

    def params(self) -> dict[str, Any]:
        """See `flatten_sections`."""
        return flatten_sections(self.config)

    def origin(self) -> dict[str, str]:
        """See `describe_origin` and `data_hashes`."""
        return {**describe_origin(), **data_hashes(self.data), "data.name": self.data.name}

    def epochs(self, after: int = 0) -> Iterator[tuple[int, dict[str, float]]]:
        """Number and metrics of each epoch after one: loss and its terms, lr and times under train/, validation
        under val/.
        """
        for row in read_history(self.folder.path):
            if row["epoch"] > after:
                values = {key: value for key, value in row.items() if key != "epoch"}
                names = {key: f"{'val' if key.startswith('val_') else 'train'}/{key}" for key in values}
                yield row["epoch"], {names[key]: value for key, value in values.items()}

    def test_figures(self) -> dict[str, float]:
        """Means of the final evaluation and the ends of their intervals: test/student/dice, ..._low, ..._high; {}
        without one.
        """
        path = self.folder.path / "report.json"
        arms = json.loads(path.read_text(encoding="utf-8"))["arms"] if path.is_file() else {}
        figures = {}
        for arm, summary in arms.items():
            for metric, interval in summary["metrics"].items():
                ends = {"": interval["mean"], "_low": interval["low"], "_high": interval["high"]}
                figures |= {f"test/{arm}/{metric}{end}": value for end, value in ends.items() if value is not None}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def panels(self) -> list[Path]:
        """The pictures of the run, in the order of their names."""
        return sorted(self.folder.visualizations.glob("*.png"))

    def files(self) -> list[Path]:
        """What of `FILES` the run has written."""
        return [path for name in FILES if (path := self.folder.path / name).is_file()]

    def best_weights(self) -> Path:
        """The file of the best epoch.

        Raises:
            FileNotFoundError: no validation has run yet.
        """
        return self.folder.best_model()

    @property
    def keeps_whole_network(self) -> bool:
        """Whether that file is the network's state dict, and not a part of it, such as the adapter of a teacher."""
        return self.best_weights().suffix == WHOLE


class Record(ABC):
    """A run in one tracker: opened at the start, told of every epoch, given figures and files at the end.

    Which run of the tracker it is, and how far it was told, stands in `{package}_record.json` in the run's folder, so
    that a resumed run goes on in it. Of several processes that torchrun has started the first alone records.

    Args:
        run: what is recorded.
    """

    package: str

    def __init__(self, run: TrackedRun) -> None:
        self.module = require(self.package)
        self.run, self.network, self.id = run, None, None
        self.is_silent = int(os.environ.get("RANK", 0)) > 0

    def start(self, network: nn.Module | None = None) -> None:
        """Open the record.

        Args:
            network: that the run trains; None where it trains nothing.
        """
        if self.is_silent:
            return
        self.network = network
        state = self._recorded()
        self.last_epoch = state["last_epoch"]
        self.id = self._open(state["id"])
        self._remember()

    def log_epochs(self) -> None:
        """Record the epochs that the record lacks."""
        if self.is_silent:
            return
        for epoch, values in self.run.epochs(self.last_epoch):
            self._log_epoch(values, epoch)
            self.last_epoch = epoch
        self._remember()

    def finish(self) -> None:
        """Record the final evaluation, panels, files and, of a training, the model; then close."""
        if self.is_silent:
            return
        if self.id is None:
            self.start()
        self.log_epochs()
        self._log_results(self.run.test_figures(), self.run.panels(), self.run.files())
        self._close()
        self.id = None

    @property
    def _state_file(self) -> Path:
        return self.run.folder.path / f"{self.package}_record.json"

    def _recorded(self) -> dict[str, Any]:
        if not self._state_file.is_file():
            return {"id": None, "last_epoch": 0}
        try:
            state = json.loads(self._state_file.read_text(encoding="utf-8"))
            return {"id": state["id"], "last_epoch": int(state["last_epoch"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._state_file} is damaged ({type(error).__name__}: {error}); move it away for a new record."
            ) from error

    def _remember(self) -> None:
        with atomic_path(self._state_file) as partial:
            partial.write_text(json.dumps({"id": self.id, "last_epoch": self.last_epoch}) + "\n")

    @abstractmethod
    def _open(self, id: str | None) -> str:
        """Open the tracker's run `id`, or a new one, and record parameters and origin; its id."""

    @abstractmethod
    def _log_epoch(self, values: Mapping[str, float], epoch: int) -> None:
        """Record the metrics of an epoch."""

    @abstractmethod
    def _log_results(self, figures: Mapping[str, float], panels: Sequence[Path], files: Sequence[Path]) -> None:
        """Record what the run ended with."""

    @abstractmethod
    def _close(self) -> None:
        """The run has ended well."""
