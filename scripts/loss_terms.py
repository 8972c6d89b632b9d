"""What can be added to the loss, all off by default: a gate on the teacher, the boundary apart, CWD, DIST and MGD.

- gate: the teacher counts only where it finds the ground truth (Meng et al. 2019, arXiv:1904.12399) and where it is
  sure, by a threshold on its top probability (Sohn et al. 2020, arXiv:2001.07685); the task term teaches every pixel in
  any case.
- boundary: body and boundary of the label apart, each a mean over its own pixels, after BPKD (Liu et al. 2023,
  arXiv:2306.08075). BPKD gives each its own form of loss; here both are the Kullback-Leibler divergence of
  `distill_loss`.
- cwd: channel-wise distillation of the logits (Shu et al. 2021, arXiv:2011.13256).
- dist_intra, dist_inter: the relations of DIST (Huang et al. 2022, arXiv:2205.10536) between probabilities.
- mgd: masked generative distillation of the features (Yang et al. 2022, arXiv:2205.01529).

Void for two classes: dist_inter, which is refused; the non-target term of decoupled distillation (Zhao et al. 2022,
arXiv:2203.08679), always 0, which is not offered.

Logits are float32, teacher and student of one size; one channel x stands for the two classes [0, x].
Shapes: B batch, C classes, D channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

GATES = NONE, CONFIDENCE, AGREEMENT, BOTH = ("none", "confidence", "agreement", "both")


def gate_weight(teacher_logits: torch.Tensor, label: torch.Tensor, gate: str, gate_confidence: float) -> torch.Tensor:
    """1 where the teacher counts, else 0, (B, H, W).

    Args:
        teacher_logits: (B, 1 or C, H, W), unnormalized.
        label: (B, 1, H, W), class indices.
        gate: `confidence` asks for a top probability of `gate_confidence`, `agreement` for the label's class, `both`
            for both.
        gate_confidence: at temperature 1.
    """
    confidence, prediction = _top_class(teacher_logits)
    counts = torch.ones_like(prediction, dtype=torch.bool)
    if gate in (CONFIDENCE, BOTH):
        counts &= confidence >= gate_confidence
    if gate in (AGREEMENT, BOTH):
        counts &= prediction == label[:, 0]
    return counts.to(teacher_logits.dtype)


def _top_class(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest probability and its class, each (B, H, W)."""
    if logits.shape[1] == 1:
        return logits[:, 0].abs().sigmoid(), (logits[:, 0] > 0).long()
    return logits.softmax(dim=1).max(dim=1)


def boundary_mask(label: torch.Tensor, width: int) -> torch.Tensor:
    """Whether a pixel has one of another class within `width` rows and columns, (B, H, W) bool.

    The label's dilation differs from its erosion there. The image's border is no boundary.

    Args:
        label: (B, 1, H, W), class indices.
        width: pixels on each side of the edge.
    """
    both = torch.cat([label, -label], dim=1).float()  # the erosion is the dilation of the negative
    for _ in range(2):  # along the columns, then along the rows; a 2D pooling takes many times as long on the CPU
        lines = both.flatten(0, 2).unsqueeze(1)
        both = F.max_pool1d(lines, 2 * width + 1, stride=1, padding=width).view(both.shape).transpose(2, 3)
    dilation, negative_erosion = both.unbind(dim=1)
    return dilation != -negative_erosion


