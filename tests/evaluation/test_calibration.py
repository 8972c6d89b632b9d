"""Calibration: hand-computed bins, a second computation, synthetic networks whose calibration is known, refusals."""

import json
import logging
import math

import numpy as np
import pytest
import torch

from scripts.evaluation import calibration
from scripts.evaluation.calibration import NUM_BINS, Reliability, fit_temperature
from scripts.metrics import logits_to_classes, logits_to_probabilities


def foreground(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1)


def labels(*values):
    return torch.tensor(values).reshape(1, 1, -1)


def calibrated(num_classes=2, size=400, seed=0):
    """Logits whose labels are drawn from their own softmax: calibrated, with the best temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(1 if num_classes == 2 else num_classes, size, size, generator=generator)
    probabilities = logits_to_probabilities(logits)
    if num_classes == 2:
        return logits, torch.bernoulli(probabilities, generator=generator).long()
    drawn = torch.multinomial(probabilities.flatten(1).T, 1, generator=generator)
    return logits, drawn.reshape(1, size, size)


def reference_ece(probabilities, label):
    """Bin by bin, with numpy's digitize."""
    confidence, correct = probabilities.max(axis=0).ravel(), (probabilities.argmax(axis=0) == label[0]).ravel()
    bins = np.digitize(confidence, np.arange(1, NUM_BINS) / NUM_BINS, right=True)
    chosen = [bins == m for m in range(NUM_BINS) if (bins == m).any()]
    return sum(one.mean() * abs(correct[one].mean() - confidence[one].mean()) for one in chosen)


def test_hand_computed_error_of_four_pixels():
    # confidences 0.9, 0.85, 0.7, 0.85 in bins 14, 13, 11, 13; right, wrong, right, right
    reliability = Reliability()
    ece = reliability.add(foreground(0.9, 0.85, 0.3, 0.15), labels(1, 0, 0, 0))
    assert ece == pytest.approx((abs(1 - 0.9) + abs(1 - 1.7) + abs(1 - 0.7)) / 4)
    summary = reliability.summary()
    assert summary["ece"] == pytest.approx(ece)
    assert (summary["accuracy"], summary["mean_confidence"]) == pytest.approx((0.75, 0.825))
    assert [row["count"] for row in summary["bins"]] == [0] * 10 + [1, 0, 2, 1, 0]
    assert summary["bins"][12] == pytest.approx(
        {"low": 12 / 15, "high": 13 / 15, "count": 2, "confidence": 0.85, "accuracy": 0.5}
    )


def test_bins_are_closed_above():
    reliability = Reliability()
    reliability.add(foreground(0.6, 0.8, 0.601, 1.0), labels(1, 1, 1, 1))  # 0.6 is 9 / 15, 0.8 is 12 / 15
    assert [row["count"] for row in reliability.summary()["bins"]] == [0] * 8 + [1, 1, 0, 1, 0, 0, 1]


