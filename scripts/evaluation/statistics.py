"""Statistics of cases that several arms and seeds were evaluated on: means with intervals, and comparisons.

Images of one patient are alike, so patients are resampled and tested, not cases. The bootstrap is the cluster bootstrap
of Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x, with percentile intervals. It covers which patients were
drawn, not how a training turns out: for that there is the spread of the seeds.

Legend: S seeds of an arm, N cases.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from ..metrics import COUNTS, TITLES, lower_is_better
from ..utils.options import ARMS
from ..utils.screen import plural
from .case_table import FEW_PATIENTS, CaseTable, parse_number
from .lesion_free import APART, LESION_FREE, WITH_LESION, count_left_empty, has_lesion

TEST = "Wilcoxon signed-rank on patients' mean differences"
# Means over seeds differ in their last bits by the order of addition; equal values must stay ties, and ties at 0 zeros.
DIGITS = 12
LENGTH_UNITS = {"hd95": "pixels", "hd95_mm": "mm"}


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
    by its size. One cluster gives an interval without width, which says nothing.

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


def summarize_arms(table: CaseTable, metrics: Sequence[str], **bootstrap: Any) -> dict[str, dict[str, Any]]:
    """By arm: num_cases, num_patients, num_seeds, metrics and counts.

    A case's value is its mean over the arm's seeds. mean, low and high are of those over patients
    (`cluster_bootstrap`). seed_means are the means over cases of each seed. seed_spread is the largest less the
    smallest, None with one seed. Counts of empty masks are summed over cases and seeds. Where cases have no lesion, the
    metrics of `lesion_free.APART` are there for the others alone too (dice_with_lesion), and `lesion_free` counts those
    without one, over cases and seeds.

    Args:
        table: of all arms.
        metrics: names that all rows have.
        bootstrap: options of `cluster_bootstrap`.

    Raises:
        ValueError: an unknown metric, or a value that is missing or not finite.
    """
    return {arm: _summarize(table, arm, metrics, bootstrap) for arm in table.runs}


def _summarize(table: CaseTable, arm: str, metrics: Sequence[str], bootstrap: Mapping[str, Any]) -> dict[str, Any]:
    rows = table.rows(arm)
    counts = count_left_empty(rows)
    return {
        "num_cases": len(table.cases),
        "num_patients": table.num_patients,
        "num_seeds": len(table.runs[arm]),
        "metrics": {
            **{metric: _summarize_metric(table, arm, metric, bootstrap) for metric in metrics},
            **(_summarize_lesions(table, arm, metrics, bootstrap) if counts else {}),
        },
        "counts": {name: sum(int(row[name]) for row in rows) for name in COUNTS if all(name in row for row in rows)},
        **({LESION_FREE: counts} if counts else {}),
    }


def _summarize_lesions(
    table: CaseTable, arm: str, metrics: Sequence[str], bootstrap: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """The metrics of APART of the cases with a lesion; {} where there are none."""
    cases = [index for index, row in enumerate(table.first.values()) if has_lesion(row)]
    names = [name for name in APART if cases and name in metrics]
    return {f"{name}{WITH_LESION}": _summarize_metric(table, arm, name, bootstrap, cases) for name in names}


def _summarize_metric(
    table: CaseTable, arm: str, metric: str, bootstrap: Mapping[str, Any], cases: Sequence[int] | None = None
) -> dict[str, Any]:
    """Of the cases at these indices, or of all."""
    cases = list(range(len(table.cases)) if cases is None else cases)
    values = table.values(arm, metric)[:, cases]
    means = {str(seed): float(mean) for seed, mean in zip(table.runs[arm], values.mean(axis=1))}
    interval = cluster_bootstrap(values.mean(axis=0), [table.clusters[i] for i in cases], **bootstrap)
    return {**interval._asdict(), "seed_means": means, "seed_spread": _spread(values)}


def compare_arms(
    table: CaseTable, arm: str, reference: str, metric: str, margin: float | None = None, **bootstrap: Any
) -> dict[str, Any]:
    """Two arms, paired on cases: the difference with its interval, a test, and the verdict of `describe_difference`.

    The difference is arm less reference, in the mean over cases. A case's value is its mean over the arm's seeds. The
    interval is over patients (`cluster_bootstrap`). The p-value is two-sided, of the Wilcoxon signed-rank test on the
    mean difference of each patient, since patients are independent and cases are not. It is 1 when all are 0.

    seed_spread is the larger of the two arms' spreads (largest less smallest mean of a seed). An arm with one seed has
    none. non_inferior is whether the lower end of the interval of the gain is above -margin, with two patients or more.

    Args:
        table: of both arms.
        arm: such as student.
        reference: such as control or teacher.
        metric: a name that all rows of both arms have.
        margin: shortfall in the metric that still counts as equal, positive, to be chosen before the results are seen.
            None skips non-inferiority.
        bootstrap: options of `cluster_bootstrap`.

    Raises:
        ValueError: an unknown arm or metric, a value that is missing or not finite, or a margin that is not positive.
    """
    margin = _check_margin(margin)
    values = [table.values(name, metric) for name in (arm, reference)]
    differences = np.round(values[0].mean(axis=0) - values[1].mean(axis=0), DIGITS)
    interval = cluster_bootstrap(differences, table.clusters, **bootstrap)
    worst = _gain(interval, metric).low
    row = {
        "arm": arm,
        "reference": reference,
        "metric": metric,
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "p_value": _wilcoxon(differences, table.clusters),
        "test": TEST,
        "num_patients": table.num_patients,
        "seed_spread": max((spread for spread in map(_spread, values) if spread is not None), default=None),
        "margin": margin,
        "non_inferior": None if margin is None else table.num_patients > 1 and worst > -margin,
    }
    return {**row, "verdict": describe_difference(row)}


def _check_margin(margin: Any) -> float | None:
    number = parse_number(margin)
    if margin is not None and not (number or 0) > 0:
        raise ValueError(f"margin must be a positive number chosen before the results are seen, got {margin}.")
    return number


def _gain(interval: Interval, metric: str) -> Interval:
    """The interval of a difference, turned so that above 0 is better."""
    return Interval(-interval.mean, -interval.high, -interval.low) if lower_is_better(metric) else interval


def _wilcoxon(differences: np.ndarray, clusters: Sequence[Hashable]) -> float:
    sums, counts = _cluster_sums(differences, clusters)
    means = np.round(sums / counts, DIGITS)
    return float(wilcoxon(means).pvalue) if means.any() else 1.0


def describe_difference(row: Mapping[str, Any]) -> str:
    """What a comparison found, the number first: "Better than the control by 0.036 Dice (95 % CI 0.022 to 0.049)."

    The difference is noise when its size is at most the spread of the seeds, whatever the interval says. Otherwise the
    arm is better or worse when the interval is on one side of 0. Below FEW_PATIENTS a second sentence says so.

    Args:
        row: of `compare_arms`, or of the comparisons in a report.json.
    """
    sentence = _describe_size(row)
    if row["margin"] is not None:
        shown = "shown" if row["non_inferior"] else "not shown"
        sentence += f"; non-inferiority at {_text(row['margin'], row['metric'])} {shown}"
    if row["num_patients"] < FEW_PATIENTS:
        sentence += f". Only {plural(row['num_patients'], 'patient')}: do not rely on it"
    return f"{sentence}."


def _describe_size(row: Mapping[str, Any]) -> str:
    """Noise, no difference, better or worse."""
    metric, spread = row["metric"], row["seed_spread"]
    reference = f"the {row['reference']}" if row["reference"] in ARMS else row["reference"]
    interval = Interval(row["difference"], row["low"], row["high"])
    amount = f"{_text(abs(interval.mean), metric)} {_unit(metric)}"
    if spread is not None and abs(round(interval.mean, DIGITS)) <= spread:
        return (
            f"Difference to {reference} of {amount} is inside the spread of the seeds ({_text(spread, metric)}): noise"
        )
    gain = _gain(interval, metric)
    if row["num_patients"] < 2 or gain.low <= 0 <= gain.high:
        signed = f"{'-' if interval.mean < 0 else '+'}{amount}"
        ends = "one patient gives no interval" if row["num_patients"] < 2 else _ends(interval, metric)
        return f"No difference to {reference} can be told: {signed} ({ends})"
    if gain.low > 0:
        return f"Better than {reference} by {amount} ({_ends(gain, metric)})"
    return f"Worse than {reference} by {amount} ({_ends(Interval(-gain.mean, -gain.high, -gain.low), metric)})"


def _ends(interval: Interval, metric: str) -> str:
    return f"95 % CI {_text(interval.low, metric)} to {_text(interval.high, metric)}"


def _unit(metric: str) -> str:
    """What a difference is counted in, such as "Dice" or "pixels of HD95 of class 2"."""
    name, _, number = metric.partition("_class")
    title = TITLES.get(name, name.replace("_", " ")).partition(" (")[0]
    unit = f"{LENGTH_UNITS[name]} of {title}" if name in LENGTH_UNITS else title
    return f"{unit} of class {number}" if number else unit


def _text(value: float, metric: str) -> str:
    """Three decimals, of a length two, or two digits of what they would show as 0; no minus zero."""
    decimals = 2 if metric.partition("_class")[0] in LENGTH_UNITS else 3
    return f"{value:.1e}" if 0 < abs(value) < 0.5 * 10**-decimals else f"{value + 0.0:.{decimals}f}"
