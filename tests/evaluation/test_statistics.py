"""Intervals, comparisons, subgroups and areas against hand-computed values, scipy, and a simulation with known
truth.
"""

import json
import math

import numpy as np
import pytest
from scipy.stats import wilcoxon

from scripts.evaluation.case_table import check_rows, warnings
from scripts.evaluation.statistics import Interval, cluster_bootstrap, compare_arms, summarize_arms
from scripts.evaluation.subgroups import bland_altman, subgroup_table

FAST = {"num_resamples": 500}


def make_rows(arms, metric="dice", patients=None, **columns):
    """Rows of {arm: {seed: values}}; columns hold a value a case."""
    return [
        {"case": f"c{i}", "patient": patients[i] if patients else f"p{i}", "arm": arm, "seed": seed, metric: value}
        | {name: values[i] for name, values in columns.items()}
        for arm, seeds in arms.items()
        for seed, found in seeds.items()
        for i, value in enumerate(found)
    ]


def shifted(shift, spread=0.0, num_cases=30, metric="dice"):
    """A reference and an arm that is `shift` above it, three seeds each, their means `spread` apart."""
    base = np.random.default_rng(0).normal(0.8, 0.05, num_cases)
    steps = (-spread / 2, 0.0, spread / 2)
    jitter = np.random.default_rng(1).normal(0, 0.002, num_cases)
    return make_rows(
        {
            "control": {seed: base + step for seed, step in enumerate(steps)},
            "student": {seed: base + shift + step + jitter - jitter.mean() for seed, step in enumerate(steps)},
        },
        metric,
    )


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
    summary = summarize_arms(rows, ["dice"])
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
    assert compare_arms(turned, "student", "control", "dice", **FAST) == compare_arms(
        rows, "student", "control", "dice", **FAST
    )


def test_difference_is_paired_and_its_test_is_scipys_on_patient_means():
    rng = np.random.default_rng(6)
    patients = rng.integers(12, size=30).tolist()
    arms = {arm: {seed: rng.random(30) for seed in range(2)} for arm in ("student", "control")}
    result = compare_arms(make_rows(arms, patients=patients), "student", "control", "dice", **FAST)
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
    result = compare_arms(make_rows({"a": {0: base + gains}, "b": {0: base}}), "a", "b", "dice")
    assert result["p_value"] == pytest.approx(2 / 64)
    assert result["difference"] == pytest.approx(0.035)


def test_a_shifted_arm_is_better_and_its_mirror_worse():
    rows = shifted(0.03, spread=0.01)
    better, worse = (compare_arms(rows, *pair, "dice") for pair in (("student", "control"), ("control", "student")))
    assert better["verdict"].startswith("better: the gain 0.030 has the interval 0.029 to 0.03")
    assert worse["verdict"].startswith("worse: the shortfall 0.030 has the interval 0.029 to 0.03")
    assert better["difference"] == pytest.approx(0.03) and worse["difference"] == pytest.approx(-0.03)
    assert better["seed_spread"] == pytest.approx(0.01)
    assert better["p_value"] < 0.001
    assert better["margin"] is None and better["non_inferior"] is None
    json.dumps(better, allow_nan=False)


def test_the_same_arm_is_noise_with_p_one():
    result = compare_arms(shifted(0.0, spread=0.01), "control", "control", "dice")
    assert (result["difference"], result["low"], result["high"], result["p_value"]) == (0.0, 0.0, 0.0, 1.0)
    assert result["verdict"] == "noise: the difference 0.000 is inside the spread of the seeds (0.010)"


def test_equal_cases_summed_in_another_order_of_seeds_differ_by_exactly_nothing():
    values = [[0.1] * 8, [0.2] * 8, [0.3] * 8]
    assert np.mean(values, axis=0)[0] != np.mean(values[::-1], axis=0)[0]
    arms = {"a": dict(enumerate(values)), "b": dict(enumerate(values[::-1]))}
    result = compare_arms(make_rows(arms), "a", "b", "dice")
    assert (result["difference"], result["p_value"]) == (0.0, 1.0)


