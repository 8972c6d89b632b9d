"""Whole images in a report: what the page and the printed table say, with and without images without a lesion."""

import pytest
from report.test_findings import row

from scripts.report.detection import render_detection
from scripts.report.findings import compile_report
from scripts.report.summary import summary_table
from scripts.report.write import render_page


def rows(empty=0, **more):
    """Twelve cases with a lesion, and some without, of which every second stays empty."""
    cases = [row(case, confidence=0.5 + 0.02 * case, presence=0.9, **more) for case in range(12)]
    for case in range(12, 12 + empty):
        area = 0 if case % 2 else 30
        cases.append(
            row(case, confidence=0.6, presence=0.1, dice=float(not area))
            | {"label_area": 0, "predicted_area": area, "empty_label": 1}
        )
    return cases


def test_list_with_images_without_a_lesion_has_figures_of_images():
    report = compile_report(rows(empty=6), {}, "A")
    images = report["detection"]["student"]["images"]
    assert (images["without"], images["left_empty"], images["detected"]) == (6, 3, 12)
    assert images["auc"]["mean"] == 1
    html = render_detection(report["detection"])
    for text in ("Specificity", "3 of 6", "12 of 12", "<b>0.500</b>", "Risk over coverage"):
        assert text in html
    lines = summary_table(report)
    assert [line.split("  ")[0] for line in lines[-3:]] == [
        "Sensitivity (images)",
        "Specificity (images)",
        "AUC of presence (images)",
    ]
    assert "0.500 [" in lines[-2]


def test_other_lists_have_the_curve_alone():
    report = compile_report(rows(), {}, "A")
    assert report["detection"]["student"]["images"] is None
    html = render_detection(report["detection"])
    assert "there is no image-level" in html
    assert "Risk over coverage" in html
    assert not [line for line in summary_table(report) if "images)" in line]


@pytest.mark.parametrize("missing", ["confidence", "presence"])
def test_tables_of_earlier_versions_lack_what_they_lack(missing):
    old = [{key: value for key, value in one.items() if key != missing} for one in rows(empty=4)]
    report = compile_report(old, {}, "A")
    part = report["detection"]["student"]
    assert (part["risk"] is None) is (missing == "confidence")
    assert (part["images"]["auc"] is None) is (missing == "presence")
    assert 'id="detection"' in render_page(report)


def test_presence_is_no_subgroup():
    report = compile_report(rows(empty=6), {}, "A")
    assert not {"presence", "confidence"} & {one["column"] for one in report["subgroups"]}
