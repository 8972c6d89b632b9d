"""The presence of a student is fitted to images with and without a lesion: weights, threshold, what they are worth."""

import numpy as np
import pytest
from scipy.special import expit

from scripts.evaluation.detection import area_under_curve
from scripts.evaluation.presence import Images, calibrate, fit_logistic, keeping_threshold


def images(count=200, margin=2.0, feature=0.0, seed=0):
    """Half of them with a lesion; each kind has its own mean of the margin and of the first of four features."""
    rng = np.random.default_rng(seed)
    shown = np.arange(count) % 2 == 0
    inputs = rng.normal(size=(count, 5))
    inputs[:, 0] += np.where(shown, margin, -margin)
    inputs[:, 1] += np.where(shown, feature, -feature)
    return Images(inputs, shown, [f"p{i}" for i in range(count)])


def test_margin_alone_is_platt_scaling():
    known = images(4000, margin=0.0)
    scores = 1.5 * known.inputs[:, 0] - 0.7
    shown = np.random.default_rng(1).random(4000) < expit(scores)
    weight, bias = fit_logistic(known.inputs, shown, "margin")
    assert weight[0] == pytest.approx(1.5, abs=0.15)
    assert bias == pytest.approx(-0.7, abs=0.15)
    assert not weight[1:].any()


def test_images_that_do_not_overlap_give_finite_numbers():
    weight, bias = fit_logistic(np.array([[-3.0, 0], [-2, 0], [2, 0], [3, 0]]), np.array([0, 0, 1, 1], bool), "margin")
    assert np.isfinite([*weight, bias]).all()
    assert weight[0] > 0


@pytest.mark.parametrize(("feature", "expected"), [(0.0, "margin"), (2.0, "features")])
def test_features_are_taken_where_they_help_patients_left_out(feature, expected):
    found = calibrate(images(margin=0.7, feature=feature))
    assert found.evidence == expected
    assert found.losses[expected] == min(found.losses.values())
    assert bool(found.weight[1:].any()) is (expected == "features")


def test_evidence_can_be_asked_for():
    assert calibrate(images(margin=0.7, feature=2.0), evidence="margin").evidence == "margin"


def test_features_of_noise_are_worth_nothing_on_patients_left_out():
    noise = Images(np.random.default_rng(0).normal(size=(60, 200)), np.arange(60) % 2 == 0, list(range(60)))
    found = calibrate(noise, evidence="features")
    assert 0.3 < area_under_curve(found.probabilities, noise.shown) < 0.7
    fitted = expit(noise.inputs @ found.weight + found.bias)
    assert area_under_curve(fitted, noise.shown) > 0.95


def test_patients_stay_together():
    """A patient's images are alike: seen in training, they would give the answer away."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 5)
    inputs = np.c_[np.zeros(200), rng.normal(size=(40, 60))[patients]]
    found = calibrate(Images(inputs, patients % 2 == 0, list(patients)), evidence="features")
    assert area_under_curve(found.probabilities, patients % 2 == 0) < 0.7


@pytest.mark.parametrize(("keep", "kept"), [(0.95, 19), (0.9, 18), (0.93, 19), (0.999, 20)])
def test_threshold_is_the_largest_that_keeps_the_share(keep, kept):
    values = np.arange(20) / 20
    threshold = keeping_threshold(values, keep)
    assert (values >= threshold).sum() == kept
    assert threshold in values


def test_threshold_keeps_lesions_of_patients_left_out():
    found = calibrate(images(margin=0.7), keep=0.9)
    shown = images().shown
    assert (found.probabilities[shown] >= found.threshold).mean() == 0.9
    assert 0 < (found.probabilities[~shown] < found.threshold).mean() < 1


@pytest.mark.parametrize("keep", [0.0, 1.0, 95])
def test_share_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match=r"--keep must be between 0 and 1, got"):
        calibrate(images(), keep)


@pytest.mark.parametrize(("shown", "kind"), [(True, "without a lesion"), (False, "with a lesion")])
def test_list_of_one_kind_is_refused_and_says_what_to_do(shown, kind):
    one = images(10)
    with pytest.raises(ValueError, match=f"0 of 10 images {kind}, of 0 patients") as caught:
        calibrate(one._replace(shown=np.full(10, shown)))
    assert "python -m scripts.make_datalist --lesion_free DIR" in str(caught.value)


def test_images_of_one_patient_are_refused():
    one = images(10)
    patients = ["same" if not shown else patient for shown, patient in zip(one.shown, one.patients)]
    with pytest.raises(ValueError, match="5 of 10 images without a lesion, of 1 patients"):
        calibrate(one._replace(patients=patients))


def test_logits_that_are_not_finite_are_refused():
    one = images(10)
    one.inputs[3, 0] = np.nan
    with pytest.raises(ValueError, match="logits or features are not all finite"):
        calibrate(one)
