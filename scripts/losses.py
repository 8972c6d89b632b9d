"""The loss of all trainings: a sum of weighted terms, alpha * task + beta * distill + gamma * feature + further ones.

The terms are in loss_terms.py. `distillation_loss` is the config section `distillation`; `task_loss` is what trains the
control and the teacher.

Shapes: B batch, C classes, D channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .loss_terms import (
    ALL,
    BODY,
    EDGE,
    FEATURES,
    LOGITS,
    NO_GATE,
    Batch,
    ChannelWise,
    Divergence,
    Feature,
    InterRelation,
    IntraRelation,
    MaskedGeneration,
    Task,
    Term,
)
from .utils.batch_means import find_labeled, predict
from .utils.options import BACKBONE, NECK, STUDENT_FEATURES, WARP, check_choice, repeated_views

STUDENT_CHANNELS = {NECK: 48, BACKBONE: 192}  # of TinyUSFM's features
ALWAYS_NAMED = ("alpha", "beta", "gamma")  # weights that a run's settings hold even where they are 0
FORMER_NAMES = {"adapter.": "terms.feature.adapter.", "generation.": "terms.mgd."}  # of weights, in version 0.5.0


class DistillationLoss(nn.Module):
    """The terms that have a weight, and their weighted total.

    `needs_teacher` and `needs_features` tell whether any term reads the teacher, and its embedding; `student_features`
    which features the student has to return, None where no term reads any.

    Args:
        terms: by name; those of weight 0 are left out.
        features: of the student: `neck`, its stride-16 level, or `backbone`, the last block's output.
        whiten: standardize each channel of the embedding over the batch before a term compares it.
        teacher_temperature: the teacher's logits are divided by it before any term reads them.
        teacher_channels: of the teacher's embedding.
        unlabeled_weight: of an image without a label in the teacher's terms; one with a label has 1.

    Raises:
        ValueError: no term has a weight, or an option is out of range or changes nothing.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        features: str = NECK,
        whiten: bool = False,
        teacher_temperature: float = 1.0,
        teacher_channels: int = 256,
        unlabeled_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < unlabeled_weight < float("inf"):
            raise ValueError(
                f"unlabeled_weight must be positive, got {unlabeled_weight}; pass --distillation::unlabeled_weight 1.0 "
                "(--data::unlabeled_share 0 leaves images without labels out)."
            )
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term.weight > 0})
        if not self.terms:
            raise ValueError(
                "alpha, beta and gamma are all 0, so there is nothing to learn; pass --distillation::alpha 0.5."
            )
        self.needs_teacher = any(term.reads for term in self.terms.values())
        self.needs_features = bool(self._readers(FEATURES))
        self.student_features = features if self.needs_features else None
        self.whiten, self.teacher_temperature, self.unlabeled_weight = whiten, teacher_temperature, unlabeled_weight
        self.standardize = nn.BatchNorm2d(teacher_channels, affine=False, track_running_stats=False)
        if self.needs_teacher and teacher_temperature != 1 and not self._readers(LOGITS):
            keys = ", ".join(term.key for term in self._readers(FEATURES))
            raise ValueError(
                f"distillation::teacher_temperature is {teacher_temperature}, but no term reads the teacher's logits, "
                f"only its embedding ({keys}); pass "
                "--distillation::teacher_temperature 1.0, or --distillation::beta 0.5."
            )

    def forward(
        self,
        student_logits: torch.Tensor,
        label: torch.Tensor,
        teacher_logits: torch.Tensor | None = None,
        student_features: torch.Tensor | None = None,
        teacher_features: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Scalars by name: `loss`, the weighted total, and each term before its weight.

        Args:
            student_logits: (B, 1 or C, H, W), unnormalized.
            label: (B, 1, H, W), class indices; NO_LABEL all over where an image has no label. Such images have no part
                in the task; to the terms that read a label the teacher's mask stands for it.
            teacher_logits: (B, 1 or C, h, w), unnormalized; resized to the student's.
            student_features: (B, D, h, w).
            teacher_features: (B, D', h', w'); resized to the student's.

        Raises:
            ValueError: a tensor that a term reads is missing, or the logits differ in classes.
        """
        batch = Batch(student_logits.float(), label, **self._unlabeled(label))
        if readers := self._readers(LOGITS):
            _require(teacher_logits, "teacher_logits", readers[0])
            check_same_classes(student_logits, teacher_logits)
            teacher = resize(teacher_logits.float() / self.teacher_temperature, student_logits.shape[-2:])
            batch = batch._replace(teacher_logits=teacher)
            if batch.labeled is not None:
                labeled = batch.labeled.view(-1, 1, 1, 1)
                batch = batch._replace(label=torch.where(labeled, label, predict(teacher).to(label.dtype)))
        if readers := self._readers(FEATURES):
            _require(student_features, "student_features", readers[0])
            _require(teacher_features, "teacher_features", readers[0])
            embedding = shrink(teacher_features.float(), student_features.shape[-2:])
            embedding = self.standardize(embedding) if self.whiten else embedding
            batch = batch._replace(student_features=student_features.float(), teacher_features=embedding)
        values = {name: term(batch) for name, term in self.terms.items()}
        return {"loss": sum(term.weight * values[name] for name, term in self.terms.items()), **values}

    def _unlabeled(self, label: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """Which images have a label, and what the images weigh in the teacher's terms; see `Batch`."""
        labeled = find_labeled(label)
        if labeled is None or self.unlabeled_weight == 1:
            return {"labeled": labeled}
        return {"labeled": labeled, "weight": torch.where(labeled, 1.0, self.unlabeled_weight)}

    def _readers(self, part: str) -> list[Term]:
        return [term for term in self.terms.values() if term.reads == part]

    @property
    def settings(self) -> dict[str, Any]:
        """Weights and options by config key: what a resumed run has in common with the earlier one.

        What is off is left out, so that runs can be resumed that were started before it could be switched on.
        """
        weights = {term.key: term.weight for term in self.terms.values()}
        options = {key: value for term in self.terms.values() for key, value in term.options.items()}
        if self.teacher_temperature != 1:
            options["teacher_temperature"] = self.teacher_temperature
        if self.student_features not in (None, NECK):
            options["features"] = self.student_features
        if self.whiten and self.needs_features:
            options["whiten"] = True
        if self.unlabeled_weight != 1:
            options["unlabeled_weight"] = self.unlabeled_weight
        return {**dict.fromkeys(ALWAYS_NAMED, 0.0), **weights, **options}

    @staticmethod
    def rename_former(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A state dict of version 0.5.0 under today's names; others stay as they are."""
        renamed = {}
        for key, tensor in state.items():
            former = next((prefix for prefix in FORMER_NAMES if key.startswith(prefix)), "")
            renamed[FORMER_NAMES.get(former, "") + key.removeprefix(former)] = tensor
        return renamed


def distillation_loss(
    temperature: float = 4.0,
    alpha: float = 0.5,
    beta: float = 0.5,
    gamma: float = 0.0,
    features: str = NECK,
    whiten: bool = False,
    mode: str = WARP,
    views: int = 8,
    teacher_temperature: float = 1.0,
    gate: str = NO_GATE,
    gate_confidence: float = 0.9,
    boundary: float = 0.0,
    boundary_width: int = 3,
    cwd: float = 0.0,
    dist_intra: float = 0.0,
    dist_inter: float = 0.0,
    mgd: float = 0.0,
    mask_ratio: float = 0.75,
    unlabeled_weight: float = 1.0,
    num_classes: int = 2,
    student_channels: int | None = None,
    teacher_channels: int = 256,
) -> DistillationLoss:
    """The config section `distillation`: what the student learns from the labels and from the teacher.

    Args:
        temperature: softens both logits in beta, boundary and cwd. [above 0, usually 1 to 20]
        alpha: weight of the ground truth. [0 or more]
        beta: weight of the divergence from the teacher's softened logits. [0 or more]
        gamma: weight of the distance to the teacher's embedding. [0 or more]
        features: which features of the student gamma and mgd read: the neck's stride-16 level, which comes from the
            block two thirds up, or the last block's output, so that all blocks learn. [neck, backbone]
        whiten: standardize each channel of the embedding over the batch before gamma and mgd compare it, so that a
            channel that hardly varies counts less. Wei et al. 2022, arXiv:2205.14141, normalize over the channels of
            each token instead, which would leave the channels as different as they are. [true, false]
        mode: where the teacher's outputs come from: the teacher runs in every step (online), its outputs for some views
            of each image are kept (replay), or those of each image as it is are moved along (warp). [online, replay,
            warp]
        views: of each image, in replay. [1 or more]
        teacher_temperature: the teacher's logits are divided by it before any term reads them; above 1 for a teacher
            that is too sure. The preflight finds it (Guo et al. 2017, arXiv:1706.04599). [above 0]
        gate: where the teacher counts in beta and boundary: everywhere, where it is sure, where it finds the label, or
            where both hold. [none, confidence, agreement, both]
        gate_confidence: the top probability from which on the teacher is sure. [between 1 / num_classes and 1]
        boundary: weight of the divergence near the edges of the label; beta is then over the other pixels. [0 or more]
        boundary_width: pixels on each side of an edge. [1 or more]
        cwd: weight of the channel-wise divergence over the pixels. [0 or more]
        dist_intra: weight of the correlation over the pixels of each class. [0 or more]
        dist_inter: weight of the correlation over the classes of each pixel; for more than two classes. [0 or more]
        mgd: weight of the embedding generated from masked features. [0 or more]
        mask_ratio: share of the student's features that mgd masks. [0 to below 1]
        unlabeled_weight: what an image without a label counts in the means of the teacher's terms, where one with a
            label counts 1; see data::unlabeled_share. [above 0]
        num_classes: with the background.
        student_channels: of the student's features; None is what TinyUSFM has.
        teacher_channels: of the teacher's embedding.

    Raises:
        ValueError: an option out of range, all weights 0, a term that is void for two classes, or an option that
            changes nothing.
    """
    repeated_views(mode, views)  # the cache and the training views read the two
    check_choice("distillation::features", features, STUDENT_FEATURES)
    if not teacher_temperature > 0:
        raise ValueError(
            f"teacher_temperature must be positive, got {teacher_temperature}; pass --distillation::teacher_temperature"
            " 1.0, which takes the teacher as it is."
        )
    channels = (student_channels or STUDENT_CHANNELS[features], teacher_channels)
    gating = {"temperature": temperature, "gate": gate, "gate_confidence": gate_confidence, "num_classes": num_classes}
    body = BODY if boundary > 0 else ALL
    with torch.random.fork_rng(devices=[]):  # the student starts from the weights of a control with the same seed
        terms = {
            "task": Task(alpha, num_classes),
            "distill": Divergence("beta", beta, **gating, region=body, width=boundary_width),
            "feature": Feature(gamma, *channels),
            "boundary": Divergence("boundary", boundary, **gating, region=EDGE, width=boundary_width),
            "cwd": ChannelWise(cwd, temperature),
            "dist_intra": IntraRelation(dist_intra),
            "dist_inter": InterRelation(dist_inter, num_classes),
            "mgd": MaskedGeneration(mgd, *channels, mask_ratio),
        }
    _check_gate(terms, gate)
    return DistillationLoss(terms, features, whiten, teacher_temperature, teacher_channels, unlabeled_weight)


def task_loss(num_classes: int = 2) -> DistillationLoss:
    """The ground truth alone: the loss of the control and of a teacher's fine-tuning.

    Args:
        num_classes: with the background.
    """
    return DistillationLoss({"task": Task(1.0, num_classes)})


def _check_gate(terms: Mapping[str, Term], gate: str) -> None:
    """Refuse a gate that gates nothing; a loss without a term of the teacher may keep it."""
    readers = [term for term in terms.values() if term.weight > 0 and term.reads]
    if gate != NO_GATE and readers and not any(isinstance(term, Divergence) for term in readers):
        raise ValueError(
            f"distillation::gate is {gate}, but it gates only beta and boundary, which are 0, and not "
            f"{', '.join(term.key for term in readers)}; pass --distillation::gate none or --distillation::beta 0.5."
        )


def check_same_classes(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> None:
    """Refuse logits that differ in channels, one of which would be broadcast."""
    if teacher_logits.shape[1] != student_logits.shape[1]:
        raise ValueError(
            f"teacher logits {tuple(teacher_logits.shape)} and student logits {tuple(student_logits.shape)} differ in "
            "classes."
        )


def resize(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Bilinear (align_corners=False) resize of (B, C, h, w) to `size`; nothing where it has that size."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def shrink(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """As `resize`, but what becomes smaller is averaged first, so that no element of an embedding is passed over."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)


def _require(value: torch.Tensor | None, name: str, term: Term) -> None:
    if value is None:
        raise ValueError(
            f"{name} is needed because {term.key} > 0, got None; pass --distillation::{term.key} 0 or give a teacher."
        )
