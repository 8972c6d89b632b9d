"""What an evaluation looks like inside: the metric of groups of cases, and the agreement of lesion areas.

Legend: N cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .case_table import OFFSET, CaseTable, is_blank, is_missing, parse_number
from .lesion_free import has_lesion
from .statistics import cluster_bootstrap

LESION_SIZE = "lesion size"
LESION_OFFSET = "offset from the middle"
FIXED = (LESION_SIZE, LESION_OFFSET, "device", "birads")  # columns chosen before any result was seen
SIZES = ("small", "medium", "large")
OFFSETS = ("below 0.15", "0.15 to 0.3", "above 0.3")  # of the width
OFFSET_CUTS = (0.15, 0.3)
NO_LESION = "no lesion"
UNKNOWN = "unknown"
MAX_GROUPS = 8


def subgroup_table(
    table: CaseTable, columns: Sequence[str], metric: str = "dice", **bootstrap: Any
) -> list[dict[str, Any]]:
    """A dict a column and group: column, group, num_cases, and by arm the mean of the metric with its interval.

    Groups are the values of a column. A column of numbers with more than 8 different ones is cut into thirds of the
    cases, named by their smallest and largest number. Empty and None are the group unknown, the last. The column
    "lesion size" is the thirds of label_area in pixels: small, medium and large. The column "offset from the middle" is
    cut at fixed shares of the width. Labels without a pixel are "no lesion". The interval is over patients: a group of
    one patient has one without width.

    Args:
        table: of all arms.
        columns: of the datalist, "lesion size" or "offset from the middle".
        metric: a name that all rows have.
        bootstrap: options of `cluster_bootstrap`.

    Raises:
        ValueError: a column or metric that no row has, or a value that is missing or not finite.
    """
    values = {arm: table.values(arm, metric).mean(axis=0) for arm in table.runs}
    return [
        {
            "column": column,
            "group": group,
            "num_cases": len(cases),
            "arms": _group_means(values, table, cases, bootstrap),
        }
        for column in columns
        for group, cases in _groups(table, column).items()
    ]


def _group_means(
    values: Mapping[str, np.ndarray], table: CaseTable, cases: Sequence[int], bootstrap: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    clusters = [table.clusters[i] for i in cases]
    return {
        arm: cluster_bootstrap(arm_values[cases], clusters, **bootstrap)._asdict() for arm, arm_values in values.items()
    }


def _groups(table: CaseTable, column: str) -> dict[str, list[int]]:
    """Indices of the cases of each group, in the order to show them."""
    if column == LESION_SIZE:
        areas = table.values(next(iter(table.runs)), "label_area")[0].tolist()
        names = [NO_LESION if area == 0 else None for area in areas]
        return _collect(_fill_thirds(names, areas, SIZES), [*SIZES, NO_LESION])
    if column == LESION_OFFSET:
        offsets = [parse_number(row.get(OFFSET)) for row in table.first.values()]
        names = [NO_LESION if at is None else OFFSETS[sum(at > cut for cut in OFFSET_CUTS)] for at in offsets]
        return _collect(names, [*OFFSETS, NO_LESION])
    columns = dict.fromkeys(key for row in table.all_rows for key in row)
    if column not in columns:
        raise ValueError(f"column {column} is in no row, expected {LESION_SIZE} or one of {', '.join(columns)}.")
    return _group_values([row.get(column) for row in table.first.values()])


def _group_values(values: Sequence[Any]) -> dict[str, list[int]]:
    """Groups of a column's values, numbers in rising order and texts in the alphabet's."""
    names = [UNKNOWN if is_missing(value) else None for value in values]
    numbers = [parse_number(value) for value in values]
    if any(name is None and number is None for name, number in zip(names, numbers)):
        texts = [name or str(value).strip() for name, value in zip(names, values)]
        return _collect(texts, [*sorted({text for text in texts if text != UNKNOWN}), UNKNOWN])
    distinct = sorted({number for name, number in zip(names, numbers) if name is None})
    if len(distinct) > MAX_GROUPS:
        return _collect(*_name_thirds(names, numbers))
    titles = [name or f"{number:.12g}" for name, number in zip(names, numbers)]
    return _collect(titles, [*(f"{number:.12g}" for number in distinct), UNKNOWN])


def _name_thirds(names: Sequence[str | None], numbers: Sequence[float]) -> tuple[list[str], list[str]]:
    """The group of each number, "smallest to largest" of its third, and the groups in rising order."""
    thirds = _fill_thirds(names, numbers, range(3))
    members = {third: [n for n, t in zip(numbers, thirds) if t == third] for third in range(3)}
    titles = {third: f"{min(n):.12g} to {max(n):.12g}" for third, n in members.items() if n}
    return [titles.get(third, UNKNOWN) for third in thirds], [*titles.values(), UNKNOWN]


def _fill_thirds(names: Sequence[str | None], numbers: Sequence[float], thirds: Sequence[Any]) -> list[Any]:
    """The names, None replaced by the third that its number is in; equal numbers are in the same third."""
    unnamed = [number for name, number in zip(names, numbers) if name is None]
    cuts = np.quantile(unnamed, [1 / 3, 2 / 3]) if unnamed else np.zeros(2)
    return [thirds[int((number > cuts).sum())] if name is None else name for name, number in zip(names, numbers)]


def _collect(names: Sequence[str], order: Iterable[str]) -> dict[str, list[int]]:
    """Indices by name, names in their order and only those that are there."""
    return {name: [i for i, other in enumerate(names) if other == name] for name in order if name in names}


def bland_altman(table: CaseTable, arm: str) -> dict[str, Any]:
    """Agreement of an arm's predicted areas with the labels' areas.

    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8. A point is [mean of both areas, predicted less label] of a
    case, in the order of cases. Areas are means over the arm's seeds. bias is the mean difference. low and high are
    bias -+ 1.96 standard deviations (N - 1) of the differences: limits for single cases, taken as independent. With one
    case they are the bias. Areas are in mm2 when all rows of the table have them, else in pixels. Cases without a
    lesion are left out, and counted as `without_lesion`: points at 0 would make the limits narrower.

    Args:
        table: with the arm.
        arm: of the predictions.

    Raises:
        ValueError: an unknown arm, no case with a lesion, or an area that is missing or not finite.
    """
    kept = [index for index, row in enumerate(table.first.values()) if has_lesion(row)]
    if not kept:
        raise ValueError("no case has a lesion, so that lesion areas cannot be compared.")
    names = "label_area", "predicted_area"
    in_mm = not any(is_blank(row, f"{name}_mm2") for row in table.all_rows for name in names)
    label, predicted = (table.values(arm, f"{name}_mm2" if in_mm else name).mean(axis=0)[kept] for name in names)
    differences = predicted - label
    bias, deviation = float(differences.mean()), float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return {
        "unit": "mm2" if in_mm else "pixels",
        "bias": bias,
        "low": bias - 1.96 * deviation,
        "high": bias + 1.96 * deviation,
        "points": np.stack([(predicted + label) / 2, differences], axis=1).tolist(),
        "cases": [table.cases[index] for index in kept],
        **({"without_lesion": len(table.cases) - len(kept)} if len(kept) < len(table.cases) else {}),
    }
