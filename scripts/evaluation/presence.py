"""Fits the presence probability of a student: whether an image shows anything, by images with and without a lesion.

Platt 1999, "Probabilistic outputs for support vector machines", with his smoothed targets (Sec. 2.2). The evidence is
the student's largest margin, or that and the mean features of its last block under a ridge penalty. Patients are left
out in turn: the probabilities of the left out choose the evidence, give the threshold, and are what is reported.

Legend: N images, D channels of features.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

MARGIN, FEATURES = EVIDENCE = ("margin", "features")
RIDGE = 10.0  # of the features' weights, in units of one image's likelihood and one standard deviation
FOLDS = 5
SEED = 0
FEWEST = 2  # patients with a lesion, and likewise without
HOW_TO_GET = "add some to it with python -m scripts.make_datalist --lesion_free DIR"


class Images(NamedTuple):
    """What a student finds in the images of a list.

    Args:
        inputs: (N, 1 + D) of `networks.presence.presence_inputs`.
        shown: (N,) bool, whether the label has any foreground.
        patients: (N,) of each image.
    """

    inputs: np.ndarray
    shown: np.ndarray
    patients: Sequence[Hashable]


class Calibration(NamedTuple):
    """The numbers of `networks.presence.Presence`, and what they are worth.

    Args:
        evidence: of EVIDENCE.
        weight: (1 + D,).
        bias: a number.
        threshold: below it a mask is left empty.
        probabilities: (N,) of each image, by a fit that did not see its patient.
        losses: mean log loss of these by evidence.
    """

    evidence: str
    weight: np.ndarray
    bias: float
    threshold: float
    probabilities: np.ndarray
    losses: dict[str, float]


def calibrate(images: Images, keep: float = 0.95, evidence: str | None = None) -> Calibration:
    """The presence of a student, and the threshold that keeps a share of the images with a lesion.

    Args:
        images: of a list that no training saw.
        keep: share of the images with a lesion whose probability is not below the threshold.
        evidence: of EVIDENCE; None takes the one with the lower log loss on patients left out.

    Raises:
        ValueError: images of one kind alone, or of fewer than two patients; a share out of its range.
    """
    if not 0 < keep < 1:
        raise ValueError(f"--keep must be between 0 and 1, got {keep:g}.")
    _check(images)
    left_out = {name: _left_out(images, name) for name in EVIDENCE}
    losses = {name: _log_loss(probabilities, images.shown) for name, probabilities in left_out.items()}
    evidence = evidence or min(losses, key=losses.get)
    weight, bias = fit_logistic(images.inputs, images.shown, evidence)
    threshold = keeping_threshold(left_out[evidence][images.shown], keep)
    return Calibration(evidence, weight, bias, threshold, left_out[evidence], losses)


def keeping_threshold(probabilities: np.ndarray, keep: float) -> float:
    """The largest threshold that at least a share of the probabilities are not below."""
    ordered = np.sort(probabilities)
    return float(ordered[math.floor((1 - keep) * len(ordered) + 1e-9)])


def fit_logistic(inputs: np.ndarray, shown: np.ndarray, evidence: str) -> tuple[np.ndarray, float]:
    """Weights (1 + D,) and bias of the probability, by the maximum of its likelihood less the ridge penalty.

    Args:
        inputs: (N, 1 + D).
        shown: (N,) bool, with both values.
        evidence: of EVIDENCE; `margin` leaves the weights of the features at 0.
    """
    used = inputs.shape[1] if evidence == FEATURES else 1
    mean, deviation = inputs[:, :used].mean(axis=0), inputs[:, :used].std(axis=0)
    deviation[deviation == 0] = 1.0
    standard = (inputs[:, :used] - mean) / deviation
    targets = _smoothed(shown)
    ridge = np.r_[0.0, np.full(used - 1, RIDGE)]

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-1], parameters[-1]
        scores = standard @ weights + bias
        loss = np.logaddexp(0, scores) - targets * scores
        errors = expit(scores) - targets
        gradient = np.r_[standard.T @ errors + ridge * weights, errors.sum()]
        return float(loss.sum() + 0.5 * (ridge * weights**2).sum()), gradient

    best = minimize(objective, np.zeros(used + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    weight = np.zeros(inputs.shape[1])
    weight[:used] = best[:-1] / deviation
    return weight, float(best[-1] - weight[:used] @ mean)


def _smoothed(shown: np.ndarray) -> np.ndarray:
    """Platt's targets: a little inside of 0 and 1, so that the fit is finite where the two kinds do not overlap."""
    with_lesion = int(shown.sum())
    without = len(shown) - with_lesion
    return np.where(shown, (with_lesion + 1) / (with_lesion + 2), 1 / (without + 2))


def _left_out(images: Images, evidence: str) -> np.ndarray:
    """Probability (N,) of each image by a fit without its patient's fold."""
    folds, probabilities = _folds(images), np.empty(len(images.shown))
    for fold in np.unique(folds):
        out = folds == fold
        weight, bias = fit_logistic(images.inputs[~out], images.shown[~out], evidence)
        probabilities[out] = expit(images.inputs[out] @ weight + bias)
    return probabilities


def _folds(images: Images) -> np.ndarray:
    """The fold (N,) of each image; patients with a lesion and those without are spread over the folds alike."""
    shows = dict.fromkeys(images.patients, False)
    for patient, shown in zip(images.patients, images.shown):
        shows[patient] |= bool(shown)
    rng, folds = np.random.default_rng(SEED), {}
    for kind in (True, False):
        group = [patient for patient, shown in shows.items() if shown is kind]
        folds.update({group[i]: number % FOLDS for number, i in enumerate(rng.permutation(len(group)))})
    return np.array([folds[patient] for patient in images.patients])


def _log_loss(probabilities: np.ndarray, shown: np.ndarray) -> float:
    own = np.where(shown, probabilities, 1 - probabilities)
    return float(-np.log(np.clip(own, 1e-12, None)).mean())


def _check(images: Images) -> None:
    for shown, name in ((False, "without a lesion"), (True, "with a lesion")):
        chosen = [patient for patient, one in zip(images.patients, images.shown) if bool(one) is shown]
        if len(set(chosen)) < FEWEST:
            number = f"{len(chosen)} of {len(images.shown)} images {name}, of {len(set(chosen))} patients"
            raise ValueError(
                f"the list has {number}; presence needs images of both kinds, of at least {FEWEST} patients each: "
                f"{HOW_TO_GET}."
            )
    if not np.isfinite(images.inputs).all():
        raise ValueError("the student's logits or features are not all finite; pass --hardware::precision fp32.")
