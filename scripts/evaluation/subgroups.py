"""What an evaluation looks like inside: the metric of groups of cases, and the agreement of lesion areas.

Rows are those of case_table.py. Imported with statistics.py, whose intervals it gives to every group.

Legend: N cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .case_table import CaseTable, Row, is_blank, is_missing, parse_number
from .statistics import cluster_bootstrap

LESION_SIZE = "lesion size"
SIZES = ("small", "medium", "large")
NO_LESION = "no lesion"
UNKNOWN = "unknown"
MAX_GROUPS = 8


def subgroup_table(
    rows: Sequence[Row], columns: Sequence[str], metric: str = "dice", **bootstrap: Any
) -> list[dict[str, Any]]:
    """A dict a column and group: column, group, num_cases, and by arm the mean of the metric with its interval over
    patients.

    Groups are the values of a column; those of a column of numbers with more than 8 different ones are thirds of the
    cases, named by their smallest and largest. Empty and None are the group unknown, the last. The column "lesion size"
    is the thirds of label_area in pixels: small, medium and large; labels without a pixel are "no lesion". A group of
    one patient has an interval without width.

    Args:
        rows: see the module.
        columns: of the datalist, or "lesion size".
        metric: a name that all rows have.
        bootstrap: options of `cluster_bootstrap`.

    Raises:
        ValueError: as `summarize_arms`, or a column that no row has.
    """
    table = CaseTable(rows)
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
    return {arm: cluster_bootstrap(found[cases], clusters, **bootstrap)._asdict() for arm, found in values.items()}


def _groups(table: CaseTable, column: str) -> dict[str, list[int]]:
    """Indices of the cases of each group, in the order to show them."""
    if column == LESION_SIZE:
        areas = table.values(next(iter(table.runs)), "label_area")[0].tolist()
        names = [NO_LESION if area == 0 else None for area in areas]
        return _collect(_fill_thirds(names, areas, SIZES), [*SIZES, NO_LESION])
    columns = dict.fromkeys(key for row in table.all_rows for key in row)
    if column not in columns:
        raise ValueError(f"column {column} is in no row, expected {LESION_SIZE} or one of {', '.join(columns)}.")
    return _group_values([row.get(column) for row in table.first.values()])


def _group_values(found: Sequence[Any]) -> dict[str, list[int]]:
    """Groups of a column's values, numbers in rising order and texts in the alphabet's."""
    names = [UNKNOWN if is_missing(value) else None for value in found]
    numbers = [parse_number(value) for value in found]
    if any(name is None and number is None for name, number in zip(names, numbers)):
        texts = [name or str(value).strip() for name, value in zip(names, found)]
        return _collect(texts, [*sorted({text for text in texts if text != UNKNOWN}), UNKNOWN])
    known = sorted({number for name, number in zip(names, numbers) if name is None})
    if len(known) > MAX_GROUPS:
        return _collect(*_name_thirds(names, numbers))
    titles = [name or f"{number:.12g}" for name, number in zip(names, numbers)]
    return _collect(titles, [*(f"{n:.12g}" for n in known), UNKNOWN])


def _name_thirds(names: Sequence[str | None], numbers: Sequence[float]) -> tuple[list[str], list[str]]:
    """The group of each number, "smallest to largest" of its third, and the groups in rising order."""
    thirds = _fill_thirds(names, numbers, range(3))
    members = {third: [n for n, t in zip(numbers, thirds) if t == third] for third in range(3)}
    titles = {third: f"{min(n):.12g} to {max(n):.12g}" for third, n in members.items() if n}
    return [titles.get(third, UNKNOWN) for third in thirds], [*titles.values(), UNKNOWN]


def _fill_thirds(names: Sequence[str | None], numbers: Sequence[float], thirds: Sequence[Any]) -> list[Any]:
    """The names, None replaced by the third that its number is in; equal numbers are in the same third."""
    known = [number for name, number in zip(names, numbers) if name is None]
    cuts = np.quantile(known, [1 / 3, 2 / 3]) if known else np.zeros(2)
    return [thirds[int((number > cuts).sum())] if name is None else name for name, number in zip(names, numbers)]


def _collect(names: Sequence[str], order: Iterable[str]) -> dict[str, list[int]]:
    """Indices by name, names in their order and only those that are there."""
    return {name: [i for i, other in enumerate(names) if other == name] for name in order if name in names}


def bland_altman(rows: Sequence[Row], arm: str) -> dict[str, Any]:
    """Agreement of an arm's predicted areas with the labels' (Bland and Altman 1986,
    doi:10.1016/S0140-6736(86)90837-8).

    A point is [mean of both areas, predicted less label], of a case, in the order of cases; areas are means over the
    arm's seeds. bias is the mean difference, low and high are bias -+ 1.96 standard deviations (N - 1) of the
    differences: limits for single cases, taken as independent. With one case they are the bias. Areas are in mm2 when
    all rows of all arms have them, so that arms can be compared, else all are in pixels.

    Args:
        rows: see the module.
        arm: of the predictions.

    Raises:
        ValueError: rows that cannot be compared (`check_rows`), an unknown arm, or an area that is missing or not
            finite.
    """
    table = CaseTable(rows)
    names = "label_area", "predicted_area"
    in_mm = not any(is_blank(row, f"{name}_mm2") for row in rows for name in names)
    label, predicted = (table.values(arm, f"{name}_mm2" if in_mm else name).mean(axis=0) for name in names)
    differences = predicted - label
    bias, deviation = float(differences.mean()), float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return {
        "unit": "mm2" if in_mm else "pixels",
        "bias": bias,
        "low": bias - 1.96 * deviation,
        "high": bias + 1.96 * deviation,
        "points": np.stack([(predicted + label) / 2, differences], axis=1).tolist(),
        "cases": list(table.cases),
    }
