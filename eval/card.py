"""The figures of the model card: docs/README.md holds these lines of the results files, and a test compares them.

    python -m eval.card eval/results/busbra.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.metrics import METRICS
from scripts.results import UNITS

from .arms import CONTROL, STUDENT, TEACHER, report_error
from .publish import read_json

ARMS = (TEACHER, CONTROL, STUDENT)
COUNTS = {"empty_prediction": "empty predictions", "one_empty": "exactly one mask empty"}  # of a class
TITLES = {"dice": "Dice", "iou": "IoU", "ece": "ECE, mean of the images", "pixel_accuracy": "pixel accuracy"}
LENGTHS = ("hd95", "hd95_mm")  # in pixels or mm, one digit
PAIRS = ((STUDENT, CONTROL), (STUDENT, TEACHER), (CONTROL, TEACHER))
FOREIGN = ("side", "official_fold", "upstream_split")  # columns that the card has nothing to say about


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m eval.card", description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="report.json of a comparison, or its copy in eval/results")
    options = parser.parse_args(arguments)
    try:
        report = read_json(options.report, "the report of a finished comparison")
    except Exception as error:
        return report_error("card", error)
    parts = metric_table(report), difference_lines(report), subgroup_table(report), calibration_lines(report)
    print("\n\n".join("\n".join(lines) for lines in parts if lines))
    return 0


def metric_table(report: Mapping[str, Any]) -> list[str]:
    """Markdown: a row a metric with its interval, Dice of each class, and empty masks; a column an arm."""
    arms = [arm for arm in ARMS if arm in report["arms"]]
    known = [report["arms"][arm]["metrics"] for arm in arms]
    names = [name for metric in (*METRICS, "ece") for name in (metric, f"{metric}_mm")]
    names += sorted(name for name in known[0] if name.startswith("dice_class"))
    rows = [[_title(name), *(_cell(name, own[name]) for own in known)] for name in names if all(name in own for own in known)]
    rows += [[title, *(str(report["arms"][arm]["counts"][name]) for arm in arms)] for name, title in COUNTS.items()]
    return _table(["", *arms], rows)


def difference_lines(report: Mapping[str, Any]) -> list[str]:
    """Markdown: what each pair of arms differs by in Dice, and the share of its teacher's Dice that the student keeps."""
    found = {(row["arm"], row["reference"]): row for row in report["comparisons"] if row["metric"] == "dice"}
    lines = [
        f"- {arm} less {reference}: Dice {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], p {row['p_value']:.2g}: "
        f"{row['verdict']}."
        for arm, reference in PAIRS
        if (row := found.get((arm, reference)))
    ]
    if {TEACHER, STUDENT} <= {*report["arms"]}:
        dice = {arm: report["arms"][arm]["metrics"]["dice"]["mean"] for arm in (TEACHER, STUDENT)}
        lines.append(f"- The student keeps {dice[STUDENT] / dice[TEACHER]:.1%} of its teacher's Dice.")
    return lines


def subgroup_table(report: Mapping[str, Any]) -> list[str]:
    """Markdown: a row a group with the Dice of each arm and its interval."""
    arms = [arm for arm in ARMS if arm in report["arms"]]
    rows = [
        [f"{row['column']}: {row['group']}", str(row["num_cases"]), *(_cell("dice", row["arms"][arm]) for arm in arms)]
        for row in report["subgroups"]
        if row["column"] not in FOREIGN
    ]
    return _table(["Dice", "images", *arms], rows) if rows else []


def calibration_lines(report: Mapping[str, Any]) -> list[str]:
    """Markdown: of each arm the ECE of all pixels and how sure it is where it is wrong, failures, and lesion areas."""
    lines = []
    for arm in ARMS:
        if arm not in report["arms"]:
            continue
        failures = sum(row["arm"] == arm for row in report["failures"])
        lines.append(f"- {arm}: {failures} failures")
        if calibration := report["calibration"].get(arm):
            lines[-1] += f", ECE of all pixels {calibration['ece']:.3f}, {calibration['confident_errors']:.0%} of the wrong ones with "
            lines[-1] += "confidence above 0.9"
        if area := report["areas"].get(arm):
            lines[-1] += f"; lesion area, predicted less true: bias {area['bias']:.0f} pixels, limits of agreement {area['low']:.0f} to "
            lines[-1] += f"{area['high']:.0f}"
        lines[-1] += "."
    return lines


def _title(name: str) -> str:
    metric, _, number = name.partition("_class")
    title = TITLES.get(metric, UNITS.get(metric, metric).replace("hd95", "HD95").replace("nsd", "NSD"))
    return f"{title}, class {number}" if number else title


def _cell(name: str, found: Mapping[str, Any]) -> str:
    digits = 1 if name in LENGTHS else 3
    return f"{found['mean']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    sys.exit(main())
