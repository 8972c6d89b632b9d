"""The comparison: what is trained and how often, one reading of the test list, what is refused, and what is told all
the same.
"""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, run
from filelock import FileLock

from eval import arms
from eval import compare as program
from eval.arms import Plan, build_arm, parse_overrides, train_arm
from eval.compare import main, teacher_seeds, train_some
from scripts.evaluation.evaluate import predict
from scripts.evaluation.results import read_rows, table
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.trainer import DistillationTrainer

NUM_TEST = 2  # of conftest's phantoms


def lists(arguments: list[str]) -> str:
    return (Path(ast.literal_eval(arguments[arguments.index("--data::dataset_dir") + 1])) / "dataset.json").read_text()


@pytest.fixture
def arguments(overrides, tmp_path):
    """A comparison of seconds."""
    own = {
        key: value
        for key, value in overrides.items()
        if not key.startswith("run_folder") and key not in ("bundle_root", "model_file")
    }
    pairs = [text for key, value in {**own, "training::num_epochs": 1}.items() for text in (f"--{key}", repr(value))]
    return ["--output_dir", str(tmp_path / "out"), "--seeds", "0", "1", *pairs]


@pytest.fixture
def trained(monkeypatch):
    """Arms and seeds in the order in which they are trained."""
    seen, train = [], program.train_arm
    monkeypatch.setattr(
        program, "train_arm", lambda plan, arm, seed, *more: seen.append((arm, seed)) or train(plan, arm, seed, *more)
    )
    return seen


def test_both_students_are_trained_with_every_seed_and_reported(arguments, trained, tmp_path, capsys):
    assert main(arguments) == 0
    assert trained == [("control", 0), ("student", 0), ("control", 1), ("student", 1)]
    rows = read_rows(tmp_path / "out" / "metrics.csv")
    assert {(row["arm"], row["seed"]) for row in rows} == {("teacher", 0), *trained} and len(rows) == 5 * NUM_TEST
    assert {row["case"] for row in rows} == {Path(case["image"]).name for case in json.loads(lists(arguments))["test"]}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["arms"]) == ["teacher", "control", "student"] and len(report["comparisons"]) == 9
    assert set(report["curves"]["student"]) == {"0", "1"} and report["about"]["student, seed 1"].startswith(
        "best_epoch001"
    )
    assert str(tmp_path) not in json.dumps(report["about"])
    assert "<img" in (tmp_path / "out" / "report.html").read_text()
    assert "student - control, dice" in capsys.readouterr().out


def test_repeated_call_trains_nothing_and_leaves_the_test_list_alone(arguments, trained, tmp_path, monkeypatch, capsys):
    assert main(arguments) == 0
    before, trained[:] = (tmp_path / "out" / "metrics.csv").read_bytes(), []
    monkeypatch.setattr(program, "evaluate", None)
    assert main(arguments) == 0
    assert trained == [] and (tmp_path / "out" / "metrics.csv").read_bytes() == before
    assert "was read already" in capsys.readouterr().out


def test_stopped_comparison_goes_on_with_the_next_arm(arguments, trained, tmp_path, monkeypatch):
    def stop(plan, arm, seed, *more):
        if (arm, seed) == ("student", 0):
            raise KeyboardInterrupt
        return train(plan, arm, seed, *more)

    train = program.train_arm
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(program, "train_arm", stop)
        main(arguments)
    assert not (tmp_path / "out" / "metrics.csv").exists()
    trained.clear()
    assert main(arguments) == 0
    assert trained == [("student", 0), ("control", 1), ("student", 1)]


def plan_with(overrides, teacher, folder: Path) -> Plan:
    """Of a comparison whose overlay names the teacher."""
    overlay = folder / "teacher.json"
    overlay.write_text(json.dumps({"teacher::lora_checkpoint": teacher}))
    own = {
        key: value
        for key, value in overrides.items()
        if not key.startswith("run_folder") and key != "teacher::lora_checkpoint"
    }
    return Plan(("configs/train.json", str(overlay)), own, folder / "out")


def test_teacher_of_an_overlay_is_one_teacher_for_all_seeds(overrides, lora_checkpoint, tmp_path):
    plan = plan_with(overrides, f"$'{lora_checkpoint.parent}' + '/{lora_checkpoint.name}'", tmp_path)
    assert plan.given_teacher() == str(lora_checkpoint) and teacher_seeds([3, 4], plan) == {3: 3, 4: 3}
    arms.check_plan(plan)
    assert plan_with(overrides, [f"$'{lora_checkpoint}'"], tmp_path).given_teacher() == [str(lora_checkpoint)]


