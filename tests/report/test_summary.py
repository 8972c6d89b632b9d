"""What is printed at the end of an evaluation: the table, the sentences and the place of the report."""

import json

import pytest
from conftest import ROOT

from scripts.report.summary import WIDTH, summary_table, summary_text


@pytest.fixture
def report():
    return json.loads((ROOT / "eval" / "results" / "busbra.json").read_text())


def test_table_has_a_column_an_arm_with_intervals_and_counts(report):
    assert summary_table(report) == [
        "mean [95 % interval]  teacher               control               student",
        "Dice                  0.882 [0.864, 0.898]  0.824 [0.799, 0.847]  0.860 [0.839, 0.878]",
        "HD95 (pixels)         12.4 [10.5, 14.4]     19.4 [16.8, 22.0]     12.6 [10.8, 14.7]",
        "NSD (2 pixels)        0.647 [0.613, 0.681]  0.495 [0.463, 0.526]  0.568 [0.533, 0.602]",
        "failures              5                     20                    10",
        "empty predictions     0                     0                     0",
    ]


def test_sentences_on_dice_and_the_path_follow(report):
    lines = summary_text(report, "logs/run/report.html").splitlines()
    assert lines[6:] == [
        "",
        "Student: Better than the control by 0.036 Dice (95 % CI 0.022 to 0.049).",
        "Student: Worse than the teacher by 0.022 Dice (95 % CI 0.011 to 0.034); non-inferiority at 0.020 not shown.",
        "Control: Worse than the teacher by 0.058 Dice (95 % CI 0.040 to 0.077); non-inferiority at 0.020 not shown.",
        "",
        "report: logs/run/report.html",
    ]


def test_lines_are_short(report):
    for row in report["comparisons"]:
        row.update(num_patients=1, margin=0.02)
    for arm in report["arms"].values():
        arm["metrics"]["hd95"] = {"mean": 1234.56, "low": 1000.04, "high": 2000.04}
    assert max(map(len, summary_text(report, "report.html").splitlines())) <= WIDTH


def test_metrics_in_mm_take_their_rows(report):
    for arm in report["arms"].values():
        arm["metrics"] = {name.replace("hd95", "hd95_mm"): value for name, value in arm["metrics"].items()}
    titles = [line.split("  ")[0] for line in summary_table(report)]
    assert titles[1:4] == ["Dice", "HD95 (mm)", "NSD (2 pixels)"]


def test_missing_metric_is_a_dash(report):
    del report["arms"]["student"]["metrics"]["hd95"]
    assert summary_table(report)[2].split()[-1] == "-"


def test_report_without_arms_is_named_alone(report):
    report |= {"arms": {}, "comparisons": []}
    assert summary_text(report, "report.html") == "report: report.html"
