"""What an evaluation or a comparison found, put together for the report: figures with intervals, verdicts, curves and
failures.

A part that cannot be computed becomes a warning in the report, and the rest is told. Rows are those of results.py.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from ..evaluation.calibration import Reliability
from ..evaluation.case_table import check_rows, is_missing, parse_number, warnings
from ..evaluation.results import is_measured
from ..evaluation.statistics import compare_arms, summarize_arms
from ..evaluation.subgroups import LESION_SIZE, bland_altman, subgroup_table
from ..metrics import METRICS

ARMS = ("teacher", "control", "student")  # student: the distilled one
COMPARED = ("dice", "hd95", "nsd")
PACKAGES = ("torch", "monai", "timm", "segment-anything", "peft")
NO_CURVES = ("lr", "seconds", "data_wait")  # columns of a history that are no term of the loss
FAILED_DICE = 0.5
SHOWN = 3  # cases of each group
MOST_GROUPS = 8  # of a column of texts that makes subgroups


class Picked(NamedTuple):
    """A case to draw: best, median or worst; its place in the data set; and what to write above it."""

    group: str
    index: int
    title: str


def compile_report(
    rows: Sequence[Mapping[str, Any]],
    reliability: Mapping[str, Reliability],
    title: str,
    curves: Mapping[str, Mapping[str, dict]] | None = None,
    margin: float | None = None,
    about: Mapping[str, Any] | None = None,
    problems: Sequence[str] = (),
) -> dict[str, Any]:
    """The contents of report.json.

    Args:
        rows: of all arms; teacher, control and student are compared where they are there.
        reliability: of each arm.
        title: of the report.
        curves: by arm and seed, see `read_curves`.
        margin: mean Dice by which the student may be below its teacher and still count as non-inferior, fixed
            beforehand.
        about: what was run, for the table of settings.
        problems: warnings that are known already.
    """
    told = list(problems)
    rows = drop_copies(rows, told)
    arms = sorted({row["arm"] for row in rows}, key=lambda arm: (*ARMS, arm).index(arm))
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in arms}
    comparable = _attempt(told, lambda: check_rows(rows) or True, False)
    summaries, areas = {}, {}
    for arm, own in by_arm.items():
        summaries.update(_attempt(told, lambda own=own: summarize_arms(own, _metrics(own)), {}))
        areas[arm] = _attempt(told, lambda arm=arm, own=own: bland_altman(own, arm), None)
    calibration = {arm: _attempt(told, found.summary, None) for arm, found in reliability.items()}
    report = {
        "title": title,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "about": {**(about or {}), **({"margin (Dice)": margin} if margin is not None else {}), **_versions()},
        "warnings": told,
        "arms": summaries,
        "comparisons": _comparisons(rows, arms, margin, told) if comparable else [],
        "subgroups": _subgroups(rows, told) if comparable else [],
        "calibration": {arm: summary for arm, summary in calibration.items() if summary},
        "areas": {arm: found for arm, found in areas.items() if found},
        "failures": list_failures(rows),
        "curves": {
            arm: {seed: curve for seed, curve in found.items() if curve} for arm, found in (curves or {}).items()
        },
    }
    told.extend(warnings(rows))
    return report


def drop_copies(rows: Sequence[Mapping[str, Any]], told: list[str]) -> list[Mapping[str, Any]]:
    """The rows without what is there twice: the same row again, and an arm whose seeds agree to the last digit, which
    is one training evaluated several times (a teacher in the tables of several students). What was dropped is told.
    """
    distinct = list({tuple(sorted((key, str(value)) for key, value in row.items())): row for row in rows}.values())
    seen: dict[tuple, Any] = {}
    kept, copies = [], set()
    runs: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
    for row in distinct:
        runs.setdefault((row["arm"], row["seed"]), []).append(row)
    for (arm, seed), own in runs.items():
        content = (arm, *sorted((row["case"], *(str(row[key]) for key in row if is_measured(key))) for row in own))
        if seen.setdefault(content, seed) == seed:
            kept += own
        else:
            copies.add(arm)
    told += [
        f"Arm {arm} was evaluated several times with the same results: it counts as one training."
        for arm in sorted(copies)
    ]
    return kept


def _attempt(told: list[str], compute: Callable[[], Any], default: Any) -> Any:
    """What `compute` returns, or the default after its error was added to what is told."""
    try:
        return compute()
    except ValueError as error:
        if str(error) not in told:
            told.append(str(error))
        return default


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that every row has, in mm where every image has a spacing and in pixels elsewhere."""
    names = [name for metric in (*METRICS, "ece") for name in (metric, f"{metric}_mm")]
    names += sorted({name for row in rows for name in row if "_class" in name and is_measured(name)})
    shared = [name for name in names if all(name in row for row in rows)]
    return [name for name in shared if f"{name}_mm" not in shared]


