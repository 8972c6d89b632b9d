"""Suggested settings: the rules, their sources, and that trainings take them."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIGS, ROOT, run, workflow

from scripts.check_data.cases import GRID, Lesions, Seen
from scripts.check_data.suggest import (
    BASE_MB,
    LARGEST_SIDE,
    MB_A_MEGAPIXEL,
    MOST_ITEM_BYTES,
    make_plan,
    needed_mb,
    overlay,
    write_settings,
)
from scripts.check_data.survey import Survey, take_survey
from scripts.data.prepared import MOST_BYTES
from scripts.data.prior import Center
from scripts.run.config_check import check_config
from scripts.utils import machine

GB = 10**9


def survey(training=100, labels=("background", "lesion"), share=0.1, size=(300, 200), unlabeled=0, **columns):
    """A data set with this many images and lesions of this share of the image."""
    items = [{"image": f"/data/{i}.png", "label": f"/data/m{i}.png", **columns} for i in range(training)]
    lesions = Lesions({1: share}, Center(0.5, 0.5, 0.3), 1, 0, np.zeros((GRID, GRID), np.float32))
    numbers = {"training": training, "validation": 10, "test": 10, "unlabeled": unlabeled}
    lists = {"training": items, "validation": [], "test": [], "unlabeled": []}
    seen = [Seen(item, "training", size, "PNG", 0.5, 0.2, lesions) for item in items]
    return Survey(Path("/data"), Path("/data/dataset.json"), list(labels), lists, [], numbers, seen)


def settings(memory=None, **kwargs):
    return make_plan(survey(**kwargs), memory).settings


def test_memory_follows_the_benchmark():
    fits = {fit["name"]: fit for fit in json.loads((ROOT / "eval" / "results" / "benchmark.json").read_text())["fits"]}
    sides, peaks = zip(*fits["student step, peak MB over image size"]["points"])
    slope, base = np.polyfit([16 * side**2 / 1e6 for side in sides], peaks, 1)
    assert (pytest.approx(base, abs=1), pytest.approx(slope, abs=1)) == (BASE_MB, MB_A_MEGAPIXEL)


def test_batch_is_the_recipes_where_it_fits():
    assert settings(64 * GB)["training::batch_size"] == settings(None)["training::batch_size"] == 8


def test_batch_is_halved_until_it_fits():
    small = settings(2.3 * GB)["training::batch_size"]
    assert 1 <= small < 8
    assert needed_mb(small, 224, 120) * 1e6 <= 0.7 * 2.3 * GB < needed_mb(2 * small, 224, 120) * 1e6
    assert settings(GB)["training::batch_size"] == 1


def batch_reason(memory, **kwargs):
    return next(one.reason for one in make_plan(survey(**kwargs), memory).suggestions if one.title == "Batch")


def test_batch_says_whose_it_is_and_that_nothing_fits():
    assert batch_reason(64 * GB).startswith("The recipe's. ")
    assert batch_reason(64 * GB, training=0, unlabeled=9).startswith("The default. ")
    assert batch_reason(2.3 * GB).startswith("Less than the recipe's 8, ")
    assert batch_reason(GB).startswith("Even a batch of 1 needs about 1.5 GB")


def test_images_take_memory_up_to_what_the_prepared_items_do():
    assert MOST_ITEM_BYTES == MOST_BYTES
    none, many = (needed_mb(1, 224, number) for number in (0, 40_000))
    assert many - none == pytest.approx(MOST_BYTES / 1e6)
    assert needed_mb(1, 224, 1000) - none == pytest.approx(1000 * (4 + 1) * 224**2 / 1e6)


@pytest.mark.parametrize(("images", "epochs"), [(1047, 58), (350, 150), (115, 150), (5000, 12), (90000, 10)])
def test_epochs_give_as_many_steps_as_were_measured(images, epochs):
    assert settings(training=images)["training::num_epochs"] == epochs


@pytest.mark.parametrize(
    ("share", "size", "side"),
    [(0.1, (512, 512), 224), (0.0025, (512, 512), 288), (0.0001, (512, 512), LARGEST_SIDE), (0.0025, (240, 200), 240)],
)
def test_image_size_grows_for_lesions_within_a_patch(share, size, side):
    assert settings(share=share, size=size)["data::img_size"] == side


def test_shared_teacher_is_for_its_classes_alone():
    assert settings()["teacher::lora_checkpoint"] == overlay("shared_teacher.json")["teacher::lora_checkpoint"]
    plan = make_plan(survey(labels=("background", "nerve", "vessel")), None)
    assert plan.kind == "tune"
    assert "teacher::lora_checkpoint" not in plan.settings
    assert plan.settings["data::num_classes"] == 3


def test_every_suggestion_has_a_reason():
    for one in make_plan(survey(unlabeled=5, device="GE"), 8 * GB).suggestions:
        assert one.reason.endswith(".")


@pytest.mark.parametrize("labels", [("background", "lesion"), ("background", "head")])
@pytest.mark.parametrize("others", [[], ["train_student.json"], ["train_teacher.json"]])
def test_settings_pass_the_check_of_configs(labels, others, tmp_path):
    path = tmp_path / "settings.json"
    content = write_settings(make_plan(survey(labels=labels), None), survey())
    path.write_text(json.dumps(content))
    check_config(workflow({}, str(path), *others).parser.config)


def test_settings_are_keys_of_train_json():
    train = json.loads((CONFIGS / "train.json").read_text())
    for key in settings():
        section, name = key.split("::")
        assert name in train[section]


def test_settings_pretrain(tmp_path):
    path = tmp_path / "settings.json"
    unlabeled = survey(training=0, unlabeled=9)
    path.write_text(json.dumps(write_settings(make_plan(unlabeled, None), unlabeled)))
    check_config(workflow({}, "pretrain.json", str(path)).parser.config)


def test_settings_train(phantoms, overrides, run_folder, tmp_path):
    found = take_survey(phantoms, phantoms / "dataset.json")
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(write_settings(make_plan(found, None), found)))
    theirs = ("data::dataset_dir", "training::batch_size", "training::warmup_epochs", "teacher::lora_checkpoint")
    small = {key: value for key, value in overrides.items() if key not in theirs}
    run({**small, "training::warmup_epochs": 0}, "train_student.json", str(path))
    assert (run_folder / "test_results.txt").is_file()


def test_memory_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP_LIMIT", limit)
    installed = machine.total_memory()
    limit.write_text("max\n")
    assert machine.total_memory() == installed
    limit.write_text("1000000\n")
    assert machine.total_memory() == 1000000
