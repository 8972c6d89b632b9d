"""Rows that cannot be compared are refused, and what a reader must know becomes a warning."""

import math

import pytest
from evaluation.stand_ins import make_rows, shifted

from scripts.evaluation.case_table import CaseTable, check_rows, one_seed_note, warnings


def test_missing_patients_are_clusters_of_their_own():
    rows = make_rows({"a": {0: [0.5, 0.6, 0.7, 0.8]}}, patients=["", None, "c0", "c0"])
    assert CaseTable(rows).num_patients == 3
    assert CaseTable([row | {"patient": i} for i, row in enumerate(rows)]).num_patients == 4
    for row in rows:
        del row["patient"]
    assert CaseTable(rows).num_patients == 4


def test_warnings_name_missing_patients_one_seed_empty_predictions_and_few_patients():
    rows = make_rows(
        {"teacher": {0: [0.5] * 8}, "student": {0: [0.0] * 8, 1: [0.1] * 8}, "control": {0: [0.0] * 8, 1: [0.0] * 8}},
        patients=["a", "", *[None] * 6],
    )
    rows = [row | {"predicted_area": 100 * row["dice"]} for row in rows]
    assert warnings(rows) == [
        "7 of 8 cases without a patient (c1, c2, c3, c4, c5, ...), each counted as one of its own: if some share a "
        "patient, the intervals are too narrow; add patient to the datalist.",
        "Arm teacher has one seed: the spread between seeds is unknown.",
        "All predictions of arm student, seed 0, are empty.",
        "All predictions of arm control are empty: the network finds nothing in any case.",
        "Only 8 patients, fewer than 10: the intervals are too narrow.",
    ]


def test_one_seed_is_said_once_for_all_arms():
    assert one_seed_note(["a"]) == "Arm a has one seed: the spread between seeds is unknown."
    assert one_seed_note(["a", "b", "c"]) == "Arms a, b and c have one seed each: the spread between seeds is unknown."
    rows = make_rows({"a": {0: [0.5] * 10}, "b": {3: [0.5] * 10}})
    assert warnings(rows) == [one_seed_note(["a", "b"])]


def test_good_rows_have_no_warnings_and_no_rows_have_one():
    rows = shifted(0.0)
    assert check_rows(rows) is None
    assert warnings(rows) == []
    assert warnings([]) == ["There are no cases: nothing was measured."]


def test_zero_rows_are_refused():
    for check in (check_rows, CaseTable):
        with pytest.raises(ValueError, match="there are no rows, expected at least one case"):
            check([])


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
        CaseTable(rows)


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
    table = CaseTable(make_rows({"a": {0: [0.5]}, "b": {0: [0.5]}}, iou=[0.4], empty_label=[0]))
    with pytest.raises(ValueError, match=r"metric dise is unknown: no row has it; rows have dice, iou\."):
        table.values("a", "dise")
    with pytest.raises(ValueError, match="arm student is not in the rows, which have a, b"):
        table.values("student", "dice")


@pytest.mark.parametrize("value", [math.nan, math.inf, "high"])
def test_a_value_that_is_not_finite_is_refused_with_its_case(value):
    table = CaseTable(make_rows({"a": {0: [0.5, 0.6], 3: [0.5, value]}}))
    with pytest.raises(ValueError, match=rf"case c1 \(arm a, seed 3\): dice is {value}, expected a finite number"):
        table.values("a", "dice")


def test_a_metric_that_only_some_cases_have_is_refused():
    table = CaseTable(make_rows({"a": {0: [0.5, 0.6]}}, hd95_mm=[3.0, None]))
    with pytest.raises(ValueError, match=r"case c1 \(arm a, seed 0\) has no hd95_mm, which other cases have"):
        table.values("a", "hd95_mm")