def region_mean(values: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """The mean of values over the region's pixels in the whole batch, so that a small region has its full say; 0
    without pixels.

    Args:
        values: (B, H, W).
        region: (B, H, W) bool.
    """
    return (values * region).sum() / region.sum().clamp(min=1)


def cwd_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 * KL(teacher || student) of each channel's softmax over the pixels, summed over H, W, mean over B and
    channels.

    It tells where a class is most likely, not how likely it is (Shu et al., Sec. 3). One-channel logits x are one
    channel here: the other class's logit is 0 everywhere, and its softmax over the pixels says nothing.

    Args:
        student_logits: (B, 1 or C, H, W), unnormalized.
        teacher_logits: the same shape.
        temperature: positive.
    """
    student = (student_logits.flatten(2) / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits.flatten(2) / temperature).log_softmax(dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)  # (B, C, HW) -> (B, C)
    return temperature**2 * divergence.mean()


def dist_intra_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """1 - the correlation of student and teacher over all pixels of the batch, of each class's probabilities, mean over
    classes.

    Not softened, as in the authors' segmentation. With two classes the two correlations are the same, so one is taken.

    Args:
        student_logits: (B, 1 or C, H, W), unnormalized.
        teacher_logits: the same shape.
    """
    student, teacher = (
        _probabilities(logits).transpose(0, 1).flatten(1)
        for logits in (student_logits, teacher_logits)  # -> (C, BHW)
    )
    return 1 - _correlation(student, teacher).mean()


def dist_inter_loss(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """1 - the correlation of student and teacher over the classes, of each pixel's probabilities, mean over B, H, W.

    Args:
        student_logits: (B, C, H, W), unnormalized; C above 2.
        teacher_logits: the same shape.
    """
    return 1 - _correlation(_probabilities(student_logits), _probabilities(teacher_logits)).mean()


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    """The softmax over classes; of one channel, the foreground's alone."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def _correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson's, over dimension 1; 0 where one is constant."""
    return F.cosine_similarity(a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True), dim=1)


class MaskedGeneration(nn.Module):
    """Masked generative distillation: from a part of the student's features the whole embedding of the teacher is
    generated.

    A 1x1 convolution, a mask of positions that is new in every call, and two 3x3 convolutions with a ReLU between (Yang
    et al., Sec. 3). They train with the student and are not part of the shared model.

    Args:
        student_channels: of the student's features.
        teacher_channels: of the teacher's embedding.
        mask_ratio: the chance of a position to be masked.
    """

    def __init__(self, student_channels: int = 48, teacher_channels: int = 256, mask_ratio: float = 0.75) -> None:
        super().__init__()
        self.mask_ratio = mask_ratio
        self.align = nn.Conv2d(student_channels, teacher_channels, kernel_size=1)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, kernel_size=3, padding=1),
        )

    def forward(self, student_features: torch.Tensor, teacher_features: torch.Tensor) -> torch.Tensor:
        """Mean squared error over all elements; the paper's sum over them would make the weight depend on the sizes.

        Args:
            student_features: (B, D, h, w).
            teacher_features: (B, D', h, w).
        """
        aligned = self.align(student_features)
        kept = torch.rand_like(aligned[:, :1]) >= self.mask_ratio  # (B, 1, h, w)
        return F.mse_loss(self.generate(aligned * kept), teacher_features)


def check_options(
    num_classes: int,
    gate: str,
    gate_confidence: float,
    teacher_temperature: float,
    boundary_width: int,
    dist_inter: float,
    mask_ratio: float,
) -> None:
    """Refuse an option out of range and a term that says nothing; arguments as `DistillationLoss` has them."""
    check_gate(gate, gate_confidence, num_classes)
    if not teacher_temperature > 0:
        raise ValueError(
            f"teacher_temperature must be positive, got {teacher_temperature}; pass "
            "--distillation::teacher_temperature 1.0, "
            "which takes the teacher as it is."
        )
    if isinstance(boundary_width, bool) or not isinstance(boundary_width, int) or boundary_width < 1:
        raise ValueError(
            f"boundary_width must be a positive number of pixels, got {boundary_width!r}; pass "
            "--distillation::boundary_width 3."
        )
    if not 0 <= mask_ratio < 1:
        raise ValueError(
            f"mask_ratio must be from 0 to below 1, got {mask_ratio}; pass --distillation::mask_ratio 0.75."
        )
    if num_classes == 2 and dist_inter > 0:
        raise ValueError(
            f"dist_inter is {dist_inter}, but it is void for two classes: the probabilities (1 - p, p) of a pixel "
            "correlate with "
            "any other (1 - q, q) by 1 or -1, whatever p and q, so that there is nothing to learn; pass "
            "--distillation::dist_inter 0 (dist_intra works with two classes)."
        )


def check_gate(gate: str, gate_confidence: float, num_classes: int) -> None:
    """Refuse an unknown gate, and a threshold that every pixel passes or none."""
    if gate not in GATES:
        raise ValueError(f"distillation::gate must be one of {', '.join(GATES)}, got {gate!r}.")
    if gate in (CONFIDENCE, BOTH) and not 1 / num_classes < gate_confidence < 1:
        raise ValueError(
            f"gate_confidence must be between {1 / num_classes:.2g}, which the top probability of {num_classes} "
            "classes always "
            f"reaches, and 1, got {gate_confidence}; pass --distillation::gate_confidence 0.9."
        )
