"""Images without a lesion in an evaluation: never hidden in a mean, and nothing changes where there are none."""

import pytest
from evaluation.stand_ins import Threshold, cases

from eval.card import metric_table
from scripts.evaluation.case_table import CaseTable
from scripts.evaluation.evaluate import Arm, evaluate
from scripts.evaluation.lesion_free import WITH_LESION, count_left_empty, has_lesion, summarize_apart
from scripts.evaluation.results import results_text
from scripts.evaluation.subgroups import bland_altman, subgroup_table
from scripts.report.findings import compile_report, pick_cases
from scripts.report.summary import summary_text
from scripts.report.write import render_page


def mixed(count=6, free=(2, 3, 4), bright=(4,)):
    """Lesions, and images without one, of which some have a bright spot that is none."""
    items = cases(count, shape=(48, 96))
    for index in free:
        if index not in bright:
            items[index]["image"][:] = 0.1
        items[index]["label"][:] = 0
    for index, entry in enumerate(items.data):
        entry.update(patient=index, lesion_free=index in free)
    return items


@pytest.fixture
def measured():
    return evaluate(mixed(), [Arm("student", Threshold(), 64), Arm("teacher", Threshold(2.0), 64)], 2)


def test_row_without_an_area_counts_as_a_lesion():
    assert has_lesion({})
    assert has_lesion({"label_area": "12"})
    assert not has_lesion({"label_area": 0})


def test_dice_of_lesions_and_empty_answers_are_told_apart(measured):
    student, teacher = measured.summary["student", 0], measured.summary["teacher", 0]
    lesions = [row["dice"] for row in measured.rows if row["arm"] == "student" and row["label_area"] > 0]
    assert student[f"dice{WITH_LESION}"] == pytest.approx(sum(lesions) / 3)
    assert student["dice"] == pytest.approx((sum(lesions) + 2 + 0) / 6)
    assert (student["lesion_free_images"], student["lesion_free_left_empty"]) == (3, 2)
    assert teacher["lesion_free_left_empty"] == 3
    assert teacher[f"dice{WITH_LESION}"] == 0
    assert teacher["dice"] == 0.5  # what a mean would hide


def test_nothing_is_added_where_every_image_has_a_lesion():
    rows = evaluate(cases(), [Arm("student", Threshold(), 64)], 2).rows
    assert summarize_apart(rows) == count_left_empty(rows) == {}
    report = compile_report(rows, {}, "A")
    assert "lesion_free" not in report["arms"]["student"]
    assert [name for name in report["arms"]["student"]["metrics"] if name.endswith(WITH_LESION)] == []
    assert "without_lesion" not in report["areas"]["student"]
    assert "left empty" not in summary_text(report, "r.html") + render_page(report)


def test_list_of_lesion_free_images_alone_has_counts_and_no_dice_of_lesions():
    rows = evaluate(mixed(3, (0, 1, 2), ()), [Arm("student", Threshold(), 64)], 2).rows
    assert summarize_apart(rows) == {"lesion_free_images": 3, "lesion_free_left_empty": 3}
    report = compile_report(rows, {}, "A")
    assert report["areas"] == {}
    assert "no case has a lesion, so that lesion areas cannot be compared." in report["warnings"]
    assert "All predictions of arm student are empty" not in " ".join(report["warnings"])


def test_report_card_and_results_show_both(measured):
    report = compile_report(measured.rows, measured.reliability, "A")
    student = report["arms"]["student"]
    assert student["lesion_free"] == {"images": 3, "left_empty": 2}
    assert student["metrics"]["dice_with_lesion"]["mean"] == pytest.approx(
        measured.summary["student", 0]["dice_with_lesion"]
    )
    assert student["metrics"]["hd95_with_lesion"]["mean"] < student["metrics"]["hd95"]["mean"]
    printed = summary_text(report, "r.html")
    assert "Dice (images with a lesion)" in printed
    assert "lesion-free images left empty  3 of 3" in printed
    assert "2 of 3" in printed
    page = render_page(report)
    assert "Lesion-free images left empty" in page
    assert "Dice (images with a lesion)" in page
    assert "3 images without a lesion left out." in page
    table = "\n".join(metric_table(report))
    assert "| lesion-free images left empty | 3 of 3 | 2 of 3 |" in table
    assert "| Dice (images with a lesion) |" in table
    text = results_text({name: means for (name, _), means in measured.summary.items()}, measured.rows)
    assert "Dice (images with a lesion)" in text
    assert any(line.split()[-6:] == ["2", "of", "3", "3", "of", "3"] for line in text.splitlines())


def test_seeds_are_counted_together():
    arms = [Arm("student", Threshold(), 64, 0), Arm("student", Threshold(2.0), 64, 1)]
    report = compile_report(evaluate(mixed(), arms, 2).rows, {}, "A")
    assert report["arms"]["student"]["lesion_free"] == {"images": 6, "left_empty": 5}


def test_false_lesion_is_a_failure_and_an_empty_answer_none(measured):
    failures = compile_report([row for row in measured.rows if row["arm"] == "student"], {}, "A")["failures"]
    assert [(one["case"], one["reason"]) for one in failures] == [("images/4.png", "found what is not there")]


def test_areas_are_compared_on_lesions_alone(measured):
    areas = bland_altman(CaseTable(measured.rows), "student")
    assert areas["cases"] == ["images/0.png", "images/1.png", "images/5.png"]
    assert len(areas["points"]) == areas["without_lesion"] == 3


def test_best_and_median_cases_show_a_lesion(measured):
    rows = [row for row in measured.rows if row["arm"] == "student"]
    picked = pick_cases(rows)
    assert {one.index for one in picked if one.group in ("best", "median")} <= {0, 1, 5}
    assert picked[-1].group == "worst"
    assert 4 in [one.index for one in picked if one.group == "worst"]


def test_subgroup_of_no_lesion_stands_alone_and_the_flag_makes_none(measured):
    assert all("lesion_free" not in row for row in measured.rows)
    groups = {row["group"]: row for row in subgroup_table(CaseTable(measured.rows), ["lesion size"])}
    assert groups["no lesion"]["num_cases"] == 3
    assert groups["no lesion"]["arms"]["student"]["mean"] == pytest.approx(2 / 3)