def test_classes_and_foreground_give_the_same():
    logits, label = calibrated(size=50)
    one, two = Reliability(), Reliability()
    one.add(logits_to_probabilities(logits), label)
    two.add(logits_to_probabilities(torch.cat([torch.zeros_like(logits), logits])), label)
    assert one.summary()["ece"] == pytest.approx(two.summary()["ece"], abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_error_agrees_with_a_second_computation(num_classes):
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        probabilities = (3 * torch.randn(num_classes, 9, 7, generator=generator)).double().softmax(0)
        label = torch.randint(num_classes, (1, 9, 7), generator=generator)
        expected = reference_ece(probabilities.numpy(), label.numpy())
        assert Reliability().add(probabilities, label) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_calibrated_network_has_almost_no_error_and_a_confident_one_has(num_classes):
    logits, label = calibrated(num_classes)
    assert Reliability().add(logits_to_probabilities(logits), label) < 0.005
    assert Reliability().add(logits_to_probabilities(3 * logits), label) > 0.1


def test_cases_are_put_together_by_their_pixels():
    reliability = Reliability()
    first = reliability.add(foreground(0.8, 0.8, 0.8), labels(1, 1, 1))
    second = reliability.add(foreground(0.8), labels(0))
    assert (first, second) == pytest.approx((0.2, 0.8))
    assert reliability.summary()["ece"] == pytest.approx(abs(0.75 - 0.8))  # the mean of the cases is another figure


def test_confident_errors_are_a_share_of_the_wrong_pixels():
    reliability = Reliability()
    reliability.add(foreground(0.95, 0.6, 0.02, 0.99), labels(0, 0, 1, 1))  # wrong: 0.95, 0.6 and 0.98
    assert reliability.summary()["confident_errors"] == pytest.approx(2 / 3)


def test_network_without_errors_has_no_confident_ones():
    reliability = Reliability()
    assert reliability.add(foreground(1.0, 0.0), labels(1, 0)) == 0
    summary = reliability.summary()
    assert (summary["ece"], summary["accuracy"], summary["confident_errors"]) == (0, 1, 0)


def test_summary_is_valid_json_and_its_bins_cover_0_to_1():
    reliability = Reliability()
    reliability.add(foreground(0.5, 1.0), labels(0, 1))
    bins = json.loads(json.dumps(reliability.summary(), allow_nan=False))["bins"]
    assert len(bins) == 15
    assert bins[0]["low"] == 0
    assert bins[-1]["high"] == 1
    assert bins[0]["confidence"] is None
    assert bins[0]["accuracy"] is None
    assert bins[-1]["count"] == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_probabilities_are_of_the_mask_that_logits_to_classes_makes(channels):
    logits = torch.randn(channels, 20, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float32).bfloat16()
    probabilities = logits_to_probabilities(logits)
    assert probabilities.shape == logits.shape
    assert probabilities.dtype == torch.float32
    reliability = Reliability()
    reliability.add(probabilities, logits_to_classes(logits[None])[0])
    assert reliability.summary()["accuracy"] == 1


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_of_scaled_logits_is_the_factor(num_classes, factor):
    logits, label = calibrated(num_classes)
    assert fit_temperature([factor * logits], [label]) == pytest.approx(factor, rel=0.02)


def test_temperature_scales_with_the_logits():
    logits, label = calibrated(size=60)
    assert fit_temperature([4 * logits], [label]) == pytest.approx(4 * fit_temperature([logits], [label]), rel=1e-3)


def test_temperature_has_the_smallest_likelihood_loss_and_mends_the_error():
    logits, label = calibrated(3, size=100)
    logits = 2.5 * logits
    temperature = fit_temperature([logits], [label])

    def loss(t):
        return float(torch.nn.functional.cross_entropy(logits[None].double() / t, label))

    assert loss(temperature) < min(loss(0.99 * temperature), loss(1.01 * temperature))
    before, after = (Reliability().add(logits_to_probabilities(logits / t), label) for t in (1, temperature))
    assert after < 0.2 * before


def test_cases_may_differ_in_size_and_precision():
    (first, label), (second, other) = calibrated(size=200), calibrated(size=150, seed=1)
    temperature = fit_temperature([2 * first, (2 * second[:, :100]).bfloat16()], [label, other[:, :100].float()])
    assert temperature == pytest.approx(2, rel=0.03)


def test_pixels_are_sampled_alike_every_time(monkeypatch):
    cases = [calibrated(size=200, seed=seed) for seed in (0, 1)]
    logits, label = ([case[i] for case in cases] for i in (0, 1))
    whole = fit_temperature(logits, label)
    monkeypatch.setattr(calibration, "MAX_PIXELS", 20_000)
    assert calibration._sample_pixels(logits, label)[0].shape == (20_000, 2)
    sampled = fit_temperature(logits, label)
    assert sampled == fit_temperature(logits, label) != whole
    assert sampled == pytest.approx(whole, rel=0.05)


def test_network_without_errors_gets_the_lowest_temperature_and_a_warning(caplog):
    logits, _ = calibrated(size=30)
    with caplog.at_level(logging.WARNING):
        assert fit_temperature([logits], [(logits > 0).long()]) == pytest.approx(0.05, rel=1e-2)
    assert "is at the end of 0.05 to 20" in caplog.text


def test_no_warning_within_the_bounds(caplog):
    with caplog.at_level(logging.WARNING):
        fit_temperature(*([value] for value in calibrated(size=100)))
    assert not caplog.records


@pytest.mark.parametrize(
    ("probabilities", "label", "message"),
    [
        (torch.rand(4, 5), torch.zeros(1, 4, 5), r"probabilities must have the shape \(C, H, W\), got \(4, 5\)"),
        (torch.rand(1, 0, 5), torch.zeros(1, 0, 5), r"probabilities must have the shape \(C, H, W\), got \(1, 0, 5\)"),
        (torch.rand(1, 4, 5), torch.zeros(1, 4, 6), r"probabilities \(1, 4, 5\) and label \(1, 4, 6\) differ in size"),
        (torch.rand(1, 4, 5), torch.zeros(4, 5), r"probabilities \(1, 4, 5\) and label \(4, 5\) differ in size"),
        (torch.full((1, 4, 5), 3.2), torch.zeros(1, 4, 5), "hold the value 3.2, expected 0 to 1; pass logits through"),
        (torch.full((1, 4, 5), math.nan), torch.zeros(1, 4, 5), "hold the value nan, expected 0 to 1"),
        (torch.full((2, 4, 5), 0.9), torch.zeros(1, 4, 5), "probabilities sum to 1.8, expected 1"),
        (
            torch.rand(1, 4, 5),
            torch.full((1, 4, 5), 255),
            "label holds the value 255, expected class indices 0..1; see data::num",
        ),
        (torch.rand(1, 4, 5), torch.full((1, 4, 5), 0.5), "label holds the value 0.5, expected class indices 0..1"),
        (
            torch.full((3, 4, 5), 1 / 3),
            torch.full((1, 4, 5), -1),
            "label holds the value -1, expected class indices 0..2",
        ),
    ],
)
def test_bad_cases_are_refused_and_not_counted(probabilities, label, message):
    reliability = Reliability()
    with pytest.raises(ValueError, match=message):
        reliability.add(probabilities, label)
    with pytest.raises(ValueError, match="there are no cases to summarize"):
        reliability.summary()


@pytest.mark.parametrize(
    ("logits", "label", "message"),
    [
        ([], [], "no cases to fit a temperature to"),
        ([torch.zeros(1, 4, 5)], [], "there are 1 logits and 0 labels, expected one label for each case"),
        (
            [torch.zeros(1, 4, 5)] * 2,
            [torch.zeros(1, 4, 5), torch.zeros(1, 4, 6)],
            r"case 1: logits .* and label .* differ",
        ),
        (
            [torch.zeros(1, 4, 5), torch.zeros(3, 4, 5)],
            [torch.zeros(1, 4, 5)] * 2,
            "case 1: logits .* have 3 channels, expected 1",
        ),
        (
            [torch.full((1, 4, 5), math.inf)],
            [torch.zeros(1, 4, 5)],
            "case 0: logits are not all finite; pass --hardware",
        ),
        (
            [torch.zeros(1, 4, 5)],
            [torch.full((1, 4, 5), 2)],
            "case 0: label holds the value 2, expected class indices 0..1",
        ),
    ],
)
def test_bad_logits_are_refused(logits, label, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, label)
