"""A training that MONAI Label starts: its labeled studies are the cases, and there may be no teacher.

MONAI Label (0.8.5) runs train.json with lists of its studies in the place of train::dataset::data and
validate::dataset::data, and with its number of epochs in train::trainer::max_epochs. It knows nothing of data set
folders and teachers. In a run of monai.bundle references stand where those lists are: there nothing is changed, and a
teacher that is not named stays an error.

What a client sends is not trusted: MONAI would evaluate a text that begins with `$`, so only plain values pass.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from ..utils.files import BUNDLE_ROOT
from ..utils.screen import tell
from .references import follow

logger = logging.getLogger(__name__)

WARMUP_SHARE = 10  # the warm-up takes at most a tenth of the epochs
MODELS = BUNDLE_ROOT / "models"
DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")
TRACKING = ("tracking_uri", "experiment_name", "run_name", "save_execute_config")  # what MONAI's tracking adds


def labeling_overrides(config: dict[str, Any]) -> dict[str, Any]:
    """What a labeling session changes in train.json, by config id; {} in any other run.

    Args:
        config: of the run.

    Raises:
        ValueError: a list is empty, val_split asks for a validation list of the bundle, or a value is none that
            MONAI Label's own clients send.
    """
    if not isinstance(config.get("train"), dict) or not isinstance(config["train"]["dataset"]["data"], list):
        return {}
    _check_request(config)
    studies = _studies(config)
    num_epochs = config["train"]["trainer"]["max_epochs"]
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


def _check_request(config: dict[str, Any]) -> None:
    """Refuse values with which a client could run code of its own or reach files outside of the bundle."""
    root, epochs = config.get("bundle_root", BUNDLE_ROOT), config["train"]["trainer"]["max_epochs"]
    if Path(str(root)).resolve() != BUNDLE_ROOT:
        raise ValueError(f"bundle_root is {str(root)!r}, but the bundle that runs is {BUNDLE_ROOT}; start it there.")
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"max_epochs must be a whole number from 1, got {epochs!r}; send it as a number.")
    device = config.get("device", "cpu")
    if device != "$@hardware.device" and not DEVICE.fullmatch(str(device)):
        raise ValueError(f"device must be cpu, mps, cuda or cuda:NUMBER, got {str(device)!r}.")
    tracking = [name for name in TRACKING if name in config]
    if tracking:
        raise ValueError(
            f"tracking is not offered in MONAI Label, got {', '.join(tracking)}; send tracking None. The run's folder "
            "in logs/ has its history."
        )
    for handler in config["train"].get("handlers") or []:
        path = handler.get("load_path") if isinstance(handler, dict) else None
        if path is not None and (str(path)[:1] in "$@%" or Path(str(path)).resolve().parent != MODELS.resolve()):
            raise ValueError(f"model_filename must be a file of {MODELS}, got {str(path)!r}.")
    for part in ("train", "validate"):
        cases = config[part]["dataset"]["data"]
        for case in cases if isinstance(cases, list) else []:
            for key, value in case.items():
                if not isinstance(value, str) or not Path(value).is_absolute():
                    raise ValueError(f"the {key} of a study must be an absolute path, got {value!r}.")


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
