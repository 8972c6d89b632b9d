"""The loss: alpha * task + beta * distill + gamma * feature, and the terms of extra_losses.py, which are off by
default.

Hinton et al. 2015, arXiv:1503.02531, Sec. 2 (softened targets); Romero et al. 2015, arXiv:1412.6550 (features through
an adapter); Milletari et al. 2016, arXiv:1606.04797, eq. 3 (Dice with squared denominators).

Shapes: B batch, C classes, D channels, H W pixels.
"""

from __future__ import annotations

from collections import namedtuple
from typing import NamedTuple

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F

from .loss_terms import (
    BOTH,
    CONFIDENCE,
    NONE,
    MaskedGeneration,
    boundary_mask,
    check_options,
    cwd_loss,
    dist_inter_loss,
    dist_intra_loss,
    gate_weight,
    region_mean,
)
from .utils.options import BACKBONE, MODES, NECK, REPLAY, STUDENT_FEATURES

SMOOTH = 1e-5
# config keys of the weights whose terms read the teacher's logits; its embedding
GATED_KEYS = ("beta", "boundary")
LOGIT_KEYS = (*GATED_KEYS, "cwd", "dist_intra", "dist_inter")
FEATURE_KEYS = ("gamma", "mgd")
STUDENT_CHANNELS = {NECK: 48, BACKBONE: 192}


class LossTerms(NamedTuple):
    """Scalars: the weighted total, then each term before its weight; one of these four whose weight is 0 is 0. Added
    terms that are on follow as further fields.
    """

    total: torch.Tensor
    task: torch.Tensor
    distill: torch.Tensor
    feature: torch.Tensor


def class_logits(logits: torch.Tensor) -> torch.Tensor:
    """Logits with one channel a class: one-channel x (B, 1, H, W) becomes [0, x] (B, 2, H, W), since
    softmax([0, x])[1] = sigmoid(x); others are returned as they are."""
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def distill_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), summed over classes, mean over B, H, W.

    The mean over pixels keeps the term comparable between image sizes; T^2 keeps its gradient comparable between
    temperatures (Hinton et al., Sec. 2).

    Args:
        student_logits: (B, C, H, W), unnormalized; one channel stands for two classes.
        teacher_logits: (B, C, h, w), unnormalized; resized bilinearly (align_corners=False) to the student's.
        temperature: positive.

    Raises:
        ValueError: teacher and student differ in classes.
    """
    check_same_classes(student_logits, teacher_logits)
    teacher = resize(teacher_logits.float(), student_logits.shape[-2:]) / temperature
    student = student_logits.float() / temperature
    if student.shape[1] == 1:  # as in divergence, but with the means first, which is faster
        target = teacher.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(teacher, target)
        return temperature**2 * (F.binary_cross_entropy_with_logits(student, target) - entropy)
    return temperature**2 * divergence(student, teacher).mean()


def divergence(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """KL(softmax(teacher) || softmax(student)) of each pixel, summed over classes: (B, H, W) from logits (B, 1 or C,
    H, W).
    """
    # the classes [0, x]: cross-entropy less the teacher's entropy, faster than two channels
    if student_logits.shape[1] == 1:
        target = teacher_logits.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(teacher_logits, target, reduction="none")
        return (F.binary_cross_entropy_with_logits(student_logits, target, reduction="none") - entropy)[:, 0]
    student, teacher = student_logits.log_softmax(1), teacher_logits.log_softmax(1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def resize(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Bilinear (align_corners=False) resize of (B, C, h, w) to `size`; nothing where it has that size."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def shrink(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """As `resize`, but what becomes smaller is averaged first, so that no element of the teacher's embedding is
    passed over.
    """
    return (
        x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    )


class TaskLoss(nn.Module):
    """0.5 * cross-entropy + 0.5 * Dice against the ground truth: the supervised part.

    Binary: BCE with logits, and the Dice of the foreground. Multi-class: cross-entropy, and the mean Dice over all
    classes with the background. Cross-entropy is the mean over B, H, W. Dice sums over the whole batch, so that an
    image without foreground cannot dominate it.

    Args:
        num_classes: with the background; 2 takes one logit channel.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2 (background and one class), got {num_classes}.")
        self.binary = num_classes == 2
        form = {"sigmoid": True} if self.binary else {"softmax": True, "to_onehot_y": True}
        self.dice = DiceLoss(batch=True, squared_pred=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH, **form)

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """A scalar from logits (B, 1 or C, H, W), unnormalized, and label (B, 1, H, W), class indices."""
        logits = logits.float()
        if self.binary:
            label = label.float()
            entropy = F.binary_cross_entropy_with_logits(logits, label)
        else:
            entropy = F.cross_entropy(logits, label[:, 0].long())
        return 0.5 * entropy + 0.5 * self.dice(logits, label)


