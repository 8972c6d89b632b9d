"""An evaluation with its report: files, numbers, what is printed, and refusals."""

import csv
import json
import logging
import math

import numpy as np
import pytest
import torch
from conftest import SHARED
from evaluation.stand_ins import Teacher, Threshold, cases
from monai.data import MetaTensor
from monai.transforms import Resize
from torch import nn

from scripts.metrics import case_metrics
from scripts.report.panels import draw_panels
from scripts.report.run_evaluation import run_evaluation

DEMO = SHARED / "demo_busbra24"


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_results_are_written_for_every_case_and_network(tmp_path):
    networks = {"student": Threshold(), "teacher": Teacher(level=2.0)}  # the teacher finds nothing
    summary = run_evaluation(cases(), networks, tmp_path, 2, img_size=64, num_panels=2)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["student"]["dice"] > 0.95
    assert summary["student"]["num_cases"] == 3
    assert summary["teacher"]["dice"] == 0
    assert summary["teacher"]["hd95"] == pytest.approx(math.hypot(48, 72))
    assert summary["teacher"]["empty_prediction"] == summary["teacher"]["one_empty"] == 3
    table = rows(tmp_path)
    assert [(row["case"], row["arm"], row["patient"]) for row in table[2:4]] == [
        ("images/2.png", "student", "7"),
        ("images/0.png", "teacher", "7"),
    ]
    assert float(table[0]["dice"]) > 0.95
    assert "hd95_mm" not in table[0]
    drawn = sorted(path.name for path in (tmp_path / "visualizations").iterdir())
    assert drawn == ["test_sample_000.png", "test_sample_001.png"]
    names = {"metrics.csv", "summary.json", "test_results.txt", "visualizations", "report.html", "report.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_notes_on_the_data_are_in_the_results_and_in_the_report(tmp_path):
    note = "No mask of the list training shows class 1 (lesion)."
    run_evaluation(cases(1), {"student": Threshold()}, tmp_path, 2, img_size=64, class_names=["lesion"], notes=[note])
    assert f"warning: {note}" in (tmp_path / "test_results.txt").read_text()
    assert "classes: lesion (and background)" in (tmp_path / "test_results.txt").read_text()
    assert note in json.loads((tmp_path / "report.json").read_text())["warnings"]
    assert note in (tmp_path / "report.html").read_text()


def test_results_text_can_be_read(tmp_path):
    items = cases(7)
    items[4]["label"] = torch.zeros_like(items[4]["label"])
    run_evaluation(items, {"student": Threshold(), "teacher": Teacher()}, tmp_path, 2, img_size=64, num_panels=0)
    text = (tmp_path / "test_results.txt").read_text()
    assert text.startswith("7 cases at their original size\n")
    assert "mean over all cases" in text
    assert "hd95 (pixels)" in text
    assert "empty label" in text
    worst = text.split("worst by Dice, student\n")[1].split("\n\n")[0].splitlines()
    assert len(worst) == 5
    assert worst[0] == "  0.0000  images/4.png"


def test_metrics_are_of_pixels_of_the_original_image(tmp_path):
    items, network = cases(1), Threshold()
    run_evaluation(items, {"student": network}, tmp_path, 2, img_size=32, num_panels=1)
    assert set(network.sizes) == {(1, 1, 32, 32)}
    logits = network((Resize((32, 32), mode="bilinear", anti_aliasing=True)(items[0]["image"])[None]).as_tensor())
    logits = nn.functional.interpolate(logits, size=(48, 72), mode="bilinear", align_corners=False)
    expected = case_metrics(logits[0] > 0, items[0]["label"], 2)
    row = rows(tmp_path)[0]
    assert {name: float(row[name]) for name in expected} == expected


def test_teacher_sees_the_images_of_the_student(tmp_path):
    student, teacher = Threshold(), Teacher()
    run_evaluation(cases(1), {"student": student, "teacher": teacher}, tmp_path, 2, img_size=32, num_panels=0)
    assert set(student.sizes) == set(teacher.sizes) == {(1, 1, 32, 32)}


def test_millimeters_follow_the_size_that_pixel_mm_is_of(tmp_path):
    # 0.1 mm at 144x96 (W, H) is 0.2 mm at 72x48; the missed lesion costs the diagonal
    summary = run_evaluation(
        cases(1, pixel_mm=0.1, orig_size=[144, 96]), {"student": Threshold(2.0)}, tmp_path, 2, img_size=32, num_panels=0
    )
    assert summary["student"]["hd95_mm"] == pytest.approx(0.2 * math.hypot(48, 72))
    assert summary["student"]["hd95"] == pytest.approx(math.hypot(48, 72))
    assert "hd95 (mm)" in (tmp_path / "test_results.txt").read_text()


def test_millimeters_of_some_cases_are_not_averaged(tmp_path):
    items = cases(2)
    items.data[1]["pixel_mm"] = (0.1, 0.2)
    summary = run_evaluation(items, {"student": Threshold(2.0)}, tmp_path, 2, img_size=32, num_panels=0)
    assert "hd95_mm" not in summary["student"]
    first, second = (row["hd95_mm"] for row in rows(tmp_path))
    assert first == ""
    assert float(second) == pytest.approx(math.hypot(4.8, 14.4))


def test_multi_class_has_columns_for_each_class(tmp_path):
    network = Threshold(channels=3)
    summary = run_evaluation(cases(1), {"student": network}, tmp_path, 3, img_size=64, class_names=["nerve", "vessel"])
    assert summary["student"]["dice_class1"] > 0.95
    assert summary["student"]["dice_class2"] == 1
    assert summary["student"]["both_empty"] == 1
    assert "dice_class2" in rows(tmp_path)[0]


def test_missing_teacher_is_passed_over_and_autocast_is_used(tmp_path):
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    seen = []

    class Convolution(nn.Conv2d):
        def forward(self, image):
            seen.append(super().forward(image).dtype)
            return super().forward(image)

    networks = {"student": Convolution(1, 1, 1), "teacher": None}
    summary = run_evaluation(cases(2), networks, tmp_path, 2, img_size=32, num_panels=0, autocast=autocast)
    assert list(summary) == ["student"]
    assert set(seen) == {torch.bfloat16}


def test_teacher_alone_is_evaluated_and_drawn(tmp_path):
    assert list(run_evaluation(cases(1), {"teacher": Teacher()}, tmp_path, 2, img_size=32)) == ["teacher"]
    assert (tmp_path / "visualizations" / "test_sample_000.png").is_file()


def test_plain_items_without_entries_and_meta_tensors_are_taken(tmp_path):
    items = [{key: MetaTensor(item[key]) for key in ("image", "label")} for item in cases(1)]
    run_evaluation(items, {"student": Threshold()}, tmp_path, 2, img_size=32, num_panels=0)
    assert rows(tmp_path)[0]["case"] == "0"


def test_report_compares_student_and_teacher_with_the_margin(tmp_path):
    networks = {"student": Threshold(), "teacher": Teacher(level=2.0)}  # the teacher finds nothing
    run_evaluation(cases(3, scanner="A"), networks, tmp_path, 2, img_size=64, num_panels=0, margin=0.05)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["arms"]) == ["teacher", "student"]
    assert report["about"]["margin (Dice)"] == 0.05
    compared = {(row["arm"], row["reference"], row["metric"]): row for row in report["comparisons"]}
    assert compared["student", "teacher", "dice"]["difference"] > 0.9
    assert compared["student", "teacher", "dice"]["margin"] == 0.05
    assert compared["student", "teacher", "hd95"]["margin"] is None
    assert {row["arm"] for row in report["failures"]} == {"teacher"}
    assert report["failures"][0]["case"] == "images/0.png"
    assert 0 <= report["calibration"]["student"]["ece"] <= 1
    assert any("teacher" in warning for warning in report["warnings"])  # all its predictions are empty
    assert "Not for clinical use" in (tmp_path / "report.html").read_text()


