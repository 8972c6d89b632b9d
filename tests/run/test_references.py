"""What a configuration says once its references are followed: the texts that caches and resumed runs depend on."""

import json
from hashlib import sha256
from types import SimpleNamespace

import pytest
from conftest import workflow
from shipped_config import train_config

from scripts.handlers.checkpoints import flatten
from scripts.losses import distillation_loss, task_loss
from scripts.run.references import follow, get_item, run_settings, section_text, view_settings

TRANSFORM, AUGMENTATION = "train::dataset::transform", "train::dataset::augmentation"
# SHA-256 of the texts of version 0.5.0: another one would be another cache, and would refuse to resume a run
FORMER_TEXTS = {
    TRANSFORM: "7abbd1555b60d6a526398154e2638859775e6c79f1cd4b41bc51fc2365f272fe",
    AUGMENTATION: "6a18f72c257e40532e3143fe07a6c580360c29ceae416cedf84508c027df05b7",
}
# what version 0.5.0 kept of a run in warp, and of a control
FORMER_SETTINGS = {
    *(f"training::{key}" for key in ("lr", "batch_size", "warmup_epochs", "seed")),
    *(f"data::{key}" for key in ("dataset_dir", "lists", "img_size", "num_classes")),
    "teacher",
    *(f"train::dataset::{key}" for key in ("transform", "augmentation", "views")),
    "hardware::precision",
    *(f"distillation::{key}" for key in ("temperature", "alpha", "beta", "gamma", "mode", "views")),
    *(f"optimizer::{key}" for key in ("weight_decay", "layer_decay")),
    "epoch_length",
}


# references


def test_references_are_followed_to_the_value():
    config = {"rate": "@rates::1", "rates": [0.1, "@best"], "best": 0.2, "net": {"_target_": "some.Net"}}
    assert follow("@rate", config) == 0.2
    assert follow("@rates#0", config) == 0.1
    assert follow("@net", config) == {"_target_": "some.Net"}
    for value in (3, None, "plain", "$@rate * 2", ["@rate"]):
        assert follow(value, config) == value


def test_item_is_found_by_its_id():
    config = {"train": {"handlers": [{"interval": 2}]}}
    assert get_item("train::handlers::0::interval", config) == 2
    assert get_item("train#handlers#0", config) == {"interval": 2}


# sections as text


@pytest.mark.parametrize("id", FORMER_TEXTS)
def test_text_of_the_shipped_section_is_that_of_version_0_5_0(id):
    assert sha256(section_text(train_config(), id).encode()).hexdigest() == FORMER_TEXTS[id]


def test_views_depend_on_the_two_sections_of_the_training_images():
    config = train_config()
    assert view_settings(config) == {
        "preprocessing": section_text(config, TRANSFORM),
        "augmentation": section_text(config, AUGMENTATION),
    }
    settings = config["train"]["dataset"]["settings"]
    assert settings == {"_target_": "scripts.run.references.view_settings", "config": "@checked_config"}


def test_compose_inside_of_a_compose_is_written_as_its_transforms():
    parts = [{"_target_": name} for name in ("LoadImaged", "Resized", "EnsureTyped", "Flipd")]
    inner = {"_target_": "Compose", "transforms": parts[1:3]}
    nested = {"_target_": "Compose", "transforms": [parts[0], {"_target_": "Compose", "transforms": [inner]}, parts[3]]}
    flat = {"_target_": "Compose", "transforms": parts}
    config = train_config(**{TRANSFORM: nested, "reading": inner})
    assert section_text(config, TRANSFORM) == json.dumps(flat, sort_keys=True)
    referring = {"_target_": "Compose", "transforms": [parts[0], "@reading", parts[3]]}
    config = train_config(**{TRANSFORM: referring, "reading": inner})
    assert section_text(config, TRANSFORM) == json.dumps(flat, sort_keys=True)


def test_what_chooses_among_its_transforms_is_not_flattened():
    parts = [{"_target_": "Flipd"}, {"_target_": "Rotated"}]
    choice = {"_target_": "OneOf", "transforms": parts}
    config = train_config(**{TRANSFORM: {"_target_": "Compose", "transforms": [choice]}})
    assert json.loads(section_text(config, TRANSFORM))["transforms"] == [choice]


def test_text_holds_the_values_that_references_lead_to():
    config = train_config(**{"data::img_size": "$@training::batch_size", "augmentation::prob": "@training::lr"})
    assert '"spatial_size": [16, 16]' in section_text(config, TRANSFORM)
    augmentation = section_text(config, AUGMENTATION)
    assert '"prob": 0.0001' in augmentation
    assert "@" not in augmentation
    assert "_desc_" not in augmentation


