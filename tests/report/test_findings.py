"""What a report is made of: arms in order, comparisons, failures, the cases to draw, and warnings."""

import pytest

from scripts.evaluation.calibration import Reliability
from scripts.report.findings import compile_report, list_failures, pick_cases

METRICS = {
    "hd95": 3.0,
    "nsd": 0.9,
    "iou": 0.6,
    "sensitivity": 0.8,
    "specificity": 0.9,
    "pixel_accuracy": 0.9,
    "ece": 0.1,
}
COUNTS = {"empty_label": 0, "empty_prediction": 0, "both_empty": 0, "one_empty": 0}


def row(case, arm="student", seed=0, dice=0.8, **more):
    measured = {**METRICS, **COUNTS, "label_area": 40 + 3 * case, "predicted_area": 44 + 2 * case}
    return {"case": f"{case}.png", "patient": case // 2, "arm": arm, "seed": seed, "dice": dice, **measured, **more}


def three_arms():
    dices = {"student": 0.82, "teacher": 0.85, "control": 0.7}
    return [
        row(case, arm, seed, dice + 0.01 * seed + 0.001 * case)
        for arm, dice in dices.items()
        for seed in (0, 1)
        for case in range(12)
    ]


def test_arms_are_compared_in_order_and_the_margin_is_the_dices_to_the_teacher():
    report = compile_report(three_arms(), {}, "A", margin=0.05)
    assert list(report["arms"]) == ["teacher", "control", "student"]
    pairs = [(row["arm"], row["reference"], row["metric"], row["margin"]) for row in report["comparisons"]]
    assert pairs[0] == ("student", "control", "dice", None)
    assert ("student", "teacher", "dice", 0.05) in pairs
    assert len(pairs) == 9
    best = report["comparisons"][0]
    assert best["difference"] == pytest.approx(0.12)
    assert best["verdict"].startswith("Better than the control by 0.120 Dice")


def test_millimeters_take_the_place_of_pixels_where_all_cases_have_them():
    rows = [row(case, hd95_mm=1.0, nsd_mm=0.5) for case in range(4)]
    metrics = compile_report(rows, {}, "A")["arms"]["student"]["metrics"]
    assert "hd95_mm" in metrics
    assert "hd95" not in metrics
    assert "nsd_mm" in metrics
    del rows[0]["hd95_mm"]
    metrics = compile_report(rows, {}, "A")["arms"]["student"]["metrics"]
    assert "hd95" in metrics
    assert "hd95_mm" not in metrics


def test_arms_on_other_cases_are_described_but_not_compared():
    rows = [row(case) for case in range(4)] + [row(case, "control") for case in range(1, 5)]
    report = compile_report(rows, {}, "A")
    assert set(report["arms"]) == set(report["areas"]) == {"student", "control"}
    assert report["comparisons"] == []
    assert report["subgroups"] == []
    assert any("4.png" in warning for warning in report["warnings"])


@pytest.mark.parametrize("key", ["nsd", "label_area"])
def test_tables_without_a_metric_or_areas_make_a_report(key):
    rows = [{k: v for k, v in row.items() if k != key} for row in three_arms()]
    report = compile_report(rows, {}, "A")
    assert set(report["arms"]) == {"teacher", "control", "student"}
    assert report["comparisons"]
    assert (report["areas"] == {}) == (key == "label_area")


def test_value_that_is_not_finite_is_a_warning_beside_the_rest():
    rows = three_arms()
    rows[0]["hd95"] = float("nan")
    report = compile_report(rows, {}, "A")
    assert "student" not in report["arms"]
    assert {"teacher", "control"} <= set(report["arms"])
    assert any("0.png" in warning for warning in report["warnings"])
    assert [row["metric"] for row in report["comparisons"] if row["arm"] == "student"].count("dice") == 2


def test_one_teacher_in_the_tables_of_several_students_is_one_training():
    teacher = [row(case, "teacher", seed) for seed in (0, 1, 2) for case in range(12)]
    report = compile_report([*teacher, *teacher[:12], *(row(case, dice=0.7) for case in range(12))], {}, "A")
    assert report["arms"]["teacher"]["num_seeds"] == 1
    assert any("Arm teacher was evaluated several times" in warning for warning in report["warnings"])


def test_classes_have_figures_of_their_own():
    rows = [row(case, dice_class1=0.5, dice_class2=0.9, hd95_class1=2.0, hd95_class2=3.0) for case in range(12)]
    assert {"dice_class1", "dice_class2", "hd95_class2"} <= set(
        compile_report(rows, {}, "A")["arms"]["student"]["metrics"]
    )


def test_problems_and_unknown_patients_are_warnings():
    rows = [row(case, patient="") for case in range(4)]
    warnings = compile_report(rows, {}, "A", problems=["the control is lost"])["warnings"]
    assert warnings[0] == "the control is lost"
    assert any("no case names its patient (4 cases)" in warning for warning in warnings)
    assert "Arm student has one seed: the spread between seeds is unknown." in warnings


def test_empty_calibration_is_left_out_of_the_report_and_does_not_end_it():
    report = compile_report([row(case) for case in range(3)], {"student": Reliability()}, "A")
    assert report["calibration"] == {}
    assert any("no cases to summarize" in warning for warning in report["warnings"])


def test_groups_are_of_few_values_or_of_numbers_and_one_with_many_texts_is_a_warning():
    columns = [
        {"side": "lr"[case % 2], "scanner": f"s{case % 9}", "age": 20 + case // 2, "depth": 1.5 + case}
        | {"note": f"n{case}", "video": case, "hospital": "A"}  # no groups
        for case in range(30)
    ]
    report = compile_report([row(case, **columns[case]) for case in range(30)], {}, "A")
    groups = [(row["column"], row["group"]) for row in report["subgroups"] if row["column"] != "lesion size"]
    ages, depths = ("20 to 24", "25 to 29", "30 to 34"), ("1.5 to 10.5", "11.5 to 20.5", "21.5 to 30.5")
    assert groups == [
        ("side", "l"),
        ("side", "r"),
        *(("age", age) for age in ages),
        *(("depth", depth) for depth in depths),
    ]
    assert [text for text in report["warnings"] if text.startswith("Column")] == [
        "Column scanner has 9 values, more than 8: it makes no subgroups."
    ]


def test_failures_are_the_worst_first_with_the_reason():
    rows = [
        row(0),
        row(1, dice=0.3),
        row(2, dice=0.0, one_empty=1, empty_prediction=1),
        row(3, dice=0.1, one_empty=1, empty_label=1),
    ]
    assert [(failure["case"], failure["reason"]) for failure in list_failures(rows)] == [
        ("2.png", "a class was missed"),
        ("3.png", "found what is not there"),
        ("1.png", "Dice 0.300"),
    ]


def test_class_of_several_that_is_missed_or_made_up_is_a_failure_at_any_mean():
    rows = [
        row(0, dice=0.6, one_empty=1, empty_prediction=1),
        # one found that is not there, one rightly empty
        row(1, dice=0.5, one_empty=1, empty_label=2, empty_prediction=1, both_empty=1),
        row(2, dice=0.9, empty_label=1, empty_prediction=1, both_empty=1),
        row(3, dice=0.2, one_empty=2, empty_label=1, empty_prediction=1),
    ]
    assert [(failure["case"], failure["reason"]) for failure in list_failures(rows)] == [
        ("3.png", "a class was missed, found what is not there"),
        ("1.png", "found what is not there"),
        ("0.png", "a class was missed"),
    ]


def test_best_median_and_worst_cases_are_drawn_once_each():
    rows = [row(case, dice=case / 10) for case in range(10)] + [row(case, "teacher", dice=0.5) for case in range(10)]
    picked = pick_cases(rows)
    assert [(one.group, one.index) for one in picked] == [
        ("best", 9),
        ("best", 8),
        ("best", 7),
        ("median", 6),
        ("median", 5),
        ("median", 4),
        ("worst", 0),
        ("worst", 1),
        ("worst", 2),
    ]
    assert picked[0].case == "9.png"
    assert [(one.group, one.index) for one in pick_cases(rows[:2])] == [("worst", 0), ("worst", 1)]


def test_cases_are_told_one_by_one_with_means_over_the_seeds():
    rows = [{**one, "side": "lr"[int(one["case"][:-4]) % 2]} for one in three_arms()]
    rows[0]["dice"], rows[12]["dice"] = 0.25, 0.45  # case 0 of the student, both seeds
    report = compile_report(rows, {}, "A")
    assert [case["case"] for case in report["cases"]] == [f"{case}.png" for case in range(12)]
    first, second, *_ = report["cases"]
    assert list(first["dice"]) == ["teacher", "control", "student"]
    assert first["dice"] == {"teacher": 0.855, "control": 0.705, "student": 0.35}
    assert first["hd95"]["student"] == 3.0
    assert (first["failed"], second["failed"]) == (["student"], [])
    assert (first["columns"], first["label_area"], second["patient"]) == ({"side": "l"}, 40, 0)
    assert {"group": "best", "case": "11.png"} in report["picked"]