class FeatureAdapter(nn.Sequential):
    """Student features (B, D, h, w) -> the teacher's embedding channels (B, 256, h, w): 1x1 convolution and batch norm.

    No ReLU at the end: the teacher's embeddings are signed. It trains with the student and is not part of the shared
    model.
    """

    def __init__(self, student_channels: int = 48, teacher_channels: int = 256) -> None:
        super().__init__(
            nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False), nn.BatchNorm2d(teacher_channels)
        )


class DistillationLoss(nn.Module):
    """alpha * task + beta * distill + gamma * feature, and what is added to it, as `LossTerms`.

    What extra_losses.py adds is off by default. A term of it that has a weight is a further field of the result, named
    as its key.

    Args:
        temperature: softens both logits, usually 1 to 20.
        alpha: weight of the task term (`TaskLoss`).
        beta: weight of the softened Kullback-Leibler term (`distill_loss`).
        gamma: weight of the feature term: mean squared error, over all elements, between the adapted student features
            and the teacher's image embedding resized to them.
        features: which features of the student gamma and mgd read: `neck`, its stride-16 level, which comes from the
            block two thirds up, or `backbone`, the last block's output, so that all blocks learn from the embedding.
        whiten: standardize each channel of the embedding over the batch before gamma and mgd compare it, to mean 0 and
            variance v / (v + 1e-5), so that a channel that hardly varies counts less. Otherwise its variance v is part
            of the weight (the shared LiteMedSAM's has a mean of 0.01, from 3e-7 to 0.06), and the adapter, which starts
            at 1, first has to shrink to it. Wei et al. 2022, arXiv:2205.14141, normalize a teacher's features too, over
            the channels of each token, which would leave the channels as different as they are.
        num_classes: with the background.
        mode: where the teacher's outputs come from: `online` (the teacher runs in every step), `replay` (of `views`
            augmented views of each image, kept on disk) or `warp` (of each image as it is, moved along with its
            augmentation). It is the same loss.
        views: of each image, in replay.
        teacher_temperature: the teacher's logits are divided by it before any term reads them; what a calibration on
            the validation list finds (Guo et al. 2017, arXiv:1706.04599), above 1 for a teacher that is too sure.
        gate: where the teacher counts in distill and boundary: everywhere (`none`), where it is sure (`confidence`),
            where it finds the label (`agreement`), or both of these (`both`). The others are 0 in the mean, which still
            divides by all pixels: the less the teacher is trusted, the less it weighs against the ground truth.
        gate_confidence: the top probability from which on the teacher is sure.
        boundary: weight of the same divergence over the pixels near an edge of the label; distill is then the mean over
            the others, the body.
        boundary_width: pixels on each side of the edge.
        cwd: weight of `cwd_loss`, softened by `temperature`.
        dist_intra: weight of `dist_intra_loss`.
        dist_inter: weight of `dist_inter_loss`; needs more than two classes.
        mgd: weight of `MaskedGeneration`.
        mask_ratio: share of the student's features that mgd masks.
        student_channels: of the student's features; None is what TinyUSFM has.
        teacher_channels: of the teacher's embedding.

    Raises:
        ValueError: an option out of range, all weights 0, a term that is void for two classes, a gate or a
            teacher_temperature that no term of the teacher reads, or an unknown mode.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 0.0,
        features: str = NECK,
        whiten: bool = False,
        num_classes: int = 2,
        mode: str = "online",
        views: int = 8,
        teacher_temperature: float = 1.0,
        gate: str = "none",
        gate_confidence: float = 0.9,
        boundary: float = 0.0,
        boundary_width: int = 3,
        cwd: float = 0.0,
        dist_intra: float = 0.0,
        dist_inter: float = 0.0,
        mgd: float = 0.0,
        mask_ratio: float = 0.75,
        student_channels: int | None = None,
        teacher_channels: int = 256,
    ) -> None:
        super().__init__()
        extras = {"boundary": boundary, "cwd": cwd, "dist_intra": dist_intra, "dist_inter": dist_inter, "mgd": mgd}
        weights = {"alpha": alpha, "beta": beta, "gamma": gamma, **extras}
        check_weights(temperature, weights)
        check_mode(mode, views)
        check_features(features)
        self.task = TaskLoss(num_classes)
        check_options(num_classes, gate, gate_confidence, teacher_temperature, boundary_width, dist_inter, mask_ratio)
        self.mode, self.views, self.features, self.whiten = mode, views, features, whiten
        student_channels = STUDENT_CHANNELS[features] if student_channels is None else student_channels
        self.standardize = nn.BatchNorm2d(teacher_channels, affine=False, track_running_stats=False)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.gate, self.gate_confidence = gate, gate_confidence
        self.boundary_width, self.mask_ratio = boundary_width, mask_ratio
        check_use(weights, gate, teacher_temperature)
        extras = {key: weight for key, weight in extras.items() if weight > 0}
        self.weights = {"alpha": alpha, "beta": beta, "gamma": gamma, **extras}
        self.terms_type = namedtuple("LossTerms", (*LossTerms._fields, *extras)) if extras else LossTerms
        with torch.random.fork_rng(devices=[]):  # the student starts from the weights of a control with the same seed
            self.adapter = FeatureAdapter(student_channels, teacher_channels) if gamma > 0 else None
            self.generation = MaskedGeneration(student_channels, teacher_channels, mask_ratio) if mgd > 0 else None

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads the teacher."""
        return bool(self._active(LOGIT_KEYS + FEATURE_KEYS))

    @property
    def needs_features(self) -> bool:
        """Whether any term reads the student's features and the teacher's embedding."""
        return bool(self._active(FEATURE_KEYS))

    @property
    def student_features(self) -> str | None:
        """Which features the student has to return, None where no term reads any."""
        return self.features if self.needs_features else None

    @property
    def num_views(self) -> int | None:
        """Views of each image that come back; None where each epoch has its own."""
        return self.views if self.mode == REPLAY else None

    @property
    def settings(self) -> dict[str, float | int | str]:
        """What is in force, by config key: what a resumed run has in common with the earlier one. What is off is left
        out, so that runs can be resumed that were started before it could be switched on.
        """
        options = {
            "teacher_temperature": self.teacher_temperature != 1,
            "gate": self.gate != NONE,
            "gate_confidence": self.gate in (CONFIDENCE, BOTH),
            "boundary_width": "boundary" in self.weights,
            "mask_ratio": "mgd" in self.weights,
            "features": self.student_features not in (None, NECK),
            "whiten": self.whiten and self.needs_features,
        }
        keys = ["mode", "views", *(key for key, matters in options.items() if matters)]
        return {"temperature": self.temperature, **self.weights, **{key: getattr(self, key) for key in keys}}

    def forward(
        self,
        student_logits: torch.Tensor,
        label: torch.Tensor,
        teacher_logits: torch.Tensor | None = None,
        student_features: torch.Tensor | None = None,
        teacher_features: torch.Tensor | None = None,
    ) -> LossTerms:
        """The terms for a batch.

        Args:
            student_logits: (B, 1 or C, H, W), unnormalized.
            label: (B, 1, H, W), class indices.
            teacher_logits: (B, 1 or C, h, w), unnormalized, needed by distill, boundary, cwd, dist_intra and
                dist_inter.
            student_features: (B, D, h, w), needed by feature and mgd; D is `student_channels`.
            teacher_features: (B, 256, h', w'), needed by feature and mgd.
        """
        zero = student_logits.new_zeros((), dtype=torch.float32)
        terms = dict.fromkeys(LossTerms._fields[1:], zero)
        if self.weights["alpha"] > 0:
            terms["task"] = self.task(student_logits, label)
        if active := self._active(LOGIT_KEYS):
            teacher_logits = _required(teacher_logits, "teacher_logits", active[0])
            terms.update(self._logit_terms(student_logits, label, teacher_logits))
        if active := self._active(FEATURE_KEYS):
            student_features = _required(student_features, "student_features", active[0])
            teacher_features = _required(teacher_features, "teacher_features", active[0])
            terms.update(self._feature_terms(student_features, teacher_features))
        values = [terms[name] for name in self.terms_type._fields[1:]]
        return self.terms_type(sum(weight * value for weight, value in zip(self.weights.values(), values)), *values)

    def _active(self, keys: tuple[str, ...]) -> list[str]:
        return [key for key in keys if self.weights.get(key, 0) > 0]

    def _logit_terms(
        self, student: torch.Tensor, label: torch.Tensor, teacher: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        check_same_classes(student, teacher)
        student, teacher = student.float(), resize(teacher.float() / self.teacher_temperature, student.shape[-2:])
        terms = self._divergence_terms(student, label, teacher)
        if "cwd" in self.weights:
            terms["cwd"] = cwd_loss(student, teacher, self.temperature)
        if "dist_intra" in self.weights:
            terms["dist_intra"] = dist_intra_loss(student, teacher)
        if "dist_inter" in self.weights:
            terms["dist_inter"] = dist_inter_loss(student, teacher)
        return terms

    def _divergence_terms(
        self, student: torch.Tensor, label: torch.Tensor, teacher: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """distill and boundary, as far as they have a weight."""
        active = self._active(("beta", "boundary"))
        if active == ["beta"] and self.gate == NONE:
            return {"distill": distill_loss(student, teacher, self.temperature)}
        if not active:
            return {}
        pixels = self.temperature**2 * divergence(student / self.temperature, teacher / self.temperature)
        if self.gate != NONE:
            pixels = pixels * gate_weight(teacher, label, self.gate, self.gate_confidence)
        if "boundary" not in active:
            return {"distill": pixels.mean()}
        edge = boundary_mask(label, self.boundary_width)
        terms = {"boundary": region_mean(pixels, edge)}
        if "beta" in active:
            terms["distill"] = region_mean(pixels, ~edge)
        return terms

    def _feature_terms(self, student: torch.Tensor, teacher: torch.Tensor) -> dict[str, torch.Tensor]:
        student, teacher = student.float(), shrink(teacher.float(), student.shape[-2:])
        if self.whiten:
            teacher = self.standardize(teacher)
        terms = {}
        if self.adapter is not None:
            terms["feature"] = F.mse_loss(self.adapter(student), teacher)
        if self.generation is not None:
            terms["mgd"] = self.generation(student, teacher)
        return terms


def check_weights(temperature: float, weights: dict[str, float]) -> None:
    """Refuse a temperature that is not positive, negative weights, and weights that are all 0; weights by config
    key.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; pass --distillation::temperature 4.0.")
    for name, value in weights.items():
        if not value >= 0:
            raise ValueError(
                f"{name} must not be negative, got {value}; pass --distillation::{name} 0 to switch its term off."
            )
    if not any(weights.values()):
        raise ValueError(
            "alpha, beta and gamma are all 0, so there is nothing to learn; pass --distillation::alpha 0.5."
        )


def check_use(weights: dict[str, float], gate: str, teacher_temperature: float) -> None:
    """Refuse a gate and a teacher_temperature that change nothing; a control, without a term of the teacher, may
    keep both.
    """
    on = [name for name in LOGIT_KEYS + FEATURE_KEYS if weights[name] > 0]
    if on and gate != NONE and not {*on} & {*GATED_KEYS}:
        raise ValueError(
            f"distillation::gate is {gate}, but it gates only {' and '.join(GATED_KEYS)}, which are 0, and not "
            f"{', '.join(on)}; "
            "pass --distillation::gate none or --distillation::beta 0.5."
        )
    if on and teacher_temperature != 1 and not {*on} & {*LOGIT_KEYS}:
        raise ValueError(
            f"distillation::teacher_temperature is {teacher_temperature}, but no term reads the teacher's logits, only "
            "its embedding "
            f"({', '.join(on)}); pass --distillation::teacher_temperature 1.0 or --distillation::beta 0.5."
        )


def check_mode(mode: str, views: int) -> None:
    """Refuse an unknown mode, and a number of views that is not positive; arguments as `DistillationLoss` has them."""
    if mode not in MODES:
        raise ValueError(f"distillation::mode must be one of {', '.join(MODES)}, got {mode!r}.")
    if isinstance(views, bool) or not isinstance(views, int) or views < 1:
        raise ValueError(f"distillation::views must be a positive integer, got {views!r}.")


def check_features(features: str) -> None:
    """Refuse features that the student does not return."""
    if features not in STUDENT_FEATURES:
        raise ValueError(f"distillation::features must be {' or '.join(STUDENT_FEATURES)}, got {features!r}.")


def check_same_classes(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> None:
    """Refuse logits that differ in channels, one of which would be broadcast."""
    if teacher_logits.shape[1] != student_logits.shape[1]:
        raise ValueError(
            f"teacher logits {tuple(teacher_logits.shape)} and student logits {tuple(student_logits.shape)} differ in "
            "classes."
        )


def _required(value: torch.Tensor | None, name: str, weight: str) -> torch.Tensor:
    if value is None:
        raise ValueError(
            f"{name} is needed because {weight} > 0, got None; pass --distillation::{weight} 0 or give a teacher."
        )
    return value