def test_teacher_of_an_expression_on_the_seed_is_each_seeds_own(overrides, tmp_path):
    plan = plan_with(overrides, "$'teacher' + str(@training::seed) + '.pth'", tmp_path)
    assert [plan.given_teacher(seed) for seed in (3, 4)] == ["teacher3.pth", "teacher4.pth"]
    assert teacher_seeds([3, 4], plan) == {3: 3, 4: 4} and arms.teacher_file(plan, 4) == {"checkpoint": "teacher4.pth"}


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


def test_processes_share_the_arms_and_the_last_call_evaluates(arguments, trained, tmp_path, capsys):
    assert main([*arguments, "--train", "student:1"]) == 0
    assert main([*arguments, "--train", "student", "control:0"]) == 0
    assert trained == [("student", 1), ("control", 0), ("student", 0)]
    assert not (tmp_path / "out" / "metrics.csv").exists() and "report" not in capsys.readouterr().out
    assert main(arguments) == 0
    assert trained[3:] == [("control", 1)] and len(read_rows(tmp_path / "out" / "metrics.csv")) == 5 * NUM_TEST
    assert main([*arguments, "--train", "control:0"]) == 1
    assert "has read the test list already, and trains no more" in capsys.readouterr().err


def test_student_gets_the_teacher_that_another_process_tuned(arguments, tmp_path, trained):
    overlay = tmp_path / "teacher.json"
    overlay.write_text(json.dumps({"training::num_epochs": 1, "training::warmup_epochs": 0, "training::batch_size": 3}))
    given = arguments.index("--teacher::lora_checkpoint")
    own = [*arguments[:given], *arguments[given + 2 :], "--teacher_config", str(overlay)]
    assert main([*own, "--train", "student:0"]) == 1 and trained == []
    assert main([*own, "--train", "teacher:0"]) == 0 and main([*own, "--train", "student:0"]) == 0
    state = json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"]
    config = json.loads((Path(state["student"]["0"]["run"]) / "config.json").read_text())
    assert (
        config["teacher"]["lora_checkpoint"] == state["teacher"]["0"]["checkpoint"]
        and "runs" in state["teacher"]["0"]["run"]
    )


@pytest.mark.parametrize("more", [[], ["--train", "control:0"]])
def test_arm_in_the_hands_of_another_process_is_refused_and_left_alone(arguments, tmp_path, capsys, more):
    run = tmp_path / "out" / "runs" / "phantoms" / "control_seed0"
    run.mkdir(parents=True)
    with FileLock(tmp_path / "out" / "runs" / "control_seed0.lock"):
        assert main([*arguments, *more]) == 1
    assert (
        "control, seed 0 is being trained by another process" in capsys.readouterr().err and list(run.iterdir()) == []
    )


def test_run_of_other_settings_or_another_teacher_is_not_taken_for_this_one(overrides, lora_checkpoint, tmp_path):
    own = {
        **{key: value for key, value in overrides.items() if not key.startswith("run_folder")},
        "training::num_epochs": 1,
    }
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


def test_arm_of_another_process_is_kept(arguments, tmp_path, monkeypatch):
    def train(plan, arm, seed, *more):
        if (arm, seed) == ("control", 0):  # the other process ends while this one trains
            assert main([*arguments, "--train", "control:1"]) == 0
        return {"checkpoint": f"{arm}{seed}.pt"}

    monkeypatch.setattr(program, "train_arm", train)
    assert main([*arguments, "--train", "control:0"]) == 0
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"]["control"]
    assert found == {str(seed): {"checkpoint": f"control{seed}.pt"} for seed in (0, 1)}


@pytest.mark.parametrize("epoch", [1, 2])
def test_arm_killed_in_an_epoch_ends_as_the_whole_one(overrides, tmp_path, monkeypatch, epoch):
    own = {key: value for key, value in overrides.items() if not key.startswith("run_folder")}
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


def test_evaluated_student_has_the_weights_of_its_file(overrides, tmp_path):
    own = {key: value for key, value in overrides.items() if not key.startswith("run_folder")}
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
    assert torch.equal(predict(arm.network, whole, arm.img_size, "cpu"), expected)


