"""The recipes: every one runs on tiny networks and goes on where it was; what is noise is called so."""

import json

import pytest

from eval import recipes
from eval.arms import Plan
from eval.recipes import RECIPES, main, summarize, table


@pytest.fixture
def arguments(overrides, phantoms, tmp_path, monkeypatch):
    tiny = {"neck": 6, "backbone": 24}  # channels of the tiny student's features
    fitting = {
        name: (arm, {**own, "distillation::student_channels": tiny[own.get("distillation::features", "neck")]}, base)
        for name, (arm, own, base) in RECIPES.items()
    }
    monkeypatch.setattr(recipes, "RECIPES", fitting)
    keep = ("teacher::", "student::", "hardware::", "training::batch_size")
    own = {key: value for key, value in overrides.items() if key.startswith(keep) and key != "teacher::cache_dir"}
    own |= {"data::img_size": 64, "training::warmup_epochs": 0}
    pairs = [text for key, value in own.items() for text in (f"--{key}", repr(value))]
    return [
        "--output_dir",
        str(tmp_path / "out"),
        "--dataset_dir",
        str(phantoms),
        "--seeds",
        "0",
        "--epochs",
        "1",
        "--num_images",
        "4",
        "--results",
        str(tmp_path / "recipes.json"),
        *pairs,
    ]


def test_every_recipe_runs_and_is_kept(arguments, tmp_path, monkeypatch, caplog):
    assert main(arguments) == 0
    report = json.loads((tmp_path / "recipes.json").read_text())
    assert list(report["recipes"]) == list(RECIPES)
    assert str(tmp_path) not in json.dumps(report)
    assert report["recipes"]["gate agreement"]["base"] == "distillation as it is"
    assert caplog.messages[-1].splitlines()[-1].startswith("| temperature 1, gamma 1, whiten, features backbone |")
    assert len(json.loads((tmp_path / "out" / "dataset.json").read_text())["training"]) == 4
    monkeypatch.setattr(Plan, "workflow", no_training(Plan.workflow))
    assert main(arguments) == 0
    assert json.loads((tmp_path / "recipes.json").read_text())["recipes"] == report["recipes"]


def test_augmentations_are_measured_by_probes_too(arguments, tmp_path, monkeypatch, caplog):
    kept = {name: recipes.AUGMENTATIONS[name] for name in (recipes.PLAIN, "all together")}
    monkeypatch.setattr(recipes, "AUGMENTATIONS", kept)
    monkeypatch.setattr(recipes, "PROBED", ("left", "text"))
    assert main([*arguments, "--recipes", "augmentation", "--cases", "2"]) == 0
    report = json.loads((tmp_path / "recipes.json").read_text())["recipes"]
    assert list(report) == list(kept)
    assert all(set(row["probes"]) == {"left", "text"} for row in report.values())
    text = caplog.messages[-1].splitlines()
    assert text[0].endswith("| gain over its base | left | text |")
    assert len({line.count("|") for line in text}) == 1


def test_augmentations_name_keys_of_the_section():
    from inspect import signature

    from scripts.data.transforms import joint_augmentation

    keys = {key for _, changes, _ in recipes.AUGMENTATIONS.values() for key in changes}
    assert {key.removeprefix("augmentation::") for key in keys} <= set(signature(joint_augmentation).parameters)


def test_teacher_of_an_overlay_is_used_and_not_mixed_with_a_former_ones_runs(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "RECIPES", {"distillation as it is": recipes.RECIPES["distillation as it is"]})
    given = arguments.index("--teacher::lora_checkpoint")
    own, teacher = [*arguments[:given], *arguments[given + 2 :]], arguments[given + 1].strip("'")
    overlay = tmp_path / "overlay.json"
    overlay.write_text(json.dumps({"teacher::lora_checkpoint": teacher}))
    config = ["--config_file", "configs/train.json", str(overlay)]
    assert main([*own, *config]) == 0
    overlay.write_text(json.dumps({"teacher::lora_checkpoint": teacher, "teacher::flips": True}))
    assert main([*own, *config]) == 1
    assert "was trained with other settings or another teacher; pass another --output_dir" in capsys.readouterr().err


def test_missing_data_set_is_an_error(arguments, capsys):
    given = arguments.index("--dataset_dir")
    assert main([*arguments[:given], *arguments[given + 2 :]]) == 1
    assert "--dataset_dir is required; pass the folder of dataset.json" in capsys.readouterr().err


def no_training(workflow):
    def build(*args):
        flow = workflow(*args)
        flow.run = None
        return flow

    return build


def test_gain_inside_the_seeds_spread_is_noise():
    found = {
        "a": {"dice": {"0": 0.5, "1": 0.6}},
        "b": {"dice": {"0": 0.55, "1": 0.61}},
        "c": {"dice": {"0": 0.7, "1": 0.81}},
    }
    for name in found:
        summarize(found, name, None if name == "a" else "a")
    assert found["b"]["gain"] == pytest.approx(0.03)
    assert found["b"]["gain_spread"] == pytest.approx(0.04)
    rows = table(found).splitlines()[2:]
    assert rows == [
        "| a | 0.550 (0.100) |  |",
        "| b | 0.580 (0.060) | +0.030, noise |",
        "| c | 0.755 (0.110) | +0.205, gain |",
    ]


def test_gain_of_one_seed_is_called_neither_gain_nor_noise():
    found = {"a": {"dice": {"0": 0.5}}, "b": {"dice": {"0": 0.55}}}
    for name in found:
        summarize(found, name, None if name == "a" else "a")
    assert table(found).splitlines()[3] == "| b | 0.550 (0.000) | +0.050, one seed |"


def test_missing_teacher_is_an_error(arguments, capsys):
    assert main([*arguments, "--teacher::lora_checkpoint", "None"]) == 1
    assert "lora_checkpoint" in capsys.readouterr().err