def test_a_gain_inside_the_seeds_spread_is_noise_even_when_the_interval_is_above_0():
    result = compare_arms(shifted(0.011, spread=0.02), "student", "control", "dice")
    assert result["low"] > 0
    assert result["verdict"] == "noise: the gain 0.011 is inside the spread of the seeds (0.020)"


def test_the_spread_is_that_of_the_arm_whose_seeds_differ_more():
    rows = make_rows({"a": {0: [0.5, 0.7], 1: [0.6, 0.8], 2: [0.5, 0.75]}, "b": {3: [0.5, 0.6], 4: [0.51, 0.62]}})
    for pair in (("a", "b"), ("b", "a")):
        assert compare_arms(rows, *pair, "dice")["seed_spread"] == pytest.approx(0.1)


def test_a_gain_beyond_the_spread_with_an_interval_around_0_tells_nothing():
    rows = make_rows({"a": {0: [0.9, 0.2, 0.8], 1: [0.9, 0.2, 0.8]}, "b": {0: [0.5, 0.5, 0.6], 1: [0.5, 0.5, 0.6]}})
    verdict = compare_arms(rows, "a", "b", "dice")["verdict"]
    assert verdict.startswith("no difference can be told: the interval holds 0 (gain 0.100, -0.300 to 0.")


def test_few_patients_are_said_not_to_be_relied_on():
    values = {name: {0: [base + 0.01 * i for i in range(12)]} for name, base in (("a", 0.8), ("b", 0.5))}
    assert "not to be relied on" not in compare_arms(make_rows(values), "a", "b", "dice")["verdict"]
    few = {name: {0: seeds[0][:2]} for name, seeds in values.items()}
    assert compare_arms(make_rows(few), "a", "b", "dice")["verdict"].endswith("; only 2 patients: not to be relied on")


def test_one_seed_is_said_to_leave_the_spread_unknown():
    rows = make_rows({"a": {0: [0.9, 0.8, 0.85]}, "b": {0: [0.5, 0.5, 0.6]}})
    result = compare_arms(rows, "a", "b", "dice")
    assert result["seed_spread"] is None
    assert result["verdict"].startswith("better: ")
    assert "; with one seed the spread between seeds is unknown; " in result["verdict"]

    rows += make_rows({"a": {1: [0.9, 0.8, 0.85]}})
    result = compare_arms(rows, "a", "b", "dice")
    assert result["seed_spread"] == 0.0
    assert "; with one seed the spread between seeds is unknown for b; " in result["verdict"]


def test_one_patient_tells_no_difference_and_shows_no_non_inferiority():
    rows = make_rows({"a": {0: [0.9, 0.8]}, "b": {0: [0.5, 0.5]}}, patients=[7, 7])
    result = compare_arms(rows, "a", "b", "dice", margin=0.02)
    assert result["non_inferior"] is False
    assert "no difference can be told: one patient gives no interval" in result["verdict"]
    assert result["p_value"] == 1.0


def test_non_inferior_when_the_interval_stays_above_the_margin():
    rows = shifted(-0.01)
    wide, narrow = (compare_arms(rows, "student", "control", "dice", margin=margin) for margin in (0.02, 0.01))
    assert wide["non_inferior"] is True
    assert wide["verdict"].startswith("non-inferior: the lower end of the gain -0.01")
    assert "is above the margin -0.020; worse: the shortfall 0.010" in wide["verdict"]
    assert narrow["non_inferior"] is False
    assert narrow["verdict"].startswith("not shown to be non-inferior: the lower end of the gain -0.01")
    assert narrow["margin"] == 0.01


def test_the_verdict_of_a_turned_metric_is_that_of_its_mirror():
    rng = np.random.default_rng(7)
    rows = make_rows({arm: {0: rng.gamma(0.5, size=12), 1: rng.gamma(0.5, size=12)} for arm in ("a", "b")})
    rows = [row | {"hd95": -row["dice"]} for row in rows]
    dice, hd95 = (compare_arms(rows, "a", "b", metric, margin=0.3) for metric in ("dice", "hd95"))
    assert hd95["verdict"] == dice["verdict"]
    assert (hd95["low"], hd95["high"]) == pytest.approx((-dice["high"], -dice["low"]))