def test_control_is_drawn_under_its_own_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "scripts.report.run_evaluation.draw_panels",
        lambda cases, path, *more: seen.append(set(cases[0])) or draw_panels(cases, path, *more),
    )
    networks = {"control": Threshold(), "teacher": Teacher()}
    run_evaluation(cases(2), networks, tmp_path, 2, img_size=32, num_panels=1)
    assert seen
    assert all(drawn == {"image", "label", "control", "teacher", "title"} for drawn in seen)


def test_columns_of_the_datalist_make_subgroups(tmp_path):
    items = cases(4)
    for i, entry in enumerate(items.data):
        entry.update(scanner="AB"[i % 2], patient=i, official_fold=None, boxes=[1, 2])
    run_evaluation(items, {"student": Threshold()}, tmp_path, 2, img_size=64, num_panels=0)
    assert [row["scanner"] for row in rows(tmp_path)] == ["A", "B", "A", "B"]
    assert "boxes" not in rows(tmp_path)[0]
    groups = {(row["column"], row["group"]) for row in json.loads((tmp_path / "report.json").read_text())["subgroups"]}
    assert {("scanner", "A"), ("scanner", "B")} <= groups


def test_summary_is_printed_and_the_table_of_all_metrics_only_written(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run_evaluation(cases(2), {"student": Threshold()}, tmp_path, 2, img_size=64, num_panels=0)
    printed = [record.getMessage() for record in caplog.records if record.name == "scripts.screen"]
    assert len(printed) == 1
    assert printed[0].splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    assert "mean over all cases" not in caplog.text
    assert f"results written to {tmp_path}: metrics.csv, summary.json, test_results.txt" in caplog.text


def test_curves_of_the_run_are_in_the_report(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss,lr,val_mean_dice\n1,0.5,1e-3,\n2,0.25,1e-3,0.75\n")
    run_evaluation(cases(1), {"student": Threshold()}, tmp_path, 2, img_size=32, num_panels=0, seed=3)
    curves = json.loads((tmp_path / "report.json").read_text())["curves"]
    assert curves == {"student": {"3": {"epoch": [1, 2], "loss": [0.5, 0.25], "val_mean_dice": [None, 0.75]}}}


def test_repeated_evaluation_replaces_its_files(tmp_path):
    for level in (2.0, 0.5):
        summary = run_evaluation(cases(1), {"student": Threshold(level)}, tmp_path, 2, img_size=32, num_panels=1)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["student"]["dice"] > 0.9


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (list.clear, {}, "has no cases, expected at least one; check the list test in data::datalist"),
        (lambda items: None, {"networks": {"teacher": None}}, "networks holds no network"),
        (
            lambda items: None,
            {"networks": {"student": Threshold(channels=3)}},
            "network student gives 3 channels of logits, expected 1",
        ),
        (lambda items: items[1].pop("label"), {}, "case images/1.png has no label"),
        (
            lambda items: items[1].update(label=torch.zeros(1, 9, 9)),
            {},
            r"image \(1, 48, 72\) and label \(1, 9, 9\) differ in size",
        ),
        (lambda items: items[1]["image"].fill_(math.nan), {}, "network student gives nan logits for case images/1.png"),
        (lambda items: items[1]["label"].fill_(255), {}, "case images/1.png: label holds the value 255.0"),
    ],
)
def test_bad_input_is_refused_and_no_results_are_written(tmp_path, change, options, message):
    items = cases(2)
    change(items)
    with pytest.raises(ValueError, match=message):
        run_evaluation(
            items,
            **{
                "networks": {"student": Threshold()},
                "output_dir": tmp_path,
                "num_classes": 2,
                "img_size": 32,
                **options,
            },
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not DEMO.is_dir(), reason="../shared/data/demo_busbra24 is not there")
def test_real_images_through_the_bundles_own_loading(tmp_path):
    from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged

    from scripts.data.dataset import ViewDataset
    from scripts.data.readers import GrayImageReader, MaskReader
    from scripts.data.transforms import LabelToClassesd, ToRowsFirstd

    entries = json.loads((DEMO / "dataset.json").read_text())["test"]
    data = [{**entry, "image": str(DEMO / entry["image"]), "label": str(DEMO / entry["label"])} for entry in entries]
    keys = ["image", "label"]
    loading = Compose(
        [
            LoadImaged("image", reader=GrayImageReader),
            LoadImaged("label", reader=MaskReader),
            EnsureChannelFirstd(keys),
            ToRowsFirstd(keys),
            LabelToClassesd("label", num_classes=2),
            EnsureTyped(keys, track_meta=False),
        ]
    )
    summary = run_evaluation(
        ViewDataset(data, loading), {"student": Threshold(0.3)}, tmp_path, 2, img_size=64, num_panels=1
    )
    assert summary["student"]["num_cases"] == 5
    assert 0 < summary["student"]["dice"] < 1
    assert [row["patient"] for row in rows(tmp_path)] == [str(entry["patient"]) for entry in entries]
    assert np.isfinite([float(row["hd95"]) for row in rows(tmp_path)]).all()


