"""The table of the organs in Markdown, made from the results file, and its place in a page.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.utils.files import atomic_path, read_text
from scripts.utils.options import ARMS, CONTROL, STUDENT

from ..card import interval_cell, markdown_table

BEGIN, END = "<!-- written by python -m eval.organs -->", "<!-- end -->"
JOINT_STUDENT = "joint student"
Row = Mapping[str, Any]


def block(results: Mapping[str, Any]) -> str:
    """The schedule, the table, the verdict on one student for all sets, and what to know of the lists."""
    parts = [[schedule(results)], organ_table(results), verdicts(results), notes(results)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def schedule(results: Mapping[str, Any]) -> str:
    """A sentence on what was trained and which list was read."""
    seeds = ", ".join(map(str, results["seeds"]))
    chosen = "on which the checkpoints were chosen too" if results["list"] == "validation" else "which nothing chose on"
    more = ", and smaller lists proportionally more" if results["same_steps"] else ""
    return (
        f"Dice on the {results['list']} lists, {chosen}, with 95 % intervals over patients. Images of "
        f"{results['img_size']} pixels, at most {results['num_images']} training images a set, teacher "
        f"{results['teacher_epochs']} epochs, control and student {results['epochs']} epochs{more}, seeds {seeds} (of "
        "the teacher the first)."
    )


def organ_table(results: Mapping[str, Any]) -> list[str]:
    """Lines of the table: a row a class of each set, a column an arm."""
    arms = [*ARMS, JOINT_STUDENT] if _has_joint(results) else list(ARMS)
    head = ["organ (set)", "training images", "images read (patients)", *arms, "student less control"]
    head += ["joint student less student", f"worse by more than {results['margin']:g}?"] if _has_joint(results) else []
    return markdown_table(head, [_cells(*row, arms) for row in _organs(results)])


def _organs(results: Mapping[str, Any]) -> Iterator[tuple[str, Row, str]]:
    """Name, figures of its set, and metric of each class."""
    for name, figures in results["sets"].items():
        for number, organ in enumerate(figures["classes"][1:], 1):
            metric = "dice" if len(figures["classes"]) == 2 else f"dice_class{number}"
            yield f"{organ} ({name})", figures, metric


def _cells(title: str, figures: Row, metric: str, arms: list[str]) -> list[str]:
    first = next(iter(figures["arms"].values()))
    cells = [title, str(figures["sizes"]["training"]), f"{first['num_cases']} ({first['num_patients']})"]
    cells += [interval_cell("dice", figures["arms"][arm]["metrics"][metric]) for arm in arms]
    cells.append(_difference(_comparison(figures, STUDENT, CONTROL, metric)))
    if JOINT_STUDENT in arms:
        row = _comparison(figures, JOINT_STUDENT, STUDENT, metric)
        cells += [_difference(row), answer(row)]
    return cells


def _comparison(figures: Row, arm: str, reference: str, metric: str) -> Row:
    wanted = (arm, reference, metric)
    return next(row for row in figures["comparisons"] if (row["arm"], row["reference"], row["metric"]) == wanted)


def _difference(row: Row) -> str:
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def answer(row: Row) -> str:
    """Whether an arm is worse than its reference by more than the margin, and whether the whole interval says so.

    Args:
        row: of `compare_arms`, with a margin.
    """
    limit = -row["margin"]
    worse = row["difference"] < limit
    sure = row["num_patients"] > 1 and (row["high"] < limit if worse else row["low"] > limit)
    return f"{'yes' if worse else 'no'}, {'with the whole interval' if sure else 'but the interval leaves it open'}"


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """A line on one student for all sets, and one on each set; empty where there is none."""
    if not _has_joint(results):
        return []
    rows = {name: _comparison(figures, JOINT_STUDENT, STUDENT, "dice") for name, figures in results["sets"].items()}
    worse = [name for name, row in rows.items() if row["difference"] < -row["margin"]]
    where = f"in {len(worse)} of {len(rows)} sets ({', '.join(worse)})" if worse else "in no set"
    limit = f"more than {results['margin']:g} Dice"
    return [
        f"- One student for all sets is worse than the single students by {limit} {where}.",
        *(f"- {name}, mean of its classes: {row['verdict']}" for name, row in rows.items()),
    ]


def notes(results: Mapping[str, Any]) -> list[str]:
    """A line on each list that a reader must know something of."""
    return [f"- {name}: {note}" for name, figures in results["sets"].items() for note in figures["notes"] if note]


def _has_joint(results: Mapping[str, Any]) -> bool:
    return all(JOINT_STUDENT in figures["arms"] for figures in results["sets"].values())


def write_block(text: str, page: Path, begin_marker: str = BEGIN) -> None:
    """Put a text between the two markers of a page.

    Args:
        text: Markdown.
        page: a file that holds the markers.
        begin_marker: the first of them; the second is END.

    Raises:
        FileNotFoundError: there is no such page.
        ValueError: it has no markers.
    """
    content = read_text(page)
    before, begin, rest = content.partition(begin_marker)
    end, after = rest.partition(END)[1:]
    if not begin or not end:
        raise ValueError(f"{page} has no lines {begin_marker} and {END}; add them where the table belongs.")
    with atomic_path(page) as partial:
        partial.write_text(f"{before}{begin_marker}\n\n{text}\n\n{END}{after}", encoding="utf-8")
