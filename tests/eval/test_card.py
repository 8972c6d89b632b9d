"""The model card says what the results files say."""

import json

import pytest
from conftest import ROOT

from eval.card import calibration_lines, difference_lines, main, metric_table, overview, probe_table, subgroup_table

RESULTS = ROOT / "eval" / "results"


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def card():
    return (ROOT / "docs" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("busbra", (metric_table, difference_lines, subgroup_table, calibration_lines)),
        ("usgra", (metric_table, difference_lines)),
    ],
)
def test_card_holds_the_figures_of_the_results(name, parts):
    for part in parts:
        block = "\n".join(part(results(name)))
        assert f"\n\n{block}\n\n" in card()  # and no further row


def test_card_holds_every_reading_of_the_test_list_and_the_preflight():
    names = ("busbra_part1", "busbra_part2", "busbra_part3", "busbra")
    assert "\n\n" + "\n".join(overview({name: results(name) for name in names})) + "\n\n" in card()
    answer = results("preflight_busbra")
    interval = f"[{answer['low']:+.3f}, {answer['high']:+.3f}]"
    assert f"{answer['decision']}, {answer['difference']:+.3f} Dice {interval}" in card()
    assert f"calibrating temperature {answer['temperature']:.2f}" in card()


@pytest.mark.parametrize("arm", ["teacher", "control", "student"])
def test_readme_repeats_the_figures_of_the_shared_student(arm):
    report = results("busbra")
    dice, hd95 = (report["arms"][arm]["metrics"][name] for name in ("dice", "hd95"))
    interval = f"({dice['low']:.3f} to {dice['high']:.3f})"
    failures = f"{sum(failure['arm'] == arm for failure in report['failures'])} images"
    rows = (ROOT / "README.md").read_text(encoding="utf-8").replace("*", "").splitlines()
    row = next(row for row in rows if row.startswith(f"| {arm}"))
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[3:6] == [f"{dice['mean']:.3f} {interval}", f"{hd95['mean']:.1f}", failures]


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
    report |= {
        "arms": {"control": report["arms"]["control"]},
        "comparisons": [],
        "subgroups": [],
        "areas": {},
        "calibration": {},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert main([str(tmp_path / "report.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("|  | control |")
    assert "Better than" not in printed
    assert "- control: " in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {}}, "none of the arms"),
        ({"about": {}}, "report is no comparison of teacher, control, student with one seed"),
        (None, "none.json"),
    ],
)
def test_file_that_has_no_comparison_is_refused(tmp_path, capsys, change, message):
    path = tmp_path / ("report.json" if change else "none.json")
    if change:
        path.write_text(json.dumps({**results("busbra"), **change}))
    assert main([str(path), str(RESULTS / "busbra.json")]) == 1
    assert message in capsys.readouterr().err


def test_differences_are_sentences_and_one_seed_is_said_once():
    lines = difference_lines(results("busbra"))
    assert lines[0] == "- Student: Better than the control by 0.036 Dice (95 % CI 0.022 to 0.049). p = 2.4e-09."
    assert sum("one seed" in line for line in lines) == 1
    assert lines[3].startswith("- Arms teacher, control and student have one seed each")


def test_areas_are_in_the_unit_of_the_report():
    report = results("busbra")
    report["areas"]["student"]["unit"] = "mm2"
    lines = calibration_lines(report)
    assert "mm2, limits" in lines[-1]
    assert "pixels, limits" in lines[0]


def test_probes_are_a_table_where_the_report_has_them():
    assert probe_table(results("busbra")) == []
    effect = {"dice": {"mean": -0.16, "low": -0.2, "high": -0.12}, "failures": {"before": 2.0, "after": 13.0}}
    rows = [
        {"probe": "left", "meaning": "moved", "num_cases": 97, "arms": {"student": effect, "teacher": effect}},
        {"probe": "deep", "meaning": "deeper", "num_cases": 0, "arms": {}},
    ]
    cell = "-0.160 [-0.200, -0.120], failures 2 → 13"
    assert probe_table({**results("busbra"), "probes": {"rows": rows}}) == [
        "| change of Dice | images | teacher | student |",
        "| --- | --- | --- | --- |",
        f"| `left`: moved | 97 | {cell} | {cell} |",
    ]
