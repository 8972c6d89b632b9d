"""Images with a lesion and images without one, told apart, so that a mean over both hides neither.

On an image without a lesion, one whose label has no foreground pixel, the Dice of an empty mask is 1 and its HD95 0,
and the Dice of any other mask is 0. Such images lift or lower a mean by how many of them a list has.

Rows are those of case_table.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .case_table import parse_number

WITH_LESION = "_with_lesion"  # behind a metric's name
APART = ("dice", "hd95", "hd95_mm")  # metrics that images with a lesion have on their own
LESION_FREE = "lesion_free"  # key of the counts
LEFT_EMPTY = "lesion-free images left empty"


def has_lesion(row: Mapping[str, Any]) -> bool:
    """Whether a row's label has foreground; also where its area is not known, as in a table of an earlier version."""
    return parse_number(row.get("label_area")) != 0


def count_left_empty(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """`images` without a lesion and how many of them are `left_empty`; {} where all images have one."""
    empty = [parse_number(row.get("predicted_area")) == 0 for row in rows if not has_lesion(row)]
    return {"images": len(empty), "left_empty": sum(empty)} if empty else {}


def summarize_apart(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a summary of an evaluation has besides, where a list has images without a lesion: the means of APART over
    those with one, `lesion_free_images` and `lesion_free_left_empty`.
    """
    counts = count_left_empty(rows)
    if not counts:
        return {}
    lesions = [row for row in rows if has_lesion(row)]
    names = [name for name in APART if lesions and all(name in row for row in lesions)]
    means = {f"{name}{WITH_LESION}": float(np.mean([row[name] for row in lesions])) for name in names}
    return {**means, **{f"{LESION_FREE}_{key}": number for key, number in counts.items()}}


def describe_left_empty(counts: Mapping[str, int] | None) -> str:
    """Such as "12 of 90"; a dash without such images."""
    return f"{counts['left_empty']} of {counts['images']}" if counts else "-"


def left_empty_rows(arms: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The row of a table with an arm a column; none where all images have a lesion.

    Args:
        arms: of `statistics.summarize_arms`.
    """
    counts = [arm.get(LESION_FREE) for arm in arms.values()]
    return [[LEFT_EMPTY, *map(describe_left_empty, counts)]] if any(counts) else []
