"""Whether an image has a lesion, and how far a mask can be trusted: figures of images beside those of pixels.

An image counts as detected where its mask has a pixel of any foreground class. Intervals are over patients, as in
statistics.py. The risk at a coverage is that of the most confident share of the images, as in Geifman and El-Yaniv
2017, arXiv:1705.08500.

Legend: S seeds of an arm, N cases, C classes, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from ..metrics import logits_to_classes, logits_to_probabilities
from .case_table import CONFIDENCE, FAILED_DICE, PRESENCE, CaseTable, is_blank

RESAMPLES = 1000
COVERAGES = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)  # of the table
MOST_POINTS = 200  # of a curve
Statistic = Callable[[np.ndarray], float]


def mask_confidence(logits: torch.Tensor, presence: float | None = None) -> float:
    """How sure a network is of its mask, from 0 to 1: the mean probability of the predicted class in the foreground.

    Of an empty mask it is 1 less presence or, without one, 1 less the largest foreground probability.

    Args:
        logits: (C, H, W), unnormalized, one channel for two classes.
        presence: probability that the image shows any foreground.
    """
    probabilities = logits_to_probabilities(logits)
    mask = logits_to_classes(logits[None])[0, 0]
    foreground = probabilities if len(probabilities) == 1 else probabilities[1:]
    if mask.any():
        return float(foreground.amax(dim=0)[mask > 0].mean())
    return 1.0 - float(foreground.max() if presence is None else presence)


def detection_figures(table: CaseTable, arm: str) -> dict[str, Any] | None:
    """How well an arm tells images with a lesion from those without; None where the list has one kind alone.

    Args:
        table: of the arm, with label_area and predicted_area.
        arm: such as student.

    Returns:
        with_lesion and without (images), detected and left_empty (of these, over all seeds), num_seeds; sensitivity
        (share detected), specificity (share left empty) and auc (of presence, None where the arm has none), each with
        mean, low and high.
    """
    shown = table.values(arm, "label_area")[0] > 0
    if shown.all() or not shown.any():
        return None
    found = table.values(arm, "predicted_area") > 0
    return {
        "with_lesion": int(shown.sum()),
        "without": int((~shown).sum()),
        "num_seeds": len(found),
        "detected": int(found[:, shown].sum()),
        "left_empty": int((~found)[:, ~shown].sum()),
        "sensitivity": bootstrap(lambda chosen: _share(found[:, chosen], shown[chosen]), table.clusters),
        "specificity": bootstrap(lambda chosen: _share(~found[:, chosen], ~shown[chosen]), table.clusters),
        "auc": _auc(table, arm, shown),
    }


def _share(said: np.ndarray, asked: np.ndarray) -> float:
    """The share of True in (S, N) among the images (N,) that are asked for; nan without any."""
    return float(said[:, asked].mean()) if asked.any() else math.nan


def _auc(table: CaseTable, arm: str, shown: np.ndarray) -> dict[str, float] | None:
    if any(is_blank(row, PRESENCE) for row in table.rows(arm)):
        return None
    scores = table.values(arm, PRESENCE)
    return bootstrap(
        lambda chosen: float(np.mean([area_under_curve(seed[chosen], shown[chosen]) for seed in scores])),
        table.clusters,
    )


def area_under_curve(scores: np.ndarray, shown: np.ndarray) -> float:
    """The area under the ROC curve: how often an image with a lesion scores above one without; ties count half.

    Mann-Whitney's statistic, Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747. nan with one kind alone.
    """
    shown = np.asarray(shown, dtype=bool)
    if shown.all() or not shown.any():
        return math.nan
    wins = mannwhitneyu(scores[shown], scores[~shown], method="asymptotic").statistic
    return float(wins / (shown.sum() * (~shown).sum()))


def bootstrap(statistic: Statistic, clusters: Sequence[Hashable], seed: int = 0, level: float = 0.95) -> dict[str, Any]:
    """mean (of all cases), low and high of a statistic when whole patients are drawn with replacement.

    Args:
        statistic: indices of cases, some of them several times -> a number, nan where these do not give one: such a
            draw is left out.
        clusters: (N,), the patient of each case.
        seed: of the draws.
        level: share of the draws inside the interval.
    """
    members: dict[Hashable, list[int]] = {}
    for index, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(index)
    groups = [np.array(group) for group in members.values()]
    draws = np.random.default_rng(seed).integers(len(groups), size=(RESAMPLES, len(groups)))
    values = [statistic(np.concatenate([groups[i] for i in draw])) for draw in draws]
    finite = [value for value in values if math.isfinite(value)]
    ends = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2]) if finite else (None, None)
    low, high = (None if end is None else float(end) for end in ends)
    return {"mean": statistic(np.arange(len(clusters))), "low": low, "high": high}


def risk_coverage(table: CaseTable, arm: str) -> dict[str, Any] | None:
    """Risk of the most confident images of an arm, at every share of them; None where its rows have no confidence.

    Args:
        table: of the arm.
        arm: such as student.

    Returns:
        coverage, the shares, at most MOST_POINTS; risk, the mean of 1 - Dice of so many images; failures, the share of
        them with a Dice below 0.5; and points, dicts of coverage, risk, failures and confidence (the lowest of those
        covered) at COVERAGES. All are of the images of all seeds together.
    """
    if any(is_blank(row, CONFIDENCE) for row in table.rows(arm)):
        return None
    confidence, dice = table.values(arm, CONFIDENCE).ravel(), table.values(arm, "dice").ravel()
    order = np.argsort(-confidence, kind="stable")
    count = np.arange(1, len(order) + 1)
    curve = {
        "coverage": count / len(order),
        "risk": np.cumsum(1 - dice[order]) / count,
        "failures": np.cumsum(dice[order] < FAILED_DICE) / count,
    }
    points = []
    for coverage in COVERAGES:
        index = max(0, math.ceil(coverage * len(order) - 1e-9) - 1)
        numbers = {name: float(values[index]) for name, values in curve.items()}
        points.append({**numbers, "coverage": coverage, "confidence": float(confidence[order[index]])})
    drawn = np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST_POINTS)).astype(int))
    return {**{name: values[drawn].tolist() for name, values in curve.items()}, "points": points}
