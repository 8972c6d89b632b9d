"""The table of an evaluation: written, read again, and refused where it is none."""

import re

import pytest

from scripts.evaluation.results import read_rows, results_text, table
from scripts.metrics import COUNTS

ROW = {
    "case": "007.png",
    "patient": 7,
    "arm": "student",
    "seed": 0,
    "scanner": "A",
    "dice": 0.5,
    "hd95": 3.0,
    "label_area": 4,
    "predicted_area": 2,
    "empty_label": 0,
}


def test_table_is_read_as_it_was_written(tmp_path):
    rows = [ROW, {**ROW, "case": "008.png", "seed": 1, "hd95_mm": 0.3}]
    path = tmp_path / "metrics.csv"
    path.write_text(table(rows))
    assert read_rows(path) == [{**row, "patient": "7"} for row in rows]


def test_columns_start_with_the_case_and_end_with_areas_and_counts():
    header = table([ROW]).splitlines()[0].split(",")
    assert header[:5] == ["case", "patient", "arm", "seed", "scanner"]
    assert header[-3:] == ["label_area", "predicted_area", "empty_label"]


@pytest.mark.parametrize("patient", ["12_1", "121", "007", "nan", "1e3"])
def test_patients_stay_what_they_are_called(tmp_path, patient):
    (tmp_path / "metrics.csv").write_text(table([{**ROW, "patient": patient, "scanner": "1_0"}]))
    row = read_rows(tmp_path / "metrics.csv")[0]
    assert (row["patient"], row["scanner"]) == (patient, "1_0")


def test_unknown_patient_stays_unknown(tmp_path):
    (tmp_path / "metrics.csv").write_text(table([{**ROW, "patient": ""}]))
    assert read_rows(tmp_path / "metrics.csv")[0]["patient"] == ""


SUMMARY = {"student": {"num_cases": 1, "dice": 0.5, "dice_class1": 0.6, "dice_class2": 0.4, **dict.fromkeys(COUNTS, 0)}}


def test_text_names_the_classes():
    text = results_text(SUMMARY, [ROW], ["nerve", "vessel"])
    assert "classes: nerve, vessel (and background)\n" in text
    assert re.search(r"^dice, vessel +0.4000$", text, re.MULTILINE)
    assert re.search(r"^dice, class 2 +0.4000$", results_text(SUMMARY, [ROW]), re.MULTILINE)


def test_text_ends_with_what_is_to_know_of_the_data():
    assert results_text(SUMMARY, [ROW], notes=["No mask shows it."]).endswith("\n\nwarning: No mask shows it.\n")
    text = results_text(SUMMARY, [{**ROW, "patient": ""}])
    assert "\n\nwarning: Patients were not told apart: no case names its patient (1 case), each counted" in text
    assert "warning" not in results_text(SUMMARY, [ROW])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "row 1 of .* has no case"),
        ("case,arm,seed,dice\na,b,0,\n", "row 1 of .* has no dice"),
        ("case,arm,seed,dice\na,b,0,high\n", "'high' in the column dice"),
        ("case,arm,seed,dice\n", "has no rows"),
        ("", "has no rows"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "metrics.csv")


def test_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.csv does not exist"):
        read_rows(tmp_path / "gone.csv")
