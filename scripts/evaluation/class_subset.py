"""A network of many classes on an image whose organ is known: the classes of other organs are left out.

A student of several organs finds each pixel's class among those of all organs. Where the organ of an image is known
before, its classes and the background alone are asked for: the other logits are left out before the argmax, so that no
pixel is lost to an organ that is not there. This is the one place where it is done.

Legend: B batch, C classes of the network with the background, K classes of the organ, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def choose_classes(logits: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """The logits of the background and of some classes, in their order.

    One class gives one channel, its logit less the background's, as of a network of two classes: sigmoid(b - a) =
    softmax([a, b])[1]. The probabilities are those of all classes, divided by what the chosen ones have together.

    Args:
        logits: (B, C, H, W), unnormalized; C at least 3.
        classes: foreground classes of the organ, from 1 to C - 1.

    Returns:
        (B, 1, H, W) for one class, else (B, 1 + K, H, W).

    Raises:
        ValueError: no class, a class twice, or one that the logits do not have.
    """
    channels = logits.shape[1]
    if not classes or len(set(classes)) < len(classes) or not all(1 <= c < channels for c in classes):
        raise ValueError(
            f"classes must be some of 1..{channels - 1}, each once, got {list(classes)}; the network gives {channels} "
            "channels of logits."
        )
    if len(classes) == 1:
        return logits[:, classes[0] : classes[0] + 1] - logits[:, :1]
    return logits[:, [0, *classes]]


class ClassSubset(nn.Module):
    """A network that finds some of its classes alone, see `choose_classes`.

    Args:
        network: images -> logits (B, C, H, W), or a named tuple with `logits`.
        classes: foreground classes to find.
    """

    def __init__(self, network: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.network, self.classes = network, list(classes)

    def forward(self, image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Logits of the background and the chosen classes of images (B, 1 or 3, H, W) in [0, 1]."""
        logits = self.network(image, *args, **kwargs)
        return choose_classes(getattr(logits, "logits", logits), self.classes)
