"""A comparison whose students go on from those of another one."""

import json
import shutil
from pathlib import Path

import pytest
from comparing import read_report, read_state
from conftest import CONFIGS

from eval import arms, comparison
from eval.arms import Plan
from eval.compare import main

pytest_plugins = "comparison_fixtures"


def test_start_that_a_teacher_has_taught_is_the_students_alone(overrides, tmp_path):
    (tmp_path / "start.json").write_text(json.dumps({"student::checkpoint": "taught.pt"}))
    plan = Plan(("configs/train.json",), overrides, tmp_path, student_config=(str(tmp_path / "start.json"),))
    starts = {arm: plan.workflow(arm, 0).parser["student::checkpoint"] for arm in ("student", "control", "teacher")}
    assert starts == {"student": "taught.pt", "control": None, "teacher": None}


def test_students_of_another_comparison_are_trained_further_from_their_own_weights(
    arguments, trained, tmp_path, capsys
):
    assert main([*arguments, "--seeds", "0"]) == 0
    first = read_state(tmp_path / "out")["arms"]
    further = [
        *arguments,
        "--seeds",
        "0",
        "--output_dir",
        str(tmp_path / "further"),
        "--continue_from",
        str(tmp_path / "out"),
    ]
    assert main(further) == 0
    second = read_state(tmp_path / "further")["arms"]
    report = read_report(tmp_path / "further")
    for arm in ("control", "student"):
        start = first[arm]["0"]["checkpoint"]
        config = json.loads((Path(second[arm]["0"]["run"]) / "config.json").read_text())
        assert config["student"]["checkpoint"] == start
        assert config["student"]["pretrained"] is True
        assert report["about"][f"{arm}, seed 0"].endswith(f"from {Path(start).name} after 1 epochs")
        assert second[arm]["0"]["started_from"] == first[arm]["0"]
    assert report["warnings"][0].startswith(
        "The test list was read before, for the comparison that this one goes on from"
    )
    assert main([*arguments, "--seeds", "0", "--output_dir", str(tmp_path / "further")]) == 1
    assert "was begun with another continue_from" in capsys.readouterr().err
    shutil.move(first["control"]["0"]["checkpoint"], tmp_path / "elsewhere.pt")
    assert main([*further, "--output_dir", str(tmp_path / "third")]) == 1
    assert "of --continue_from does not exist any more" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_start_that_no_epoch_is_better_than_stays_the_arms_checkpoint(arguments, trained, tmp_path):
    assert main([*arguments, "--seeds", "0"]) == 0
    path = tmp_path / "out" / "comparison.json"
    state = json.loads(path.read_text())
    state["arms"]["control"]["0"]["val_dice"] = 1.5
    path.write_text(json.dumps(state))
    assert (
        main(
            [*arguments, "--seeds", "0", "--output_dir", str(tmp_path / "on"), "--continue_from", str(tmp_path / "out")]
        )
        == 0
    )
    control = read_state(tmp_path / "on")["arms"]["control"]["0"]
    assert control["checkpoint"] == state["arms"]["control"]["0"]["checkpoint"]
    assert control["val_dice"] == 1.5
    about = read_report(tmp_path / "on")["about"]
    assert "no epoch better than the start, which is kept" in about["control, seed 0"]


def test_seed_is_added_to_a_continued_comparison_before_its_evaluation(arguments, trained, tmp_path):
    assert main([*arguments, "--seeds", "0", "1", "--train", "control", "student"]) == 0
    further = [
        *arguments,
        "--output_dir",
        str(tmp_path / "on"),
        "--continue_from",
        str(tmp_path / "out"),
        "--train",
        "control",
    ]
    assert main([*further, "--seeds", "0"]) == 0
    assert main([*further, "--seeds", "0", "1"]) == 0
    state = read_state(tmp_path / "on")
    first = read_state(tmp_path / "out")["arms"]
    starts = {f"{arm} {seed}": first[arm][seed]["checkpoint"] for arm in ("control", "student") for seed in ("0", "1")}
    assert state["continue_from"] == starts
    assert set(state["arms"]["control"]) == {"0", "1"}
    assert trained.count(("control", 0)) == trained.count(("control", 1)) == 2


def test_teacher_of_the_comparison_that_is_continued_is_not_tuned_again(tmp_path, monkeypatch):
    known = {"checkpoint": "tuned.pth", "epochs": 3}
    earlier = {"teacher": {"0": known}, "control": {"0": {}, "1": {}}, "student": {"0": {}, "1": {}}}
    plan = arms.Plan((str(CONFIGS / "train.json"),), {}, tmp_path, starts=comparison._starts(earlier, [0, 1]))
    monkeypatch.setattr(arms, "train_arm", lambda *more: pytest.fail("tuned again"))
    assert [arms.teacher_file(plan, seed) for seed in (0, 1)] == [known, known]
    given = arms.Plan(plan.config_files, {"teacher::lora_checkpoint": "mine.pth"}, tmp_path, starts=plan.starts)
    assert arms.teacher_file(given, 0) == {"checkpoint": "mine.pth"}


def test_comparison_that_cannot_be_continued_is_refused_before_any_training(arguments, trained, tmp_path, capsys):
    further = [*arguments, "--continue_from", str(tmp_path / "before")]
    assert main(further) == 1
    assert "holds no comparison.json" in capsys.readouterr().err
    (tmp_path / "before").mkdir()
    (tmp_path / "weights.pt").touch()
    known = {"0": {"checkpoint": str(tmp_path / "weights.pt"), "epochs": 1}}
    state = {"lists": "others", "arms": {"control": known, "student": known}}
    (tmp_path / "before" / "comparison.json").write_text(json.dumps(state))
    assert main(further) == 1
    assert "has not trained control, seed 1" in capsys.readouterr().err
    assert main([*further, "--seeds", "0"]) == 1
    assert "has other lists" in capsys.readouterr().err
    assert trained == []
    assert not (tmp_path / "out").exists()