def test_teacher_is_on_its_device_before_its_weights_are_read(overrides, tmp_path, monkeypatch):
    """The device decides whether they are kept in bf16."""
    devices = []
    monkeypatch.setattr(FrozenTeacher, "load", lambda self: devices.append(self.anchor.device.type))
    plan = Plan(("configs/train.json",), {**overrides, "device": "meta"}, tmp_path)
    build_arm(plan, "teacher", 0, overrides["teacher::lora_checkpoint"])
    assert devices == ["meta"]


def test_without_a_teachers_file_one_is_tuned_for_each_seed(arguments, trained, monkeypatch, tmp_path, sam_checkpoint):
    tuned, train = [], arms.train_arm
    monkeypatch.setattr(
        arms, "train_arm", lambda plan, arm, seed, *more: tuned.append((arm, seed)) or train(plan, arm, seed, *more)
    )
    overlay = tmp_path / "teacher.json"
    overlay.write_text(json.dumps({"training::num_epochs": 1, "training::warmup_epochs": 0, "training::batch_size": 3}))
    given = arguments.index("--teacher::lora_checkpoint")
    assert main([*arguments[:given], *arguments[given + 2 :], "--teacher_config", str(overlay)]) == 0
    assert [key for key in tuned if key[0] == "teacher"] == [("teacher", 0), ("teacher", 1)]
    state = json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"]
    assert len({run["checkpoint"] for run in state["teacher"].values()}) == 2
    for seed in ("0", "1"):
        config = json.loads((Path(state["student"][seed]["run"]) / "config.json").read_text())
        assert config["teacher"]["lora_checkpoint"] == state["teacher"][seed]["checkpoint"]


def test_start_that_a_teacher_has_taught_is_the_students_alone(overrides, tmp_path):
    (tmp_path / "start.json").write_text(json.dumps({"student::checkpoint": "taught.pt"}))
    plan = Plan(("configs/train.json",), overrides, tmp_path, student_config=(str(tmp_path / "start.json"),))
    starts = {arm: plan.workflow(arm, 0).parser["student::checkpoint"] for arm in ("student", "control", "teacher")}
    assert starts == {"student": "taught.pt", "control": None, "teacher": None}


def test_students_of_another_comparison_are_trained_further_from_their_own_weights(
    arguments, trained, tmp_path, capsys
):
    assert main([*arguments, "--seeds", "0"]) == 0
    first = json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"]
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
    second = json.loads((tmp_path / "further" / "comparison.json").read_text())["arms"]
    report = json.loads((tmp_path / "further" / "report.json").read_text())
    for arm in ("control", "student"):
        start = first[arm]["0"]["checkpoint"]
        config = json.loads((Path(second[arm]["0"]["run"]) / "config.json").read_text())
        assert config["student"]["checkpoint"] == start and config["student"]["pretrained"] is True
        assert report["about"][f"{arm}, seed 0"].endswith(f"from {Path(start).name} after 1 epochs")
        assert second[arm]["0"]["started_from"] == first[arm]["0"]
    assert report["warnings"][0].startswith(
        "The test list was read before, for the comparison that this one goes on from"
    )
    assert main([*arguments, "--seeds", "0", "--output_dir", str(tmp_path / "further")]) == 1
    assert "was begun with another continue_from" in capsys.readouterr().err
    shutil.move(first["control"]["0"]["checkpoint"], tmp_path / "elsewhere.pt")
    assert main([*further, "--output_dir", str(tmp_path / "third")]) == 1
    assert "of --continue_from does not exist any more" in capsys.readouterr().err and not (tmp_path / "third").exists()


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
    control = json.loads((tmp_path / "on" / "comparison.json").read_text())["arms"]["control"]["0"]
    assert control["checkpoint"] == state["arms"]["control"]["0"]["checkpoint"] and control["val_dice"] == 1.5
    about = json.loads((tmp_path / "on" / "report.json").read_text())["about"]
    assert "no epoch better than the start, which is kept" in about["control, seed 0"]