def test_report_holds_networks_data_and_pictures_of_its_cases(tmp_path):
    networks = {"student": nn.Conv2d(1, 1, 3, padding=1), "teacher": Teacher()}
    with torch.no_grad():
        networks["student"].weight.zero_()
        networks["student"].weight[0, 0, 1, 1] = 1
        networks["student"].bias.fill_(-0.5)  # bright pixels
    run_evaluation(
        cases(3), networks, tmp_path, 2, img_size=64, num_panels=0, class_names=["lesion"], data_name="phantoms"
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["title"] == "Evaluation on phantoms"
    assert report["data"] == {"name": "phantoms", "classes": ["lesion"]}
    described = report["networks"]["arms"]
    assert (described["student"]["network"], described["student"]["parameters"]) == ("Conv2d", 10)
    assert described["teacher"]["parameters"] is None  # it has none
    assert described["student"]["seconds"] > 0
    assert [case["case"] for case in report["cases"]] == ["images/0.png", "images/1.png", "images/2.png"]
    assert set(report["pictures"]["cases"]) == {"images/0.png", "images/1.png", "images/2.png"}
    shown = report["pictures"]["cases"]["images/1.png"]
    assert shown["size"] == [72, 48]
    assert shown["outlines"]["label"] == ["M15 8 45 8 45 24 15 24Z"]
    assert set(shown["outlines"]) == {"label", "teacher", "student"}
    assert "data:image/jpeg" in (tmp_path / "report.html").read_text()


def test_outputs_that_come_from_a_cache_are_not_timed(tmp_path):
    network = Threshold()
    network.reads_views = True
    run_evaluation(cases(1), {"teacher": network}, tmp_path, 2, img_size=32, num_panels=0)
    assert json.loads((tmp_path / "report.json").read_text())["networks"]["arms"]["teacher"]["seconds"] is None
