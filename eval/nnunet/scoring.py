"""nnU-Net's masks in the bundle's evaluation, and what its training took."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from scripts.data.readers import read_mask
from scripts.evaluation.case_table import CaseTable
from scripts.evaluation.evaluate import evaluate_masks
from scripts.evaluation.results import METRICS_FILE, read_rows, table
from scripts.evaluation.statistics import summarize_arms
from scripts.utils.files import atomic_path
from scripts.utils.options import STUDENT

from .raw_data import SUFFIX, case_id

SUMMARIZED = ("dice", "hd95", "nsd")
EPOCH, SECONDS = re.compile(r": Epoch (\d+)\s*$"), re.compile(r"Epoch time: ([\d.]+) s")


def missing_masks(folder: Path, split: str, number: int) -> list[str]:
    """Cases of a list without a mask; one that a killed process left unreadable is taken away, and counts.

    Args:
        folder: of the masks.
        split: the list.
        number: of its cases.
    """
    missing = []
    for case in (case_id(split, index) for index in range(number)):
        path = folder / f"{case}{SUFFIX}"
        try:
            read_mask(path)
        except (FileNotFoundError, ValueError):
            path.unlink(missing_ok=True)
            missing.append(case)
    return missing


def write_scores(dataset: Dataset, masks: Path, split: str, num_classes: int, output_dir: Path) -> None:
    """Measure the masks of a list at the images' original size and write metrics.csv.

    The rows count as those of a student, as `eval.compare --tables NAME=PATH` takes them.

    Args:
        dataset: see `evaluate_masks`.
        masks: folder of nnU-Net's masks.
        split: the list.
        num_classes: with the background.
        output_dir: gets the table.

    Raises:
        ValueError: a mask that does not fit its case.
    """

    def mask(index: int) -> np.ndarray:
        return read_mask(masks / f"{case_id(split, index)}{SUFFIX}")[0].T[None]

    rows = evaluate_masks(dataset, mask, num_classes, STUDENT).rows
    with atomic_path(output_dir / METRICS_FILE) as partial:
        partial.write_text(table(rows), encoding="utf-8", newline="")


def summarize(metrics_file: Path) -> dict[str, Any]:
    """Means of a metrics.csv with their 95 % intervals over patients, and counts; see `summarize_arms`."""
    return summarize_arms(CaseTable(read_rows(metrics_file)), SUMMARIZED)[STUDENT]


def read_plan(path: Path) -> dict[str, Any]:
    """What nnU-Net planned for images in 2D.

    Args:
        path: of its plans.
    """
    plan = json.loads(path.read_text(encoding="utf-8"))["configurations"]["2d"]
    architecture = plan.get("architecture", {})
    features = architecture.get("arch_kwargs", {}).get("features_per_stage")
    return {
        "patch_size": plan["patch_size"],
        "batch_size": plan["batch_size"],
        "network": str(architecture.get("network_class_name", "")).rpartition(".")[2],
        "features_per_stage": features,
    }


def epoch_seconds(logs: Iterable[Path]) -> dict[int, float]:
    """Seconds of each epoch by its number, from the logs of a training and of those that went on with it.

    Args:
        logs: in their order in time.
    """
    seconds: dict[int, float] = {}
    for path in logs:
        epoch = None
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if found := EPOCH.search(line):
                epoch = int(found[1])
            elif (found := SECONDS.search(line)) and epoch is not None:
                seconds[epoch] = float(found[1])
    return seconds