def _comparisons(
    rows: Sequence[Mapping[str, Any]], arms: Sequence[str], margin: float | None, told: list[str]
) -> list[dict[str, Any]]:
    """Student against teacher and control, control against teacher; the margin is of the Dice to the teacher."""
    pairs = [
        (a, b) for a, b in (("student", "control"), ("student", "teacher"), ("control", "teacher")) if {a, b} <= {*arms}
    ]
    shared = _metrics(rows)
    metrics = [f"{name}_mm" if f"{name}_mm" in shared else name for name in COMPARED]
    found = []
    for arm, reference, metric in ((*pair, metric) for pair in pairs for metric in metrics if metric in shared):
        own = margin if (metric, reference) == ("dice", "teacher") else None
        found.append(
            _attempt(told, lambda a=arm, r=reference, m=metric, own=own: compare_arms(rows, a, r, m, margin=own), None)
        )
    return [comparison for comparison in found if comparison]


def _subgroups(rows: Sequence[Mapping[str, Any]], told: list[str]) -> list[dict[str, Any]]:
    columns = [*_columns(rows, told), LESION_SIZE]
    return [
        row for column in columns for row in _attempt(told, lambda column=column: subgroup_table(rows, [column]), [])
    ]


def _columns(rows: Sequence[Mapping[str, Any]], told: list[str]) -> list[str]:
    """Columns of the datalist whose cases are groups: those with few values, and measures. Texts and whole numbers of
    which most cases have their own name them and group nothing; other texts with many values are told.
    """
    own = {"case", "patient", "arm", "seed"}
    names = dict.fromkeys(key for row in rows for key in row if key not in own and not is_measured(key))
    num_cases = len({row["case"] for row in rows})
    found = []
    for name in names:
        values = {row.get(name) for row in rows}
        numbers = [parse_number(value) for value in values if not is_missing(value)]
        numeric, shared = None not in numbers, len(values) <= num_cases / 2
        measured = numeric and (shared or any(number % 1 for number in numbers))
        if len(values) > 1 and (measured or len(values) <= MOST_GROUPS):
            found.append(name)
        elif shared and len(values) > MOST_GROUPS:
            told.append(f"Column {name} has {len(values)} values, more than {MOST_GROUPS}: it makes no subgroups.")
    return found


def list_failures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Case (the image's file), arm, seed and reason of what an arm failed, the worst first: a class without a pixel
    that should have some, one with pixels that should have none, or a low Dice. With several classes the first two can
    happen at any mean Dice.
    """
    failed = [(row, reason) for row in rows if (reason := _failure(row))]
    return [
        {**{key: row[key] for key in ("case", "arm", "seed")}, "reason": reason}
        for row, reason in sorted(failed, key=lambda pair: pair[0]["dice"])
    ]


def _failure(row: Mapping[str, Any]) -> str:
    """Why a case failed; empty where it did not."""
    both = row.get("both_empty", 0)
    missed, made_up = (row.get(name, 0) > both for name in ("empty_prediction", "empty_label"))
    low = f"Dice {row['dice']:.3f}" if row["dice"] < FAILED_DICE else ""
    return ", ".join(["a class was missed"] * missed + ["found what is not there"] * made_up) or low


def pick_cases(rows: Sequence[Mapping[str, Any]]) -> list[Picked]:
    """Cases to draw: the best, those in the middle and the worst by the Dice of `judged_arm`; each once.

    Args:
        rows: an arm's and seed's are in the data set's order; the first seed decides.
    """
    arm = judged_arm({row["arm"] for row in rows})
    seed = next(row["seed"] for row in rows if row["arm"] == arm)
    own = [row for row in rows if (row["arm"], row["seed"]) == (arm, seed)]
    order = sorted(range(len(own)), key=lambda index: -own[index]["dice"])
    middle = max(0, (len(order) - SHOWN) // 2)
    groups = {"worst": order[::-1][:SHOWN], "best": order[:SHOWN], "median": order[middle : middle + SHOWN]}
    seen: set[int] = set()
    picked = []
    for group, indices in groups.items():
        fresh = [index for index in indices if index not in seen]
        seen.update(fresh)
        picked += [
            Picked(group, index, f"{Path(own[index]['case']).name}: {arm} Dice {own[index]['dice']:.3f}")
            for index in fresh
        ]
    return sorted(picked, key=lambda one: ("best", "median", "worst").index(one.group))


def judged_arm(arms: Collection[str]) -> str:
    """Whose cases are ranked and drawn: the student's, or else the control's, the teacher's, any other's."""
    return next((name for name in reversed(ARMS) if name in arms), next(iter(arms)))


def read_curves(history: Path) -> dict[str, list[float | None]]:
    """Epoch, loss, its terms and the validation Dice of a run's history.csv, by column; None where a cell is blank or
    not finite. Empty where there is no such file.
    """
    if not history.is_file():
        return {}
    with open(history, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = rows[0] if rows else ()
    names = [
        name for name in columns if name == "val_mean_dice" or name not in NO_CURVES and not name.startswith("val_")
    ]
    return {name: [_finite(row[name]) for row in rows] for name in names}


def _finite(text: str) -> float | None:
    return float(text) if text and math.isfinite(float(text)) else None


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}
