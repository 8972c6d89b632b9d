"""What a run prints when an evaluation ends: a small table, the comparisons by Dice, and where the report is."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.lesion_free import left_empty_rows
from ..evaluation.statistics import describe_difference
from ..metrics import metric_title
from .detection import MEASURES
from .robustness import describe_cases

WIDTH = 110  # characters of a line
METRICS = {
    "dice": 3,
    "dice_with_lesion": 3,
    "hd95": 1,
    "hd95_mm": 1,
    "nsd": 3,
    "nsd_mm": 3,
}  # to print, with their decimals


def summary_text(report: Mapping[str, Any], path: str | Path) -> str:
    """The summary as lines of text.

    Args:
        report: of `findings.compile_report`.
        path: of report.html.
    """
    sentences = [
        f"{row['arm'].capitalize()}: {describe_difference(row)}"
        for row in report["comparisons"]
        if row["metric"] == "dice"
    ]
    lines = [line for sentence in sentences for line in textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")]
    blocks = [summary_table(report), lines, [f"report: {path}"]]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def summary_table(report: Mapping[str, Any]) -> list[str]:
    """Lines with an arm a column: means of METRICS with their intervals, failures and empty predictions."""
    arms = report["arms"]
    if not arms:
        return []
    names = [name for name in METRICS if any(name in arm["metrics"] for arm in arms.values())]
    failed = [failure["arm"] for failure in report["failures"]]
    rows = [
        ["mean [95 % interval]", *arms],
        *(
            [metric_title(name), *(_interval(name, arm["metrics"].get(name)) for arm in arms.values())]
            for name in names
        ),
        ["failures", *(str(failed.count(arm)) for arm in arms)],
        *left_empty_rows(arms),
        ["empty predictions", *(str(arm["counts"].get("empty_prediction", "-")) for arm in arms.values())],
        *_image_rows(report, list(arms)),
    ]
    return _align(rows)


def _image_rows(report: Mapping[str, Any], arms: Sequence[str]) -> list[list[str]]:
    """Sensitivity, specificity and AUC of whole images, where the list has some without a lesion."""
    parts = {arm: (report.get("detection", {}).get(arm) or {}).get("images") or {} for arm in arms}
    names = [name for name in MEASURES if any(part.get(name) for part in parts.values())]
    return [[f"{MEASURES[name]} (images)", *(_ends(part.get(name)) for part in parts.values())] for name in names]


def _ends(figure: Mapping[str, float | None] | None) -> str:
    """Such as "0.950 [0.912, 0.981]"; the number alone without an interval, a dash without a number."""
    if not figure:
        return "-"
    values = [figure[key] for key in ("mean", "low", "high")]
    if None in values:
        return f"{figure['mean']:.3f}"
    return "{:.3f} [{:.3f}, {:.3f}]".format(*values)


def probe_text(probes: Mapping[str, Any]) -> str:
    """Lines with a row a probe and a column an arm: the change of Dice with its interval, failures and misses.

    Args:
        probes: of `evaluation.robustness.measure_probes`.
    """
    arms = list(dict.fromkeys(arm for row in probes["rows"] for arm in row["arms"]))
    rows = [
        ["change of Dice [95 % interval]", "cases", *(text for arm in arms for text in (arm, "failures", "misses"))]
    ]
    for row in probes["rows"]:
        cells = (cell for arm in arms for cell in _effect(row["arms"].get(arm)))
        rows.append([row["probe"], str(row["num_cases"]), *cells])
    return "\n".join([*_align(rows), describe_cases(probes)])


def _effect(effect: Mapping[str, Mapping[str, float]] | None) -> tuple[str, str, str]:
    """Such as "-0.160 [-0.201, -0.122]", "2 -> 13" and "0 -> 4"."""
    if effect is None:
        return "-", "-", "-"
    mean, low, high = (f"{effect['dice'][key]:+.3f}" for key in ("mean", "low", "high"))
    failures, misses = (
        f"{effect[name]['before']:.0f} -> {effect[name]['after']:.0f}" for name in ("failures", "misses")
    )
    return f"{mean} [{low}, {high}]", failures, misses


def _interval(name: str, summary: Mapping[str, Any] | None) -> str:
    """Such as "0.860 [0.839, 0.878]"; a dash where an arm lacks the metric."""
    if summary is None:
        return "-"
    mean, low, high = (f"{summary[key]:.{METRICS[name]}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows]
