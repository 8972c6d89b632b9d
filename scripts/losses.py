"""The loss: alpha * task + beta * distill + gamma * feature.

Hinton et al. 2015, arXiv:1503.02531, Sec. 2 (softened targets); Romero et al. 2015, arXiv:1412.6550 (features through an
adapter); Milletari et al. 2016, arXiv:1606.04797, eq. 3 (Dice with squared denominators).

Shapes: B batch, C classes, D channels, H W pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F

from .sections import MODES, REPLAY, WARP

SMOOTH = 1e-5


class LossTerms(NamedTuple):
    """Scalars: the weighted total, then each term before its weight; a term whose weight is 0 is 0."""

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
    if teacher_logits.shape[1] != student_logits.shape[1]:
        raise ValueError(
            f"teacher logits {tuple(teacher_logits.shape)} and student logits {tuple(student_logits.shape)} differ in classes."
        )
    teacher = resize(teacher_logits.float(), student_logits.shape[-2:]) / temperature
    student = student_logits.float() / temperature
    if student.shape[1] == 1:  # the classes [0, x]: cross-entropy less the teacher's entropy, a third of the time of two channels
        target = teacher.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(teacher, target)
        return temperature**2 * (F.binary_cross_entropy_with_logits(student, target) - entropy)
    divergence = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * divergence.mean()


def resize(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Bilinear (align_corners=False) resize of (B, C, h, w) to `size`; nothing where it has that size."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class TaskLoss(nn.Module):
    """0.5 * cross-entropy + 0.5 * Dice against the ground truth: the supervised part.

    Binary: BCE with logits, and the Dice of the foreground. Multi-class: cross-entropy, and the mean Dice over all classes
    with the background. Cross-entropy is the mean over B, H, W. Dice sums over the whole batch, so that an image without
    foreground cannot dominate it.

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
    """Student features (B, 48, h, w) -> the teacher's embedding channels (B, 256, h, w): 1x1 convolution and batch norm.

    No ReLU at the end: the teacher's embeddings are signed. It trains with the student and is not part of the shared model.
    """

    def __init__(self, student_channels: int = 48, teacher_channels: int = 256) -> None:
        super().__init__(
            nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False), nn.BatchNorm2d(teacher_channels)
        )


class DistillationLoss(nn.Module):
    """alpha * task + beta * distill + gamma * feature, as `LossTerms`.

    Args:
        temperature: softens both logits, usually 1 to 20.
        alpha: weight of the task term (`TaskLoss`).
        beta: weight of the softened Kullback-Leibler term (`distill_loss`).
        gamma: weight of the feature term: mean squared error, over all elements, between the adapted student features and the
            teacher's image embedding resized to them.
        num_classes: with the background.
        mode: where the teacher's outputs come from: `online` (the teacher runs in every step), `replay` (of `views` augmented views of
            each image, kept on disk) or `warp` (of each image as it is, moved along with its augmentation). The loss is the same.
        views: of each image, in replay.
        student_channels: of the student's features.
        teacher_channels: of the teacher's embedding.

    Raises:
        ValueError: temperature <= 0, a negative weight, all weights 0, or a mode that is unknown or does not go with gamma.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 0.0,
        num_classes: int = 2,
        mode: str = "online",
        views: int = 8,
        student_channels: int = 48,
        teacher_channels: int = 256,
    ) -> None:
        super().__init__()
        check_weights(temperature, alpha, beta, gamma)
        check_mode(mode, views, gamma)
        self.mode, self.num_views = mode, views if mode == REPLAY else None
        self.temperature, self.alpha, self.beta, self.gamma = temperature, alpha, beta, gamma
        self.task = TaskLoss(num_classes)
        self.adapter = FeatureAdapter(student_channels, teacher_channels) if gamma > 0 else None

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads the teacher."""
        return self.beta > 0 or self.gamma > 0

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
            teacher_logits: (B, 1 or C, h, w), unnormalized, needed when beta > 0.
            student_features: (B, 48, h, w), needed when gamma > 0.
            teacher_features: (B, 256, h', w'), needed when gamma > 0.
        """
        zero = student_logits.new_zeros((), dtype=torch.float32)
        task = self.task(student_logits, label) if self.alpha > 0 else zero
        distill = zero
        if self.beta > 0:
            distill = distill_loss(student_logits, _required(teacher_logits, "teacher_logits", "beta"), self.temperature)
        feature = zero
        if self.gamma > 0:
            adapted = self.adapter(_required(student_features, "student_features", "gamma").float())
            target = resize(_required(teacher_features, "teacher_features", "gamma").float(), adapted.shape[-2:])
            feature = F.mse_loss(adapted, target)
        return LossTerms(self.alpha * task + self.beta * distill + self.gamma * feature, task, distill, feature)


def check_weights(temperature: float, alpha: float, beta: float, gamma: float) -> None:
    """Refuse a temperature that is not positive, negative weights, and weights that are all 0."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; pass --distillation::temperature 4.0.")
    weights = {"alpha": alpha, "beta": beta, "gamma": gamma}
    for name, value in weights.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}; pass --distillation::{name} 0 to switch its term off.")
    if not any(weights.values()):
        raise ValueError("alpha, beta and gamma are all 0, so there is nothing to learn; pass --distillation::alpha 0.5.")


def check_mode(mode: str, views: int, gamma: float) -> None:
    """Refuse an unknown mode, a number of views that is not positive, and features that would have to be warped."""
    if mode not in MODES:
        raise ValueError(f"distillation::mode must be one of {', '.join(MODES)}, got {mode!r}.")
    if isinstance(views, bool) or not isinstance(views, int) or views < 1:
        raise ValueError(f"distillation::views must be a positive integer, got {views!r}.")
    if mode == WARP and gamma > 0:
        raise ValueError(
            f"distillation::mode warp moves logits, but gamma is {gamma}: the teacher's embedding of a turned image is not its turned "
            "embedding; pass --distillation::mode replay or --distillation::gamma 0."
        )


def _required(value: torch.Tensor | None, name: str, weight: str) -> torch.Tensor:
    if value is None:
        raise ValueError(f"{name} is needed because {weight} > 0, got None; pass --distillation::{weight} 0 or give a teacher.")
    return value
