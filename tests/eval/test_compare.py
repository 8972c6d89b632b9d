"""The comparison: what is trained and how often, one reading of the test list, and the report."""

import ast
import json
from pathlib import Path

import pytest
import torch
from comparing import NUM_TEST, read_report, read_state, settings_of, without
from conftest import run

from eval import comparison
from eval.arms import Plan, build_arm, train_arm
from eval.compare import main
from scripts.data.segment import segment
from scripts.evaluation.results import read_rows, table
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.trainer import DistillationTrainer

pytest_plugins = "comparison_fixtures"


def lists(arguments: list[str]) -> str:
    return (Path(ast.literal_eval(arguments[arguments.index("--data::dataset_dir") + 1])) / "dataset.json").read_text()


def test_both_students_are_trained_with_every_seed_and_reported(arguments, trained, tmp_path, caplog):
    assert main(arguments) == 0
    assert trained == [("control", 0), ("student", 0), ("control", 1), ("student", 1)]
    rows = read_rows(tmp_path / "out" / "metrics.csv")
    assert {(row["arm"], row["seed"]) for row in rows} == {("teacher", 0), *trained}
    assert len(rows) == 5 * NUM_TEST
    assert {row["case"] for row in rows} == {Path(case["image"]).name for case in json.loads(lists(arguments))["test"]}
    report = read_report(tmp_path / "out")
    assert list(report["arms"]) == ["teacher", "control", "student"]
    assert len(report["comparisons"]) == 9
    assert set(report["curves"]["student"]) == {"0", "1"}
    assert report["about"]["student, seed 1"].startswith("best_epoch001")
    assert str(tmp_path) not in json.dumps(report["about"])
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/jpeg") == NUM_TEST
    assert [pair for pair in ("Student: ", "Control: ") if pair not in caplog.text] == []
    assert f"report: {tmp_path / 'out' / 'report.html'}" in caplog.text


def test_repeated_call_trains_nothing_and_leaves_the_test_list_alone(arguments, trained, tmp_path, monkeypatch, caplog):
    assert main(arguments) == 0
    before, trained[:] = (tmp_path / "out" / "metrics.csv").read_bytes(), []
    monkeypatch.setattr(comparison, "evaluate", None)
    assert main(arguments) == 0
    assert trained == []
    assert (tmp_path / "out" / "metrics.csv").read_bytes() == before
    assert "was read already" in caplog.text


def test_stopped_comparison_goes_on_with_the_next_arm(arguments, trained, tmp_path, monkeypatch):
    def stop(plan, arm, seed, *more):
        if (arm, seed) == ("student", 0):
            raise KeyboardInterrupt
        return train(plan, arm, seed, *more)

    train = comparison.train_arm
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(comparison, "train_arm", stop)
        main(arguments)
    assert not (tmp_path / "out" / "metrics.csv").exists()
    trained.clear()
    assert main(arguments) == 0
    assert trained == [("student", 0), ("control", 1), ("student", 1)]


def test_run_that_ended_before_it_was_noted_is_not_trained_again(arguments, trained, tmp_path, capsys):
    assert main([*arguments, "--seeds", "0"]) == 0
    state = read_state(tmp_path / "out")
    (tmp_path / "out" / "comparison.json").write_text(json.dumps({**state, "arms": {}}))
    (tmp_path / "out" / "metrics.csv").unlink()
    before = (tmp_path / "out" / "runs" / "phantoms" / "student_seed0" / "models" / "last.pt").stat().st_mtime_ns
    assert main([*arguments, "--seeds", "0"]) == 0
    assert (
        tmp_path / "out" / "runs" / "phantoms" / "student_seed0" / "models" / "last.pt"
    ).stat().st_mtime_ns == before


