"""Settings that follow from a data set and from what docs/ measured, each with its reason.

Where nothing was measured, the default of configs/train.json or of the recipe configs/from_scratch.json stays, and the
reason says so.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.prior import spread_of
from ..data.splits import UNLABELED
from ..utils.files import CONFIGS
from .findings import PATCH, diameters
from .survey import Survey

RECIPE, TEACHER, PRETRAINING = "from_scratch.json", "shared_teacher.json", "pretrain.json"
BATCH, EPOCHS = "training::batch_size", "training::num_epochs"
ADAPTER = "teacher::lora_checkpoint"
PUBLISHED = ("teacher::model_name", "teacher::img_size")  # what a teacher without an adapter needs
SHARED_LABELS = ["background", "lesion"]  # what the shared teacher was tuned to find
# Peak of a student's step on a CPU, at 160, 224 and 320 pixels in batches of 16: a line over the pixels of a batch,
# with at most 16 MB of error (eval/results/benchmark.json).
BASE_MB, MB_A_MEGAPIXEL = 1338.0, 1033.0
RUN_MB = 90.0  # that a training took beyond its steps there: panels, evaluation
IMAGE_BYTES = 5  # a pixel of a prepared item: an image of float32, and its label in a byte
MOST_ITEM_BYTES = 2**31  # of items in memory, as prepared.MOST_BYTES, which needs torch; more lie in a file
MEMORY_SHARE = 0.7  # of the machine's, for a training; the rest is the system's, and 15 % of it fp32 instead of bf16
# 58 epochs of 131 steps, after which the Dice on BUS-BRA's validation list still rose slowly (docs/README.md).
STEPS = 7600
FEWEST_EPOCHS = 10  # two of them are the recipe's warm-up
# The largest side of which a step's time and memory were measured.
LARGEST_SIDE = 320
COST = "a step's time grows with the side to the power of 2.3 (docs/performance.md)."
RARE = 0.1  # of the training images: BUS-BRA's scanner of 8 % has the lowest Dice (docs/README.md)

Settings = dict[str, Any]


class Suggestion(NamedTuple):
    """Settings of one kind and why.

    settings: keys of train.json with their values; empty where the default stays. reason: a sentence or two.
    """

    title: str
    settings: Settings
    reason: str


class Plan(NamedTuple):
    """What to do with a data set.

    kind: "distill" (with the shared teacher), "tune" (a teacher comes first), "pretrain" (no labels) or "evaluate".
    suggestions: all of them.
    """

    kind: str
    suggestions: list[Suggestion]

    @property
    def settings(self) -> Settings:
        """All keys with their values."""
        return {key: value for one in self.suggestions for key, value in one.settings.items()}


def default(key: str) -> Any:
    """A value of configs/train.json, such as of "data::img_size"."""
    value = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))
    for part in key.split("::"):
        value = value[part]
    return value


def overlay(name: str) -> Settings:
    """The settings of a file of configs/, without its description."""
    content = json.loads((CONFIGS / name).read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key != "_desc_"}


def make_plan(survey: Survey, memory: int | None) -> Plan:
    """What to do, and the settings.

    Args:
        survey: of the data set.
        memory: bytes of the machine; None if not known.
    """
    if not survey.num_images["training"]:
        return _without_training(survey, memory)
    size = _image_size(survey)
    img_size = size.settings["data::img_size"]
    recipe, batch = _recipe(), _batch(survey, img_size, memory, overlay(RECIPE)[BATCH], "recipe's")
    kind, teacher = _teacher(survey)
    epochs = _epochs(survey, batch.settings[BATCH])
    further = [_unlabeled(survey), *_rare(survey)]
    return Plan(kind, [_data(survey), size, recipe, batch, epochs, _augmentation(survey), teacher, *further])


def _without_training(survey: Survey, memory: int | None) -> Plan:
    if not survey.num_images[UNLABELED]:
        return Plan("evaluate", [_data(survey)])
    size = Suggestion("Image size", {"data::img_size": default("data::img_size")}, "The default.")
    teacher = {key: value for key, value in overlay(TEACHER).items() if key in PUBLISHED}
    reason = (
        "Without masks a backbone can learn the embeddings of LiteMedSAM as published, which needs no tuning "
        "(docs/distillation.md). What it brings to a student is not measured."
    )
    batch = _batch(survey, size.settings["data::img_size"], memory, default(BATCH), "default")
    return Plan("pretrain", [_data(survey), size, batch, Suggestion("Teacher", teacher, reason)])


def _data(survey: Survey) -> Suggestion:
    inside = survey.datalist.is_relative_to(survey.folder)
    datalist = survey.datalist.relative_to(survey.folder) if inside else survey.datalist
    settings = {"data::dataset_dir": str(survey.folder), "data::datalist": datalist.as_posix()}
    named = ", ".join(survey.labels)
    reason = f"{survey.num_classes} classes by the labels of the datalist: {named}."
    return Suggestion("Data", {**settings, "data::num_classes": survey.num_classes}, reason)


def _image_size(survey: Survey) -> Suggestion:
    """Larger where most lesions would lie within one patch of the student."""
    usual = default("data::img_size")
    ones = survey.with_lesion("training")
    median = float(np.median([min(diameters(one, usual)) for one in ones])) if ones else float("inf")
    if median >= PATCH:
        seen = f"; half of the lesions are {median:.0f} pixels or more across then" if ones else ""
        reason = f"The default{seen}. Other sizes were not compared in Dice; {COST}"
        return Suggestion("Image size", {"data::img_size": usual}, reason)
    own = max(usual, int(np.median([max(one.size) for one in ones])))
    side = min(-(-usual * PATCH / median // PATCH) * PATCH, own // PATCH * PATCH, LARGEST_SIDE)
    reason = (
        f"At {usual} pixels half of the lesions would be less than {median:.0f} pixels across, within one patch of "
        f"{PATCH} pixels. Larger images were not compared in Dice; {COST}"
    )
    return Suggestion("Image size", {"data::img_size": int(side)}, reason)


def _recipe() -> Suggestion:
    kept = (BATCH, "augmentation::")
    settings = {key: value for key, value in overlay(RECIPE).items() if not key.startswith(kept)}
    reason = (
        f"configs/{RECIPE}: +0.115 validation Dice over the plain distillation in short trainings "
        "(docs/distillation.md). It is for a student without TinyUSFM's published weights."
    )
    return Suggestion("Recipe", settings, reason)


def _batch(survey: Survey, img_size: int, memory: int | None, wanted: int, whose: str) -> Suggestion:
    """The wanted batch, the recipe's or the default, halved until it fits."""
    count = sum(survey.num_images.values())
    batch = wanted

    def fits() -> bool:
        return memory is None or needed_mb(batch, img_size, count) * 1e6 <= MEMORY_SHARE * memory

    while batch > 1 and not fits():
        batch //= 2
    need = f"{needed_mb(batch, img_size, count) / 1000:.1f} GB on a CPU by the measured line (docs/performance.md)"
    if memory is None:
        reason = f"The {whose}. It needs about {need}; this system does not say how much memory it has."
    elif not fits():
        reason = (
            f"Even a batch of 1 needs about {need}, more than {100 * MEMORY_SHARE:g} % of this machine's "
            f"{memory / 1e9:.1f} GB: train on a machine with more memory, or with a smaller data::img_size."
        )
    elif batch == wanted:
        reason = f"The {whose}. It needs about {need}; this machine has {memory / 1e9:.1f} GB. GPUs were not measured."
    else:
        reason = (
            f"Less than the {whose} {wanted}, which would need {needed_mb(wanted, img_size, count) / 1000:.1f} GB of "
            f"this machine's {memory / 1e9:.1f} GB. This needs about {need}."
        )
    return Suggestion("Batch", {BATCH: batch}, reason)


