"""The terms of the loss, one class each: its weight, what it reads, its checks and its value.

- `Task`: the ground truth, half cross-entropy and half Dice (Milletari et al. 2016, arXiv:1606.04797, eq. 3).
- `Divergence`: the teacher's softened logits (Hinton et al. 2015, arXiv:1503.02531, Sec. 2), over all pixels, or over
  the boundary or the body of the label (BPKD, Liu et al. 2023, arXiv:2306.08075; BPKD gives each its own form of loss,
  here both are the same divergence). A gate lets the teacher count only where it finds the label (Meng et al. 2019,
  arXiv:1904.12399) or where it is sure (a threshold on the top probability, Sohn et al. 2020, arXiv:2001.07685).
- `Feature`: the teacher's embedding through an adapter (Romero et al. 2015, arXiv:1412.6550).
- `ChannelWise`: where a class is most likely (CWD, Shu et al. 2021, arXiv:2011.13256).
- `IntraRelation`, `InterRelation`: relations between probabilities (DIST, Huang et al. 2022, arXiv:2205.10536).
- `MaskedGeneration`: the embedding, generated from a part of the features (MGD, Yang et al. 2022, arXiv:2205.01529).

A new term is a class here and a key in losses.py. Not offered, because it is always 0 for two classes: the non-target
term of decoupled distillation (Zhao et al. 2022, arXiv:2203.08679).

Shapes: B batch, C classes, D channels, H W pixels. One channel of logits x stands for the two classes [0, x].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional as F

from .utils.batch_means import (
    batch_mean,
    boundary_mask,
    correlation,
    divergence,
    mean_divergence,
    mean_square,
    predict,
    probabilities,
    region_mean,
)
from .utils.options import check_choice, check_num_classes, is_whole

SMOOTH = 1e-5
GATES = NO_GATE, CONFIDENCE, AGREEMENT, BOTH = ("none", "confidence", "agreement", "both")
LOGITS, FEATURES = "logits", "features"  # of the teacher: what a term reads
ALL, BODY, EDGE = "all", "body", "edge"  # pixels that a divergence counts


class Batch(NamedTuple):
    """What the terms read, in float32, the teacher's already of the student's size.

    student_logits, teacher_logits: (B, 1 or C, H, W), unnormalized. label: (B, 1, H, W), class indices.
    student_features: (B, D, h, w). teacher_features: (B, D', h, w).
    labeled: (B,) bool, None where all images have a label; the label of one that has none is what the teacher says.
    weight: (B,) of the images in the teacher's terms, None where all count alike.
    """

    student_logits: torch.Tensor
    label: torch.Tensor
    teacher_logits: torch.Tensor | None = None
    student_features: torch.Tensor | None = None
    teacher_features: torch.Tensor | None = None
    labeled: torch.Tensor | None = None
    weight: torch.Tensor | None = None


class Term(nn.Module):
    """One term: a `Batch` -> a scalar, before its weight.

    `key` is the config key of its weight, `reads` what of the teacher it needs, None where it needs none, and `options`
    what beside the weight decides its value, by config key.

    Args:
        weight: 0 is off.

    Raises:
        ValueError: a negative weight.
    """

    key: str
    reads: str | None = None

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not weight >= 0:
            off = f"pass --distillation::{self.key} 0 to switch its term off"
            raise ValueError(f"{self.key} must not be negative, got {weight}; {off}.")
        self.weight = weight
        self.options: dict[str, Any] = {}


class Task(Term):
    """0.5 * cross-entropy + 0.5 * Dice against the ground truth: the supervised part.

    Binary: BCE with logits, and the Dice of the foreground. Multi-class: cross-entropy, and the mean Dice over all
    classes with the background. Cross-entropy is the mean over B, H, W. Dice sums over the whole batch, so that an
    image without foreground cannot dominate it. Images without a label are left out; 0 where none has one.

    Args:
        num_classes: with the background; 2 takes one logit channel.
    """

    key = "alpha"

    def __init__(self, weight: float = 1.0, num_classes: int = 2) -> None:
        super().__init__(weight)
        check_num_classes(num_classes)
        self.binary = num_classes == 2
        form = {"sigmoid": True} if self.binary else {"softmax": True, "to_onehot_y": True}
        self.dice = DiceLoss(batch=True, squared_pred=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH, **form)

    def forward(self, batch: Batch) -> torch.Tensor:
        logits, label = batch.student_logits.float(), batch.label
        if batch.labeled is not None:
            logits, label = logits[batch.labeled], label[batch.labeled]
        if not len(label):
            return logits.sum()
        if self.binary:
            label = label.float()
            entropy = F.binary_cross_entropy_with_logits(logits, label)
        else:
            entropy = F.cross_entropy(logits, label[:, 0].long())
        return 0.5 * entropy + 0.5 * self.dice(logits, label)


class Divergence(Term):
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), summed over classes, mean over the region's pixels.

    The mean keeps the term comparable between image sizes, T^2 its gradient between temperatures (Hinton et al., Sec.
    2). Pixels that a gate leaves out are 0 in the mean, which still divides by all of them: the less the teacher is
    trusted, the less it weighs against the ground truth. Where an image has no label, the teacher's own mask stands for
    it: it agrees everywhere, and the edges are its own.

    Args:
        key: beta or boundary.
        temperature: above 0.
        gate: where the teacher counts: everywhere (`none`), where its top probability reaches `gate_confidence`
            (`confidence`), where it finds the label (`agreement`), or where both hold (`both`).
        gate_confidence: between 1 / C and 1, at temperature 1.
        num_classes: with the background.
        region: of the pixels that count: `all`, those near an edge of the label (`edge`), or the others (`body`).
        width: of the edge, in pixels on each side.
    """

    reads = LOGITS

    def __init__(
        self,
        key: str,
        weight: float,
        temperature: float = 4.0,
        gate: str = NO_GATE,
        gate_confidence: float = 0.9,
        num_classes: int = 2,
        region: str = ALL,
        width: int = 3,
    ) -> None:
        self.key = key
        super().__init__(weight)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}; pass --distillation::temperature 4.0.")
        check_choice("distillation::gate", gate, GATES)
        sure = gate in (CONFIDENCE, BOTH)
        if sure and not 1 / num_classes < gate_confidence < 1:
            raise ValueError(
                f"gate_confidence must be between {1 / num_classes:.2g}, which the top probability of {num_classes} "
                f"classes always reaches, and 1, got {gate_confidence}; pass --distillation::gate_confidence 0.9."
            )
        if not is_whole(width, 1):
            fix = "pass --distillation::boundary_width 3"
            raise ValueError(f"boundary_width must be a positive number of pixels, got {width!r}; {fix}.")
        self.temperature, self.gate, self.gate_confidence = temperature, gate, gate_confidence
        self.region, self.width = region, width
        self.options = {
            **({"gate": gate} if gate != NO_GATE else {}),
            **({"gate_confidence": gate_confidence} if sure else {}),
            **({"boundary_width": width} if region == EDGE else {}),
        }

    def forward(self, batch: Batch) -> torch.Tensor:
        student, teacher = batch.student_logits / self.temperature, batch.teacher_logits / self.temperature
        if self.region == ALL and self.gate == NO_GATE:
            return self.temperature**2 * mean_divergence(student, teacher, batch.weight)
        pixels = self.temperature**2 * divergence(student, teacher)
        if self.gate != NO_GATE:
            pixels = pixels * gate_weight(batch.teacher_logits, batch.label, self.gate, self.gate_confidence)
        if self.region == ALL:
            return batch_mean(pixels, batch.weight)
        edge = boundary_mask(batch.label, self.width)
        return region_mean(pixels, edge if self.region == EDGE else ~edge, batch.weight)


