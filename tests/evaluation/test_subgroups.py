"""Subgroups and lesion areas against values computed by hand."""

import json
import math

import pytest
from evaluation.stand_ins import make_rows

from scripts.evaluation.case_table import CaseTable
from scripts.evaluation.subgroups import bland_altman, subgroup_table


def test_subgroups_of_texts_are_sorted_with_the_unknown_last():
    rows = make_rows(
        {"teacher": {0: [0.9, 0.8, 0.7, 0.6]}, "student": {0: [0.5, 0.4, 0.3, 0.2], 1: [0.7, 0.6, 0.5, 0.4]}},
        pathology=["malignant", None, "benign", "malignant"],
    )
    table = subgroup_table(CaseTable(rows), ["pathology"])
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
    left = subgroup_table(CaseTable(rows), ["side"])[0]["arms"]["a"]
    assert left == pytest.approx({"mean": 0.7, "low": 0.7, "high": 0.7})


def test_few_numbers_are_groups_and_many_are_thirds():
    values = [0.5] * 10
    rows = make_rows({"a": {0: values}}, birads=[10, 2, 2, 4, "", 4, 10, 2, 2, 2], age=[*range(20, 29), None])
    groups = [
        (row["column"], row["group"], row["num_cases"])
        for row in subgroup_table(CaseTable(rows), ["birads", "age"], num_resamples=500)
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
    assert [row["group"] for row in subgroup_table(CaseTable(rows), ["birads"])] == ["3", "4A", "4B", "unknown"]


def test_lesion_size_is_thirds_of_the_label_area_apart_from_empty_labels():
    areas = [90, 10, 0, 50, 20, 60, 80]
    table = subgroup_table(CaseTable(make_rows({"a": {0: areas}}, label_area=areas)), ["lesion size"])
    assert {row["group"]: row["arms"]["a"]["mean"] for row in table} == pytest.approx(
        {"small": 15, "medium": 55, "large": 85, "no lesion": 0}
    )
    assert [row["group"] for row in table] == ["small", "medium", "large", "no lesion"]


def test_an_unknown_column_is_refused_with_those_that_are_there():
    with pytest.raises(
        ValueError, match="column scanner is in no row, expected lesion size or one of case, patient.*side"
    ):
        subgroup_table(CaseTable(make_rows({"a": {0: [0.5]}}, side=["left"])), ["scanner"])
    with pytest.raises(ValueError, match="label_area is unknown"):
        subgroup_table(CaseTable(make_rows({"a": {0: [0.5]}})), ["lesion size"])


def area_rows(**columns):
    return make_rows({"a": {0: [0.5] * 3}}, label_area=[100, 200, 300], predicted_area=[110, 200, 320], **columns)


def test_bland_altman_by_hand():
    agreement = bland_altman(CaseTable(area_rows()), "a")
    # Differences 10, 0, 20: bias 10, standard deviation 10.
    assert agreement == {
        "unit": "pixels",
        "bias": 10.0,
        "low": pytest.approx(-9.6),
        "high": pytest.approx(29.6),
        "points": [[105.0, 10.0], [200.0, 0.0], [310.0, 20.0]],
        "cases": ["c0", "c1", "c2"],
    }
    json.dumps(agreement, allow_nan=False)


def test_bland_altman_averages_over_seeds():
    rows = [row | {"seed": seed, "predicted_area": 100 + 100 * seed} for seed in (0, 1) for row in area_rows()]
    assert bland_altman(CaseTable(rows), "a")["points"] == [[125.0, 50.0], [175.0, -50.0], [225.0, -150.0]]


def test_areas_are_in_mm2_only_when_all_rows_have_them():
    in_mm = area_rows(label_area_mm2=[1.0, 2.0, 3.0], predicted_area_mm2=[1.5, 2.0, 3.5])
    assert bland_altman(CaseTable(in_mm), "a")["unit"] == "mm2"
    assert bland_altman(CaseTable(in_mm), "a")["bias"] == pytest.approx(1 / 3)
    del in_mm[1]["label_area_mm2"]
    assert bland_altman(CaseTable(in_mm), "a")["unit"] == "pixels"
    assert bland_altman(CaseTable(in_mm), "a")["bias"] == 10.0


def test_bland_altman_of_one_case_has_limits_at_its_bias():
    agreement = bland_altman(CaseTable(area_rows()[:1]), "a")
    assert (agreement["bias"], agreement["low"], agreement["high"]) == (10.0, 10.0, 10.0)
