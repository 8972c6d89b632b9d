"""A comparison in several processes, and the teacher of each seed."""

import json
from pathlib import Path

import pytest
from comparing import NUM_TEST, read_state, settings_of, without
from filelock import FileLock

from eval import arms, comparison
from eval.arms import Plan
from eval.compare import main
from eval.comparison import teacher_seeds, train_some
from scripts.evaluation.results import read_rows

pytest_plugins = "comparison_fixtures"


# whose teacher


def plan_with(overrides, teacher, folder: Path) -> Plan:
    """Of a comparison whose overlay names the teacher."""
    overlay = folder / "teacher.json"
    overlay.write_text(json.dumps({"teacher::lora_checkpoint": teacher}))
    own = {key: value for key, value in settings_of(overrides).items() if key != "teacher::lora_checkpoint"}
    return Plan(("configs/train.json", str(overlay)), own, folder / "out")


def test_teacher_of_an_overlay_is_one_teacher_for_all_seeds(overrides, lora_checkpoint, tmp_path):
    plan = plan_with(overrides, f"$'{lora_checkpoint.parent}' + '/{lora_checkpoint.name}'", tmp_path)
    assert plan.given_teacher() == str(lora_checkpoint)
    assert teacher_seeds([3, 4], plan) == {3: 3, 4: 3}
    arms.check_plan(plan)
    assert plan_with(overrides, [f"$'{lora_checkpoint}'"], tmp_path).given_teacher() == [str(lora_checkpoint)]


def test_teacher_of_an_expression_on_the_seed_is_each_seeds_own(overrides, tmp_path):
    plan = plan_with(overrides, "$'teacher' + str(@training::seed) + '.pth'", tmp_path)
    assert [plan.given_teacher(seed) for seed in (3, 4)] == ["teacher3.pth", "teacher4.pth"]
    assert teacher_seeds([3, 4], plan) == {3: 3, 4: 4}
    assert arms.teacher_file(plan, 4) == {"checkpoint": "teacher4.pth"}


def test_shared_teacher_can_be_compared_with(phantoms, tmp_path):
    own = {"data::dataset_dir": str(phantoms), "hardware::gpu_ids": []}
    plan = Plan(("configs/train.json", "configs/shared_teacher.json"), own, tmp_path)
    arms.check_plan(plan)
    assert teacher_seeds([0, 1], plan) == {0: 0, 1: 0}


def test_teacher_that_the_configuration_makes_is_trained_by_one_process(overrides, tmp_path):
    plan = plan_with(overrides, "@tuned", tmp_path)
    assert teacher_seeds([0, 1], plan) == {0: 0, 1: 1}
    with pytest.raises(
        ValueError, match="--train student:0 needs its teacher; train that first, with --train teacher:0"
    ):
        train_some([("student", 0)], [0, 1], plan)


def test_without_a_teachers_file_one_is_tuned_for_each_seed(arguments, trained, monkeypatch, tmp_path, sam_checkpoint):
    tuned, train = [], arms.train_arm
    monkeypatch.setattr(
        arms, "train_arm", lambda plan, arm, seed, *more: tuned.append((arm, seed)) or train(plan, arm, seed, *more)
    )
    overlay = tmp_path / "teacher.json"
    overlay.write_text(json.dumps({"training::num_epochs": 1, "training::warmup_epochs": 0, "training::batch_size": 3}))
    assert main([*without(arguments, "--teacher::lora_checkpoint"), "--teacher_config", str(overlay)]) == 0
    assert [key for key in tuned if key[0] == "teacher"] == [("teacher", 0), ("teacher", 1)]
    state = read_state(tmp_path / "out")["arms"]
    assert len({run["checkpoint"] for run in state["teacher"].values()}) == 2
    for seed in ("0", "1"):
        config = json.loads((Path(state["student"][seed]["run"]) / "config.json").read_text())
        assert config["teacher"]["lora_checkpoint"] == state["teacher"][seed]["checkpoint"]


# who trains what


def test_processes_share_the_arms_and_the_last_call_evaluates(arguments, trained, tmp_path, capsys):
    assert main([*arguments, "--train", "student:1"]) == 0
    assert main([*arguments, "--train", "student", "control:0"]) == 0
    assert trained == [("student", 1), ("control", 0), ("student", 0)]
    assert not (tmp_path / "out" / "metrics.csv").exists()
    assert "report" not in capsys.readouterr().out
    assert main(arguments) == 0
    assert trained[3:] == [("control", 1)]
    assert len(read_rows(tmp_path / "out" / "metrics.csv")) == 5 * NUM_TEST
    assert main([*arguments, "--train", "control:0"]) == 1
    assert "has read the test list already, and trains no more" in capsys.readouterr().err


def test_student_gets_the_teacher_that_another_process_tuned(arguments, tmp_path, trained):
    overlay = tmp_path / "teacher.json"
    overlay.write_text(json.dumps({"training::num_epochs": 1, "training::warmup_epochs": 0, "training::batch_size": 3}))
    own = [*without(arguments, "--teacher::lora_checkpoint"), "--teacher_config", str(overlay)]
    assert main([*own, "--train", "student:0"]) == 1
    assert trained == []
    assert main([*own, "--train", "teacher:0"]) == 0
    assert main([*own, "--train", "student:0"]) == 0
    state = read_state(tmp_path / "out")["arms"]
    config = json.loads((Path(state["student"]["0"]["run"]) / "config.json").read_text())
    assert config["teacher"]["lora_checkpoint"] == state["teacher"]["0"]["checkpoint"]
    assert "runs" in state["teacher"]["0"]["run"]


@pytest.mark.parametrize("more", [[], ["--train", "control:0"]])
def test_arm_in_the_hands_of_another_process_is_refused_and_left_alone(arguments, tmp_path, monkeypatch, capsys, more):
    monkeypatch.setattr(arms, "PATIENCE", 0)
    run = tmp_path / "out" / "runs" / "phantoms" / "control_seed0"
    run.mkdir(parents=True)
    with FileLock(tmp_path / "out" / "runs" / "control_seed0.lock"):
        assert main([*arguments, *more]) == 1
    assert "control, seed 0 is being trained by another process" in capsys.readouterr().err
    assert list(run.iterdir()) == []


def test_arm_of_another_process_is_kept(arguments, tmp_path, monkeypatch):
    def train(plan, arm, seed, *more):
        if (arm, seed) == ("control", 0):  # the other process ends while this one trains
            assert main([*arguments, "--train", "control:1"]) == 0
        return {"checkpoint": f"{arm}{seed}.pt"}

    monkeypatch.setattr(comparison, "train_arm", train)
    assert main([*arguments, "--train", "control:0"]) == 0
    found = read_state(tmp_path / "out")["arms"]["control"]
    assert found == {str(seed): {"checkpoint": f"control{seed}.pt"} for seed in (0, 1)}