def test_report_names_trained_seeds_that_it_leaves_out_and_tells_the_runs_of_given_files(arguments, trained, tmp_path):
    assert main([*arguments, "--train", "control", "student"]) == 0
    state = read_state(tmp_path / "out")["arms"]
    assert main([*without(arguments, "--seeds", 2), "--seeds", "1"]) == 0
    report = read_report(tmp_path / "out")
    left = (
        "Trained here and not evaluated: control, seed 0; student, seed 0. Seeds chosen after their training are "
        "no fair sample."
    )
    assert left in report["warnings"]
    assert report["arms"]["student"]["num_seeds"] == 1

    arguments[1] = str(tmp_path / "again")
    assert main([*arguments, "--checkpoint", f"control:1={state['control']['1']['checkpoint']}"]) == 0
    again = read_report(tmp_path / "again")
    told = again["about"]["control, seed 1"]
    assert told == report["about"]["control, seed 1"]
    assert " 1 epochs, " in told
    assert again["curves"]["control"] == report["curves"]["control"]
    assert again["arms"]["control"] == report["arms"]["control"]

    alone = tmp_path / "test_alone.json"
    alone.write_text(json.dumps({"test": json.loads(lists(arguments))["test"]}))
    arguments[1] = str(tmp_path / "alone")
    checkpoint = ["--checkpoint", f"control:1={state['control']['1']['checkpoint']}"]
    assert main([*arguments, *checkpoint, "--data::datalist", str(alone)]) == 0
    assert read_report(tmp_path / "alone")["arms"]["control"] == report["arms"]["control"]


@pytest.mark.parametrize("epoch", [1, 2])
def test_arm_killed_in_an_epoch_ends_as_the_whole_one(overrides, tmp_path, monkeypatch, epoch):
    own = settings_of(overrides)
    plans = [Plan(("configs/train.json",), own, tmp_path / name) for name in ("whole", "killed")]

    def kill(self):
        if self.state.epoch == epoch:
            raise KeyboardInterrupt
        return clip(self)

    clip = DistillationTrainer._clip_gradients
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DistillationTrainer, "_clip_gradients", kill)
        train_arm(plans[1], "control", 0)
    found = [train_arm(plan, "control", 0) for plan in plans]
    assert found[0]["epochs"] == found[1]["epochs"] == 2
    whole, killed = (torch.load(Path(run["run"]) / "models" / "last.pt", weights_only=True)["network"] for run in found)
    assert all(torch.equal(whole[key], killed[key]) for key in whole)


# the arms


def test_evaluated_student_has_the_weights_of_its_file(overrides, tmp_path):
    own = settings_of(overrides)
    plan = Plan(("configs/train.json",), own, tmp_path)
    file = train_arm(plan, "control", 3)["checkpoint"]
    arm, saved = build_arm(plan, "control", 3, file), torch.load(file, weights_only=True)
    assert (arm.name, arm.seed, arm.img_size) == ("control", 3, 64)
    assert all(torch.equal(value, saved[key]) for key, value in arm.network.state_dict().items())


def test_teacher_is_measured_by_the_logits_that_it_teaches(overrides, tmp_path):
    """With another size than the student's, too: it gets the student's image and resizes that."""
    plan = Plan(("configs/train.json",), {**overrides, "data::img_size": 96}, tmp_path)
    arm = build_arm(plan, "teacher", 0, overrides["teacher::lora_checkpoint"])
    parser = plan.workflow("student", 0, {"test::dataset::data": "$@data.validation"}).parser
    whole = parser.get_parsed_content("test::dataset")[0]["image"]
    taught = parser.get_parsed_content("validate::dataset")[0]["image"]
    teacher = parser.get_parsed_content("teacher")
    teacher.load()
    assert (arm.img_size, taught.shape[-1], teacher.img_size) == (96, 96, 64)
    with torch.inference_mode():
        expected = torch.nn.functional.interpolate(
            teacher(taught[None]).logits, size=whole.shape[-2:], mode="bilinear"
        )[0]
    assert torch.equal(segment(arm.network, whole, arm.img_size, "cpu"), expected)


def test_teacher_is_on_its_device_before_its_weights_are_read(overrides, tmp_path, monkeypatch):
    """The device decides whether they are kept in bf16."""
    devices = []
    monkeypatch.setattr(FrozenTeacher, "load", lambda self: devices.append(self.anchor.device.type))
    plan = Plan(("configs/train.json",), {**overrides, "device": "meta"}, tmp_path)
    build_arm(plan, "teacher", 0, overrides["teacher::lora_checkpoint"])
    assert devices == ["meta"]


def test_control_run_of_the_bundle_calls_itself_control(overrides, run_folder):
    run({**overrides, "training::num_epochs": 1}, "train_student.json")
    assert {row["arm"] for row in read_rows(run_folder / "metrics.csv")} == {"control"}


