"""The student that a config describes: TinyUSFM in one of its sizes, new, started from a file, or trained.

Shapes: C classes, D channels, N tokens.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import NamedTuple

import torch
from timm.layers import resample_abs_pos_embed

from ..utils.options import check_choice
from .initialization import INITIALIZATIONS, MIMETIC, mimetic_
from .presence import PRESENCE
from .tinyusfm import PATCH_SIZE, TinyUSFMSeg
from .weights import BACKBONE, STUDENT, check_kind, list_keys, load_strict, read_state_dict

logger = logging.getLogger(__name__)

# what the pretraining file lacks and has beyond the segmentation backbone
HEAD_KEYS = ("neck.*", "decode_head.*", "backbone.norm.*")
PRETRAINING_KEYS = ("backbone.head.*", "backbone.head_dist.*", "backbone.fc_norm.*", "backbone.dist_norm.*")
POS_EMBED = "backbone.pos_embed"
CLASSIFIER = "decode_head.conv_seg.weight"


class StudentSize(NamedTuple):
    """Arguments of `TinyUSFMSeg` that a model name stands for."""

    embed_dim: int
    depth: int
    num_heads: int
    out_indices: tuple[int, ...]
    channels: int


TEST_SIZE = "TinyUSFM_Test"  # for tests: no message names it
STUDENT_SIZES = {
    "TinyUSFM_Seg": StudentSize(192, 12, 12, (3, 5, 7, 11), 128),
    TEST_SIZE: StudentSize(24, 4, 2, (0, 1, 2, 3), 16),
}
MODEL_NAMES = tuple(name for name in STUDENT_SIZES if name != TEST_SIZE)


@dataclass
class Student:
    """The config section `student`: which student it is, and what it starts from.

    Args:
        model_name: which student it is. [TinyUSFM_Seg]
        pretrained: start from `checkpoint`; without one there is a warning. [true, false]
        checkpoint: TinyUSFM's published file, or a trained student, to start from. [path, null]
        initialization: of a student without a checkpoint: attention to similar patches from the start (mimetic), or
            timm's random one. [mimetic, random]

    Raises:
        ValueError: an unknown name, or a checkpoint that would not be read.
    """

    model_name: str = "TinyUSFM_Seg"
    pretrained: bool = True
    checkpoint: str | None = None
    initialization: str = MIMETIC

    def __post_init__(self) -> None:
        if self.model_name != TEST_SIZE:
            check_choice("student::model_name", self.model_name, MODEL_NAMES)
        check_choice("student::initialization", self.initialization, INITIALIZATIONS)
        if self.checkpoint and not self.pretrained:
            raise ValueError(
                f"student::checkpoint is {self.checkpoint}, but student::pretrained is {self.pretrained}; "
                "pass --student::pretrained True or leave the checkpoint out."
            )


def build_student(
    student: Student,
    num_classes: int = 2,
    img_size: int = 224,
    return_features: str | None = None,
    trained: bool = False,
    network: type[TinyUSFMSeg] = TinyUSFMSeg,
) -> TinyUSFMSeg:
    """The network of a section `student`, its weights loaded where it names a checkpoint.

    Args:
        student: the section.
        num_classes: with the background; 2 gives one logit channel.
        img_size: rows and columns in pixels, a multiple of 16.
        return_features: see `TinyUSFMSeg`.
        trained: the checkpoint is a whole trained student, to be used as it is, see `load_trained_student`.
        network: its class.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: an argument out of range, or a checkpoint that does not fit.
    """
    size = STUDENT_SIZES[student.model_name]._asdict()
    model = network(num_classes=num_classes, img_size=img_size, return_features=return_features, **size)
    if trained:
        return load_trained_student(model, student.checkpoint, "student::checkpoint")
    if student.checkpoint:
        load_student(model, student.checkpoint)
        return model
    if student.initialization == MIMETIC:
        mimetic_(model.backbone)
    if student.pretrained:
        logger.warning(
            "the student starts without a checkpoint (initialization %s); pass --student::checkpoint PATH to TinyUSFM's"
            " file, or --student::pretrained False.",
            student.initialization,
        )
    return model


def student_from_choices(num_classes: int, img_size: int, **choices: str | bool | None) -> TinyUSFMSeg:
    """As `build_student`, from plain values alone: what another program can keep in a file.

    Args:
        num_classes: with the background.
        img_size: rows and columns in pixels.
        choices: keys of the section `student`.
    """
    return build_student(Student(**choices), num_classes, img_size)


def load_student(model: TinyUSFMSeg, path: str | Path) -> None:
    """Load a segmentation checkpoint in full, or upstream's pretrained backbone (TinyUSFM.pth) and leave the head new.

    Position embeddings of another img_size are resized (bicubic, timm's `resample_abs_pos_embed`). A calibrated
    presence is left out, since it holds for the weights as they are.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another network or class count, or whose keys do not fit.
    """
    state = read_state_dict(path, "student::checkpoint")
    source = f"student::checkpoint {path}"
    if check_kind(state, (STUDENT, BACKBONE), source) == BACKBONE:
        _load_backbone(model, state, source)
        return
    weights = {key: tensor for key, tensor in state.items() if not key.startswith(PRESENCE)}
    if len(weights) < len(state):
        logger.info("%s: its presence is left out; calibrate the trained student with python -m eval.presence", source)
    _load_segmentation(model, _resize_pos_embed(model, weights), source)


def load_trained_student(
    model: TinyUSFMSeg,
    path: str | Path,
    name: str = "checkpoint",
    presence_threshold: float | None = None,
    device: torch.device | str | None = None,
) -> TinyUSFMSeg:
    """The model with a whole segmentation checkpoint in it, to be used as it was trained.

    A pretrained backbone without its head and a student of another img_size are refused: both would segment, and badly.
    A file of a student that python -m eval.presence has calibrated gives the model its `presence`.

    Args:
        model: gets the weights; untouched when the file is refused.
        path: the trained student, such as a run's best file. [path]
        name: the config id that gave the path, for messages.
        presence_threshold: the mask of an image whose presence probability is below it is left empty; 0 empties none,
            null takes the one that is stored with the weights. [0 to 1, null]
        device: to which the model goes; null leaves it where it is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no path, a file of another network, class count or img_size, or whose keys do not fit; a threshold
            out of its range, or for a student without a presence.
    """
    if not path:
        raise ValueError(f"{name} is required, got {path!r}; pass --{name} PATH to a trained student.")
    state, source = read_state_dict(path, name), f"{name} {path}"
    check_kind(state, (STUDENT,), source)
    _check_img_size(model, state, source)
    _check_threshold(presence_threshold, state, source)
    former, model.presence = model.presence, None
    if _has_presence(state):
        model.add_presence()
    try:
        _load_segmentation(model, state, source)
    except ValueError:
        model.presence = former
        raise
    if presence_threshold is not None:
        model.presence.threshold.fill_(presence_threshold)
    return model if device is None else model.to(device)


def student_of_file(path: str | Path, name: str = "checkpoint") -> TinyUSFMSeg:
    """The trained student in a file, built as its weights say: size, classes and img_size.

    Args:
        path: as in `load_trained_student`.
        name: likewise.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no trained student.
    """
    state, source = read_state_dict(path, name), f"{name} {path}"
    check_kind(state, (STUDENT,), source)
    choices = {}
    pos_embed, classifier = state.get(POS_EMBED), state.get(CLASSIFIER)
    if pos_embed is not None and _is_square_grid(pos_embed):
        choices["img_size"] = math.isqrt(pos_embed.shape[1] - 1) * PATCH_SIZE
        sizes = (size._asdict() for size in STUDENT_SIZES.values() if size.embed_dim == pos_embed.shape[2])
        choices.update(next(sizes, {}))
    if classifier is not None:
        choices["num_classes"] = max(2, classifier.shape[0])
    return load_trained_student(TinyUSFMSeg(**choices), path, name)


def _has_presence(state: Iterable[str]) -> bool:
    return any(key.startswith(PRESENCE) for key in state)


def _check_threshold(threshold: float | None, state: Iterable[str], source: str) -> None:
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 <= threshold <= 1:
        raise ValueError(f"presence_threshold must be a number from 0 to 1, or null, got {threshold!r}.")
    if not _has_presence(state):
        raise ValueError(
            f"presence_threshold is {threshold:g}, but {source} gives no presence probability; leave it null, or "
            "calibrate the student with python -m eval.presence."
        )


def _load_segmentation(model: TinyUSFMSeg, state: dict[str, torch.Tensor], source: str) -> None:
    _check_classes(model, state, source)
    load_strict(model, state, source=source)
    logger.info("%s: backbone and head loaded", source)


def _load_backbone(model: TinyUSFMSeg, state: dict[str, torch.Tensor], source: str) -> None:
    prefix = "model."
    foreign = sorted(key for key in state if not key.startswith(prefix))
    if foreign:
        logger.warning("%s: %d keys outside model.* left out: %s", source, len(foreign), list_keys(foreign))
    state = {f"backbone.{key.removeprefix(prefix)}": v for key, v in state.items() if key.startswith(prefix)}
    gaps = load_strict(model, _resize_pos_embed(model, state), HEAD_KEYS, PRETRAINING_KEYS, source)
    if gaps.unexpected:
        logger.warning("%s: pretraining head left out: %s", source, list_keys(gaps.unexpected))
    logger.info("%s: backbone loaded, %d entries of neck and head left new", source, len(gaps.missing))


def _resize_pos_embed(model: TinyUSFMSeg, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    target, pos_embed = model.state_dict()[POS_EMBED], state.get(POS_EMBED)
    if pos_embed is None or pos_embed.shape == target.shape or not _is_square_grid(pos_embed):
        return state  # nothing to do, or for load_strict to refuse
    side = model.img_size // PATCH_SIZE
    logger.info("student: position embeddings %s resized to %s", tuple(pos_embed.shape), tuple(target.shape))
    return {**state, POS_EMBED: resample_abs_pos_embed(pos_embed, new_size=[side, side])}


def _is_square_grid(pos_embed: torch.Tensor) -> bool:
    patches = pos_embed.shape[1] - 1 if pos_embed.ndim == 3 else 0  # without the class token
    return patches > 0 and math.isqrt(patches) ** 2 == patches


def _check_classes(model: TinyUSFMSeg, state: dict[str, torch.Tensor], source: str) -> None:
    classifier, expected = state.get(CLASSIFIER), model.decode_head.conv_seg.out_channels
    if classifier is not None and classifier.shape[0] != expected:
        classes = [2 if channels == 1 else channels for channels in (classifier.shape[0], expected)]
        raise ValueError(
            f"{source} segments {classes[0]} classes, but data::num_classes is {classes[1]}; "
            f"pass --data::num_classes {classes[0]} (--num_classes for inference) or another checkpoint."
        )


def _check_img_size(model: TinyUSFMSeg, state: dict[str, torch.Tensor], source: str) -> None:
    pos_embed = state.get(POS_EMBED)
    if pos_embed is None or not _is_square_grid(pos_embed):
        return  # for load_strict to refuse
    img_size = math.isqrt(pos_embed.shape[1] - 1) * PATCH_SIZE
    if img_size != model.img_size:
        raise ValueError(
            f"{source} was trained at {img_size} pixels, but the student is built for {model.img_size}; "
            f"pass --img_size {img_size} (--data::img_size {img_size} in evaluate.json)."
        )