class Feature(Term):
    """Mean squared error, over all elements, between the adapted student features and the teacher's embedding.

    The adapter is a 1x1 convolution and batch norm, without a ReLU at the end: embeddings are signed. It trains with
    the student and is not part of the shared model.

    Args:
        student_channels: of the student's features.
        teacher_channels: of the teacher's embedding.
    """

    key, reads = "gamma", FEATURES

    def __init__(self, weight: float, student_channels: int = 48, teacher_channels: int = 256) -> None:
        super().__init__(weight)
        if weight > 0:
            convolution = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)
            self.adapter = nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels))

    def forward(self, batch: Batch) -> torch.Tensor:
        return mean_square(self.adapter(batch.student_features), batch.teacher_features, batch.weight)


class ChannelWise(Term):
    """T^2 * KL(teacher || student) of each channel's softmax over the pixels, summed over H, W, mean over B, channels.

    It tells where a class is most likely, not how likely it is (Shu et al., Sec. 3). One channel of logits is one
    channel here: the other class's logit is 0 everywhere, and its softmax over the pixels says nothing.
    """

    key, reads = "cwd", LOGITS

    def __init__(self, weight: float, temperature: float = 4.0) -> None:
        super().__init__(weight)
        self.temperature = temperature

    def forward(self, batch: Batch) -> torch.Tensor:
        student = (batch.student_logits.flatten(2) / self.temperature).log_softmax(dim=-1)
        teacher = (batch.teacher_logits.flatten(2) / self.temperature).log_softmax(dim=-1)
        channels = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)  # (B, C, HW) -> (B, C)
        return self.temperature**2 * batch_mean(channels, batch.weight)