@pytest.mark.parametrize("metric", ["hd95", "hd95_mm", "ece", "hd95_class2"])
def test_metrics_that_are_better_lower_are_turned(metric):
    lower, higher = shifted(-0.03, metric=metric), shifted(0.03, metric=metric)
    better = compare_arms(lower, "student", "control", metric, margin=0.02)
    assert better["difference"] == pytest.approx(-0.03)
    assert better["non_inferior"] is True and "; better: the gain 0.030" in better["verdict"]
    worse = compare_arms(higher, "student", "control", metric, margin=0.02)
    assert worse["non_inferior"] is False and "; worse: the shortfall 0.030" in worse["verdict"]
    assert compare_arms(higher, "student", "control", metric, margin=0.04)["non_inferior"] is True


def test_figures_too_small_for_three_decimals_are_not_shown_as_0():
    assert (
        "the gain 2.0e-04 is inside the spread of the seeds (3.0e-04)"
        in compare_arms(shifted(0.0002, spread=0.0003), "student", "control", "dice")["verdict"]
    )


@pytest.mark.parametrize("margin", [0, -0.02, math.nan, "two"])
def test_a_margin_that_is_not_positive_is_refused(margin):
    with pytest.raises(
        ValueError, match=f"margin must be a positive number chosen before the results are seen, got {margin}"
    ):
        compare_arms(shifted(0.0), "student", "control", "dice", margin=margin)


def test_subgroups_of_texts_are_sorted_with_the_unknown_last():
    rows = make_rows(
        {"teacher": {0: [0.9, 0.8, 0.7, 0.6]}, "student": {0: [0.5, 0.4, 0.3, 0.2], 1: [0.7, 0.6, 0.5, 0.4]}},
        pathology=["malignant", None, "benign", "malignant"],
    )
    table = subgroup_table(rows, ["pathology"])
    assert [(row["column"], row["group"], row["num_cases"]) for row in table] == [
        ("pathology", "benign", 1),
        ("pathology", "malignant", 2),
        ("pathology", "unknown", 1),
    ]
    assert table[1]["arms"]["student"]["mean"] == pytest.approx((0.6 + 0.3) / 2)
    assert table[1]["arms"]["teacher"] == pytest.approx({"mean": 0.75, "low": 0.6, "high": 0.9})
    json.dumps(table, allow_nan=False)


def test_the_interval_of_a_subgroup_is_over_patients():
    rows = make_rows({"a": {0: [0.9, 0.5, 0.2]}}, patients=[1, 1, 2], side=["left", "left", "right"])
    left = subgroup_table(rows, ["side"])[0]["arms"]["a"]
    assert left == pytest.approx({"mean": 0.7, "low": 0.7, "high": 0.7})


def test_few_numbers_are_groups_and_many_are_thirds():
    values = [0.5] * 10
    rows = make_rows({"a": {0: values}}, birads=[10, 2, 2, 4, "", 4, 10, 2, 2, 2], age=[*range(20, 29), None])
    groups = [
        (row["column"], row["group"], row["num_cases"]) for row in subgroup_table(rows, ["birads", "age"], **FAST)
    ]
    assert groups == [
        ("birads", "2", 5),
        ("birads", "4", 2),
        ("birads", "10", 2),
        ("birads", "unknown", 1),
        ("age", "20 to 22", 3),
        ("age", "23 to 25", 3),
        ("age", "26 to 28", 3),
        ("age", "unknown", 1),
    ]


def test_texts_and_numbers_mixed_are_groups_of_texts():
    rows = make_rows({"a": {0: [0.5] * 4}}, birads=[3, "4A", "4B", math.nan])
    assert [row["group"] for row in subgroup_table(rows, ["birads"])] == ["3", "4A", "4B", "unknown"]


def test_lesion_size_is_thirds_of_the_label_area_apart_from_empty_labels():
    areas = [90, 10, 0, 50, 20, 60, 80]
    table = subgroup_table(make_rows({"a": {0: areas}}, label_area=areas), ["lesion size"])
    assert {row["group"]: row["arms"]["a"]["mean"] for row in table} == pytest.approx(
        {"small": 15, "medium": 55, "large": 85, "no lesion": 0}
    )
    assert [row["group"] for row in table] == ["small", "medium", "large", "no lesion"]


