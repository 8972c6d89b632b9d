"""The figures of the model card, made from the results files. docs/README.md holds them, and a test compares the two.

    python -m eval.card eval/results/busbra.json [MORE ...]

It prints the tables of the first file. With several files a last table has a row a file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.utils.options import ARMS, CONTROL, STUDENT, TEACHER

from .command_line import run_program
from .publish import read_json

COUNTS = {"empty_prediction": "empty predictions", "one_empty": "exactly one mask empty"}  # of a class
LENGTHS = ("hd95", "hd95_mm", "hd95_with_lesion", "hd95_mm_with_lesion")  # in pixels or mm, one digit
CHECKPOINT = re.compile(r"best_epoch(?P<epoch>\d+)_dice(?P<dice>[\d.]+)\.")
PAIRS = ((STUDENT, CONTROL), (STUDENT, TEACHER), (CONTROL, TEACHER))
LEFT_OUT = ("side", "official_fold", "upstream_split")  # columns whose subgroups are not in the card


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m eval.card", description=__doc__.splitlines()[0])
    parser.add_argument(
        "reports", type=Path, nargs="+", help="report.json of a comparison, or its copy in eval/results"
    )
    options = parser.parse_args(arguments)
    return run_program("card", lambda: _print(options.reports))


def _print(paths: Sequence[Path]) -> int:
    reports = {path.stem: read_json(path, "the report of a finished comparison") for path in paths}
    report = next(iter(reports.values()))
    parts = [metric_table(report), difference_lines(report), subgroup_table(report), calibration_lines(report)]
    parts.append(probe_table(report))
    parts += [overview(reports)] if len(reports) > 1 else []
    print("\n\n".join("\n".join(lines) for lines in parts if lines))
    return 0


def metric_table(report: Mapping[str, Any]) -> list[str]:
    """Markdown: a row a metric with its interval, Dice of each class, and empty masks; a column an arm."""
    from scripts.evaluation.lesion_free import WITH_LESION, left_empty_rows
    from scripts.metrics import METRICS  # imports torch, which --help can do without

    arms = [arm for arm in ARMS if arm in report["arms"]]
    if not arms:
        raise ValueError(f"the report has none of the arms {', '.join(ARMS)}; take that of a comparison.")
    metrics = [report["arms"][arm]["metrics"] for arm in arms]
    names = [name for metric in (*METRICS, "ece") for name in (metric, f"{metric}_mm")]
    names = [name for metric in names for name in (metric, f"{metric}{WITH_LESION}")]
    names += sorted(name for name in metrics[0] if name.startswith("dice_class"))
    shared = [name for name in names if all(name in summaries for summaries in metrics)]
    rows = [[_title(name), *(interval_cell(name, summaries[name]) for summaries in metrics)] for name in shared]
    rows += [[title, *(str(report["arms"][arm]["counts"][name]) for arm in arms)] for name, title in COUNTS.items()]
    rows += left_empty_rows({arm: report["arms"][arm] for arm in arms})
    return markdown_table(["", *arms], rows)


def difference_lines(report: Mapping[str, Any]) -> list[str]:
    """Markdown: what each pair of arms differs by in Dice, and what of its teacher's Dice the student keeps."""
    from scripts.evaluation.case_table import one_seed_note
    from scripts.evaluation.statistics import describe_difference

    rows = _dice_differences(report)
    lines = [
        f"- {row['arm'].capitalize()}: {describe_difference(row)} p = {row['p_value']:.2g}."
        for row in map(rows.get, PAIRS)
        if row
    ]
    if lines and (note := one_seed_note([arm for arm in ARMS if report["arms"].get(arm, {}).get("num_seeds") == 1])):
        lines.append(f"- {note}")
    if {TEACHER, STUDENT} <= {*report["arms"]}:
        dice = {arm: report["arms"][arm]["metrics"]["dice"]["mean"] for arm in (TEACHER, STUDENT)}
        lines.append(f"- The student keeps {dice[STUDENT] / dice[TEACHER]:.1%} of its teacher's Dice.")
    return lines


