"""Averages over the pixels and images of a batch, and divergences between logits: what terms of the loss are made of.

An image without a label counts in a mean as its weight says. Where all images count alike the weights are None, and the
arithmetic is that of a loss without weights, bit for bit.

Shapes: B batch, C classes, H W pixels.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .options import NO_LABEL


def find_labeled(label: torch.Tensor) -> torch.Tensor | None:
    """Which images have a label, (B,) bool, by labels (B, 1, H, W) that hold NO_LABEL where there is none; None where
    all have one.
    """
    labeled = label[:, 0, 0, 0] != NO_LABEL
    return None if labeled.all() else labeled


def predict(logits: torch.Tensor) -> torch.Tensor:
    """Class indices (B, 1, H, W) of logits (B, 1 or C, H, W)."""
    return (logits > 0).long() if logits.shape[1] == 1 else logits.argmax(dim=1, keepdim=True)


def batch_mean(values: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of values (B, ...) over all elements, each image counting as its weight (B,) says."""
    if weight is None:
        return values.mean()
    return (values.flatten(1).mean(dim=1) * weight).sum() / weight.sum()


def mean_square(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The mean squared difference of two tensors (B, ...), as `batch_mean`."""
    return F.mse_loss(a, b) if weight is None else batch_mean((a - b) ** 2, weight)


def divergence(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """KL(softmax(teacher) || softmax(student)) of each pixel, summed over classes: (B, 1 or C, H, W) -> (B, H, W)."""
    if student_logits.shape[1] == 1:  # cross-entropy less the teacher's entropy, faster than two channels
        target = teacher_logits.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(teacher_logits, target, reduction="none")
        return (F.binary_cross_entropy_with_logits(student_logits, target, reduction="none") - entropy)[:, 0]
    student, teacher = student_logits.log_softmax(1), teacher_logits.log_softmax(1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def mean_divergence(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean of `divergence` over B, H, W, as `batch_mean`; with one channel of logits and without weights the means
    come first, which is faster.
    """
    if student_logits.shape[1] > 1 or weight is not None:
        return batch_mean(divergence(student_logits, teacher_logits), weight)
    target = teacher_logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(teacher_logits, target)
    return F.binary_cross_entropy_with_logits(student_logits, target) - entropy


def boundary_mask(label: torch.Tensor, width: int) -> torch.Tensor:
    """Whether a pixel has one of another class within `width` rows and columns: (B, 1, H, W) -> (B, H, W) bool.

    The label's dilation differs from its erosion there. The image's border is no boundary.
    """
    both = torch.cat([label, -label], dim=1).float()  # the erosion is the dilation of the negative
    for _ in range(2):  # along the columns, then along the rows; a 2D pooling takes many times as long on the CPU
        lines = both.flatten(0, 2).unsqueeze(1)
        both = F.max_pool1d(lines, 2 * width + 1, stride=1, padding=width).view(both.shape).transpose(2, 3)
    dilation, negative_erosion = both.unbind(dim=1)
    return dilation != -negative_erosion


def region_mean(values: torch.Tensor, region: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of values (B, H, W) over a region (B, H, W) bool of the whole batch; 0 where it has no pixel.

    Each image counts as its weight (B,) says.
    """
    if weight is None:
        return (values * region).sum() / region.sum().clamp(min=1)
    region = region * weight.view(-1, 1, 1)
    return (values * region).sum() / region.sum().clamp(min=torch.finfo(region.dtype).tiny)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The softmax over classes (B, C, H, W); of one channel, the foreground's alone."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def correlation(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Pearson's, over dimension 1, each of whose elements counts as its weight (N,) says; 0 where one is constant."""
    if weight is None:
        return F.cosine_similarity(a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True), dim=1)
    a, b = ((x - (x * weight).sum(dim=1, keepdim=True) / weight.sum()) * weight.sqrt() for x in (a, b))
    return F.cosine_similarity(a, b, dim=1)
