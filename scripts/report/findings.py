"""The contents of a report: figures with intervals, verdicts, curves and failures of an evaluation or a comparison.

A part that cannot be computed becomes a warning in the report, and the rest is there. Rows are those of
evaluation/case_table.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from typing import Any, NamedTuple

from ..evaluation.calibration import Reliability
from ..evaluation.case_table import FAILED_DICE, OFFSET, CaseTable, is_missing, parse_number, warnings
from ..evaluation.lesion_free import has_lesion
from ..evaluation.results import is_measured
from ..evaluation.statistics import compare_arms, summarize_arms
from ..evaluation.subgroups import LESION_OFFSET, LESION_SIZE, bland_altman, subgroup_table
from ..metrics import METRICS
from ..utils.options import ARMS, CONTROL, STUDENT, TEACHER
from .cases import judged_arm, list_cases
from .detection import measure_detection

PAIRS = ((STUDENT, CONTROL), (STUDENT, TEACHER), (CONTROL, TEACHER))
COMPARED = ("dice", "hd95", "nsd")
PACKAGES = ("torch", "monai", "timm", "segment-anything", "peft")
CASES_DRAWN = 3  # of each of the groups best, median and worst
MOST_GROUPS = 8  # of a column of texts that makes subgroups


class Picked(NamedTuple):
    """A case to draw.

    Args:
        group: best, median or worst.
        index: in the data set.
        case: its name.
    """

    group: str
    index: int
    case: str


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
        curves: by arm and seed, of `run.history.read_curves`.
        margin: mean Dice by which the student may be below its teacher and still count as non-inferior, fixed
            beforehand.
        about: what was run, for the table of settings.
        problems: warnings that the report begins with.
    """
    notes = list(problems)
    rows = drop_copies(rows, notes)
    table = _attempt(notes, None, CaseTable, rows)  # None where the arms cannot be compared
    summaries, areas, detection = _arm_figures(rows, notes)
    failures = list_failures(rows)
    columns = _columns(table.all_rows, notes) if table else []
    calibration = {arm: _attempt(notes, None, pixels.summary) for arm, pixels in reliability.items()}
    report = {
        "title": title,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "about": {**(about or {}), **({"margin (Dice)": margin} if margin is not None else {}), **_versions()},
        "warnings": notes,
        "arms": summaries,
        "comparisons": _comparisons(table, margin, notes) if table else [],
        "cases": _attempt(notes, [], list_cases, table, columns, failures) if table else [],
        "picked": [{"group": one.group, "case": one.case} for one in pick_cases(rows)] if rows else [],
        "subgroups": _subgroups(table, columns, notes) if table else [],
        "calibration": {arm: summary for arm, summary in calibration.items() if summary},
        "areas": areas,
        "detection": detection,
        "failures": failures,
        "curves": {
            arm: {seed: columns for seed, columns in seeds.items() if columns} for arm, seeds in (curves or {}).items()
        },
    }
    notes.extend(warnings(rows))
    return report


def drop_copies(rows: Sequence[Mapping[str, Any]], notes: list[str]) -> list[Mapping[str, Any]]:
    """The rows without copies, each of which is noted.

    A copy is the same row again, or an arm whose seeds agree to the last digit. That is one training evaluated several
    times, such as a teacher in the tables of several students.
    """
    distinct = list({tuple(sorted((key, str(value)) for key, value in row.items())): row for row in rows}.values())
    first_seeds: dict[tuple, Any] = {}
    kept, copies = [], set()
    runs: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
    for row in distinct:
        runs.setdefault((row["arm"], row["seed"]), []).append(row)
    for (arm, seed), run_rows in runs.items():
        content = (arm, *sorted((row["case"], *(str(row[key]) for key in row if is_measured(key))) for row in run_rows))
        if first_seeds.setdefault(content, seed) == seed:
            kept += run_rows
        else:
            copies.add(arm)
    notes += [
        f"Arm {arm} was evaluated several times with the same results: it counts as one training."
        for arm in sorted(copies)
    ]
    return kept


