"""The model card says what the results files say."""

import json

import pytest
from conftest import ROOT

from eval.card import calibration_lines, difference_lines, main, metric_table, subgroup_table

RESULTS = ROOT / "eval" / "results"


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "parts"), [("busbra", (metric_table, difference_lines, subgroup_table, calibration_lines)), ("usgra", (metric_table, difference_lines))]
)
def test_card_holds_the_figures_of_the_results(name, parts):
    card, report = (ROOT / "docs" / "README.md").read_text(encoding="utf-8").splitlines(), results(name)
    lines = [line for part in parts for line in part(report)]
    assert len(lines) > 12 and [line for line in lines if line not in card] == []


def test_readme_repeats_the_dice_of_the_shared_student():
    dice = {arm: f"{found['metrics']['dice']['mean']:.3f}" for arm, found in results("busbra")["arms"].items()}
    text = f"Dice of {dice['student']} on 292 BUS-BRA test images, its teacher {dice['teacher']}, the same student without a teacher"
    assert f"{text} {dice['control']}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_has_intervals_counts_and_classes():
    table = metric_table(results("usgra"))
    assert table[0] == "|  | teacher | control | student |"
    titles = [row.split("|")[1].strip() for row in table[2:]]
    assert titles[:3] == ["Dice", "HD95 (pixels)", "NSD (2 pixels)"]
    assert titles[-4:] == ["Dice, class 1", "Dice, class 2", "empty predictions", "exactly one mask empty"]
    dice = results("usgra")["arms"]["student"]["metrics"]["dice"]
    assert table[2].split("|")[4].strip() == f"{dice['mean']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}]"


def test_report_of_one_arm_has_its_table_and_no_differences(tmp_path, capsys):
    report = results("busbra")
    report |= {"arms": {"control": report["arms"]["control"]}, "comparisons": [], "subgroups": [], "areas": {}, "calibration": {}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert main([str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("|  | control |") and "less" not in printed and "- control: " in printed
    assert main([str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
