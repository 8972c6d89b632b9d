"""Several organs by one recipe: what is trained and told, one student for all of them, and what is refused."""

import json
import logging

import numpy as np
import pytest
import torch
from comparing import no_training, settings_of
from conftest import ROOT
from PIL import Image
from torch import nn

from eval.organs.__main__ import main
from eval.organs.lists import joint_classes, read_sets, write_lists
from eval.organs.page import BEGIN, END, answer, block, write_block
from scripts.data.phantoms import write_phantom_dataset
from scripts.evaluation.evaluate import Arm
from scripts.networks.student import Student, build_student

KEPT = ("teacher::model_name", "teacher::img_size", "teacher::sam_checkpoint", "student::", "hardware::")
VALUES = ("training::warmup_epochs", "training::batch_size", "training::num_workers")


def write_set(folder, names, seed):
    """Phantoms with these foreground classes; a second one is a square in a corner."""
    write_phantom_dataset(folder, num_training=5, num_validation=2, num_test=2, seed=seed, size=64)
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"] = {str(number): name for number, name in enumerate(["background", *names])}
    path.write_text(json.dumps(content))
    for label in folder.glob("labels/*.png") if len(names) > 1 else ():
        mask = (np.asarray(Image.open(label)) > 0).astype(np.uint8)
        mask[50:60, 4:20] = 2
        Image.fromarray(mask).save(label)
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A set of one organ and one of two."""
    folder = tmp_path_factory.mktemp("organs")
    return [write_set(folder / "breast", ["lesion"], 3), write_set(folder / "arm", ["nerve", "vessel"], 4)]


@pytest.fixture
def arguments(overrides, sets, tmp_path):
    own = {key: value for key, value in settings_of(overrides).items() if key.startswith((*KEPT, *VALUES))}
    pairs = [text for key, value in own.items() for text in (f"--{key}", repr(value))]
    short = ["--epochs", "1", "--teacher_epochs", "1", "--img_size", "64", "--num_images", "4"]
    config = ["--config_file", "configs/train.json", "configs/from_scratch.json"]
    overlay = ["--distillation::student_channels", "24"]  # of the tiny student's backbone
    places = ["--output_dir", str(tmp_path / "out"), "--results", str(tmp_path / "organs.json")]
    return [*places, "--sets", *map(str, sets), *short, *config, *overlay, *pairs]


def read_results(tmp_path):
    return json.loads((tmp_path / "organs.json").read_text())


def test_organs_are_trained_measured_told_and_kept(arguments, tmp_path, monkeypatch, caplog):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    with caplog.at_level(logging.INFO):
        assert main([*arguments, "--joint", "--write", str(page)]) == 0
    results = read_results(tmp_path)
    assert str(tmp_path) not in json.dumps(results)
    assert results["list"] == "validation"
    assert list(results["sets"]) == ["breast", "arm"]
    assert list(results["sets"]["arm"]["arms"]) == ["teacher", "control", "student", "joint teacher", "joint student"]
    assert results["sets"]["breast"]["sizes"] == {"training": 4, "validation": 2, "test": 2}
    assert results["joint"]["classes"] == ["background", "lesion", "nerve", "vessel"]
    assert results["joint"]["sizes"]["training"] == 8
    assert set(results["joint"]["trainings"]) == {"teacher", "student"}
    compared = {
        (row["arm"], row["reference"], row["metric"], row["margin"]) for row in results["sets"]["arm"]["comparisons"]
    }
    assert ("joint student", "student", "dice_class2", 0.01) in compared
    assert ("student", "control", "dice", None) in compared
    text = page.read_text()
    assert text == f"before\n{BEGIN}\n\n{block(results)}\n\n{END}\nafter\n"
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[0] for row in rows] == ["| lesion (breast)", "| nerve (arm)", "| vessel (arm)"]
    no_training(monkeypatch)
    assert main([*arguments, "--joint"]) == 0
    again = read_results(tmp_path)
    assert again["sets"] == results["sets"]
    with caplog.at_level(logging.INFO):
        assert main(["--show", str(tmp_path / "organs.json")]) == 0
    assert caplog.messages[-1] == block(results)


def test_joint_masks_hold_each_organs_own_classes(arguments, sets, tmp_path, monkeypatch):
    monkeypatch.setattr("eval.organs.trainings.train_tasks", lambda tasks, seeds: {})
    assert main([*arguments, "--joint", "--train", "joint"]) == 0
    joint = json.loads((tmp_path / "out" / "joint" / "dataset.json").read_text())
    values = {}
    for item in joint["training"]:
        mask = np.asarray(Image.open(tmp_path / "out" / "joint" / item["label"]))
        values.setdefault(item["set"], set()).update(np.unique(mask).tolist())
    assert values == {"breast": {0, 1}, "arm": {0, 2, 3}}


def test_parts_are_trained_alone_and_measured_by_the_call_without_train(arguments, tmp_path, monkeypatch):
    for name in ("arm", "breast"):
        assert main([*arguments, "--train", name]) == 0
        assert not (tmp_path / "organs.json").exists()
    no_training(monkeypatch)
    assert main([*arguments, "--test"]) == 0
    results = read_results(tmp_path)
    assert results["list"] == "test"
    assert "joint" not in results
    assert (tmp_path / "out" / "sets" / "arm" / "metrics_test.csv").is_file()
    assert not (tmp_path / "out" / "sets" / "arm" / "metrics_validation.csv").exists()


def test_students_of_any_classes_start_from_a_trained_backbone(arguments, tmp_path, monkeypatch):
    student = build_student(Student("TinyUSFM_Test", pretrained=False), num_classes=5, img_size=32)
    torch.save(student.state_dict(), tmp_path / "student.pt")
    seen = {}

    def look(tasks, seeds):
        for task in tasks:
            seen[task.organs.name] = task.plan.workflow("student", 0).parser.get_parsed_content("network_def")
        return {}

    monkeypatch.setattr("eval.organs.trainings.train_tasks", look)
    assert main([*arguments, "--train", "arm", "--backbone_of", str(tmp_path / "student.pt")]) == 0
    assert torch.equal(seen["arm"].backbone.blocks[0].mlp.fc1.weight, student.backbone.blocks[0].mlp.fc1.weight)
    assert main([*arguments, "--train", "arm", "--student::checkpoint", str(tmp_path / "student.pt")]) == 1


def test_training_images_that_look_like_held_out_ones_are_left_out(sets, tmp_path):
    folder = write_set(tmp_path / "breast", ["lesion"], 3)
    content = json.loads((folder / "dataset.json").read_text())
    first, held_out = content["training"][0]["image"], content["test"][0]["image"]
    Image.open(folder / held_out).resize((90, 90)).save(folder / first)
    (source,) = read_sets([folder])
    organs = write_lists(source, 10, tmp_path / "out")
    assert organs.left_out == 1
    assert organs.sizes == {"training": 4, "validation": 2, "test": 2}
    kept = json.loads(organs.datalist.read_text())["training"]
    assert str(folder / first) not in [item["image"] for item in kept]
    with pytest.raises(ValueError, match="was made of other lists or another --num_images; pass another --output_dir"):
        write_lists(source, 3, tmp_path / "out")


def test_training_images_are_spread_over_the_list(sets, tmp_path):
    source = read_sets(sets[:1])[0]
    organs = write_lists(source, 3, tmp_path)
    images = [item["image"] for item in source.lists["training"]]
    assert [item["image"] for item in json.loads(organs.datalist.read_text())["training"]] == images[::2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sets", "{arm}", "--joint"], "--joint needs two sets or more, got arm; add one to --sets, or leave"),
        (
            ["--sets", "{arm}", "{nothing}"],
            "nothing holds no dataset.json; build it with python -m scripts.make_datalist",
        ),
        (["--sets", "{arm}", "{arm}"], "two of --sets are called arm, after their folders; name each once"),
        (
            ["--sets", "{arm}", "{twin}", "--joint"],
            "arm and twin both have a class nerve, and each organ needs classes",
        ),
        (["--sets", "{arm}", "{joint}"], "a set of --sets is called joint, as the set of all sets is here; rename its"),
        (["--sets", "{arm}", "{halved}"], "has no validation images; leave it out, or split it anew"),
        (["--train", "leg"], "--train leg is none of the sets here; they are breast, arm"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--seeds", "0", "0"], "--seeds holds one twice: [0, 0]; each seed is one training"),
        (["--data::num_classes", "3"], "--data::num_classes cannot be given here: it follows from each set's labels"),
        (["--dataset_dir", "x"], "--data::dataset_dir cannot be given here: name the folders with --sets"),
        (["--teacher::lora_checkpoint", "x"], "--teacher::lora_checkpoint cannot be given here: each set's teacher is"),
        (["--trainig::lr", "1"], "unknown section 'trainig' in --trainig::lr; did you mean --training::lr"),
        (["--training::lrr", "1"], "unknown key training::lrr; did you mean training::lr"),
        (["--backbone_of", "gone.pt"], "backbone_of gone.pt does not exist; pass --backbone_of PATH"),
        (["--teacher_config", "gone.json"], "config file gone.json does not exist"),
        (["--show", "gone.json"], "--show gone.json does not exist; run python -m eval.organs first"),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(arguments, sets, tmp_path, capsys, more, message):
    places = {"arm": sets[1], **{name: tmp_path / name for name in ("nothing", "twin", "joint", "halved")}}
    if "twin" in str(more):
        write_set(places["twin"], ["nerve"], 5)
    if "{joint}" in more:
        write_set(places["joint"], ["plexus"], 5)
    if "halved" in str(more):
        write_set(places["halved"], ["plexus"], 5)
        content = json.loads((places["halved"] / "dataset.json").read_text())
        (places["halved"] / "dataset.json").write_text(json.dumps({**content, "validation": []}))
    assert main([*arguments, *(word.format(**places) for word in more)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("organs: ")
    assert message in line
    assert not (tmp_path / "organs.json").exists()
    assert not (tmp_path / "out").exists()


def test_joint_list_of_other_sets_is_refused(arguments, sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("eval.organs.trainings.train_tasks", lambda tasks, seeds: {})
    assert main([*arguments, "--joint", "--train", "joint"]) == 0
    third = write_set(tmp_path / "leg", ["muscle"], 6)
    assert main([*arguments, "--joint", "--train", "joint", "--sets", *map(str, sets), str(third)]) == 1
    assert "was made of other sets; pass another --output_dir" in capsys.readouterr().err.splitlines()[-1]


def test_classes_of_the_joint_list_are_apart(sets, tmp_path):
    organs = [write_lists(source, 3, tmp_path) for source in read_sets(sets)]
    assert joint_classes(organs) == {"breast": [1], "arm": [2, 3]}


def test_teacher_is_tuned_once_and_teaches_the_students_of_all_seeds(arguments, monkeypatch):
    seen = []

    def train(plan, arm, seed, teacher=None):
        seen.append((plan.output_dir.name, arm, seed, teacher))
        return {"checkpoint": f"{arm}{seed}"}

    monkeypatch.setattr("eval.organs.trainings.train_arm", train)
    monkeypatch.setattr("eval.organs.trainings.teacher_file", lambda plan, seed: train(plan, "teacher", seed))
    assert main([*arguments, "--joint", "--train", "arm", "joint", "--seeds", "3", "5"]) == 0
    assert seen == [
        ("arm", "teacher", 3, None),
        ("arm", "control", 3, "teacher3"),
        ("arm", "student", 3, "teacher3"),
        ("joint", "teacher", 3, None),
        ("joint", "student", 3, "teacher3"),
        ("arm", "control", 5, "teacher3"),
        ("arm", "student", 5, "teacher3"),
        ("joint", "student", 5, "teacher3"),
    ]


@pytest.mark.parametrize(("more", "epochs"), [([], (3, 3, 2)), (["--same_steps"], (4, 4, 3))])
def test_smaller_lists_get_more_epochs_where_asked(arguments, monkeypatch, more, epochs):
    seen = []

    def note(tasks, seeds):
        for task in tasks:
            parsers = [task.plan.workflow(arm, 0).parser for arm in ("student", "teacher")]
            seen.append(tuple(parser.get_parsed_content("training::num_epochs") for parser in parsers))
        return {}

    monkeypatch.setattr("eval.organs.trainings.train_tasks", note)
    words = ["--num_images", "7", "--epochs", "3", "--teacher_epochs", "2", *more]
    assert main([*arguments, *words, "--joint", "--train", "breast", "joint"]) == 0
    assert seen == [(epochs[0], epochs[2]), (epochs[1], epochs[2])]  # lists of 5 and of 10 images


def test_joint_networks_are_asked_for_the_sets_own_classes(arguments, monkeypatch, tmp_path):
    runs = {"teacher": {"checkpoint": "t"}, "student": {"checkpoint": "s"}}
    monkeypatch.setattr(
        "eval.organs.trainings.train_tasks",
        lambda tasks, seeds: {task.organs.name: {(arm, 0): run for arm, run in runs.items()} for task in tasks},
    )
    monkeypatch.setattr("eval.organs.scores.build_arm", lambda plan, arm, seed, path: Arm(arm, nn.Identity(), 64, seed))
    seen = {}

    def note(task, arms, split):
        seen[task.organs.name] = {arm.name: getattr(arm.network, "classes", None) for arm in arms}
        return {}

    monkeypatch.setattr("eval.organs.scores.score_set", note)
    monkeypatch.setattr("eval.organs.__main__.block", lambda results: "table")
    assert main([*arguments, "--joint"]) == 0
    whole = {"teacher": None, "student": None}
    assert seen == {
        "breast": {**whole, "joint teacher": [1], "joint student": [1]},
        "arm": {**whole, "joint teacher": [2, 3], "joint student": [2, 3]},
    }


def test_page_holds_the_figures_of_the_results():
    path = ROOT / "eval" / "results" / "organs.json"
    if not path.is_file():
        pytest.skip("the organs are not measured yet")
    text = (ROOT / "docs" / "organs.md").read_text(encoding="utf-8")
    assert f"{BEGIN}\n\n{block(json.loads(path.read_text()))}\n\n{END}" in text


@pytest.mark.parametrize(
    ("difference", "low", "high", "told"),
    [
        (0.004, -0.005, 0.02, "no, with the whole interval"),
        (-0.004, -0.02, 0.01, "no, but the interval leaves it open"),
        (-0.012, -0.03, 0.001, "yes, but the interval leaves it open"),
        (-0.05, -0.07, -0.02, "yes, with the whole interval"),
    ],
)
def test_answer_to_whether_it_is_worse_says_how_sure_it_is(difference, low, high, told):
    row = {"difference": difference, "low": low, "high": high, "margin": 0.01, "num_patients": 20}
    assert answer(row) == told
    assert answer({**row, "num_patients": 1}).endswith("but the interval leaves it open")


def test_page_without_markers_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("text\n")
    with pytest.raises(ValueError, match="has no lines <!-- written by python -m eval.organs --> and <!-- end -->"):
        write_block("table", tmp_path / "page.md")
