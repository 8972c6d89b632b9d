"""Statistics of cases that several arms and seeds were evaluated on: means with intervals, and comparisons.

Images of one patient are alike, so patients are what is resampled and tested, not cases: the bootstrap is the cluster
bootstrap of Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x, with percentile intervals. It covers which
patients were drawn, not how a training turns out; for that there is the spread of the seeds.

Rows are those of case_table.py. Imported as scripts.evaluation.statistics, it leaves Python's own `statistics` as it
is.

Legend: S seeds of an arm, N cases.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from ..metrics import COUNTS, LOWER_IS_BETTER
from .case_table import FEW_PATIENTS, CaseTable, Row, parse_number, plural

TEST = "Wilcoxon signed-rank on patients' mean differences"
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

    Each resample draws as many clusters as there are and takes the mean over all their values, so that a cluster weighs
    by its size. One cluster gives an interval without width, which tells nothing.

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
        raise ValueError(
            f"values {values.shape} and clusters ({len(clusters)},) must be two lists of the same length, at least 1."
        )
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


def _spread(values: np.ndarray) -> float | None:
    """Largest less smallest mean of a seed, from (S, N); None with one seed."""
    return round(float(np.ptp(values.mean(axis=1))), DIGITS) if len(values) > 1 else None


def summarize_arms(rows: Sequence[Row], metrics: Sequence[str], **bootstrap: Any) -> dict[str, dict[str, Any]]:
    """By arm: num_cases, num_patients, num_seeds, metrics and counts.

    A case's value is its mean over the arm's seeds; mean, low and high are of those over patients
    (`cluster_bootstrap`). seed_means are the means over cases of each seed, seed_spread the largest less the smallest,
    None with one seed. Counts of empty masks are summed over cases and seeds.

    Args:
        rows: see the module.
        metrics: names that all rows have.
        bootstrap: options of `cluster_bootstrap`.

    Raises:
        ValueError: rows that cannot be compared (`check_rows`), an unknown metric, or a value that is missing or not
            finite.
    """
    table = CaseTable(rows)
    return {arm: _summarize(table, arm, metrics, bootstrap) for arm in table.runs}


def _summarize(table: CaseTable, arm: str, metrics: Sequence[str], bootstrap: Mapping[str, Any]) -> dict[str, Any]:
    rows = table.rows(arm)
    return {
        "num_cases": len(table.cases),
        "num_patients": table.num_patients,
        "num_seeds": len(table.runs[arm]),
        "metrics": {metric: _summarize_metric(table, arm, metric, bootstrap) for metric in metrics},
        "counts": {name: sum(int(row[name]) for row in rows) for name in COUNTS if all(name in row for row in rows)},
    }


def _summarize_metric(table: CaseTable, arm: str, metric: str, bootstrap: Mapping[str, Any]) -> dict[str, Any]:
    values = table.values(arm, metric)
    means = {str(seed): float(mean) for seed, mean in zip(table.runs[arm], values.mean(axis=1))}
    interval = cluster_bootstrap(values.mean(axis=0), table.clusters, **bootstrap)
    return {**interval._asdict(), "seed_means": means, "seed_spread": _spread(values)}


def compare_arms(
    rows: Sequence[Row], arm: str, reference: str, metric: str, margin: float | None = None, **bootstrap: Any
) -> dict[str, Any]:
    """Two arms, paired on cases: the difference with its interval, a test, and a verdict in plain words.

    The difference is arm less reference, in the mean over cases; a case's value is its mean over the arm's seeds. The
    interval is over patients (`cluster_bootstrap`), the p-value two-sided, of the Wilcoxon signed-rank test on the mean
    difference of each patient, which are independent where the cases are not; it is 1 when all are 0.

    For the verdict the difference is turned so that a gain is positive whether the metric is better higher or lower. It
    is noise when its size is at most the larger of the two arms' seed spreads (largest less smallest mean of a seed),
    whatever the interval says; an arm with one seed adds nothing to the spread and is named. Else it is better or worse
    when the interval is on one side of 0. The arm is non-inferior when the lower end of the interval of the gain is
    above -margin; with one patient it is never shown to be. Below FEW_PATIENTS the verdict says that it is not to be
    relied on.

    Args:
        rows: see the module.
        arm: such as student.
        reference: such as control or teacher.
        metric: a name that all rows of both arms have.
        margin: shortfall in the metric that still counts as equal, positive, to be chosen before the results are seen;
            None skips non-inferiority.
        bootstrap: options of `cluster_bootstrap`.

    Raises:
        ValueError: as `summarize_arms`, an unknown arm, or a margin that is not positive.
    """
    margin = _check_margin(margin)
    table = CaseTable(rows)
    values = [table.values(name, metric) for name in (arm, reference)]
    differences = np.round(values[0].mean(axis=0) - values[1].mean(axis=0), DIGITS)
    interval = cluster_bootstrap(differences, table.clusters, **bootstrap)
    spread = max((s for s in map(_spread, values) if s is not None), default=None)
    gain = Interval(-interval.mean, -interval.high, -interval.low) if _lower_is_better(metric) else interval
    non_inferior = None if margin is None else table.num_patients > 1 and gain.low > -margin
    parts = [] if margin is None else [_non_inferiority(gain, margin, table.num_patients)]
    parts += [_superiority(gain, spread, table.num_patients), *_unknown_spread({arm: values[0], reference: values[1]})]
    if table.num_patients < FEW_PATIENTS:
        parts.append(f"only {plural(table.num_patients, 'patient')}: not to be relied on")
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
    number = parse_number(margin)
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
    return (
        f"not shown to be non-inferior: the lower end of the gain {_text(gain.low)} is not above the margin "
        f"{_text(-margin)}"
    )


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
