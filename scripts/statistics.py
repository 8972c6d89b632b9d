"""Statistics of cases that several arms and seeds were evaluated on: means with intervals, comparisons, subgroups, areas.

Images of one patient are alike, so patients are what is resampled and tested, not cases: the bootstrap is the cluster bootstrap
of Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x, with percentile intervals. It covers which patients were drawn,
not how a training turns out; for that there is the spread of the seeds. A case without a patient counts as one of its own.

A row is a dict, one a case, arm and seed: case, patient, arm, seed, metrics, areas, counts and columns of the datalist. All
arms and seeds hold the same cases. Imported as scripts.statistics, it leaves Python's own `statistics` as it is.

Legend: S seeds of an arm, N cases.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from .metrics import COUNTS, LOWER_IS_BETTER

Row = Mapping[str, Any]
TEST = "Wilcoxon signed-rank on patients' mean differences"
LESION_SIZE = "lesion size"
SIZES = ("small", "medium", "large")
NO_LESION = "no lesion"
UNKNOWN = "unknown"
MAX_GROUPS = 8
FEW_PATIENTS = 10
NUM_NAMED = 5
# Means over seeds differ in their last bits by the order of addition; equal values must stay ties, and ties at 0 zeros.
DIGITS = 12


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float


def cluster_bootstrap(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The mean over all values and its percentile interval when whole clusters are drawn with replacement.

    Each resample draws as many clusters as there are and takes the mean over all their values, so that a cluster weighs by its
    size. One cluster gives an interval without width, which tells nothing.

    Args:
        values: (N,), finite.
        clusters: (N,), the patient of each value.
        num_resamples: more give steadier ends.
        seed: of the draws; the same clusters in the same order give the same draws.
        level: share of the resamples inside the interval.

    Raises:
        ValueError: no values, not as many clusters, a value that is not finite, or an option out of its range.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or values.size != len(clusters):
        raise ValueError(f"values {values.shape} and clusters ({len(clusters)},) must be two lists of the same length, at least 1.")
    if not np.isfinite(values).all():
        raise ValueError(f"values must be finite, got {values[~np.isfinite(values)][0]}.")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be positive, got {num_resamples}.")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}.")
    sums, counts = _cluster_sums(values, clusters)
    draws = np.random.default_rng(seed).integers(len(sums), size=(num_resamples, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def _cluster_sums(values: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each cluster, in the order that clusters first come in."""
    order: dict[Hashable, int] = {}
    index = [order.setdefault(cluster, len(order)) for cluster in clusters]
    return np.bincount(index, weights=values), np.bincount(index)


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse rows that cannot be compared case by case.

    Raises:
        ValueError: no rows, a row without case, arm or seed, a case twice in an arm and seed, an arm or seed with other cases
            than the first, or a case with two patients.
    """
    if not rows:
        raise ValueError("there are no rows, expected at least one case; check that the list of test cases is not empty.")
    for i, row in enumerate(rows):
        for key in ("case", "arm", "seed"):
            if key not in row:
                raise ValueError(f"row {i} has no {key}, only {', '.join(map(str, row))}; a row needs case, arm and seed.")
    case, count = Counter((row["case"], row["arm"], row["seed"]) for row in rows).most_common(1)[0]
    if count > 1:
        raise ValueError(f"case {case[0]} is there {count} times for arm {case[1]}, seed {case[2]}; list each case once.")
    _check_cases(_group(rows))
    _check_patients(rows)


def _group(rows: Iterable[Row]) -> dict[str, dict[Any, dict[str, Row]]]:
    """Rows by arm, seed and case, in the order that they come in."""
    runs: dict[str, dict[Any, dict[str, Row]]] = {}
    for row in rows:
        runs.setdefault(row["arm"], {}).setdefault(row["seed"], {})[row["case"]] = row
    return runs


def _check_cases(runs: Mapping[str, Mapping[Any, Mapping[str, Row]]]) -> None:
    """Every arm and seed has the cases of the first."""
    named = [(f"arm {arm}, seed {seed}", cases) for arm, seeds in runs.items() for seed, cases in seeds.items()]
    first, expected = named[0]
    for name, cases in named[1:]:
        lacking, others = [c for c in expected if c not in cases], [c for c in cases if c not in expected]
        if lacking or others:
            found = [f"lacks {len(lacking)} of {len(expected)} ({_some(lacking)})"] if lacking else []
            found += [f"has {len(others)} more ({_some(others)})"] if others else []
            raise ValueError(
                f"{name} does not have the cases of {first}: it {' and '.join(found)}; evaluate all arms on the same list."
            )


def _check_patients(rows: Sequence[Row]) -> None:
    """A case has the same patient in every arm and seed."""
    known: dict[str, tuple[str, str]] = {}
    for row in rows:
        patient = _patient(row)
        other = known.setdefault(row["case"], patient)
        if patient != other:
            names = [name if kind == "patient" else "none" for kind, name in (other, patient)]
            raise ValueError(
                f"case {row['case']} has the patient {names[0]} in one row and {names[1]} in arm {row['arm']}, seed {row['seed']}; "
                "evaluate all arms on the same list."
            )


def _patient(row: Row) -> tuple[str, str]:
    """The cluster of a row: its patient, or the case where the patient is unknown."""
    patient = row.get("patient")
    return ("case", str(row["case"])) if _is_missing(patient) else ("patient", str(patient).strip())


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or (isinstance(value, float) and math.isnan(value))


def _some(names: Sequence[Any]) -> str:
    """Up to 5 of the names."""
    return ", ".join([*map(str, names[:NUM_NAMED]), *(["..."] if len(names) > NUM_NAMED else [])])


class _Table:
    """Checked rows by arm, seed and case.

    `cases` (N) and `clusters` (N), their patients, are in the order of the first arm and seed, whose rows are `first`.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        check_rows(rows)
        self.all_rows = list(rows)
        self.runs = _group(rows)
        self.first = next(iter(next(iter(self.runs.values())).values()))
        self.cases = list(self.first)
        self.clusters = [_patient(row) for row in self.first.values()]
        self.num_patients = len(set(self.clusters))

    def rows(self, arm: str) -> list[Row]:
        """All rows of an arm, seed by seed, cases in the order of `cases`."""
        if arm not in self.runs:
            raise ValueError(f"arm {arm} is not in the rows, which have {', '.join(map(str, self.runs))}.")
        return [cases[case] for cases in self.runs[arm].values() for case in self.cases]

    def values(self, arm: str, name: str) -> np.ndarray:
        """A metric or area of an arm (S, N)."""
        if all(_is_blank(row, name) for row in self.all_rows):
            raise ValueError(f"metric {name} is unknown: no row has it; rows have {', '.join(self._numbers())}.")
        return np.array([_number(row, name) for row in self.rows(arm)]).reshape(-1, len(self.cases))

    def _numbers(self) -> list[str]:
        """Columns that can be a metric."""
        row = self.first[self.cases[0]]
        others = {"case", "patient", "seed", *COUNTS}
        return [key for key, value in row.items() if isinstance(value, (int, float)) and key not in others]