def test_an_unknown_column_is_refused_with_those_that_are_there():
    with pytest.raises(
        ValueError, match="column scanner is in no row, expected lesion size or one of case, patient.*side"
    ):
        subgroup_table(make_rows({"a": {0: [0.5]}}, side=["left"]), ["scanner"])
    with pytest.raises(ValueError, match="label_area is unknown"):
        subgroup_table(make_rows({"a": {0: [0.5]}}), ["lesion size"])


def area_rows(**columns):
    return make_rows({"a": {0: [0.5] * 3}}, label_area=[100, 200, 300], predicted_area=[110, 200, 320], **columns)


def test_bland_altman_by_hand():
    found = bland_altman(area_rows(), "a")
    # Differences 10, 0, 20: bias 10, standard deviation 10.
    assert found == {
        "unit": "pixels",
        "bias": 10.0,
        "low": pytest.approx(-9.6),
        "high": pytest.approx(29.6),
        "points": [[105.0, 10.0], [200.0, 0.0], [310.0, 20.0]],
        "cases": ["c0", "c1", "c2"],
    }
    json.dumps(found, allow_nan=False)


def test_bland_altman_averages_over_seeds():
    rows = [row | {"seed": seed, "predicted_area": 100 + 100 * seed} for seed in (0, 1) for row in area_rows()]
    assert bland_altman(rows, "a")["points"] == [[125.0, 50.0], [175.0, -50.0], [225.0, -150.0]]


def test_areas_are_in_mm2_only_when_all_rows_have_them():
    in_mm = area_rows(label_area_mm2=[1.0, 2.0, 3.0], predicted_area_mm2=[1.5, 2.0, 3.5])
    assert bland_altman(in_mm, "a")["unit"] == "mm2"
    assert bland_altman(in_mm, "a")["bias"] == pytest.approx(1 / 3)
    del in_mm[1]["label_area_mm2"]
    assert bland_altman(in_mm, "a")["unit"] == "pixels"
    assert bland_altman(in_mm, "a")["bias"] == 10.0


def test_bland_altman_of_one_case_has_limits_at_its_bias():
    found = bland_altman(area_rows()[:1], "a")
    assert (found["bias"], found["low"], found["high"]) == (10.0, 10.0, 10.0)


def test_missing_patients_are_clusters_of_their_own():
    rows = make_rows({"a": {0: [0.5, 0.6, 0.7, 0.8]}}, patients=["", None, "c0", "c0"])
    assert summarize_arms(rows, ["dice"])["a"]["num_patients"] == 3
    assert summarize_arms([row | {"patient": i} for i, row in enumerate(rows)], ["dice"])["a"]["num_patients"] == 4
    for row in rows:
        del row["patient"]
    assert summarize_arms(rows, ["dice"])["a"]["num_patients"] == 4


def test_warnings_name_missing_patients_one_seed_empty_predictions_and_few_patients():
    rows = make_rows(
        {"teacher": {0: [0.5] * 8}, "student": {0: [0.0] * 8, 1: [0.1] * 8}, "control": {0: [0.0] * 8, 1: [0.0] * 8}},
        patients=["a", "", *[None] * 6],
    )
    rows = [row | {"predicted_area": 100 * row["dice"]} for row in rows]
    assert warnings(rows) == [
        "7 of 8 cases without a patient (c1, c2, c3, c4, c5, ...), each counted as one of its own: if some share a "
        "patient, the "
        "intervals are too narrow; add patient to the datalist.",
        "Arm teacher has one seed: the spread between seeds is unknown.",
        "All predictions of arm student, seed 0, are empty.",
        "All predictions of arm control are empty: the network finds nothing in any case.",
        "Only 8 patients, fewer than 10: the intervals are too narrow.",
    ]


def test_good_rows_have_no_warnings_and_no_rows_have_one():
    rows = shifted(0.0)
    assert check_rows(rows) is None
    assert warnings(rows) == []
    assert warnings([]) == ["There are no cases: nothing was measured."]