def test_report_names_trained_seeds_that_it_leaves_out_and_tells_the_runs_of_given_files(arguments, trained, tmp_path):
    assert main([*arguments, "--train", "control", "student"]) == 0
    state = json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"]
    at = arguments.index("--seeds")
    assert main([*arguments[:at], "--seeds", "1", *arguments[at + 3 :]]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    left = (
        "Trained here and not evaluated: control, seed 0; student, seed 0. Seeds chosen after their training are "
        "no fair sample."
    )
    assert left in report["warnings"] and report["arms"]["student"]["num_seeds"] == 1

    arguments[1] = str(tmp_path / "again")
    assert main([*arguments, "--checkpoint", f"control:1={state['control']['1']['checkpoint']}"]) == 0
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    told = again["about"]["control, seed 1"]
    assert told == report["about"]["control, seed 1"] and " 1 epochs, " in told
    assert (
        again["curves"]["control"] == report["curves"]["control"]
        and again["arms"]["control"] == report["arms"]["control"]
    )


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
    assert main([*further, "--seeds", "0"]) == 0 and main([*further, "--seeds", "0", "1"]) == 0
    state = json.loads((tmp_path / "on" / "comparison.json").read_text())
    first = json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"]
    starts = {f"{arm} {seed}": first[arm][seed]["checkpoint"] for arm in ("control", "student") for seed in ("0", "1")}
    assert state["continue_from"] == starts and set(state["arms"]["control"]) == {"0", "1"}
    assert trained.count(("control", 0)) == trained.count(("control", 1)) == 2


def test_teacher_of_the_comparison_that_is_continued_is_not_tuned_again(tmp_path, monkeypatch):
    known = {"checkpoint": "tuned.pth", "epochs": 3}
    earlier = {"teacher": {"0": known}, "control": {"0": {}, "1": {}}, "student": {"0": {}, "1": {}}}
    plan = arms.Plan((str(CONFIGS / "train.json"),), {}, tmp_path, starts=program._starts(earlier, [0, 1]))
    monkeypatch.setattr(arms, "train_arm", lambda *more: pytest.fail("tuned again"))
    assert [arms.teacher_file(plan, seed) for seed in (0, 1)] == [known, known]
    given = arms.Plan(plan.config_files, {"teacher::lora_checkpoint": "mine.pth"}, tmp_path, starts=plan.starts)
    assert arms.teacher_file(given, 0) == {"checkpoint": "mine.pth"}


def test_comparison_that_cannot_be_continued_is_refused_before_any_training(arguments, trained, tmp_path, capsys):
    further = [*arguments, "--continue_from", str(tmp_path / "before")]
    assert main(further) == 1 and "holds no comparison.json" in capsys.readouterr().err
    (tmp_path / "before").mkdir()
    (tmp_path / "weights.pt").touch()
    known = {"0": {"checkpoint": str(tmp_path / "weights.pt"), "epochs": 1}}
    state = {"lists": "others", "arms": {"control": known, "student": known}}
    (tmp_path / "before" / "comparison.json").write_text(json.dumps(state))
    assert main(further) == 1 and "has not trained control, seed 1" in capsys.readouterr().err
    assert main([*further, "--seeds", "0"]) == 1 and "has other lists" in capsys.readouterr().err
    assert trained == [] and not (tmp_path / "out").exists()


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
    assert message in capsys.readouterr().err and trained == [] and not (tmp_path / "out").exists()


def test_damaged_teacher_leaves_its_arm_out(arguments, trained, lora_checkpoint, tmp_path, capsys):
    assert main([*arguments, "--seeds", "0"]) == 0
    control = json.loads((tmp_path / "out" / "comparison.json").read_text())["arms"]["control"]["0"]["checkpoint"]
    (tmp_path / "broken.pth").write_bytes(b"broken")
    given = ["--checkpoint", f"teacher={tmp_path / 'broken.pth'}", f"control={control}"]
    more = [*arguments, "--output_dir", str(tmp_path / "other"), *given]
    assert main(more) == 1 and main(more) == 1  # said again, not forgotten
    assert "arm teacher, seed 0 is left out" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "other" / "report.json").read_text())["arms"]) == ["control"]


def test_control_run_of_the_bundle_calls_itself_control(overrides, run_folder):
    run({**overrides, "training::num_epochs": 1}, "train_student.json")
    assert {row["arm"] for row in read_rows(run_folder / "metrics.csv")} == {"control"}


