import json

import pytest

from scripts.run.config_check import BUNDLE_ROOT, check_config, known_ids, refuse_none, section_texts, target_parameters

TRAIN = BUNDLE_ROOT / "configs" / "train.json"


def train_config(**changes) -> dict:
    config = json.loads(TRAIN.read_text())
    for key, value in changes.items():
        *sections, last = key.split("::")
        content = config
        for section in sections:
            content = content[section]
        content[last] = value
    return config


def test_shipped_config_passes():
    check_config(train_config())


@pytest.mark.parametrize("name", ["train_teacher.json", "train_student.json", "evaluate.json", "quickstart.json"])
def test_overlay_passes(name):
    overlay = json.loads((BUNDLE_ROOT / "configs" / name).read_text())
    config = train_config()
    for key, value in overlay.items():
        *sections, last = key.split("::")
        content = config
        for section in sections:
            content = content[section]
        content[last] = value
    check_config(config)


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


def test_parameters_are_read_through_a_package_without_importing_it():
    assert "interval" in target_parameters("scripts.handlers.Checkpoints")


def test_missing_target_is_refused():
    with pytest.raises(ValueError, match="there is no Loss in scripts.losses"):
        target_parameters("scripts.losses.Loss")
    with pytest.raises(ValueError, match="there is no module scripts.loss in this bundle"):
        target_parameters("scripts.loss.DistillationLoss")


TEXTS = {"preprocessing": "train::dataset::transform", "augmentation": "train::dataset::augmentation"}


def test_section_texts_hold_the_values_that_references_lead_to():
    config = train_config(**{"data::img_size": "$@training::batch_size", "augmentation::prob": "@training::lr"})
    text = section_texts(config, **TEXTS)
    assert '"spatial_size": [16, 16]' in text["preprocessing"]
    assert '"prob": 0.0001' in text["augmentation"]
    assert "@" not in "".join(text.values())
    assert "_desc_" not in text["augmentation"]
    assert section_texts(train_config(**{"train::dataset::augmentation": None}), **TEXTS)["augmentation"] == "null"


def test_section_texts_are_of_what_the_data_set_is_given():
    own = train_config(**{"train::dataset::transform": {"_target_": "Compose", "transforms": []}})
    assert section_texts(own, **TEXTS)["preprocessing"] == '{"_target_": "Compose", "transforms": []}'
    assert train_config()["train"]["dataset"]["settings"] == {
        "_target_": "scripts.run.config_check.section_texts",
        "config": "@checked_config",
        **TEXTS,
    }


@pytest.mark.parametrize(
    ("change", "id"),
    [
        ({"augmentation::rotate_degrees": "$1.0 * @training::num_epochs"}, "augmentation::rotate_degrees"),
        ({"augmentation::zoom_range": [0.9, "$1.1"]}, "augmentation::zoom_range::1"),
        ({"data::img_size": "$@data.size"}, "data::img_size"),
    ],
)
def test_expression_whose_text_is_no_value_is_refused_in_section_texts(change, id):
    with pytest.raises(
        ValueError, match=rf"^{id} is the expression '\$.*write the value, or a reference to it \(@id\)"
    ):
        section_texts(train_config(**change), **TEXTS)


def test_every_section_of_the_seed_is_a_component():
    config = train_config()
    for section in ("teacher", "student", "distillation", "training", "hardware", "data"):
        assert "_target_" in config[section]
        assert section in known_ids()


@pytest.mark.parametrize("arguments", [["run", "--frozen_teacher", "None"], ["run", "--frozen_teacher=None"]])
def test_none_on_the_command_line_is_refused_because_monai_drops_it(arguments):
    with pytest.raises(
        ValueError, match=r"--frozen_teacher None is left out by monai.bundle.*\"frozen_teacher\": null"
    ):
        refuse_none(arguments)
