"""The table of a simulation in Markdown, made from the results file. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..card import interval_cell, markdown_table

LEAST_SURE, RANDOM = ARMS = ("least sure", "random")
BEGIN = "<!-- written by python -m eval.active_learning -->"


def block(results: Mapping[str, Any], picture: str | None = None) -> str:
    """What was simulated, the picture, the table of the rounds, the verdict, and what the confidence was worth.

    Args:
        results: of the results file.
        picture: name of the plot beside the page; None leaves it out.
    """
    image = [f"![Dice against the number of labeled images, both orders]({picture})"] if picture else []
    parts = [[schedule(results)], image, round_table(results), verdicts(results), left_table(results)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def schedule(results: Mapping[str, Any]) -> str:
    """Sentences on what was simulated."""
    seeds = ", ".join(map(str, results["seeds"]))
    batch = "at most one image of a patient in a batch" if results["one_a_patient"] else "patients not told apart"
    return (
        f"{results['name']}: Dice on the validation list ({results['sizes']['validation']} images), with 95 % "
        f"intervals over patients. Pool of {results['sizes']['training']} images, {batch}. Images of "
        f"{results['img_size']} pixels, arm {results['arm']}, {results['epochs']} epochs in the last round and as many "
        f"steps in each other, seeds {seeds}. The weights of the last epoch count."
    )


def round_table(results: Mapping[str, Any]) -> list[str]:
    """Lines of the table: a row a round."""
    head = ["labeled images", *(f"{arm}: Dice (patients labeled)" for arm in ARMS), "least sure less random"]
    return markdown_table(head, [_round_cells(row) for row in results["rounds"]])


def _round_cells(row: Mapping[str, Any]) -> list[str]:
    cells = [f"{interval_cell('dice', row['arms'][arm]['metrics']['dice'])} ({row['patients'][arm]:g})" for arm in ARMS]
    return [str(row["labels"]), *cells, difference(row["comparison"]) if row["comparison"] else "the same images"]


def difference(row: Mapping[str, Any]) -> str:
    """A difference with its interval, such as "+0.012 [-0.003, +0.027]"."""
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """The difference over all rounds after the first, in words, and that of each seed."""
    row = results["overall"]
    if row is None:
        return []
    first = results["rounds"][1]["labels"]
    seeds = ", ".join(f"{difference:+.3f} (seed {seed})" for seed, difference in row["by_seed"].items())
    return [
        f"- Least sure first, mean of the rounds from {first} labeled images on: {row['verdict']}",
        f"- By seed: {seeds}. The interval is over patients. Chance in the training shows in the seeds alone.",
    ]


def left_table(results: Mapping[str, Any]) -> list[str]:
    """Lines of the table on whether the student is unsure of the images that it segments badly."""
    head = ["labeled images", "images left", "correlation of confidence and Dice", "Dice of these", "of those chosen"]
    return markdown_table(head, [_left_cells(row) for row in results["left"]]) if results["left"] else []


def _left_cells(row: Mapping[str, Any]) -> list[str]:
    figures = [_number(row["correlation"], 2), _number(row["dice"], 3), _number(row["dice_chosen"], 3)]
    return [str(row["labels"]), str(row["images"]), *figures]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
