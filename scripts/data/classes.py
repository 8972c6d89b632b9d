"""The classes of masks: which values stand for them, what they are called, and which of them a list lacks.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.options import check_num_classes

MAX_LISTED = 10


def check_label_values(mask: Any, num_classes: int, name: str | Path) -> None:
    """Refuses a mask whose values are no classes: 0 and 1, or 0 and 255, for two classes; else 0..num_classes-1.

    Args:
        mask: stored values, array or tensor of any shape.
        num_classes: number of classes with background.
        name: the mask's file, for the message.

    Raises:
        ValueError: naming the file and its values.
    """
    high = mask.max()
    if num_classes == 2:
        wrong = high not in (0, 1, 255) or ((mask != 0) & (mask != high)).any()
        expected = "0 and 1, or 0 and 255, for data::num_classes 2"
    else:
        wrong = mask.min() < 0 or high >= num_classes or (mask != mask.round()).any()
        expected = f"class indices 0..{num_classes - 1} for data::num_classes {num_classes}"
    if wrong:
        values = [f"{value:g}" for value in np.unique(np.asarray(mask)).tolist()]
        more = f" and {len(values) - MAX_LISTED} more" if len(values) > MAX_LISTED else ""
        raise ValueError(
            f"label {name} holds the values {', '.join(values[:MAX_LISTED])}{more}; expected {expected}: "
            "correct the mask or data::num_classes."
        )


def foreground_classes(mask: np.ndarray, num_classes: int) -> frozenset[int]:
    """The foreground classes of a mask that `check_label_values` accepts."""
    if num_classes == 2:
        return frozenset({1}) if mask.any() else frozenset()
    return frozenset(c for c in range(1, num_classes) if (mask == c).any())


def default_names(num_classes: int) -> list[str]:
    """Names of classes that nobody has named, the background first."""
    return ["background", *(f"class {index}" for index in range(1, num_classes))]


def named_classes(num_classes: int, labels: str | None) -> list[str]:
    """Names of the classes, the background first, of the texts of --num_classes and --labels.

    Raises:
        ValueError: too few classes, or not as many names.
    """
    check_num_classes(num_classes, "--num_classes")
    if labels is None:
        return ["background", "lesion"] if num_classes == 2 else default_names(num_classes)
    if len(labels.split(",")) != num_classes:
        raise ValueError(f"--labels must name {num_classes} classes with background, comma separated, got {labels!r}.")
    return [label.strip() for label in labels.split(",")]


def missing_class_notes(occurring: Mapping[str, Collection[int]], names: Sequence[str]) -> list[str]:
    """A sentence on each foreground class that no mask of a list shows.

    Args:
        occurring: foreground classes by list, of the lists that have masks.
        names: of the classes, the background first.
    """
    notes = []
    for index in range(1, len(names)):
        lacking = [split for split, classes in occurring.items() if index not in classes]
        if lacking:
            label = names[index] if names[index] == f"class {index}" else f"class {index} ({names[index]})"
            several = f"the list{'s' * (len(lacking) > 1)} {' and '.join(lacking)}"
            place = "any list" if len(lacking) == len(occurring) > 1 else several
            notes.append(f"No mask of {place} shows {label}: check the masks, the split and the number of classes.")
    return notes
