"""What a comparison refuses, and what it leaves out and says so."""

import json
import shutil

import pytest
import torch
from comparing import read_report, read_state, settings_of

from eval import comparison
from eval.arms import Plan, train_arm
from eval.command_line import parse_overrides
from eval.compare import main

pytest_plugins = "comparison_fixtures"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--distillation::gamm", "1.0"], "unknown key distillation::gamm; did you mean distillation::gamma"),
        (["--distillation::dist_inter", "1.0"], "dist_inter"),
        (["--hardware::precision", "fp99"], "hardware::precision must be one of"),
        (["--data::dataset_dir", "nowhere"], "data::dataset_dir"),
    ],
)
def test_bad_settings_are_refused_before_the_first_training(arguments, trained, tmp_path, capsys, more, message):
    assert main([*arguments, *more]) == 1
    assert message in capsys.readouterr().err
    assert trained == []
    assert not (tmp_path / "out").exists()


def test_missing_test_list_is_refused_before_any_training(arguments, phantoms, trained, tmp_path, capsys):
    content = json.loads((phantoms / "dataset.json").read_text())
    lists = {split: content[split] for split in ("training", "validation")}
    absolute = {
        split: [{k: str(phantoms / v) if k in ("image", "label") else v for k, v in c.items()} for c in cases]
        for split, cases in lists.items()
    }
    (tmp_path / "dataset.json").write_text(json.dumps({**content, **absolute, "test": []}))
    assert main([*arguments, "--data::datalist", str(tmp_path / "dataset.json")]) == 1
    assert "has no test cases" in capsys.readouterr().err
    assert trained == []


def test_run_of_other_settings_or_another_teacher_is_not_taken_for_this_one(overrides, lora_checkpoint, tmp_path):
    own = {**settings_of(overrides), "training::num_epochs": 1}
    train_arm(Plan(("configs/train.json",), own, tmp_path), "control", 0)
    with pytest.raises(
        ValueError, match="control_seed0 was trained with other settings or another teacher; pass another"
    ):
        train_arm(Plan(("configs/train.json",), {**own, "training::lr": 2e-3}, tmp_path), "control", 0)
    teacher = tmp_path / "teacher.pth"
    shutil.copy(lora_checkpoint, teacher)
    plan = Plan(("configs/train.json",), {**own, "teacher::lora_checkpoint": str(teacher)}, tmp_path)
    first = train_arm(plan, "student", 0, str(teacher))
    assert train_arm(plan, "student", 0, str(teacher))["checkpoint"] == first["checkpoint"]
    content = torch.load(teacher, weights_only=True)
    torch.save({key: value if isinstance(value, str) else value + 0.01 for key, value in content.items()}, teacher)
    with pytest.raises(ValueError, match="student_seed0 was trained with other settings or another teacher"):
        train_arm(plan, "student", 0, str(teacher))


def test_other_settings_or_margin_are_refused(arguments, capsys):
    assert main([*arguments, "--seeds", "0"]) == 0
    for more, name in (["--training::lr", "0.5"], "config"), (["--margin", "0.5"], "margin"):
        assert main([*arguments, "--seeds", "0", *more]) == 1
        assert f"was begun with another {name}" in capsys.readouterr().err


def test_damaged_teacher_leaves_its_arm_out(arguments, trained, lora_checkpoint, tmp_path, capsys):
    assert main([*arguments, "--seeds", "0"]) == 0
    control = read_state(tmp_path / "out")["arms"]["control"]["0"]["checkpoint"]
    (tmp_path / "broken.pth").write_bytes(b"broken")
    given = ["--checkpoint", f"teacher={tmp_path / 'broken.pth'}", f"control={control}"]
    more = [*arguments, "--output_dir", str(tmp_path / "other"), *given]
    assert main(more) == 1
    assert main(more) == 1  # said again, not forgotten
    assert "arm teacher, seed 0 is left out" in capsys.readouterr().err
    assert list(read_report(tmp_path / "other")["arms"]) == ["control"]


def test_missing_checkpoint_leaves_its_arm_out_and_the_report_tells_the_rest(
    arguments, lora_checkpoint, tmp_path, capsys
):
    given = ["--checkpoint", f"teacher={lora_checkpoint}", f"student:3={tmp_path / 'gone.pt'}"]
    assert main([*arguments, *given]) == 1
    assert "arm student, seed 3 is left out: the checkpoint" in capsys.readouterr().err
    report = read_report(tmp_path / "out")
    assert list(report["arms"]) == ["teacher"]
    assert any("gone.pt" in warning for warning in report["warnings"])


def test_no_arm_at_all_is_an_error_without_a_report(arguments, tmp_path, capsys):
    assert main([*arguments, "--checkpoint", f"student={tmp_path / 'gone.pt'}"]) == 1
    assert "no arm can be evaluated" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seeds", "1", "1"], "holds one twice"),
        (["--margin", "0"], "--margin must be positive, got 0.0"),
        (["--training::lr"], "has no partner"),
        (["training::lr", "1"], "unknown argument training::lr"),
        (["--tables", "gone.csv"], "gone.csv does not exist"),
        (["--checkpoint", "pupil=x.pt"], "must be ARM"),
        (["--train", "pupil"], "--train pupil must be ARM[:SEED] with an arm of"),
        (["--train", "student:7"], "--train student:7 is no part of the comparison of --seeds 0 1."),
        (["--train", "control", "--checkpoint", "student=x.pt"], "--train goes with neither --checkpoint nor --tables"),
        (
            ["--continue_from", "logs", "--checkpoint", "student=x.pt"],
            "--continue_from goes with neither --checkpoint nor --tables",
        ),
        (
            ["--train", "student:1", "--teacher::lora_checkpoint", "None"],
            "needs its teacher; train that first, with --train",
        ),
        (["--checkpoint", "student=a.pt", "student:0=b.pt"], "names an arm and seed twice"),
    ],
)
def test_bad_arguments_are_refused(arguments, capsys, more, message):
    assert main([*arguments, *more]) == 1
    assert message in capsys.readouterr().err


def test_overrides_are_literals_or_texts():
    assert parse_overrides(["--training::lr", "1e-3", "--a::b", "some/path", "--hardware::gpu_ids", "[]"]) == {
        "training::lr": 1e-3,
        "a::b": "some/path",
        "hardware::gpu_ids": [],
    }


SPOILT = [
    b"",
    b"{",
    b"\xff\x00",
    b"[]",
    b"{}",
    b'{"config": "", "lists": "", "margin": 0.02, "arms": {"student": {"0": {}}}}',
]


@pytest.mark.parametrize("content", SPOILT)
def test_spoilt_state_is_named_with_what_is_kept(tmp_path, content):
    path = tmp_path / "comparison.json"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match="comparison.json is damaged .* move it away .*runs holds is not trained again"
    ):
        comparison.read_state(path)
    assert path.read_bytes() == content
