"""What MONAI's configuration ignores, found before anything is built."""

import json

import pytest
from conftest import CONFIGS
from shipped_config import train_config

from scripts.run.config_check import check_config, checked_config, known_ids, refuse_none

OVERLAYS = sorted(path.name for path in CONFIGS.glob("*.json"))
OVERLAYS = [name for name in OVERLAYS if name not in ("train.json", "inference.json", "metadata.json")]


def test_shipped_config_passes():
    check_config(train_config())
    check_config(json.loads((CONFIGS / "inference.json").read_text()))


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_passes(name):
    below = ["multi_gpu_train.json"] if name == "multi_gpu_evaluate.json" else []
    check_config(train_config(*below, name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temperatur", "unknown id 'temperatur'.*did you mean --distillation::temperature"),
        ("distilation", "unknown id 'distilation'.*did you mean --distillation"),
        ("training.lr", "unknown id 'training.lr'.*write --training::lr, with two colons"),
        ("training.lrr", "unknown id 'training.lrr'.*did you mean --training::lr"),
        ("qqqq", "unknown id 'qqqq'.*ids are .*distillation"),
    ],
)
def test_unknown_top_level_id_is_refused_with_the_nearest_one(name, message):
    with pytest.raises(ValueError, match=message):
        check_config({**train_config(), name: 1})


def test_own_id_that_something_refers_to_is_allowed():
    check_config({**train_config(**{"training::lr": "@my_rate"}), "my_rate": 1e-3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training::learning_rate": 1}, "unknown key training::learning_rate"),
        (
            {"teacher::lora_checkpont": "x"},
            "unknown key teacher::lora_checkpont; did you mean teacher::lora_checkpoint",
        ),
        ({"student::pretraind": True}, "unknown key student::pretraind; did you mean student::pretrained"),
        ({"student::pretrained": "false"}, "student::pretrained must be True or False with a capital letter.*'false'"),
        ({"training::num_epochs": 2.5}, "training::num_epochs must be a whole number, got 2.5"),
        ({"training::batch_size": True}, "training::batch_size must be a whole number, got True"),
        ({"train::batch_size": 4}, "unknown key train::batch_size; did you mean training::batch_size"),
        ({"dataset_dir": "/data"}, "dataset_dir only points to data::dataset_dir here.*pass --data::dataset_dir"),
        ({"training::num_epochs": "ten"}, "training::num_epochs must be of type int, got the text 'ten'"),
        ({"distillation::temperature": "hot"}, "distillation::temperature must be of type float, got the text 'hot'"),
    ],
)
def test_mistyped_key_or_value_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_config(train_config(**change))


def test_every_section_of_the_user_is_a_component():
    config = train_config()
    for section in ("data", "teacher", "student", "distillation", "augmentation", "training", "hardware"):
        assert "_target_" in config[section]
        assert section in known_ids()


@pytest.mark.parametrize("arguments", [["run", "--cached_teacher", "None"], ["run", "--cached_teacher=None"]])
def test_none_on_the_command_line_is_refused_because_monai_drops_it(arguments):
    with pytest.raises(
        ValueError, match=r"--cached_teacher None is left out by monai.bundle.*\"cached_teacher\": null"
    ):
        refuse_none(arguments)


@pytest.mark.parametrize("section", ["teacher", "distillation"])
def test_section_of_other_classes_than_the_data_is_refused(section):
    message = f"{section}::num_classes is 4, but data::num_classes is 2; pass --data::num_classes alone"
    with pytest.raises(ValueError, match=message):
        check_config(train_config(**{f"{section}::num_classes": 4}))


def test_loss_of_other_classes_than_the_data_is_refused():
    with pytest.raises(ValueError, match="loss::num_classes is 3, but data::num_classes is 2"):
        check_config(train_config("train_student.json", **{"loss::num_classes": 3}))


def test_checked_config_works_only_inside_of_a_configuration():
    with pytest.raises(RuntimeError, match="checked_config works only inside a monai.bundle configuration"):
        checked_config()
