"""Intervals, comparisons and verdicts against hand-computed values, scipy, and a simulation with known truth."""

import json
import math

import numpy as np
import pytest
from evaluation.stand_ins import make_rows, shifted
from scipy.stats import wilcoxon

from scripts.evaluation.case_table import CaseTable
from scripts.evaluation.statistics import Interval, cluster_bootstrap, compare_arms, describe_difference, summarize_arms

FAST = {"num_resamples": 500}


def test_mean_is_over_cases_and_the_interval_over_patients():
    # Two patients, means 1 and 0: a resample is (a, a), (a, b), (b, a) or (b, b), so its mean is 1, 0.75 (3 of 4 cases)
    # or 0.
    interval = cluster_bootstrap([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert interval == Interval(0.75, 0.0, 1.0)


def test_single_cases_as_clusters_give_the_usual_bootstrap():
    values = np.random.default_rng(2).normal(size=200)
    interval = cluster_bootstrap(values, range(200), num_resamples=4000)
    error = values.std() / math.sqrt(200)
    assert interval.mean == pytest.approx(values.mean())
    assert [interval.low, interval.high] == pytest.approx(
        [values.mean() - 1.96 * error, values.mean() + 1.96 * error], abs=0.02
    )


def test_the_interval_is_wider_when_the_cases_of_a_patient_agree():
    values = np.repeat(np.random.default_rng(3).normal(size=20), 5)
    clustered = cluster_bootstrap(values, np.repeat(np.arange(20), 5).tolist())
    naive = cluster_bootstrap(values, range(100))
    # The standard error is sqrt(5) = 2.24 times as large.
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(math.sqrt(5), rel=0.15)


def test_names_of_clusters_do_not_matter_and_the_same_seed_gives_the_same_interval():
    values = [0.1, 0.5, 0.9, 0.4]
    assert cluster_bootstrap(values, ["x", "x", 3, None]) == cluster_bootstrap(values, [0, 0, 1, 2])
    many = np.random.default_rng(4).normal(size=30)
    assert cluster_bootstrap(many, range(30), seed=1) == cluster_bootstrap(many, range(30), seed=1)
    assert cluster_bootstrap(many, range(30), seed=1) != cluster_bootstrap(many, range(30), seed=2)


def test_a_lower_level_gives_a_narrower_interval():
    values = np.random.default_rng(4).normal(size=50)
    narrow, wide = (cluster_bootstrap(values, range(50), level=level) for level in (0.5, 0.95))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_the_clustered_interval_covers_the_truth_and_the_naive_one_does_not():
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(40), 3).tolist()
    covered = np.zeros(2)
    for _ in range(300):
        values = rng.normal(size=40).repeat(3) + 0.3 * rng.normal(size=120)
        for i, groups in enumerate((clusters, range(120))):
            interval = cluster_bootstrap(values, groups, num_resamples=300)
            covered[i] += interval.low <= 0 <= interval.high
    clustered, naive = covered / 300
    assert 0.90 <= clustered <= 0.98
    assert naive < 0.85


@pytest.mark.parametrize(
    ("values", "clusters", "options", "message"),
    [
        ([], [], {}, r"values \(0,\) and clusters \(0,\) must be two lists of the same length, at least 1"),
        ([1.0, 2.0], ["a"], {}, r"values \(2,\) and clusters \(1,\)"),
        ([1.0, math.inf], ["a", "b"], {}, "values must be finite, got inf"),
        ([1.0], ["a"], {"num_resamples": 0}, "num_resamples must be positive, got 0"),
        ([1.0], ["a"], {"level": 95}, "level must be between 0 and 1, got 95"),
    ],
)
def test_bootstrap_refuses_bad_input(values, clusters, options, message):
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(values, clusters, **options)


def test_summary_holds_means_seed_means_spread_and_counts():
    rows = make_rows(
        {"teacher": {0: [0.9, 0.7, 0.8]}, "student": {0: [0.6, 0.8, 0.7], 1: [0.8, 0.8, 0.8]}},
        patients=[1, 1, 2],
        empty_prediction=[1, 0, 1],
    )
    summary = summarize_arms(CaseTable(rows), ["dice"])
    assert {key: summary["student"][key] for key in ("num_cases", "num_patients", "num_seeds")} == {
        "num_cases": 3,
        "num_patients": 2,
        "num_seeds": 2,
    }
    student = summary["student"]["metrics"]["dice"]
    assert student["mean"] == pytest.approx(0.75)
    assert student["seed_means"] == pytest.approx({"0": 0.7, "1": 0.8})
    assert student["seed_spread"] == pytest.approx(0.1)
    # Case means 0.7, 0.8 (patient 1) and 0.75 (patient 2): all patient means are 0.75.
    assert [student["low"], student["high"]] == pytest.approx([0.75, 0.75])
    assert summary["teacher"]["metrics"]["dice"]["seed_spread"] is None
    assert summary["student"]["counts"] == {"empty_prediction": 4}
    json.dumps(summary, allow_nan=False)


def test_rows_in_another_order_give_the_same_pairs():
    rows = shifted(0.03)
    half = len(rows) // 2
    turned = rows[:half] + rows[half:][::-1]
    assert compare_arms(CaseTable(turned), "student", "control", "dice", **FAST) == compare_arms(
        CaseTable(rows), "student", "control", "dice", **FAST
    )


def test_difference_is_paired_and_its_test_is_scipys_on_patient_means():
    rng = np.random.default_rng(6)
    patients = rng.integers(12, size=30).tolist()
    arms = {arm: {seed: rng.random(30) for seed in range(2)} for arm in ("student", "control")}
    result = compare_arms(CaseTable(make_rows(arms, patients=patients)), "student", "control", "dice", **FAST)
    differences = np.mean(list(arms["student"].values()), axis=0) - np.mean(list(arms["control"].values()), axis=0)
    means = [differences[np.array(patients) == patient].mean() for patient in dict.fromkeys(patients)]
    assert result["difference"] == pytest.approx(differences.mean())
    assert result["p_value"] == pytest.approx(wilcoxon(means).pvalue)
    assert result["num_patients"] == len(means) < 30
    assert result["test"].startswith("Wilcoxon signed-rank")
    assert Interval(result["difference"], result["low"], result["high"]) == pytest.approx(
        cluster_bootstrap(differences, patients, **FAST)
    )


def test_p_value_of_six_patients_that_all_gain_is_two_in_two_to_the_sixth():
    base = np.array([0.5, 0.6, 0.7, 0.8, 0.75, 0.65])
    gains = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    result = compare_arms(CaseTable(make_rows({"a": {0: base + gains}, "b": {0: base}})), "a", "b", "dice")
    assert result["p_value"] == pytest.approx(2 / 64)
    assert result["difference"] == pytest.approx(0.035)


def test_a_shifted_arm_is_better_and_its_mirror_worse():
    table = CaseTable(shifted(0.03, spread=0.01))
    better = compare_arms(table, "student", "control", "dice")
    worse = compare_arms(table, "control", "student", "dice")
    assert better["verdict"] == "Better than the control by 0.030 Dice (95 % CI 0.029 to 0.031)."
    assert worse["verdict"] == "Worse than the student by 0.030 Dice (95 % CI 0.029 to 0.031)."
    assert better["difference"] == pytest.approx(0.03)
    assert worse["difference"] == pytest.approx(-0.03)
    assert better["seed_spread"] == pytest.approx(0.01)
    assert better["p_value"] < 0.001
    assert better["margin"] is None
    assert better["non_inferior"] is None
    json.dumps(better, allow_nan=False)


def test_the_same_arm_is_noise_with_p_one():
    result = compare_arms(CaseTable(shifted(0.0, spread=0.01)), "control", "control", "dice")
    assert (result["difference"], result["low"], result["high"], result["p_value"]) == (0.0, 0.0, 0.0, 1.0)
    noise = "Difference to the control of 0.000 Dice is inside the spread of the seeds (0.010): noise."
    assert result["verdict"] == noise


def test_equal_cases_summed_in_another_order_of_seeds_differ_by_exactly_nothing():
    values = [[0.1] * 8, [0.2] * 8, [0.3] * 8]
    assert np.mean(values, axis=0)[0] != np.mean(values[::-1], axis=0)[0]
    arms = {"a": dict(enumerate(values)), "b": dict(enumerate(values[::-1]))}
    result = compare_arms(CaseTable(make_rows(arms)), "a", "b", "dice")
    assert (result["difference"], result["p_value"]) == (0.0, 1.0)


def test_a_gain_inside_the_seeds_spread_is_noise_even_when_the_interval_is_above_0():
    result = compare_arms(CaseTable(shifted(0.011, spread=0.02)), "student", "control", "dice")
    assert result["low"] > 0
    noise = "Difference to the control of 0.011 Dice is inside the spread of the seeds (0.020): noise."
    assert result["verdict"] == noise


def test_the_spread_is_that_of_the_arm_whose_seeds_differ_more():
    rows = make_rows({"a": {0: [0.5, 0.7], 1: [0.6, 0.8], 2: [0.5, 0.75]}, "b": {3: [0.5, 0.6], 4: [0.51, 0.62]}})
    for pair in (("a", "b"), ("b", "a")):
        assert compare_arms(CaseTable(rows), *pair, "dice")["seed_spread"] == pytest.approx(0.1)


def test_a_gain_beyond_the_spread_with_an_interval_around_0_tells_nothing():
    rows = make_rows({"a": {0: [0.9, 0.2, 0.8], 1: [0.9, 0.2, 0.8]}, "b": {0: [0.5, 0.5, 0.6], 1: [0.5, 0.5, 0.6]}})
    verdict = compare_arms(CaseTable(rows), "a", "b", "dice")["verdict"]
    assert verdict.startswith("No difference to b can be told: +0.100 Dice (95 % CI -0.300 to 0.")


def test_few_patients_are_said_not_to_be_relied_on():
    values = {name: {0: [base + 0.01 * i for i in range(12)]} for name, base in (("a", 0.8), ("b", 0.5))}
    assert "do not rely on it" not in compare_arms(CaseTable(make_rows(values)), "a", "b", "dice")["verdict"]
    few = {name: {0: seeds[0][:2]} for name, seeds in values.items()}
    verdict = compare_arms(CaseTable(make_rows(few)), "a", "b", "dice")["verdict"]
    assert verdict == "Better than b by 0.300 Dice (95 % CI 0.300 to 0.300). Only 2 patients: do not rely on it."


def test_arm_with_one_seed_adds_nothing_to_the_spread():
    rows = make_rows({"a": {0: [0.9, 0.8, 0.85]}, "b": {0: [0.5, 0.5, 0.6]}})
    assert compare_arms(CaseTable(rows), "a", "b", "dice")["seed_spread"] is None
    rows += make_rows({"a": {1: [0.9, 0.8, 0.85]}})
    assert compare_arms(CaseTable(rows), "a", "b", "dice")["seed_spread"] == 0.0


def test_one_patient_tells_no_difference_and_shows_no_non_inferiority():
    rows = make_rows({"a": {0: [0.9, 0.8]}, "b": {0: [0.5, 0.5]}}, patients=[7, 7])
    result = compare_arms(CaseTable(rows), "a", "b", "dice", margin=0.02)
    assert result["non_inferior"] is False
    assert result["verdict"] == (
        "No difference to b can be told: +0.350 Dice (one patient gives no interval); non-inferiority at 0.020 not "
        "shown. Only 1 patient: do not rely on it."
    )
    assert result["p_value"] == 1.0


def test_non_inferior_when_the_interval_stays_above_the_margin():
    table = CaseTable(shifted(-0.01))
    wide, narrow = (compare_arms(table, "student", "control", "dice", margin=margin) for margin in (0.02, 0.01))
    assert wide["non_inferior"] is True
    assert wide["verdict"].startswith("Worse than the control by 0.010 Dice (95 % CI 0.009 to 0.01")
    assert wide["verdict"].endswith("); non-inferiority at 0.020 shown.")
    assert narrow["non_inferior"] is False
    assert narrow["verdict"].endswith("; non-inferiority at 0.010 not shown.")
    assert narrow["margin"] == 0.01


def test_the_interval_of_a_turned_metric_is_that_of_its_mirror():
    rng = np.random.default_rng(7)
    rows = make_rows({arm: {0: rng.gamma(0.5, size=12), 1: rng.gamma(0.5, size=12)} for arm in ("a", "b")})
    rows = [row | {"hd95": -row["dice"]} for row in rows]
    dice, hd95 = (compare_arms(CaseTable(rows), "a", "b", metric, margin=0.3) for metric in ("dice", "hd95"))
    assert hd95["non_inferior"] == dice["non_inferior"]
    assert hd95["verdict"].split()[0] == dice["verdict"].split()[0]
    assert (hd95["low"], hd95["high"]) == pytest.approx((-dice["high"], -dice["low"]))


@pytest.mark.parametrize("metric", ["hd95", "hd95_mm", "ece", "hd95_class2"])
def test_metrics_that_are_better_lower_are_turned(metric):
    lower, higher = shifted(-0.03, metric=metric), shifted(0.03, metric=metric)
    better = compare_arms(CaseTable(lower), "student", "control", metric, margin=0.02)
    assert better["difference"] == pytest.approx(-0.03)
    assert better["non_inferior"] is True
    assert better["verdict"].startswith("Better than the control by 0.03")
    worse = compare_arms(CaseTable(higher), "student", "control", metric, margin=0.02)
    assert worse["non_inferior"] is False
    assert worse["verdict"].startswith("Worse than the control by 0.03")
    assert compare_arms(CaseTable(higher), "student", "control", metric, margin=0.04)["non_inferior"] is True


def test_figures_too_small_for_three_decimals_are_not_shown_as_0():
    verdict = compare_arms(CaseTable(shifted(0.0002, spread=0.0003)), "student", "control", "dice")["verdict"]
    assert verdict == "Difference to the control of 2.0e-04 Dice is inside the spread of the seeds (3.0e-04): noise."


COMPARED = {
    "arm": "student",
    "reference": "teacher",
    "metric": "dice",
    "difference": -0.022,
    "low": -0.034,
    "high": -0.011,
    "num_patients": 167,
    "seed_spread": None,
    "margin": 0.02,
    "non_inferior": False,
}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "Worse than the teacher by 0.022 Dice (95 % CI 0.011 to 0.034); non-inferiority at 0.020 not shown."),
        (
            {"difference": 0.036, "low": 0.022, "high": 0.049, "margin": None, "reference": "control"},
            "Better than the control by 0.036 Dice (95 % CI 0.022 to 0.049).",
        ),
        (
            {"difference": 0.004, "low": -0.01, "high": 0.018, "margin": None},
            "No difference to the teacher can be told: +0.004 Dice (95 % CI -0.010 to 0.018).",
        ),
        (
            {"difference": -0.004, "seed_spread": 0.011, "non_inferior": True},
            "Difference to the teacher of 0.004 Dice is inside the spread of the seeds (0.011): noise; "
            "non-inferiority at 0.020 shown.",
        ),
        (
            {"metric": "hd95", "difference": -1.5, "low": -2.5, "high": -0.4, "margin": None},
            "Better than the teacher by 1.50 pixels of HD95 (95 % CI 0.40 to 2.50).",
        ),
        (
            {"metric": "hd95_mm", "difference": 15.396, "low": -19.819, "high": 57.842, "margin": None},
            "No difference to the teacher can be told: +15.40 mm of HD95 (95 % CI -19.82 to 57.84).",
        ),
        (
            {"metric": "nsd_class2", "margin": None},
            "Worse than the teacher by 0.022 NSD of class 2 (95 % CI 0.011 to 0.034).",
        ),
        (
            {"metric": "pixel_accuracy", "margin": None, "num_patients": 9},
            "Worse than the teacher by 0.022 pixel accuracy (95 % CI 0.011 to 0.034). "
            "Only 9 patients: do not rely on it.",
        ),
    ],
)
def test_difference_is_described_with_the_number_first(change, sentence):
    assert describe_difference({**COMPARED, **change}) == sentence


@pytest.mark.parametrize("margin", [0, -0.02, math.nan, "two"])
def test_a_margin_that_is_not_positive_is_refused(margin):
    with pytest.raises(
        ValueError, match=f"margin must be a positive number chosen before the results are seen, got {margin}"
    ):
        compare_arms(CaseTable(shifted(0.0)), "student", "control", "dice", margin=margin)


def test_all_predictions_empty_still_give_figures():
    rows = make_rows({"a": {0: [0.0] * 3}, "b": {0: [0.9, 0.8, 0.7]}}, label_area=[5, 6, 7], predicted_area=[0, 0, 0])
    assert summarize_arms(CaseTable(rows), ["dice"])["a"]["metrics"]["dice"]["mean"] == 0.0
    assert compare_arms(CaseTable(rows), "a", "b", "dice")["verdict"].startswith("Worse than b by 0.800 Dice")