def test_text_is_of_what_the_data_set_is_given():
    own = train_config(**{TRANSFORM: {"_target_": "Compose", "transforms": []}, AUGMENTATION: None})
    assert view_settings(own) == {"preprocessing": '{"_target_": "Compose", "transforms": []}', "augmentation": "null"}


@pytest.mark.parametrize(
    ("change", "id"),
    [
        ({"augmentation::rotate_degrees": "$1.0 * @training::num_epochs"}, "augmentation::rotate_degrees"),
        ({"augmentation::zoom_range": [0.9, "$1.1"]}, "augmentation::zoom_range::1"),
        ({"data::img_size": "$@data.size"}, "data::img_size"),
    ],
)
def test_expression_whose_text_is_no_value_is_refused(change, id):
    message = rf"^{id} is the expression '\$.*write the value, or a reference to it \(@id\)"
    with pytest.raises(ValueError, match=message):
        view_settings(train_config(**change))


# what a resumed run has in common with the earlier one


def settings_of(config: dict, loss, teacher) -> dict:
    """Of a run of train.json whose objects are stand-ins."""
    return flatten(
        run_settings(
            config,
            data=SimpleNamespace(dataset_dir="/data/busbra", digest="0123", img_size=224, num_classes=2),
            dataset=SimpleNamespace(settings=view_settings(config), views=None),
            teacher=teacher,
            loss=loss,
            hardware=SimpleNamespace(settings={"precision": "fp32"}),
            average=SimpleNamespace(settings={}),
            epoch_length=7,
        )
    )


def test_settings_of_a_distillation_are_those_of_version_0_5_0():
    config = train_config()
    settings = settings_of(config, distillation_loss(), SimpleNamespace(key="abcd"))
    assert set(settings) == FORMER_SETTINGS
    assert settings == {
        "training::lr": 1e-4,
        "training::batch_size": 16,
        "training::warmup_epochs": 5,
        "training::seed": 0,
        "data::dataset_dir": "/data/busbra",
        "data::lists": "0123",
        "data::img_size": 224,
        "data::num_classes": 2,
        "teacher": "abcd",
        TRANSFORM: section_text(config, TRANSFORM),
        AUGMENTATION: section_text(config, AUGMENTATION),
        "train::dataset::views": None,
        "hardware::precision": "fp32",
        "distillation::temperature": 4.0,
        "distillation::alpha": 0.5,
        "distillation::beta": 0.5,
        "distillation::gamma": 0.0,
        "distillation::mode": "warp",
        "distillation::views": 8,
        "optimizer::weight_decay": 0.05,
        "optimizer::layer_decay": 0.8,
        "epoch_length": 7,
    }


def test_settings_of_a_control_are_those_of_version_0_5_0():
    settings = settings_of(train_config("train_student.json"), task_loss(), None)
    assert set(settings) == FORMER_SETTINGS
    former = {"alpha": 1.0, "beta": 0.0, "gamma": 0.0, "temperature": 4.0, "mode": "warp", "views": 8}
    assert {name: settings[f"distillation::{name}"] for name in former} == former
    assert settings["teacher"] == "none"


def test_settings_have_what_is_switched_on():
    config = train_config("from_scratch.json")
    loss = distillation_loss(temperature=1.0, gamma=1.0, features="backbone", whiten=True, cwd=0.1)
    settings = settings_of(config, loss, SimpleNamespace(key="abcd"))
    added = {"distillation::features": "backbone", "distillation::whiten": True, "distillation::cwd": 0.1}
    assert {name: settings[name] for name in set(settings) - FORMER_SETTINGS} == added


def test_settings_of_a_balanced_run_name_the_column_and_the_power():
    settings = settings_of(train_config(**{"training::balance": "device"}), task_loss(), None)
    balance = {name: value for name, value in settings.items() if "balance" in name}
    assert balance == {"training::balance": "device", "training::balance_power": 0.5}


@pytest.mark.parametrize("overlays", [(), ("train_student.json",)])
def test_settings_that_a_run_collects_are_those_of_version_0_5_0(overrides, overlays):
    parser = workflow(overrides, *overlays).parser
    targets = [handler["_target_"] for handler in parser["train::handlers"]]
    number = targets.index("scripts.handlers.Checkpoints")
    settings = flatten(parser.get_parsed_content(f"train::handlers::{number}::settings"))
    assert set(settings) == FORMER_SETTINGS
    assert settings["train::dataset::views"] is None
    assert settings["epoch_length"] == 2