def test_all_predictions_empty_still_give_figures():
    rows = make_rows({"a": {0: [0.0] * 3}, "b": {0: [0.9, 0.8, 0.7]}}, label_area=[5, 6, 7], predicted_area=[0, 0, 0])
    assert summarize_arms(rows, ["dice"])["a"]["metrics"]["dice"]["mean"] == 0.0
    assert bland_altman(rows, "a")["bias"] == -6.0
    assert compare_arms(rows, "a", "b", "dice")["verdict"].startswith("worse: ")


def test_zero_rows_are_refused():
    for call in (check_rows, lambda rows: summarize_arms(rows, ["dice"]), lambda rows: bland_altman(rows, "a")):
        with pytest.raises(ValueError, match="there are no rows, expected at least one case"):
            call([])


def test_other_cases_are_refused_with_up_to_five_names_and_their_number():
    rows = make_rows({"teacher": {0: [0.5] * 8}, "student": {0: [0.5] * 8, 1: [0.5] * 2}})
    message = (
        r"arm student, seed 1 does not have the cases of arm teacher, seed 0: it lacks 6 of 8 \(c2, c3, c4, c5, c6, "
        r"\.\.\.\)"
    )
    with pytest.raises(ValueError, match=message):
        check_rows(rows)
    rows = rows[:16] + [row | {"arm": "control", "case": row["case"].replace("c0", "x")} for row in rows[:8]]
    with pytest.raises(
        ValueError, match=r"arm control, seed 0 .* lacks 1 of 8 \(c0\) and has 1 more \(x\); evaluate all arms"
    ):
        compare_arms(rows, "student", "teacher", "dice")


def test_a_case_twice_or_with_two_patients_is_refused():
    rows = make_rows({"a": {0: [0.5, 0.6]}, "b": {0: [0.5, 0.6]}})
    with pytest.raises(ValueError, match="case c1 is there 2 times for arm b, seed 0"):
        check_rows([*rows, rows[3]])
    rows[3]["patient"] = ""
    with pytest.raises(ValueError, match="case c1 has the patient p1 in one row and none in arm b, seed 0"):
        check_rows(rows)


def test_a_patient_read_as_number_or_text_is_the_same():
    check_rows(make_rows({"a": {0: [0.5]}}, patients=[3]) + make_rows({"b": {0: [0.5]}}, patients=["3"]))


@pytest.mark.parametrize("key", ["case", "arm", "seed"])
def test_a_row_without_its_keys_is_refused(key):
    rows = make_rows({"a": {0: [0.5, 0.6]}})
    del rows[1][key]
    with pytest.raises(ValueError, match=f"row 1 has no {key}, only "):
        check_rows(rows)


def test_unknown_metrics_and_arms_are_refused_with_those_that_are_there():
    rows = make_rows({"a": {0: [0.5]}, "b": {0: [0.5]}}, iou=[0.4], empty_label=[0])
    with pytest.raises(ValueError, match=r"metric dise is unknown: no row has it; rows have dice, iou\."):
        summarize_arms(rows, ["dise"])
    with pytest.raises(ValueError, match="arm student is not in the rows, which have a, b"):
        compare_arms(rows, "student", "a", "dice")
    with pytest.raises(ValueError, match="arm student is not in the rows, which have a, b"):
        bland_altman(area_rows() + [row | {"arm": "b"} for row in area_rows()], "student")


@pytest.mark.parametrize("value", [math.nan, math.inf, "high"])
def test_a_value_that_is_not_finite_is_refused_with_its_case(value):
    rows = make_rows({"a": {0: [0.5, 0.6], 3: [0.5, value]}})
    with pytest.raises(ValueError, match=rf"case c1 \(arm a, seed 3\): dice is {value}, expected a finite number"):
        summarize_arms(rows, ["dice"])


def test_a_metric_that_only_some_cases_have_is_refused():
    rows = make_rows({"a": {0: [0.5, 0.6]}}, hd95_mm=[3.0, None])
    with pytest.raises(ValueError, match=r"case c1 \(arm a, seed 0\) has no hd95_mm, which other cases have"):
        summarize_arms(rows, ["hd95_mm"])
