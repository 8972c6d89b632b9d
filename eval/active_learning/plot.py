"""The picture of a simulation: Dice against the number of labeled images, a line an arm, with its intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scripts.report.plots import ARM_STYLES
from scripts.utils.files import atomic_path
from scripts.utils.options import STUDENT, TEACHER

from .page import ARMS, LEAST_SURE, RANDOM

DPI = 100
STYLES = {
    LEAST_SURE: ARM_STYLES[STUDENT]._replace(name="least sure first"),
    RANDOM: ARM_STYLES[TEACHER]._replace(name="random order", line="dashed"),
}
APART = 0.006  # of the width, between the bars of the arms


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write the picture, in the place of a former one.

    Args:
        results: of the results file.
        path: of a .png file.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    labels = [row["labels"] for row in results["rounds"]]
    width = max(labels) - min(labels) or 1
    for number, arm in enumerate(ARMS):
        name, color, line, marker = STYLES[arm]
        dice = [row["arms"][arm]["metrics"]["dice"] for row in results["rounds"]]
        means = [one["mean"] for one in dice]
        ends = [[one["mean"] - one["low"] for one in dice], [one["high"] - one["mean"] for one in dice]]
        places = [label + (number - 0.5) * 2 * APART * width for label in labels]
        axes.errorbar(places, means, ends, color=color, linestyle=line, marker=marker, capsize=3, label=name)
    axes.set_xlabel("labeled images")
    axes.set_ylabel("validation Dice, 95 % interval over patients")
    axes.set_xticks(labels)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, loc="best")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=DPI)
