"""history.csv, the record of a training: a row an epoch with losses, rate, times and validation metrics."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from ..utils.tables import write_table

HISTORY = "history.csv"
KEY_METRIC = "val_mean_dice"
NO_CURVES = ("lr", "seconds", "data_wait")  # columns that are no term of the loss

Row = dict[str, float]


def read_history(folder: str | Path) -> list[Row]:
    """The rows of a run, numbers by column, "epoch" a whole one; blank cells are left out. Empty where there is no
    file.

    Args:
        folder: of the run.
    """
    path = Path(folder) / HISTORY
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{key: float(text) for key, text in row.items() if text} for row in csv.DictReader(file)]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def append_row(folder: str | Path, row: Mapping[str, float]) -> None:
    """Add an epoch, in one step; rows of this epoch and later ones, which a killed run has left, are replaced."""
    path, texts = Path(folder) / HISTORY, []
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as file:
            texts = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
    rows = [*texts, row]
    columns = list(dict.fromkeys(name for one in rows for name in one))
    write_table(path, columns, rows)


def read_curves(folder: str | Path) -> dict[str, list[float | None]]:
    """Epoch, loss, its terms and the validation Dice by column, None where an epoch has none; {} without a history."""
    rows = read_history(folder)
    columns = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in columns if name == KEY_METRIC or name not in NO_CURVES and not name.startswith("val_")]
    return {name: [_finite(row.get(name)) for row in rows] for name in names}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
