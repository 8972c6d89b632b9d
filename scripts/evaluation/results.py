"""The results of an evaluation as files: test_results.txt to read, metrics.csv of every case, summary.json of means.

Rows are those of case_table.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..metrics import AREAS, COUNTS, METRICS, TITLES, UNITS
from ..utils.files import atomic_path
from ..utils.options import STUDENT
from ..utils.tables import read_table, table_text
from .case_table import CONFIDENCE, OFFSET, PRESENCE, patients_note
from .lesion_free import LEFT_EMPTY, LESION_FREE, WITH_LESION, count_left_empty, describe_left_empty

logger = logging.getLogger(__name__)

NUM_WORST = 5
METRICS_FILE = "metrics.csv"


def write_results(
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Mapping[str, float]],
    output_dir: Path,
    class_names: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write the three files, each in one step.

    Args:
        rows: of all arms.
        summary: of each arm, see `SegmentationMetrics.summary`.
        output_dir: made when it is not there.
        class_names: of the foreground classes.
        notes: on the data.
    """
    contents = {
        METRICS_FILE: table(rows),
        "summary.json": json.dumps(summary, indent=4) + "\n",
        "test_results.txt": results_text(summary, rows, class_names, notes),
    }
    for name, content in contents.items():
        with atomic_path(output_dir / name) as partial:
            partial.write_text(content, encoding="utf-8", errors="backslashreplace", newline="")
    logger.info("results written to %s: %s", output_dir, ", ".join(contents))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a row a case, arm and seed; what is in mm is blank where the size of a pixel is unknown."""
    names = dict.fromkeys(key for row in rows for key in row)
    first = ["case", "patient", "arm", "seed"]
    areas = [*AREAS, *(key for key in names if key.endswith("_area_mm2"))]
    last = [key for key in dict.fromkeys([*areas, *COUNTS]) if key in names]
    between = [key for key in names if key not in first and key not in last]
    return table_text([*first, *between, *last], rows)


def results_text(
    summary: Mapping[str, Mapping[str, float]],
    rows: Sequence[Mapping[str, Any]],
    class_names: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """The readable results: a column an arm with means and counts, the worst cases by Dice, and what to know of the
    data.
    """
    names = list(summary)
    shared = [key for key in summary[names[0]] if key not in ("num_cases", *COUNTS) and not key.startswith(LESION_FREE)]
    ordered = [key for metric in METRICS for key in (metric, f"{metric}_mm") if key in shared]
    ordered += [key for key in shared if key not in ordered]
    lines = [f"{summary[names[0]]['num_cases']} cases at their original size"]
    lines += [f"classes: {', '.join(class_names)} (and background)"] if class_names else []
    lines += ["", _line("mean over all cases", names)]
    lines += [_line(_title(key, class_names), [f"{summary[name][key]:.4f}" for name in names]) for key in ordered]
    if any(f"{LESION_FREE}_images" in means for means in summary.values()):
        counts = [count_left_empty(row for row in rows if row["arm"] == name) for name in names]
        lines += [_line(LEFT_EMPTY, [describe_left_empty(count) for count in counts])]
    lines += ["", _line("masks without a pixel (of a class)", names)]
    lines += [_line(key.replace("_", " "), [str(summary[name][key]) for name in names]) for key in COUNTS]
    lines += [
        "one empty: Dice and NSD 0, HD95 the image diagonal; both empty: Dice and NSD 1, HD95 0. No case is left out."
    ]
    for name in names:
        worst = sorted((row for row in rows if row["arm"] == name), key=lambda row: row["dice"])[:NUM_WORST]
        lines += ["", f"worst by Dice, {name}", *(f"  {row['dice']:.4f}  {row['case']}" for row in worst)]
    remarks = [note for note in (*notes, patients_note(rows)) if note]
    lines += ["", *(f"warning: {remark}" for remark in remarks)] if remarks else []
    return "\n".join(lines) + "\n"


def _title(key: str, class_names: Sequence[str]) -> str:
    """A metric with its unit, and of one class with the class's name."""
    metric, _, number = key.partition("_class")
    title = TITLES[metric] if metric.endswith(WITH_LESION) else UNITS.get(metric, metric)
    if not number:
        return title
    name = class_names[int(number) - 1] if int(number) <= len(class_names) else f"class {number}"
    return f"{title}, {name}"


def _line(title: str, values: Sequence[str]) -> str:
    return f"{title:<36}" + "".join(f"{value:>12}" for value in values)


def read_named_rows(path: str | Path, name: str = "") -> list[dict[str, Any]]:
    """As `read_rows`; with a name the students' rows alone, as those of an arm of that name."""
    rows = read_rows(path)
    return [{**row, "arm": name} for row in rows if row["arm"] == STUDENT] if name else rows


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a metrics.csv; measurements are numbers again, blanks are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no such table, or a table without rows.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a {METRICS_FILE} of an evaluation.")
    lines = read_table(path)
    if not lines:
        raise ValueError(f"{path} has no rows; expected a {METRICS_FILE} of an evaluation.")
    for number, line in enumerate(lines, 1):
        missing = [key for key in ("case", "arm", "seed", "dice") if not line.get(key)]
        if missing:
            raise ValueError(f"row {number} of {path} has no {missing[0]}; expected a {METRICS_FILE} of an evaluation.")
    rows = [{key: _value(key, text, str(path)) for key, text in line.items() if text} for line in lines]
    return [{"patient": "", **row} for row in rows]


def _value(key: str, text: str, path: str) -> str | int | float:
    """A number in the columns that hold measurements; names, patients and columns of the datalist stay texts."""
    kind = int if key == "seed" or key in COUNTS or key in AREAS else float if is_measured(key) else str
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{path} has {text!r} in the column {key}, expected a number.") from None


def is_measured(key: str) -> bool:
    """Whether a column holds a metric, an area, a count (of all classes or of one, in pixels or mm), the offset,
    presence or confidence.
    """
    name = key.partition("_class")[0].removesuffix("_mm2").removesuffix("_mm")
    return name in (*METRICS, "ece", *AREAS, *COUNTS, OFFSET, PRESENCE, CONFIDENCE)