def _dice_differences(report: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Of the Dice, by arm and reference."""
    return {(row["arm"], row["reference"]): row for row in report["comparisons"] if row["metric"] == "dice"}


def subgroup_table(report: Mapping[str, Any]) -> list[str]:
    """Markdown: a row a group with the Dice of each arm and its interval."""
    arms = [arm for arm in ARMS if arm in report["arms"]]
    rows = [
        [
            f"{row['column']}: {row['group']}",
            str(row["num_cases"]),
            *(interval_cell("dice", row["arms"][arm]) for arm in arms),
        ]
        for row in report["subgroups"]
        if row["column"] not in LEFT_OUT
    ]
    return markdown_table(["Dice", "images", *arms], rows) if rows else []


def probe_table(report: Mapping[str, Any]) -> list[str]:
    """Markdown: a row a probe with the change of each arm's Dice, its interval, and failures before and after."""
    probes = report.get("probes")
    arms = [arm for arm in ARMS if probes and any(arm in row["arms"] for row in probes["rows"])]
    rows = [
        [f"`{row['probe']}`: {row['meaning']}", str(row["num_cases"]), *(_change(row["arms"][arm]) for arm in arms)]
        for row in (probes["rows"] if probes else [])
        if row["arms"]
    ]
    return markdown_table(["change of Dice", "images", *arms], rows) if rows else []


def _change(effect: Mapping[str, Mapping[str, float]]) -> str:
    change, low, high = (f"{effect['dice'][key]:+.3f}" for key in ("mean", "low", "high"))
    before, after = (f"{effect['failures'][key]:.0f}" for key in ("before", "after"))
    return f"{change} [{low}, {high}], failures {before} → {after}"


def calibration_lines(report: Mapping[str, Any]) -> list[str]:
    """Markdown: of each arm the ECE of all pixels and how sure it is where it is wrong, failures, and lesion areas."""
    return [_calibration_line(arm, report) for arm in ARMS if arm in report["arms"]]


def _calibration_line(arm: str, report: Mapping[str, Any]) -> str:
    parts = [f"{sum(row['arm'] == arm for row in report['failures'])} failures"]
    if pixels := report["calibration"].get(arm):
        confident = f"{pixels['confident_errors']:.0%} of the wrong ones with confidence above 0.9"
        parts.append(f"ECE of all pixels {pixels['ece']:.3f}, {confident}")
    if area := report["areas"].get(arm):
        limits = f"limits of agreement {area['low']:.0f} to {area['high']:.0f}"
        parts.append(f"lesion area, predicted less true: bias {area['bias']:.0f} {area['unit']}, {limits}")
    return f"- {arm}: {'; '.join(parts)}."


def overview(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown: a row a comparison with the validation and test Dice of its control and student, each of one seed.

    Args:
        reports: by name; of comparisons with all three arms.

    Raises:
        ValueError: an arm misses, or its checkpoint's name does not say what it had on the validation list.
    """
    head = ["", "validation Dice of control, student", "test Dice", "gain over the control", "of the teacher's"]
    return markdown_table(head, [[f"`{name}`", *_overview_cells(name, report)] for name, report in reports.items()])


def _overview_cells(name: str, report: Mapping[str, Any]) -> list[str]:
    gain = _dice_differences(report).get((STUDENT, CONTROL))
    trainings = [
        about for arm in (CONTROL, STUDENT) for key, about in report["about"].items() if key.startswith(f"{arm}, seed ")
    ]
    checkpoints = [CHECKPOINT.search(about) for about in trainings]
    if not gain or TEACHER not in report["arms"] or len(checkpoints) != 2 or not all(checkpoints):
        raise ValueError(
            f"{name} is no comparison of {', '.join(ARMS)} with one seed, whose students were trained there."
        )
    dice = {arm: report["arms"][arm]["metrics"]["dice"]["mean"] for arm in ARMS}
    return [
        ", ".join(f"{match['dice']} (epoch {int(match['epoch'])})" for match in checkpoints),
        f"{dice[CONTROL]:.3f}, {dice[STUDENT]:.3f}",
        f"{gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]",
        f"{dice[STUDENT] / dice[TEACHER]:.1%}",
    ]


def _title(name: str) -> str:
    from scripts.metrics import metric_title

    return "ECE, mean of the images" if name == "ece" else metric_title(name)


def interval_cell(name: str, summary: Mapping[str, Any]) -> str:
    """A metric's mean with its interval, such as "0.860 [0.839, 0.878]"."""
    digits = 1 if name in LENGTHS else 3
    return f"{summary['mean']:.{digits}f} [{summary['low']:.{digits}f}, {summary['high']:.{digits}f}]"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    sys.exit(main())
