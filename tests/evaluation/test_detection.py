"""Figures of whole images: sensitivity, specificity, AUC with intervals, confidence, risk over coverage."""

import math

import numpy as np
import pytest
import torch
from evaluation.stand_ins import Threshold, cases, make_rows

from scripts.evaluation.case_table import CaseTable
from scripts.evaluation.detection import area_under_curve, bootstrap, detection_figures, mask_confidence, risk_coverage
from scripts.evaluation.evaluate import Arm, evaluate
from scripts.evaluation.results import read_rows, write_results
from scripts.networks.presence import without_foreground


def table(label, predicted, **columns):
    arms = {"student": {0: [0.5] * len(label)}}
    return CaseTable(make_rows(arms, label_area=label, predicted_area=predicted, **columns))


def test_area_under_curve_counts_pairs_and_ties_half():
    shown = np.array([True, True, False, False])
    assert area_under_curve(np.array([0.9, 0.4, 0.4, 0.1]), shown) == (1 + 1 + 0.5 + 1) / 4
    assert area_under_curve(np.array([0.1, 0.2, 0.8, 0.9]), shown) == 0
    assert math.isnan(area_under_curve(np.array([0.1, 0.2]), np.array([True, True])))


def test_images_are_counted_by_their_masks():
    label, predicted = [9, 9, 9, 9, 0, 0], [5, 5, 5, 0, 0, 3]
    figures = detection_figures(table(label, predicted, presence=[0.9, 0.8, 0.7, 0.2, 0.1, 0.6]), "student")
    assert (figures["with_lesion"], figures["without"]) == (4, 2)
    assert (figures["detected"], figures["left_empty"]) == (3, 1)
    assert figures["sensitivity"]["mean"] == 0.75
    assert figures["specificity"]["mean"] == 0.5
    assert figures["auc"]["mean"] == 7 / 8
    for name in ("sensitivity", "specificity", "auc"):
        assert 0 <= figures[name]["low"] <= figures[name]["mean"] <= figures[name]["high"] <= 1


def test_arm_without_presence_has_no_area_under_curve():
    assert detection_figures(table([9, 0], [9, 0]), "student")["auc"] is None


@pytest.mark.parametrize("label", [[9, 9], [0, 0]])
def test_list_of_one_kind_has_no_figures_of_images(label):
    assert detection_figures(table(label, [1, 0]), "student") is None


def test_interval_is_over_patients():
    """Ten images of one patient say no more than one of them."""
    values = np.array([1.0] * 10 + [0.0] * 10)
    one, many = ([f"p{i // size}" for i in range(20)] for size in (10, 1))
    intervals = [bootstrap(lambda chosen: float(values[chosen].mean()), clusters) for clusters in (one, many)]
    assert [interval["mean"] for interval in intervals] == [0.5, 0.5]
    assert intervals[0]["low"] == 0
    assert intervals[1]["low"] > 0.2


def test_draws_that_give_no_number_are_left_out():
    shown = np.array([True, False])
    found = bootstrap(lambda chosen: area_under_curve(np.array([0.9, 0.1])[chosen], shown[chosen]), ["a", "b"])
    assert found == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_confidence_is_the_mean_probability_in_the_mask():
    logits = torch.tensor([[[3.0, 1.0], [-1.0, -4.0]]])
    assert mask_confidence(logits) == pytest.approx(float(torch.tensor([3.0, 1.0]).sigmoid().mean()))
    two = torch.stack([-logits[0], logits[0], logits[0] - 9])
    expected = two.softmax(0)[1][logits[0] > 0].mean()
    assert mask_confidence(two) == pytest.approx(float(expected))


def test_confidence_of_an_empty_mask_is_that_of_the_absence():
    logits = torch.full((1, 4, 4), -2.0)
    assert mask_confidence(logits) == pytest.approx(1 - float(torch.tensor(-2.0).sigmoid()))
    assert mask_confidence(without_foreground(torch.ones(1, 1, 4, 4))[0], presence=0.1) == pytest.approx(0.9)


def test_risk_is_of_the_most_confident_share():
    rows = make_rows({"student": {0: [1.0, 0.8, 0.4, 0.0]}}, confidence=[0.9, 0.7, 0.8, 0.1])
    found = risk_coverage(CaseTable(rows), "student")
    assert found["coverage"] == [0.25, 0.5, 0.75, 1.0]
    assert found["risk"] == pytest.approx([0.0, 0.3, 0.8 / 3, 0.45])
    assert found["failures"] == pytest.approx([0, 0.5, 1 / 3, 0.5])
    assert found["points"][0] == pytest.approx({"coverage": 0.5, "risk": 0.3, "failures": 0.5, "confidence": 0.8})
    assert found["points"][-1]["risk"] == pytest.approx(0.45)


def test_long_curve_is_thinned_and_keeps_its_end():
    rows = make_rows({"student": {0: [0.5] * 900}}, confidence=list(np.linspace(0, 1, 900)))
    found = risk_coverage(CaseTable(rows), "student")
    assert len(found["risk"]) == len(found["coverage"]) == 200
    assert found["coverage"][-1] == 1


def test_rows_of_earlier_versions_have_no_curve():
    assert risk_coverage(CaseTable(make_rows({"student": {0: [0.5]}})), "student") is None


class Certain(Threshold):
    """A student that tells presence: the mean of the image."""

    presence = True

    def detect(self, image):
        return self(image), image.mean(dim=(1, 2, 3))


def test_evaluation_has_presence_and_confidence_of_each_case(tmp_path):
    items = cases(2)
    measured = evaluate(items, [Arm("teacher", Threshold(), 32), Arm("student", Certain(), 32)], 2)
    by_arm = {arm: [row for row in measured.rows if row["arm"] == arm] for arm in ("teacher", "student")}
    assert all("presence" not in row for row in by_arm["teacher"])
    assert by_arm["student"][0]["presence"] == pytest.approx(float(items[0]["image"].mean()), abs=0.02)
    assert all(0.5 < row["confidence"] <= 1 for row in measured.rows)
    write_results(measured.rows, {arm: measured.summary[arm, 0] for arm in by_arm}, tmp_path)
    rows = read_rows(tmp_path / "metrics.csv")
    assert [row.get("presence") for row in rows] == [row.get("presence") for row in measured.rows]
    assert rows[0]["confidence"] == measured.rows[0]["confidence"]
