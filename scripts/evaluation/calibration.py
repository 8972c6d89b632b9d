"""Calibration: is a network right as often as it is confident? Expected calibration error, bins and temperature.

Guo et al. 2017, arXiv:1706.04599: top-label confidence (Sec. 2), 15 bins of equal width (eq. 3), one temperature by
validation (Sec. 4.2). Here every pixel is one sample. Most pixels are easy background, so that the errors of all
networks are small: compare them on the same images only. With two classes no confidence is below 0.5, and the lower
bins stay empty. Emptying a prediction can improve its calibration: ECE is no measure of quality.

Legend: C classes with the background, H rows, W columns, N pixels, M bins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from ..metrics import class_logits

logger = logging.getLogger(__name__)

NUM_BINS = 15
CONFIDENT = 0.9
TEMPERATURES = (0.05, 20.0)
MAX_PIXELS = 1_000_000
SEED = 0


class Reliability:
    """Collects confidence and accuracy of pixels in bins, over cases.

    Bin m of M holds the confidences in ((m - 1) / M, m / M]. All pixels of all cases count the same in `summary`.
    """

    def __init__(self) -> None:
        self.bins = torch.zeros(3, NUM_BINS, dtype=torch.float64)  # pixels, sum of their confidence, correct ones
        self.confident_wrong = 0

    def add(self, probabilities: torch.Tensor, label: torch.Tensor) -> float:
        """Add a case and return its own expected calibration error.

        Args:
            probabilities: (C, H, W), sum 1 over the classes, or of the foreground (1, H, W).
            label: class indices (1, H, W).

        Raises:
            ValueError: the sizes differ, or a value is no probability or class index.
        """
        probabilities, label = torch.as_tensor(probabilities), torch.as_tensor(label)
        check_case("probabilities", probabilities, label)
        _check_probabilities(probabilities)
        confidence, correct = _top_label(probabilities, label)
        bins = ((confidence * NUM_BINS).ceil().long() - 1).clamp(0, NUM_BINS - 1)
        samples = torch.ones_like(confidence), confidence, correct.double()
        case = torch.stack([torch.bincount(bins, weights, minlength=NUM_BINS) for weights in samples])
        self.bins += case
        self.confident_wrong += int((~correct & (confidence > CONFIDENT)).sum())
        return _expected_error(case)

    def merge(self, other: Reliability) -> None:
        """Add the cases of another one."""
        self.bins += other.bins
        self.confident_wrong += other.confident_wrong

    def summary(self) -> dict[str, Any]:
        """The figures over all pixels.

        Returns:
            A dict of ece (expected calibration error), accuracy, mean_confidence, confident_errors and bins.
            confident_errors is the share of the wrong pixels whose confidence is above 0.9; 0 when none is wrong. A bin
            has low, high, count, and the mean confidence and accuracy of its pixels, None where it has no pixels.
        """
        count, confidence, correct = self.bins.sum(dim=1).tolist()
        if not count:
            raise ValueError(
                "there are no cases to summarize, expected at least one; check the lists in data::datalist."
            )
        wrong = count - correct
        return {
            "ece": _expected_error(self.bins),
            "accuracy": correct / count,
            "mean_confidence": confidence / count,
            "confident_errors": self.confident_wrong / wrong if wrong else 0.0,
            "bins": [_bin(i, *column) for i, column in enumerate(self.bins.T.tolist())],
        }


def _expected_error(bins: torch.Tensor) -> float:
    """Sum over the bins (3, M) of |accuracy - confidence|, weighted by their share of the pixels."""
    count, confidence, correct = bins
    return float((correct - confidence).abs().sum() / count.sum())


def _bin(index: int, count: float, confidence: float, correct: float) -> dict[str, float | int | None]:
    return {
        "low": index / NUM_BINS,
        "high": (index + 1) / NUM_BINS,
        "count": int(count),
        "confidence": confidence / count if count else None,
        "accuracy": correct / count if count else None,
    }


def _top_label(probabilities: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) float64 probability of the most likely class, the first of equals, and whether it is the label's."""
    probabilities = probabilities.detach().cpu().double()
    if probabilities.shape[0] == 1:
        probabilities = torch.cat([1 - probabilities, probabilities])
    confidence, prediction = probabilities.flatten(1).max(dim=0)
    return confidence, prediction == label.detach().cpu().flatten()