def _attempt(notes: list[str], default: Any, compute: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What `compute` returns for the arguments, or the default after its error was noted."""
    try:
        return compute(*arguments, **options)
    except ValueError as error:
        if str(error) not in notes:
            notes.append(str(error))
        return default


def _arm_figures(rows: Sequence[Mapping[str, Any]], notes: list[str]) -> tuple[dict[str, Any], ...]:
    """By arm its summary, the agreement of its areas, and its figures of whole images, as far as they can be computed.

    Each arm stands alone.
    """
    summaries, areas, detection = {}, {}, {}
    for arm in sorted(dict.fromkeys(row["arm"] for row in rows), key=lambda arm: (*ARMS, arm).index(arm)):
        arm_rows = [row for row in rows if row["arm"] == arm]
        if table := _attempt(notes, None, CaseTable, arm_rows):
            summaries.update(_attempt(notes, {}, summarize_arms, table, _metrics(arm_rows)))
            if agreement := _attempt(notes, None, bland_altman, table, arm):
                areas[arm] = agreement
            detection[arm] = _attempt(notes, {}, measure_detection, table, arm)
    return summaries, areas, detection


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The metrics that every row has, in mm where every image has a spacing and in pixels elsewhere."""
    names = [name for metric in (*METRICS, "ece") for name in (metric, f"{metric}_mm")]
    names += sorted({name for row in rows for name in row if "_class" in name and is_measured(name)})
    shared = [name for name in names if all(name in row for row in rows)]
    return [name for name in shared if f"{name}_mm" not in shared]


def _comparisons(table: CaseTable, margin: float | None, notes: list[str]) -> list[dict[str, Any]]:
    """Student against teacher, control and arms of other names, control against teacher; the margin is of the Dice to
    the teacher.
    """
    shared = _metrics(table.all_rows)
    metrics = [f"{name}_mm" if f"{name}_mm" in shared else name for name in COMPARED]
    others = [(STUDENT, name) for name in table.runs if name not in ARMS]
    pairs = [pair for pair in (*PAIRS, *others) if {*pair} <= {*table.runs}]
    comparisons = []
    for arm, reference, metric in ((*pair, metric) for pair in pairs for metric in metrics if metric in shared):
        limit = margin if (metric, reference) == ("dice", TEACHER) else None
        comparisons.append(_attempt(notes, None, compare_arms, table, arm, reference, metric, margin=limit))
    return [comparison for comparison in comparisons if comparison]


def _subgroups(table: CaseTable, columns: Sequence[str], notes: list[str]) -> list[dict[str, Any]]:
    columns = [*columns, LESION_SIZE]
    if any(row.get(OFFSET) not in (None, "") for row in table.all_rows):  # tables of earlier versions have none
        columns.append(LESION_OFFSET)
    return [row for column in columns for row in _attempt(notes, [], subgroup_table, table, [column])]


def _columns(rows: Sequence[Mapping[str, Any]], notes: list[str]) -> list[str]:
    """Columns of the datalist whose cases are groups: those with few values, and measures.

    Texts and whole numbers of which most cases have their own name the cases and group nothing. Other texts with many
    values are noted.
    """
    keys = {"case", "patient", "arm", "seed"}
    names = dict.fromkeys(key for row in rows for key in row if key not in keys and not is_measured(key))
    num_cases = len({row["case"] for row in rows})
    columns = []
    for name in names:
        values = {row.get(name) for row in rows}
        numbers = [parse_number(value) for value in values if not is_missing(value)]
        numeric, shared = None not in numbers, len(values) <= num_cases / 2
        measured = numeric and (shared or any(number % 1 for number in numbers))
        if len(values) > 1 and (measured or len(values) <= MOST_GROUPS):
            columns.append(name)
        elif shared and len(values) > MOST_GROUPS:
            notes.append(f"Column {name} has {len(values)} values, more than {MOST_GROUPS}: it makes no subgroups.")
    return columns


def list_failures(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the arms failed, the worst first: dicts of case (the image's file), arm, seed and reason.

    Reasons are a class without a pixel that should have some, one with pixels that should have none, or a low Dice.
    With several classes the first two can happen at any mean Dice.
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
    """Cases to draw: the best, those in the middle and the worst by the Dice of `judged_arm`; each once. The best and
    those in the middle show a lesion, where a case has one: an empty mask of an image without one has a Dice of 1.

    Args:
        rows: an arm's and seed's are in the data set's order; the first seed decides.
    """
    arm = judged_arm({row["arm"] for row in rows})
    seed = next(row["seed"] for row in rows if row["arm"] == arm)
    run_rows = [row for row in rows if (row["arm"], row["seed"]) == (arm, seed)]
    order = sorted(range(len(run_rows)), key=lambda index: -run_rows[index]["dice"])
    lesions = [index for index in order if has_lesion(run_rows[index])] or order
    middle = max(0, (len(lesions) - CASES_DRAWN) // 2)
    groups = {
        "worst": order[::-1][:CASES_DRAWN],
        "best": lesions[:CASES_DRAWN],
        "median": lesions[middle : middle + CASES_DRAWN],
    }
    seen: set[int] = set()
    picked = []
    for group, indices in groups.items():
        fresh = [index for index in indices if index not in seen]
        seen.update(fresh)
        picked += [Picked(group, index, run_rows[index]["case"]) for index in fresh]
    return sorted(picked, key=lambda one: ("best", "median", "worst").index(one.group))


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}