def test_control_keeps_the_views_and_drops_the_rest_of_the_distillation(overrides, tmp_path):
    own = settings_of(overrides)
    more = {"distillation::mode": "replay", "distillation::views": 3, "distillation::gamma": 1.0, "training::lr": 0.25}
    plan = Plan(("configs/train.json",), {**own, **more}, tmp_path)
    control, student, teacher = (plan.workflow(arm, 5).parser for arm in ("control", "student", "teacher"))
    assert (control["distillation::views"], control["distillation::mode"]) == (3, "replay")
    assert control["training::lr"] == 0.25
    assert control["cached_teacher"] is None
    assert not control.get_parsed_content("loss").needs_teacher
    assert list(control.get_parsed_content("loss").terms) == ["task"]
    assert student.get_parsed_content("loss").needs_teacher
    assert (student["distillation::gamma"], student["training::seed"]) == (1.0, 5)
    assert teacher["training::lr"] != 0.25
    assert teacher["data::img_size"] == student["data::img_size"] == 64


# tables of earlier evaluations


def rows_of(arm, cases, **more):
    counts = {"empty_label": 0, "empty_prediction": 0, "both_empty": 0, "one_empty": 0}
    measured = {
        "hd95": 3.0,
        "nsd": 0.9,
        "iou": 0.6,
        "sensitivity": 0.8,
        "specificity": 0.9,
        "pixel_accuracy": 0.9,
        "ece": 0.1,
    }
    areas = {"label_area": 40, "predicted_area": 44}
    return [
        {
            "case": f"{c}.png",
            "patient": c,
            "arm": arm,
            "seed": 0,
            "dice": 0.5 + c / 100,
            **measured,
            **areas,
            **counts,
            **more,
        }
        for c in cases
    ]


def write(path: Path, rows) -> str:
    path.write_text(table(rows))
    return str(path)


def test_tables_of_evaluations_are_reported_together(tmp_path, capsys):
    files = [write(tmp_path / f"{arm}.csv", rows_of(arm, range(12))) for arm in ("student", "control")]
    assert main(["--output_dir", str(tmp_path / "out"), "--tables", *files]) == 0
    assert len(read_report(tmp_path / "out")["comparisons"]) == 3


def test_students_of_a_named_table_are_compared_with_the_others(tmp_path, capsys):
    better = [row for seed in (0, 1) for row in rows_of("student", range(12), seed=seed, dice=0.9)]
    files = [write(tmp_path / "a.csv", better), write(tmp_path / "b.csv", rows_of("student", range(12)))]
    words = ["--tables", files[0], f"labels alone={files[1]}"]
    assert main(["--output_dir", str(tmp_path / "out"), *words]) == 0
    rows = read_report(tmp_path / "out")["comparisons"]
    assert {(row["arm"], row["reference"]) for row in rows} == {("student", "labels alone")}
    assert rows[0]["difference"] == pytest.approx(0.9 - 0.555)
    assert "Student: Better than labels alone by 0.345 Dice" in " ".join(capsys.readouterr().out.split())


def test_students_are_not_called_another_arm(tmp_path, capsys):
    assert main(["--output_dir", str(tmp_path / "out"), "--tables", "teacher=b.csv"]) == 1
    assert "would call other students the teacher" in capsys.readouterr().err


def test_tables_of_other_cases_are_told_but_not_compared(tmp_path, capsys):
    files = [
        write(tmp_path / "a.csv", rows_of("student", range(12))),
        write(tmp_path / "b.csv", rows_of("control", range(1, 13))),
    ]
    assert main(["--output_dir", str(tmp_path / "out"), "--tables", *files]) == 1
    assert "12.png" in capsys.readouterr().err
    report = read_report(tmp_path / "out")
    assert set(report["arms"]) == {"student", "control"}
    assert report["comparisons"] == []


def test_all_predictions_empty_and_unknown_patients_are_warnings(tmp_path):
    empty = rows_of("student", range(12), patient="", empty_prediction=1, one_empty=1, predicted_area=0)
    assert main(["--output_dir", str(tmp_path / "out"), "--tables", write(tmp_path / "a.csv", empty)]) == 0
    warnings = " ".join(read_report(tmp_path / "out")["warnings"])
    assert "patient" in warnings
    assert "empty" in warnings


def test_unlabeled_images_teach_the_student_alone(overrides, tmp_path):
    plan = Plan(("train.json",), {**overrides, "data::unlabeled_share": 0.5}, tmp_path)
    shares = {arm: plan.workflow(arm, 0).parser["data::unlabeled_share"] for arm in ("teacher", "control", "student")}
    assert shares == {"teacher": 0, "control": 0, "student": 0.5}
