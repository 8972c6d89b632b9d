"""What a configuration says once its references are followed, and what a run depends on.

A cache finds its entries, and a resumed run is told from another, by these values: they are read from the checked
configuration here, and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

REFERENCE = re.compile(r"\$?@(\w+(?:(?:::|#)\w+)*)")
RESERVED = {"_target_", "_requires_", "_disabled_", "_desc_", "_mode_"}
COMPOSE = "Compose"
# keys that version 0.7 added, and the values at which a section does what it did before: then its text, and with it
# caches and runs of earlier versions, stay the same
ADDED = {
    "mirror_prob": 0.0,
    "sector_prob": 0.0,
    "brightness_range": None,
    "gain_range": None,
    "resolution_range": None,
    "speckle_range": None,
    "drawings_prob": 0.0,
    "lesion_free_prob": 0.0,
    "allow_missing_keys": True,
}
BUILD_OPTIMIZER = "scripts.optimization.build_optimizer"
# arguments of an optimizer that other settings hold
GIVEN = ("network", "params", "loss", "lr")


def follow(value: Any, config: Mapping[str, Any]) -> Any:
    """The value that a reference leads to, through any number of references; other values as they are."""
    while isinstance(value, str) and value.startswith("@") and (reference := REFERENCE.fullmatch(value)):
        value = get_item(reference[1], config)
    return value


def get_item(id: str, config: Mapping[str, Any]) -> Any:
    """The item of an id such as train::dataset."""
    item: Any = config
    for key in re.split("::|#", id):
        item = item[int(key)] if isinstance(item, list) else item[key]
    return item


def section_text(config: Mapping[str, Any], id: str) -> str:
    """A section as JSON text, every reference replaced by what it refers to: what it does, in words.

    A Compose inside of a Compose is written as its transforms, since it does the same.

    Args:
        config: as `checked_config` returns it.
        id: of the section.

    Raises:
        ValueError: the section holds an expression, whose text does not say what it gives.
    """
    return json.dumps(_without_references(f"@{id}", config, id), sort_keys=True, default=str)


def _without_references(value: Any, config: Mapping[str, Any], id: str) -> Any:
    if isinstance(value, dict):
        parts = {key: part for key, part in value.items() if key not in ("_desc_", "_requires_")}
        parts = {key: part for key, part in parts.items() if key not in ADDED or part != ADDED[key]}
        return _flat({key: _without_references(part, config, f"{id}::{key}") for key, part in parts.items()})
    if isinstance(value, list):
        return [_without_references(part, config, f"{id}::{number}") for number, part in enumerate(value)]
    if not isinstance(value, str) or value[:1] not in ("@", "$"):
        return value
    reference = REFERENCE.fullmatch(value)
    if reference is None:
        raise ValueError(
            f"{id} is the expression {value!r}, whose text does not say what it gives, so that a cache or a resumed "
            "run could not tell one value from another; write the value, or a reference to it (@id)."
        )
    return _without_references(get_item(reference[1], config), config, reference[1])


def _value(config: Mapping[str, Any], id: str) -> Any:
    """What an id refers to in the end, and no expression."""
    return json.loads(section_text(config, id))


def _flat(section: dict[str, Any]) -> dict[str, Any]:
    if section.get("_target_") != COMPOSE or not isinstance(section.get("transforms"), list):
        return section
    parts = [
        part["transforms"] if isinstance(part, dict) and _is_plain_compose(part) else [part]
        for part in section["transforms"]
    ]
    return {**section, "transforms": [transform for part in parts for transform in part]}


def _is_plain_compose(section: Mapping[str, Any]) -> bool:
    """Whether it does what its transforms do: it has no options."""
    return section.keys() == {"_target_", "transforms"} and section["_target_"] == COMPOSE


def view_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """What the views of the training images depend on beside files and seed: their preprocessing and augmentation as
    text.

    Args:
        config: as `checked_config` returns it.
    """
    sections = {"preprocessing": "train::dataset::transform", "augmentation": "train::dataset::augmentation"}
    return {name: section_text(config, id) for name, id in sections.items()}


def run_settings(
    config: Mapping[str, Any],
    data: Any,
    dataset: Any,
    teacher: Any,
    loss: Any,
    hardware: Any,
    average: Any,
    epoch_length: int,
) -> dict[str, Any]:
    """What a resumed run must have in common with the earlier one, nested as the configuration is.

    Args:
        config: as `checked_config` returns it.
        data: the section `data`; its lists count by their digest.
        dataset: of the training views.
        teacher: that is trained with, by its `key`; None is a training without one.
        loss: offers `settings`.
        hardware: likewise.
        average: of the weights, likewise.
        epoch_length: iterations of an epoch.
    """

    def values(section: str, *keys: str) -> dict[str, Any]:
        return {key: _value(config, f"{section}::{key}") for key in keys}

    views = dataset.settings or {}
    share = getattr(data, "unlabeled_share", 0)
    balance = ("balance", "balance_power") if config["training"].get("balance") else ()
    return {
        "training": values("training", "lr", "batch_size", "warmup_epochs", "seed", *balance),
        "data": {
            "dataset_dir": data.dataset_dir,
            "lists": data.digest,
            "img_size": data.img_size,
            "num_classes": data.num_classes,
            **({"unlabeled_share": share} if share else {}),
        },
        "teacher": "none" if teacher is None else teacher.key,
        "train": {
            "dataset": {
                "transform": views["preprocessing"],
                "augmentation": views["augmentation"],
                "views": dataset.views,
            }
            if views
            else {}
        },
        "hardware": hardware.settings,
        "average": average.settings,
        "distillation": {**values("distillation", "temperature", "mode", "views"), **loss.settings},
        "optimizer": values("optimizer", *_optimizer_keys(config["optimizer"])),
        "epoch_length": epoch_length,
    }


def _optimizer_keys(section: Mapping[str, Any]) -> list[str]:
    """What tells an optimizer from another; of a user's own also its class."""
    own = section["_target_"] != BUILD_OPTIMIZER
    return [key for key in section if key not in (*RESERVED, *GIVEN) or (own and key == "_target_")]
