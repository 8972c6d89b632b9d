"""What differs where MONAI Label calls: its labeled studies are the cases, there may be no teacher, and it writes masks
itself.

MONAI Label (0.8.5) runs train.json with lists of its studies in the place of train#dataset#data and
validate#dataset#data, with its number of epochs in train#trainer#max_epochs, and with a handler before ours that loads
models/model.pt. It knows nothing of data set folders and teachers. In a run of monai.bundle references stand where
those lists are, so that nothing here touches one: there a teacher that is not named stays an error.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform

from ..inference.masks import original_shape
from ..losses import DistillationLoss

logger = logging.getLogger(__name__)

WARMUP_SHARE = 10  # the warm-up takes at most a tenth of the epochs
IMAGE_PATH, EXTENSION = "image_path", "result_extension"  # of the request, in MONAI Label's items
LOSSY = (".jpg", ".jpeg")


def given_studies(config: dict[str, Any]) -> dict[str, list[dict]] | None:
    """MONAI Label's lists `training` and `validation` of dicts with the paths "image" and "label"; None in any other
    run.

    Args:
        config: as `checked_config` returns it.

    Raises:
        ValueError: a list is empty, or val_split asks for a validation list of the bundle.
    """
    training, validation = (config[section]["dataset"]["data"] for section in ("train", "validate"))
    if not isinstance(training, list):
        return None
    if not isinstance(validation, list):
        raise ValueError(
            "val_split is negative, which asks for a validation list of the bundle, but it has none; pass a val_split "
            "such as 0.2."
        )
    for name, cases in (("training", training), ("validation", validation)):
        if not cases:
            raise ValueError(
                f"MONAI Label gave {len(training)} labeled studies for training and {len(validation)} for validation, "
                "expected at "
                f"least one for {name}; save more labels (three are enough for a val_split of 0.2), or pass another "
                "val_split."
            )
    return {"training": training, "validation": validation}


def lacks_teacher(config: dict[str, Any], studies: dict[str, list[dict]] | None) -> bool:
    """Whether MONAI Label started this training and teacher::lora_checkpoint names no teacher; says in the log what
    follows.

    Args:
        config: as `checked_config` returns it.
        studies: see `given_studies`.
    """
    if studies is None:
        return False
    cases = f"{len(studies['training'])} studies for training and {len(studies['validation'])} for validation"
    teacher = config["teacher"]["lora_checkpoint"]
    if teacher:
        logger.info("MONAI Label gave %s: the student is DISTILLED from the teacher %s", cases, teacher)
        return False
    logger.warning(
        "MONAI Label gave %s, and train.json names no teacher: the student is trained WITHOUT A TEACHER, on the labels "
        "alone. "
        "Set teacher::lora_checkpoint in configs/train.json to distil, see docs/monai_label.md.",
        cases,
    )
    return True


def training_loss(distillation: DistillationLoss, without_teacher: bool, num_classes: int) -> DistillationLoss:
    """The loss that the config describes, or its task term alone where there is no teacher.

    Args:
        distillation: the section `distillation`.
        without_teacher: see `lacks_teacher`.
        num_classes: with the background.
    """
    return DistillationLoss(alpha=1.0, beta=0.0, num_classes=num_classes) if without_teacher else distillation


def fitting_warmup(warmup_epochs: int, num_epochs: int, studies: dict[str, list[dict]] | None) -> int:
    """`warmup_epochs`, in a training of MONAI Label at most a tenth of its epochs, since it cannot be told the warm-up.

    Args:
        warmup_epochs: of the section `training`.
        num_epochs: of this training.
        studies: see `given_studies`.
    """
    fitting = warmup_epochs if studies is None else min(warmup_epochs, num_epochs // WARMUP_SHARE)
    if fitting < warmup_epochs:
        logger.info("%d warm-up epochs instead of %d, for MONAI Label's %d epochs", fitting, warmup_epochs, num_epochs)
    return fitting


class LabelResultd(MapTransform):
    """Masks as MONAI Label's writer keeps them whole; items of other programs are left as they are.

    It writes with ITK, in the format of the image: as JPEG a mask's values would change, so that PNG is asked for
    unless the client wants another format; and of a NIfTI image (W, H) position and pixel size would be lost, so that
    its mask becomes (W, H, 1).

    Args:
        keys: uint8 masks in the shape of the stored image, as ToStoredShaped gives them.
        allow_missing_keys: pass over keys that are not there.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        path = str(d.get(IMAGE_PATH, "")).lower()
        if path.endswith(LOSSY) and not d.get(EXTENSION):
            d[EXTENSION] = ".png"
        for key in self.key_iterator(d):
            if path.endswith((".nii", ".nii.gz")) and len(original_shape(d[key])) == 2:
                d[key] = d[key].unsqueeze(-1)  # (W, H) -> (W, H, 1)
        return d