def fit_temperature(logits: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]) -> float:
    """The temperature T whose softmax(logits / T) makes the labels most likely (Guo et al., Sec. 4.2).

    The mean negative log-likelihood of pixels has one minimum over T, as it is convex in 1 / T. It is searched over log
    T. Of more than a million pixels in all, a fixed random choice is taken, from each case the same share. T above 1
    means that the network is too confident. T lies between 0.05 and 20. A warning is logged when it is one of them, as
    with a network without errors, which no T makes confident enough.

    Args:
        logits: of the validation cases, each (C, H, W), or (1, H, W) for two classes; unnormalized.
        labels: class indices (1, H, W) of the size of the case's logits.

    Raises:
        ValueError: no cases, or a case whose label does not fit its logits.
    """
    logits, labels = _sample_pixels(logits, labels)

    def likelihood(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), labels))

    bounds = tuple(map(math.log, TEMPERATURES))
    best = minimize_scalar(likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x
    if min(abs(best - bound) for bound in bounds) < 1e-3:
        logger.warning(
            "the best temperature, %.3g, is at the end of %s to %s: do not rely on it.", math.exp(best), *TEMPERATURES
        )
    return math.exp(best)


def _sample_pixels(logits: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, C), float64, and class indices (N,), of at most MAX_PIXELS pixels of all cases."""
    if len(logits) != len(labels):
        raise ValueError(f"there are {len(logits)} logits and {len(labels)} labels, expected one label for each case.")
    if not logits:
        raise ValueError(
            "there are no cases to fit a temperature to, expected at least one; see validation in data::datalist."
        )
    share = min(1.0, MAX_PIXELS / sum(label.numel() for label in labels))
    generator = torch.Generator().manual_seed(SEED)
    columns, classes = [], []
    for i, (case_logits, label) in enumerate(zip(logits, labels)):
        try:
            _check_logits(case_logits, label, logits[0].shape[0])
        except ValueError as error:
            raise ValueError(f"case {i}: {error}") from None
        pixels = class_logits(case_logits.detach().cpu().double()[None])[0].flatten(1)  # (C, H, W) -> (C, HW)
        size = label.numel()
        chosen = slice(None) if share == 1 else torch.randperm(size, generator=generator)[: int(share * size)]
        columns.append(pixels[:, chosen])
        classes.append(label.detach().cpu().flatten()[chosen].long())
    return torch.cat(columns, dim=1).T.contiguous(), torch.cat(classes)


def check_case(name: str, values: torch.Tensor, label: torch.Tensor) -> None:
    """Refuse values (C, H, W), of this name, and a label (1, H, W) that do not belong together."""
    if values.ndim != 3 or not values.numel():
        raise ValueError(f"{name} must have the shape (C, H, W), got {tuple(values.shape)}.")
    if tuple(label.shape) != (1, *values.shape[1:]):
        raise ValueError(
            f"{name} {tuple(values.shape)} and label {tuple(label.shape)} differ in size; resize the {name} to the "
            "label (1, H, W)."
        )
    num_classes = max(2, values.shape[0])
    wrong = (label < 0) | (label >= num_classes) | (label != label.long())
    if wrong.any():
        value = label[wrong][0].item()
        raise ValueError(
            f"label holds the value {value}, expected class indices 0..{num_classes - 1}; see data::num_classes."
        )


def _check_probabilities(probabilities: torch.Tensor) -> None:
    wrong = ~((probabilities >= 0) & (probabilities <= 1))  # nan too
    if wrong.any():
        value = probabilities[wrong][0].item()
        raise ValueError(
            f"probabilities hold the value {value:g}, expected 0 to 1; pass logits through logits_to_probabilities."
        )
    if len(probabilities) > 1:
        total = probabilities.sum(dim=0)
        worst = total.flatten()[(total - 1).abs().argmax()].item()
        if abs(worst - 1) > 0.01:  # half precision is forgiven
            raise ValueError(
                f"a pixel's probabilities sum to {worst:g}, expected 1; pass logits through logits_to_probabilities."
            )


def _check_logits(logits: torch.Tensor, label: torch.Tensor, channels: int) -> None:
    check_case("logits", logits, label)
    if logits.shape[0] != channels:
        raise ValueError(
            f"logits {tuple(logits.shape)} have {logits.shape[0]} channels, expected {channels} as in the first case."
        )
    if not torch.isfinite(logits).all():
        raise ValueError(
            "logits are not all finite; pass --hardware::precision fp32 or check the network's checkpoint."
        )
