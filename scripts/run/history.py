"""history.csv, the record of a training: a row an epoch with losses, rate, times and validation metrics."""

from __future__ import annotations

import csv
import io
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

    Raises:
        ValueError: the file is damaged; the message names the line.
    """
    return [{key: number for key, number in row.items() if number is not None} for row in _read(folder)]


def _read(folder: str | Path) -> list[dict[str, float | None]]:
    """As `read_history`, with None for a blank cell."""
    path = Path(folder) / HISTORY
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _spoilt(path, f"it is no CSV: {error}") from error
    if not lines or not text.endswith("\n"):
        raise _spoilt(path, "it is cut off" if lines else "it has no rows")
    rows = [_numbers(path, line, number) for number, line in enumerate(lines, 2)]
    if sorted({row["epoch"] for row in rows}) != [row["epoch"] for row in rows]:
        raise _spoilt(path, "its epochs do not rise from line to line")
    return rows


def _numbers(path: Path, line: Mapping[str | None, str | None], number: int) -> dict[str, float | None]:
    """A line of the file; "epoch" is a whole number from 1 on."""
    if None in line or None in line.values():
        raise _spoilt(path, f"line {number} has not as many cells as the head")
    row: dict[str, float | None] = {}
    for key, text in line.items():
        try:
            row[key] = float(text) if text else None
        except ValueError:
            raise _spoilt(
                path, f"line {number} has {text[:40]!r} in the column {key[:40]}, expected a number"
            ) from None
    epoch = row.get("epoch")
    if epoch is None or not epoch.is_integer() or epoch < 1:
        raise _spoilt(path, f"line {number} has no whole number in the column epoch")
    return {**row, "epoch": int(epoch)}


def _spoilt(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is damaged: {what}. Correct the line, or move the file away: weights and results do not need it, and "
        "the curves then begin with the next epoch."
    )


def append_row(folder: str | Path, row: Mapping[str, float]) -> None:
    """Add an epoch, in one step; rows of this epoch and later ones, which a killed run has left, are replaced.

    Raises:
        ValueError: see `read_history`.
    """
    path = Path(folder) / HISTORY
    rows = [*(old for old in _read(folder) if old["epoch"] < row["epoch"]), row]
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