def _is_blank(row: Row, name: str) -> bool:
    """Whether a row has nothing in a column; nan is a value there, and a wrong one."""
    return row.get(name) is None or row[name] == ""


def _number(row: Row, name: str) -> float:
    """A finite number of a row."""
    where = f"case {row['case']} (arm {row['arm']}, seed {row['seed']})"
    if _is_blank(row, name):
        raise ValueError(f"{where} has no {name}, which other cases have; take a metric that all cases have.")
    value = _parse(row[name])
    if value is None:
        raise ValueError(f"{where}: {name} is {row[name]}, expected a finite number.")
    return value


def _parse(value: Any) -> float | None:
    """The finite number that a value or its text is, else None, as of a truth value."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _spread(values: np.ndarray) -> float | None:
    """Largest less smallest mean of a seed, from (S, N); None with one seed."""
    return round(float(np.ptp(values.mean(axis=1))), DIGITS) if len(values) > 1 else None


def summarize_arms(rows: Sequence[Row], metrics: Sequence[str], **bootstrap: Any) -> dict[str, dict[str, Any]]:
    """By arm: num_cases, num_patients, num_seeds, metrics and counts.

    A case's value is its mean over the arm's seeds; mean, low and high are of those over patients (`cluster_bootstrap`).
    seed_means are the means over cases of each seed, seed_spread the largest less the smallest, None with one seed. Counts of
    empty masks are summed over cases and seeds.

    Args:
        rows: see the module.
        metrics: names that all rows have.
        bootstrap: options of `cluster_bootstrap`.

    Raises:
        ValueError: rows that cannot be compared (`check_rows`), an unknown metric, or a value that is missing or not finite.
    """
    table = _Table(rows)
    return {arm: _summarize(table, arm, metrics, bootstrap) for arm in table.runs}


def _summarize(table: _Table, arm: str, metrics: Sequence[str], bootstrap: Mapping[str, Any]) -> dict[str, Any]:
    rows = table.rows(arm)
    return {
        "num_cases": len(table.cases),
        "num_patients": table.num_patients,
        "num_seeds": len(table.runs[arm]),
        "metrics": {metric: _summarize_metric(table, arm, metric, bootstrap) for metric in metrics},
        "counts": {name: sum(int(row[name]) for row in rows) for name in COUNTS if all(name in row for row in rows)},
    }


def _summarize_metric(table: _Table, arm: str, metric: str, bootstrap: Mapping[str, Any]) -> dict[str, Any]:
    values = table.values(arm, metric)
    means = {str(seed): float(mean) for seed, mean in zip(table.runs[arm], values.mean(axis=1))}
    interval = cluster_bootstrap(values.mean(axis=0), table.clusters, **bootstrap)
    return {**interval._asdict(), "seed_means": means, "seed_spread": _spread(values)}


def compare_arms(
    rows: Sequence[Row], arm: str, reference: str, metric: str, margin: float | None = None, **bootstrap: Any
) -> dict[str, Any]:
    """Two arms, paired on cases: the difference with its interval, a test, and a verdict in plain words.

    The difference is arm less reference, in the mean over cases; a case's value is its mean over the arm's seeds. The interval
    is over patients (`cluster_bootstrap`), the p-value two-sided, of the Wilcoxon signed-rank test on the mean difference of each
    patient, which are independent where the cases are not; it is 1 when all are 0.

    For the verdict the difference is turned so that a gain is positive whether the metric is better higher or lower. It is noise
    when its size is at most the larger of the two arms' seed spreads (largest less smallest mean of a seed), whatever the interval
    says; an arm with one seed adds nothing to the spread and is named. Else it is better or worse when the interval is on one
    side of 0. The arm is non-inferior when the lower end of the interval of the gain is above -margin; with one patient it is
    never shown to be.

    Args:
        rows: see the module.
        arm: such as student.
        reference: such as control or teacher.
        metric: a name that all rows of both arms have.
        margin: shortfall in the metric that still counts as equal, positive, to be chosen before the results are seen; None
            skips non-inferiority.
        bootstrap: options of `cluster_bootstrap`.

    Raises:
        ValueError: as `summarize_arms`, an unknown arm, or a margin that is not positive.
    """
    margin = _check_margin(margin)
    table = _Table(rows)
    values = [table.values(name, metric) for name in (arm, reference)]
    differences = np.round(values[0].mean(axis=0) - values[1].mean(axis=0), DIGITS)
    interval = cluster_bootstrap(differences, table.clusters, **bootstrap)
    spread = max((s for s in map(_spread, values) if s is not None), default=None)
    gain = Interval(-interval.mean, -interval.high, -interval.low) if _lower_is_better(metric) else interval
    non_inferior = None if margin is None else table.num_patients > 1 and gain.low > -margin
    parts = [] if margin is None else [_non_inferiority(gain, margin, table.num_patients)]
    parts += [_superiority(gain, spread, table.num_patients), *_unknown_spread({arm: values[0], reference: values[1]})]
    return {
        "arm": arm,
        "reference": reference,
        "metric": metric,
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "p_value": _wilcoxon(differences, table.clusters),
        "test": TEST,
        "num_patients": table.num_patients,
        "seed_spread": spread,
        "margin": margin,
        "non_inferior": non_inferior,
        "verdict": "; ".join(parts),
    }


def _check_margin(margin: Any) -> float | None:
    number = _parse(margin)
    if margin is not None and not (number or 0) > 0:
        raise ValueError(f"margin must be a positive number chosen before the results are seen, got {margin}.")
    return number


def _lower_is_better(metric: str) -> bool:
    """Also of one class, such as hd95_class2."""
    return metric.split("_class")[0] in LOWER_IS_BETTER


def _wilcoxon(differences: np.ndarray, clusters: Sequence[Hashable]) -> float:
    sums, counts = _cluster_sums(differences, clusters)
    means = np.round(sums / counts, DIGITS)
    return float(wilcoxon(means).pvalue) if means.any() else 1.0


def _non_inferiority(gain: Interval, margin: float, num_patients: int) -> str:
    if num_patients < 2:
        return "not shown to be non-inferior: one patient gives no interval"
    if gain.low > -margin:
        return f"non-inferior: the lower end of the gain {_text(gain.low)} is above the margin {_text(-margin)}"
    return f"not shown to be non-inferior: the lower end of the gain {_text(gain.low)} is not above the margin {_text(-margin)}"


def _superiority(gain: Interval, spread: float | None, num_patients: int) -> str:
    """Noise, better, worse, or nothing to tell, with the figures."""
    mean = round(gain.mean, DIGITS)
    size, word = abs(mean), "gain" if mean > 0 else "shortfall" if mean < 0 else "difference"
    if spread is not None and size <= spread:
        return f"noise: the {word} {_text(size)} is inside the spread of the seeds ({_text(spread)})"
    if num_patients < 2:
        return "no difference can be told: one patient gives no interval"
    if gain.low <= 0 <= gain.high:
        ends = f"{_text(gain.low)} to {_text(gain.high)}"
        return f"no difference can be told: the interval holds 0 (gain {_text(gain.mean)}, {ends})"
    if gain.low > 0:
        return f"better: the gain {_text(size)} has the interval {_text(gain.low)} to {_text(gain.high)}"
    return f"worse: the shortfall {_text(size)} has the interval {_text(-gain.high)} to {_text(-gain.low)}"


def _unknown_spread(values: Mapping[str, np.ndarray]) -> list[str]:
    """A note on arms with one seed."""
    names = [name for name, seeds in values.items() if len(seeds) == 1]
    of = "" if len(names) == len(values) else f" for {' and '.join(names)}"
    return [f"with one seed the spread between seeds is unknown{of}"] if names else []


def _text(value: float) -> str:
    """Three decimals, or two digits of what they would show as 0; no minus zero."""
    return f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value + 0.0:.3f}"


def subgroup_table(rows: Sequence[Row], columns: Sequence[str], metric: str = "dice", **bootstrap: Any) -> list[dict[str, Any]]:
    """A dict a column and group: column, group, num_cases, and by arm the mean of the metric with its interval over patients.

    Groups are the values of a column; those of a column of numbers with more than 8 different ones are thirds of the cases,
    named by their smallest and largest. Empty and None are the group unknown, the last. The column "lesion size" is the thirds of
    label_area in pixels: small, medium and large; labels without a pixel are "no lesion". A group of one patient has an interval
    without width.

    Args:
        rows: see the module.
        columns: of the datalist, or "lesion size".
        metric: a name that all rows have.
        bootstrap: options of `cluster_bootstrap`.

    Raises:
        ValueError: as `summarize_arms`, or a column that no row has.
    """
    table = _Table(rows)
    values = {arm: table.values(arm, metric).mean(axis=0) for arm in table.runs}
    return [
        {"column": column, "group": group, "num_cases": len(cases), "arms": _group_means(values, table, cases, bootstrap)}
        for column in columns
        for group, cases in _groups(table, column).items()
    ]


def _group_means(
    values: Mapping[str, np.ndarray], table: _Table, cases: Sequence[int], bootstrap: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    clusters = [table.clusters[i] for i in cases]
    return {arm: cluster_bootstrap(found[cases], clusters, **bootstrap)._asdict() for arm, found in values.items()}


def _groups(table: _Table, column: str) -> dict[str, list[int]]:
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
    names = [UNKNOWN if _is_missing(value) else None for value in found]
    numbers = [_parse(value) for value in found]
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
    """Agreement of an arm's predicted areas with the labels' (Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8).

    A point is [mean of both areas, predicted less label], of a case, in the order of cases; areas are means over the arm's seeds.
    bias is the mean difference, low and high are bias -+ 1.96 standard deviations (N - 1) of the differences: limits for single
    cases, taken as independent. With one case they are the bias. Areas are in mm2 when all rows of all arms have them, so that arms
    can be compared, else all are in pixels.

    Args:
        rows: see the module.
        arm: of the predictions.

    Raises:
        ValueError: rows that cannot be compared (`check_rows`), an unknown arm, or an area that is missing or not finite.
    """
    table = _Table(rows)
    names = "label_area", "predicted_area"
    in_mm = not any(_is_blank(row, f"{name}_mm2") for row in rows for name in names)
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


def warnings(rows: Sequence[Row]) -> list[str]:
    """What a reader of the figures must know, a sentence each: missing patients, one seed, empty predictions, few patients.

    It raises nothing for rows that `check_rows` refuses, so that a report can still tell what it can.
    """
    if not rows:
        return ["There are no cases: nothing was measured."]
    runs = _group(rows)
    notes = [_patients_note(rows), *(note for arm, seeds in runs.items() for note in _arm_notes(arm, seeds))]
    num_patients = len({_patient(row) for row in rows})
    if num_patients < FEW_PATIENTS:
        notes.append(f"Only {_plural(num_patients, 'patient')}, fewer than {FEW_PATIENTS}: the intervals are too narrow.")
    return [note for note in notes if note]


def _patients_note(rows: Sequence[Row]) -> str:
    cases = {row["case"]: row for row in rows}
    missing = [case for case, row in cases.items() if _patient(row)[0] == "case"]
    if not missing:
        return ""
    return (
        f"{len(missing)} of {_plural(len(cases), 'case')} without a patient ({_some(missing)}), each counted as one of its own: "
        "if some share a patient, the intervals are too narrow; add patient to the datalist."
    )


def _arm_notes(arm: str, seeds: Mapping[Any, Mapping[str, Row]]) -> list[str]:
    notes = [f"Arm {arm} has one seed: the spread between seeds is unknown."] if len(seeds) == 1 else []
    empty = [seed for seed, cases in seeds.items() if all(row.get("predicted_area") == 0 for row in cases.values())]
    if len(empty) == len(seeds):
        return [*notes, f"All predictions of arm {arm} are empty: the network finds nothing in any case."]
    return [*notes, *(f"All predictions of arm {arm}, seed {seed}, are empty." for seed in empty)]


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