def needed_mb(batch: int, img_size: int, num_images: int) -> float:
    """Peak memory of a training on a CPU in MB (10^6 bytes).

    Args:
        batch: images of a step.
        img_size: their side in pixels.
        num_images: of the data set, which stay in memory up to MOST_ITEM_BYTES.
    """
    megapixel = img_size**2 / 1e6
    items = min(IMAGE_BYTES * num_images * megapixel, MOST_ITEM_BYTES / 1e6)
    return BASE_MB + RUN_MB + MB_A_MEGAPIXEL * batch * megapixel + items


def _epochs(survey: Survey, batch: int) -> Suggestion:
    steps, usual = -(-survey.num_images["training"] // batch), default(EPOCHS)
    epochs = min(max(round(STEPS / steps), FEWEST_EPOCHS), usual)
    told = f"{epochs} epochs of {steps} steps"
    if epochs == usual:
        reason = f"{told}: the default, and fewer steps than the {STEPS} that BUS-BRA's first training took."
    elif epochs == FEWEST_EPOCHS:
        reason = f"{told}: more steps than the {STEPS} that BUS-BRA's first training took, so that the rate can fall."
    else:
        reason = f"{told}, as many steps as BUS-BRA's first training took, {STEPS} (docs/README.md)."
    return Suggestion("Epochs", {EPOCHS: epochs}, reason)


def _augmentation(survey: Survey) -> Suggestion:
    settings = {key: value for key, value in overlay(RECIPE).items() if key.startswith("augmentation::")}
    spread = spread_of([one.lesions.center for one in survey.of("training") if one.lesions])
    reason = f"That of configs/{RECIPE}. "
    if spread is None:
        reason += "Too few lesions tell whether they all lie in the middle."
    elif not spread.is_narrow:
        reason += f"Lesions lie up to {spread.offset:.2f} of the width from the middle, so it needs no wider shifts."
    else:
        reason += (
            f"95 % of the lesions lie within {spread.offset:.2f} of the width from the middle, and a network learns to "
            "look there. No shifts are added: wide ones cost Dice on such lists in short trainings (docs/data.md). The "
            "warning names those that help if you expect lesions elsewhere."
        )
    return Suggestion("Augmentation", settings, reason)


def _teacher(survey: Survey) -> tuple[str, Suggestion]:
    """What to do, and the teacher: the shared one where it was tuned to find the same, or one to tune."""
    shared, labeled = overlay(TEACHER), len(survey.of("training"))
    gains = "the student gained 0.036 Dice over its control on BUS-BRA (1047 images) and 0.074 on usgra (115)"
    if survey.labels == SHARED_LABELS:
        reason = (
            "A teacher can pay if it is better than the student alone: with the shared one, tuned on breast lesions, "
            f"{gains.partition(' and')[0]}. Your class is named lesion: if it is no breast lesion, tune a teacher "
            "first. eval.preflight tells whether it pays here."
        )
        return "distill", Suggestion("Teacher", shared, reason)
    settings = {key: value for key, value in shared.items() if key != ADAPTER}
    reason = (
        f"The shared teacher knows breast lesions alone, so tune one on your {labeled} images first. It can pay: "
        f"{gains} (docs/README.md). eval.preflight tells whether it does here."
    )
    return "tune", Suggestion("Teacher", settings, reason)


def _unlabeled(survey: Survey) -> Suggestion:
    number = survey.num_images[UNLABELED]
    if number:
        reason = (
            f"The list unlabeled has {number} images, which a teacher can use with data::unlabeled_share "
            "(docs/distillation.md). What they bring is not measured, so the default stays."
        )
    else:
        reason = "There is no list of images without masks; scripts.make_datalist --unlabeled DIR adds one."
    return Suggestion("Images without masks", {}, reason)


def _rare(survey: Survey) -> list[Suggestion]:
    """Of devices and joined sets, where some are rare."""
    found = []
    for column in ("device", "set"):
        values = [str(item[column]) for item in survey.lists["training"] if item.get(column)]
        rare = {value: number for value, number in Counter(values).items() if number < RARE * len(values)}
        if rare:
            named = ", ".join(f"{value} ({number} of {len(values)})" for value, number in rare.items())
            reason = (
                f"Rare in the training list: {named}. training::balance {column} draws them more often (docs/data.md). "
                "What it brings is not measured, so it is off."
            )
            found.append(Suggestion("Balance", {}, reason))
    return found


def write_settings(plan: Plan, survey: Survey) -> dict[str, Any]:
    """The content of the overlay."""
    where = Path(survey.folder).name
    return {"_desc_": f"Overlay of train.json: what scripts.check_data suggests for {where}", **plan.settings}
