"""Subgroups fixed beforehand and the section on probes: in the page, in print, and added to a report."""

import json
import re

import pytest
from evaluation.stand_ins import Threshold, cases, make_rows

from scripts.evaluation.case_table import CaseTable
from scripts.evaluation.subgroups import LESION_OFFSET, subgroup_table
from scripts.report.findings import compile_report
from scripts.report.remake import merge_probes
from scripts.report.robustness import describe_cases, render_probes, render_subgroups
from scripts.report.run_evaluation import run_evaluation
from scripts.report.summary import probe_text


def effect(change, before, after):
    changes = {"mean": change, "low": change - 0.04, "high": change + 0.04}
    counts = {"mean": 0.1, "low": 0.0, "high": 0.2, "before": float(before), "after": float(after)}
    return {"dice": {**changes, "before": 0.8, "after": 0.8 + change}, "failures": counts, "misses": counts}


PROBES = {
    "num_cases": 40,
    "num_centered": 38,
    "without_lesion": 1,
    "rows": [
        {
            "probe": "left",
            "meaning": "the lesion <at> 25 %",
            "num_cases": 38,
            "arms": {"teacher": effect(-0.05, 1, 3), "student": effect(-0.16, 2, 13)},
        },
        {"probe": "deep", "meaning": "deep", "num_cases": 0, "arms": {}},
    ],
}


def test_section_has_a_row_a_probe_and_a_column_an_arm():
    html = render_probes(PROBES)
    assert "left<small>the lesion &lt;at&gt; 25 %</small>" in html
    assert "<b>−0.160</b> " in html
    assert "[−0.200, −0.120]" in html
    assert "<small>failures 2 → 13, misses 2 → 13</small>" in html
    assert html.index("Teacher") < html.index("Student")
    assert html.count("<td>–</td>") == 2  # no case, both arms
    assert "Measured on 40 images with a lesion, 38 of them centered. 1 image without a lesion left out." in html


def test_table_is_printed():
    lines = probe_text(PROBES).splitlines()
    assert lines[0].split("  ")[0] == "change of Dice [95 % interval]"
    assert re.split("  +", lines[1])[:4] == ["left", "38", "-0.050 [-0.090, -0.010]", "1 -> 3"]
    assert re.split("  +", lines[1])[5:] == ["-0.160 [-0.200, -0.120]", "2 -> 13", "2 -> 13"]
    assert re.split("  +", lines[2]) == ["deep", "0", *["-"] * 6]
    assert lines[-1] == describe_cases(PROBES)


def test_evaluation_measures_probes_where_they_are_asked_for(tmp_path):
    run_evaluation(cases(3), {"student": Threshold()}, tmp_path, 2, img_size=64, num_panels=0, probes=["text", "jpeg"])
    probes = json.loads((tmp_path / "report.json").read_text())["probes"]
    assert [row["probe"] for row in probes["rows"]] == ["text", "jpeg"]
    assert "calipers" not in (tmp_path / "report.html").read_text()
    run_evaluation(cases(3), {"student": Threshold()}, tmp_path, 2, img_size=64, num_panels=0)
    assert json.loads((tmp_path / "report.json").read_text())["probes"] is None
    assert "No probes were measured" in (tmp_path / "report.html").read_text()


def test_list_without_lesions_keeps_its_other_results(tmp_path):
    items = cases(2)
    for item in items:
        item["label"][:] = 0
    run_evaluation(items, {"student": Threshold()}, tmp_path, 2, img_size=64, num_panels=0, probes="all")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["probes"] is None
    assert any(warning.startswith("Probes: no case of the list has a lesion") for warning in report["warnings"])


def test_unknown_probe_is_refused_before_anything_is_measured(tmp_path):
    network = Threshold()
    with pytest.raises(ValueError, match="final_evaluation::probes must be one of left, .* got 'lift'"):
        run_evaluation(cases(1), {"student": network}, tmp_path, 2, probes=["lift"])
    assert network.sizes == []


def test_probes_are_added_to_a_report_and_replaced(tmp_path):
    run_evaluation(cases(3), {"student": Threshold()}, tmp_path, 2, img_size=64, num_panels=0)
    before = (tmp_path / "report.html").read_text()
    pictures = before.count("data:image")
    for _ in range(2):
        assert merge_probes(PROBES, tmp_path) == tmp_path / "report.html"
    page = (tmp_path / "report.html").read_text()
    assert page.count('<section id="probes"') == 1
    assert "−0.160" in page
    assert page.count("data:image") == pictures > 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["probes"] == PROBES
    assert report["arms"]


def test_report_of_an_earlier_version_gets_the_section_at_its_end(tmp_path):
    (tmp_path / "report.json").write_text('{"title": "old"}')
    (tmp_path / "report.html").write_text("<main>\n<section>arms</section>\n</main>")
    merge_probes(PROBES, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.index("arms") < page.index('<section id="probes"') < page.index("</main>")


def test_folder_without_a_report_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="report.json does not exist; expected the folder of an evaluation"):
        merge_probes(PROBES, tmp_path)


def test_offsets_are_groups_with_fixed_limits():
    rows = make_rows({"a": {0: [0.9, 0.8, 0.3, 0.1, 1.0]}}, label_offset=[0.1, 0.15, 0.2, 0.31, None])
    groups = [(row["group"], row["num_cases"]) for row in subgroup_table(CaseTable(rows), [LESION_OFFSET])]
    assert groups == [("below 0.15", 2), ("0.15 to 0.3", 1), ("above 0.3", 1), ("no lesion", 1)]


def test_offset_groups_are_in_the_report_and_its_column_is_no_subgroup_of_its_own():
    rows = make_rows(
        {"student": {0: [0.9, 0.8, 0.3]}}, label_offset=[0.1, 0.2, 0.2], label_area=[5, 6, 7], pathology=["a", "b", "b"]
    )
    columns = {row["column"] for row in compile_report(rows, {}, "")["subgroups"]}
    assert columns == {"pathology", "lesion size", LESION_OFFSET}
    old = [{key: value for key, value in row.items() if key != "label_offset"} for row in rows]
    assert LESION_OFFSET not in {row["column"] for row in compile_report(old, {}, "")["subgroups"]}


def test_page_tells_which_groups_were_fixed_beforehand():
    means = {"student": {"mean": 0.8, "low": 0.7, "high": 0.9}}
    rows = [
        {"column": column, "group": "x", "num_cases": 3, "arms": means}
        for column in ("pathology", "device", "lesion size")
    ]
    html = render_subgroups(rows)
    assert "Groups fixed beforehand: device, lesion size. Not fixed beforehand: pathology." in html
    assert html.index(">device<") < html.index(">pathology<")
    assert "Not fixed beforehand" not in render_subgroups(rows[1:])