def test_run_that_ended_before_it_was_noted_is_not_trained_again(arguments, trained, tmp_path, capsys):
    assert main([*arguments, "--seeds", "0"]) == 0
    state = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (tmp_path / "out" / "comparison.json").write_text(json.dumps({**state, "arms": {}}))
    (tmp_path / "out" / "metrics.csv").unlink()
    before = (tmp_path / "out" / "runs" / "phantoms" / "student_seed0" / "models" / "last.pt").stat().st_mtime_ns
    assert main([*arguments, "--seeds", "0"]) == 0
    assert (
        tmp_path / "out" / "runs" / "phantoms" / "student_seed0" / "models" / "last.pt"
    ).stat().st_mtime_ns == before


def test_other_settings_or_margin_are_refused(arguments, capsys):
    assert main([*arguments, "--seeds", "0"]) == 0
    for more, name in (["--training::lr", "0.5"], "config"), (["--margin", "0.5"], "margin"):
        assert main([*arguments, "--seeds", "0", *more]) == 1
        assert f"was begun with another {name}" in capsys.readouterr().err


def test_control_keeps_the_views_and_drops_the_rest_of_the_distillation(overrides, tmp_path):
    own = {key: value for key, value in overrides.items() if not key.startswith("run_folder")}
    more = {"distillation::mode": "replay", "distillation::views": 3, "distillation::gamma": 1.0, "training::lr": 0.25}
    plan = Plan(("configs/train.json",), {**own, **more}, tmp_path)
    control, student, teacher = (plan.workflow(arm, 5).parser for arm in ("control", "student", "teacher"))
    assert (control["distillation::gamma"], control["distillation::views"], control["training::lr"]) == (0.0, 3, 0.25)
    assert control["frozen_teacher"] is None and control["distillation::beta"] == 0
    assert (
        not control.get_parsed_content("distillation").needs_teacher
        and student.get_parsed_content("distillation").needs_teacher
    )
    assert (student["distillation::gamma"], student["training::seed"]) == (1.0, 5)
    assert teacher["training::lr"] != 0.25 and teacher["data::img_size"] == student["data::img_size"] == 64


def test_missing_checkpoint_leaves_its_arm_out_and_the_report_tells_the_rest(
    arguments, lora_checkpoint, tmp_path, capsys
):
    given = ["--checkpoint", f"teacher={lora_checkpoint}", f"student:3={tmp_path / 'gone.pt'}"]
    assert main([*arguments, *given]) == 1
    assert "arm student, seed 3 is left out: the checkpoint" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["arms"]) == ["teacher"] and any("gone.pt" in warning for warning in report["warnings"])


def test_no_arm_at_all_is_an_error_without_a_report(arguments, tmp_path, capsys):
    assert main([*arguments, "--checkpoint", f"student={tmp_path / 'gone.pt'}"]) == 1
    assert "no arm can be evaluated" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()


def test_missing_test_list_is_refused_before_any_training(arguments, phantoms, trained, tmp_path, capsys):
    content = json.loads((phantoms / "dataset.json").read_text())
    lists = {split: content[split] for split in ("training", "validation")}
    absolute = {
        split: [{k: str(phantoms / v) if k in ("image", "label") else v for k, v in c.items()} for c in cases]
        for split, cases in lists.items()
    }
    (tmp_path / "dataset.json").write_text(json.dumps({**content, **absolute, "test": []}))
    assert main([*arguments, "--data::datalist", str(tmp_path / "dataset.json")]) == 1
    assert "has no test cases" in capsys.readouterr().err and trained == []


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
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["comparisons"]) == 3


def test_tables_of_other_cases_are_told_but_not_compared(tmp_path, capsys):
    files = [
        write(tmp_path / "a.csv", rows_of("student", range(12))),
        write(tmp_path / "b.csv", rows_of("control", range(1, 13))),
    ]
    assert main(["--output_dir", str(tmp_path / "out"), "--tables", *files]) == 1
    assert "12.png" in capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["arms"]) == {"student", "control"} and report["comparisons"] == []


def test_all_predictions_empty_and_unknown_patients_are_warnings(tmp_path):
    empty = rows_of("student", range(12), patient="", empty_prediction=1, one_empty=1, predicted_area=0)
    assert main(["--output_dir", str(tmp_path / "out"), "--tables", write(tmp_path / "a.csv", empty)]) == 0
    warnings = " ".join(json.loads((tmp_path / "out" / "report.json").read_text())["warnings"])
    assert "patient" in warnings and "empty" in warnings


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