class IntraRelation(Term):
    """1 - correlation of student and teacher over all pixels of the batch, mean over the classes' probabilities.

    Not softened, as in the authors' segmentation. With two classes the two correlations are the same: one is taken.
    """

    key, reads = "dist_intra", LOGITS

    def forward(self, batch: Batch) -> torch.Tensor:
        both = (batch.student_logits, batch.teacher_logits)
        student, teacher = (probabilities(logits).transpose(0, 1).flatten(1) for logits in both)  # -> (C, BHW)
        pixels = batch.student_logits[0, 0].numel()
        weight = None if batch.weight is None else batch.weight.repeat_interleave(pixels)  # (B,) -> (BHW,)
        return 1 - correlation(student, teacher, weight).mean()


class InterRelation(Term):
    """1 - correlation of student and teacher over the classes, of each pixel's probabilities, mean over B, H, W.

    Args:
        num_classes: with the background, above 2.

    Raises:
        ValueError: it is on for two classes.
    """

    key, reads = "dist_inter", LOGITS

    def __init__(self, weight: float, num_classes: int) -> None:
        super().__init__(weight)
        if num_classes == 2 and weight > 0:
            raise ValueError(
                f"dist_inter is {weight}, but it is void for two classes: the probabilities (1 - p, p) of a pixel "
                "correlate with any other (1 - q, q) by 1 or -1, whatever p and q, so that there is nothing to learn; "
                "pass --distillation::dist_inter 0 (dist_intra works with two classes)."
            )

    def forward(self, batch: Batch) -> torch.Tensor:
        pixels = correlation(probabilities(batch.student_logits), probabilities(batch.teacher_logits))
        return 1 - batch_mean(pixels, batch.weight)


class MaskedGeneration(Term):
    """Mean squared error, over all elements, of the embedding that is generated from a part of the student's features.

    A 1x1 convolution, a mask of positions that is new in every call, and two 3x3 convolutions with a ReLU between (Yang
    et al., Sec. 3). The paper sums the error, which would make the weight depend on the sizes. What is trained here is
    not part of the shared model.

    Args:
        student_channels: of the student's features.
        teacher_channels: of the teacher's embedding.
        mask_ratio: the chance of a position to be masked, from 0 to below 1.
    """

    key, reads = "mgd", FEATURES

    def __init__(
        self, weight: float, student_channels: int = 48, teacher_channels: int = 256, mask_ratio: float = 0.75
    ) -> None:
        super().__init__(weight)
        if not 0 <= mask_ratio < 1:
            raise ValueError(
                f"mask_ratio must be from 0 to below 1, got {mask_ratio}; pass --distillation::mask_ratio 0.75."
            )
        self.mask_ratio, self.options = mask_ratio, {"mask_ratio": mask_ratio}
        if weight > 0:
            self.align = nn.Conv2d(student_channels, teacher_channels, kernel_size=1)
            self.generate = nn.Sequential(
                nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
            )

    def forward(self, batch: Batch) -> torch.Tensor:
        aligned = self.align(batch.student_features)
        kept = torch.rand_like(aligned[:, :1]) >= self.mask_ratio  # (B, 1, h, w)
        return mean_square(self.generate(aligned * kept), batch.teacher_features, batch.weight)


def gate_weight(teacher_logits: torch.Tensor, label: torch.Tensor, gate: str, gate_confidence: float) -> torch.Tensor:
    """1 where the teacher counts, else 0: (B, H, W); arguments as `Batch` and `Divergence` have them."""
    if teacher_logits.shape[1] == 1:
        confidence = teacher_logits[:, 0].abs().sigmoid()
    else:
        confidence = teacher_logits.softmax(dim=1).amax(dim=1)
    counts = torch.ones_like(confidence, dtype=torch.bool)
    if gate in (CONFIDENCE, BOTH):
        counts &= confidence >= gate_confidence
    if gate in (AGREEMENT, BOTH):
        counts &= predict(teacher_logits)[:, 0] == label[:, 0]
    return counts.to(teacher_logits.dtype)
