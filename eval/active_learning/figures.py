"""What a simulation found: Dice by number of labels and arm, the arms compared, and whether unsure images were bad.

Intervals are over patients, as everywhere. A case's value is its mean over the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from scipy.stats import spearmanr

from scripts.evaluation.case_table import CONFIDENCE, CaseTable
from scripts.evaluation.statistics import compare_arms, summarize_arms

from .page import ARMS, LEAST_SURE, RANDOM
from .rounds import Round, Rows

METRICS = ("dice", "hd95")


def describe(rounds: Sequence[Round]) -> dict[str, Any]:
    """The part of the results file that the rounds give.

    Returns:
        rounds: of each, labels, patients (mean over seeds, by arm), seconds (of a training, mean), arms (see
        `summarize_arms`) and comparison (see `compare_arms`; None in the first round, which the arms share).
        overall: the same comparison of each case's mean Dice over all rounds after the first, and by_seed, the
        difference of each seed alone; None with one round.
        left: see `describe_left`.
    """
    numbers = sorted({one.number for one in rounds})
    later = [number for number in numbers if number]
    return {
        "rounds": [_describe_round([one for one in rounds if one.number == number]) for number in numbers],
        "overall": _compare_seeds(_mean_over_rounds([one for one in rounds if one.number])) if later else None,
        "left": [row for number in numbers if (row := describe_left(rounds, number))],
    }


def _describe_round(rounds: Sequence[Round]) -> dict[str, Any]:
    rows = [{**row, "arm": one.arm} for one in rounds for row in one.rows]
    metrics = [metric for metric in METRICS if all(row.get(metric) is not None for row in rows)]
    return {
        "labels": len(rounds[0].labeled),
        "patients": {arm: mean(one.patients for one in rounds if one.arm == arm) for arm in ARMS},
        "seconds": mean(one.seconds for one in rounds),
        "arms": summarize_arms(CaseTable(rows), metrics),
        "comparison": _compare(rows) if rounds[0].number else None,
    }


def _compare(rows: Rows) -> dict[str, Any]:
    return compare_arms(CaseTable(rows), LEAST_SURE, RANDOM, "dice")


def _compare_seeds(rows: Rows) -> dict[str, Any]:
    """`_compare`, and the difference of each seed: the interval is over patients, not over how a training turns out."""
    seeds = sorted({row["seed"] for row in rows})
    by_seed = {str(seed): _compare([row for row in rows if row["seed"] == seed])["difference"] for seed in seeds}
    return {**_compare(rows), "by_seed": by_seed}


def _mean_over_rounds(rounds: Sequence[Round]) -> Rows:
    """A row a case, arm and seed with its mean Dice over these rounds."""
    values: dict[tuple[str, int, str], list[float]] = {}
    first = {}
    for one in rounds:
        for row in one.rows:
            key = (one.arm, one.seed, row["case"])
            first.setdefault(key, row)
            values.setdefault(key, []).append(row["dice"])
    return [
        {"case": case, "patient": first[arm, seed, case]["patient"], "arm": arm, "seed": seed, "dice": mean(dice)}
        for (arm, seed, case), dice in values.items()
    ]


def describe_left(rounds: Sequence[Round], number: int) -> dict[str, Any] | None:
    """Whether the student is unsure of the images that it segments badly; None where no image was left.

    Of the images that were not labeled in a round, means over the seeds of the arm that takes the least sure ones.

    Returns:
        labels, images (left), correlation (Spearman's, of confidence and Dice; None where one of them is constant),
        dice of all that were left, and dice_chosen of those that were labeled next (None in the last round).
    """
    own = {one.seed: one for one in rounds if one.arm == LEAST_SURE and one.number == number and one.left}
    if not own:
        return None
    chosen = {one.seed: {*one.labeled} for one in rounds if one.arm == LEAST_SURE and one.number == number + 1}
    picked = [
        mean(row["dice"] for row in one.left if row["image"] in chosen[seed])
        for seed, one in own.items()
        if seed in chosen
    ]
    return {
        "labels": len(next(iter(own.values())).labeled),
        "images": len(next(iter(own.values())).left),
        "correlation": _mean_or_none([_correlation(one.left) for one in own.values()]),
        "dice": mean(mean(row["dice"] for row in one.left) for one in own.values()),
        "dice_chosen": mean(picked) if picked else None,
    }


def _correlation(rows: Sequence[Mapping[str, Any]]) -> float | None:
    pairs = [(row[CONFIDENCE], row["dice"]) for row in rows]
    if any(len({*values}) < 2 for values in zip(*pairs)):
        return None
    return float(spearmanr(*zip(*pairs)).statistic)


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None
