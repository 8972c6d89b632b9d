"""A training that MONAI Label starts: its labeled studies are the cases, and there may be no teacher.

MONAI Label (0.8.5) runs train.json with lists of its studies in the place of train::dataset::data and
validate::dataset::data, and with its number of epochs in train::trainer::max_epochs. It knows nothing of data set
folders and teachers. In a run of monai.bundle references stand where those lists are: there nothing is changed, and a
teacher that is not named stays an error.
"""

from __future__ import annotations

import logging
from typing import Any

from ..utils.screen import tell
from .references import follow

logger = logging.getLogger(__name__)

WARMUP_SHARE = 10  # the warm-up takes at most a tenth of the epochs


def labeling_overrides(config: dict[str, Any]) -> dict[str, Any]:
    """What a labeling session changes in train.json, by config id; {} in any other run.

    Args:
        config: of the run.

    Raises:
        ValueError: a list is empty, or val_split asks for a validation list of the bundle.
    """
    if not isinstance(config.get("train"), dict) or not isinstance(config["train"]["dataset"]["data"], list):
        return {}
    studies = _studies(config)
    num_epochs = follow(config["train"]["trainer"]["max_epochs"], config)
    sizes = {key: config["data"][key] for key in ("num_classes", "img_size")}
    return {
        "data": {"_target_": "scripts.data.datalist.GivenCases", **studies, **sizes},
        "train::dataset::data": "$@data.training",
        "validate::dataset::data": "$@data.validation",
        "training::num_epochs": num_epochs,
        "train::trainer::max_epochs": "@training::num_epochs",
        "training::warmup_epochs": fitting_warmup(follow(config["training"]["warmup_epochs"], config), num_epochs),
        "final_evaluation": None,
        **_teacher_overrides(config, studies),
    }


def _studies(config: dict[str, Any]) -> dict[str, list[dict]]:
    """The lists "training" and "validation" of dicts with the paths "image" and "label"."""
    training, validation = (config[section]["dataset"]["data"] for section in ("train", "validate"))
    if not isinstance(validation, list):
        raise ValueError(
            "val_split is negative, which asks for a validation list of the bundle, but it has none; pass a val_split "
            "such as 0.2."
        )
    for name, cases in (("training", training), ("validation", validation)):
        if not cases:
            raise ValueError(
                f"MONAI Label gave {len(training)} labeled studies for training and {len(validation)} for validation, "
                f"expected at least one for {name}; save more labels (three are enough for a val_split of 0.2), or "
                "pass another val_split."
            )
    return {"training": training, "validation": validation}


def _teacher_overrides(config: dict[str, Any], studies: dict[str, list[dict]]) -> dict[str, Any]:
    """The loss of the labels alone where teacher::lora_checkpoint names no teacher; the log says which it is."""
    cases = f"{len(studies['training'])} studies for training and {len(studies['validation'])} for validation"
    teacher = config["teacher"]["lora_checkpoint"]
    if teacher:
        tell(f"MONAI Label gave {cases}: the student is DISTILLED from the teacher {teacher}")
        return {}
    logger.warning(
        "MONAI Label gave %s, and train.json names no teacher: the student is trained WITHOUT A TEACHER, on the labels "
        "alone. Set teacher::lora_checkpoint in configs/train.json to distil, see docs/monai_label.md.",
        cases,
    )
    loss = {"_target_": "scripts.losses.task_loss", "num_classes": "@data::num_classes"}
    return {"loss": loss, "cached_teacher": None}


def fitting_warmup(warmup_epochs: int, num_epochs: int) -> int:
    """`warmup_epochs`, but at most a tenth of the epochs, since MONAI Label cannot be told the warm-up.

    Args:
        warmup_epochs: of the section `training`.
        num_epochs: of this training.
    """
    fitting = min(warmup_epochs, num_epochs // WARMUP_SHARE)
    if fitting < warmup_epochs:
        logger.info("%d warm-up epochs instead of %d, for MONAI Label's %d epochs", fitting, warmup_epochs, num_epochs)
    return fitting
