"""Whether an image shows anything to segment: a probability from what the student finds, and the decision on it.

Platt scaling (Platt 1999, "Probabilistic outputs for support vector machines") of the student's largest margin of a
foreground class over the background and, where they help, of the features of its last block, each averaged over the
image. A student has it once python -m eval.presence has calibrated it. evaluation/presence.py fits the numbers.

Legend: B batch, C channels of logits, D channels of features, H W pixels, h w patches.
"""

from __future__ import annotations

import torch
from torch import nn

PRESENCE = "presence."  # how its keys begin in a student's weights
BELOW = 0.1  # how far an emptied mask's foreground logits are below the background; more than bf16 or int8 round away


def presence_inputs(logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """What the probability is made of (B, 1 + D), float32: the largest margin, then the means of the features.

    Args:
        logits: (B, C, H, W), unnormalized; one channel is the margin itself.
        features: (B, D, h, w), of the last block.
    """
    margins = logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]
    return torch.cat([margins.float().amax(dim=(1, 2, 3))[:, None], features.float().mean(dim=(2, 3))], dim=1)


def without_foreground(logits: torch.Tensor, below: float = BELOW) -> torch.Tensor:
    """Logits (B, C, H, W) of an empty mask: every foreground class is at least `below` under the background, all else
    is as it was.

    A mask stays empty when such logits are resized bilinearly: every pixel is a mean of pixels without foreground. And
    it stays empty for programs that take a probability of exactly 0.5 as foreground, such as MONAI's AsDiscrete.
    """
    if logits.shape[1] == 1:
        return logits.clamp(max=-below)
    background = logits[:, :1]
    return torch.cat([background, torch.minimum(logits[:, 1:], background - below)], dim=1)


class Presence(nn.Module):
    """The probability that an image shows any foreground, and the threshold below which its mask is left empty.

    The buffers are stored with the student's weights: weight (1 + D,), bias and threshold.

    Args:
        channels: D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(1 + channels))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Probabilities (B,), float32, of logits (B, C, H, W) and features (B, D, h, w)."""
        # no matrix product, which autocast and int8 would round
        return torch.sigmoid((presence_inputs(logits, features) * self.weight).sum(dim=1) + self.bias)

    def decide(self, logits: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, H, W), those of the images whose presence (B,) is below the threshold without foreground."""
        absent = (presence < self.threshold)[:, None, None, None]
        return torch.where(absent, without_foreground(logits), logits)
