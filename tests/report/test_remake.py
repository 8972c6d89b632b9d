"""python -m scripts.report: the page anew from report.json alone, also of an earlier version, and its main table."""

import csv
import io
import json
import shutil

import pytest
from conftest import ROOT
from evaluation.stand_ins import Teacher, Threshold, cases

from scripts.report.__main__ import main
from scripts.report.main_table import main_table
from scripts.report.run_evaluation import run_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An evaluation of a student and its teacher."""
    path = tmp_path_factory.mktemp("evaluated")
    run_evaluation(cases(4), {"student": Threshold(), "teacher": Teacher()}, path, 2, img_size=64, num_panels=0)
    return path


@pytest.mark.parametrize("given", ["report.json", ""])
def test_page_is_made_anew_from_the_json_alone(folder, tmp_path, capsys, given):
    shutil.copy(folder / "report.json", tmp_path)
    assert main([str(tmp_path / given)]) == 0
    assert (tmp_path / "report.html").read_bytes() == (folder / "report.html").read_bytes()
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path / 'report.html'}: ")


def test_page_goes_where_it_is_asked_for(folder, tmp_path):
    assert main([str(folder), "--output", str(tmp_path / "pages" / "mine.html")]) == 0
    assert (tmp_path / "pages" / "mine.html").read_bytes() == (folder / "report.html").read_bytes()


@pytest.mark.parametrize("name", ["busbra", "usgra"])
def test_reports_of_earlier_versions_have_a_page_that_says_once_what_it_lacks(tmp_path, name):
    shutil.copy(ROOT / "eval" / "results" / f"{name}.json", tmp_path / "report.json")
    assert main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("The report does not tell its cases apart.") == 1
    assert "of the teacher’s Dice." in page
    assert "of its parameters" not in page
    assert 'id="areas"' in page


def test_page_of_an_earlier_version_keeps_its_pictures(tmp_path, capsys):
    shutil.copy(ROOT / "eval" / "results" / "busbra.json", tmp_path / "report.json")
    page = tmp_path / "report.html"
    page.write_text("with pictures")
    assert main([str(tmp_path)]) == 1
    assert (
        f"{page} may have pictures, which this report.json of an earlier version has not; pass"
        in capsys.readouterr().err
    )
    assert page.read_text() == "with pictures"
    for _ in range(2):
        assert main([str(tmp_path), "--output", str(tmp_path / "new.html")]) == 0


def test_table_for_a_spreadsheet_has_a_row_an_arm_and_metric(folder, capsys):
    assert main([str(folder), "--table", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    report = json.loads((folder / "report.json").read_text())
    assert len(rows) == sum(len(arm["metrics"]) for arm in report["arms"].values())
    assert (rows[0]["arm"], rows[0]["metric"], rows[0]["num_cases"]) == ("teacher", "dice", "4")
    assert float(rows[0]["mean"]) == report["arms"]["teacher"]["metrics"]["dice"]["mean"]


def test_table_for_a_paper():
    metrics = {"dice": {"mean": 0.86, "low": 0.839, "high": 0.878}, "hd95": {"mean": 12.25, "low": None, "high": None}}
    arms = {"teacher": {"metrics": {"dice": {"mean": 0.9}}}, "my_net": {"metrics": metrics}}
    assert main_table({"arms": arms}, "latex").splitlines()[1:] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & Teacher & My\_net \\",
        r"\midrule",
        r"Dice & 0.900 & 0.860 [0.839, 0.878] \\",
        r"HD95 (pixels) & -- & 12.25 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "report.json does not exist; expected the report.json of an evaluation"),
        ("{", [], "report.json is no report.json of an evaluation: "),
        ("[1]", [], "it has neither title nor arms"),
        ('{"decision": "go"}', [], "it has neither title nor arms"),
        ('{"title": "A"}', ["--table", "csv"], "the report has no arm with metrics: there is no table"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path, capsys, content, options, message):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert main([str(tmp_path / "report.json"), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()
