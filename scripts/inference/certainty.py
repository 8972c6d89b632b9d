"""The transforms that take along how sure the student is, see `confidence`, from its logits to what is written.

Legend: C channels of logits, W columns, H rows, N frames, K classes without the background.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from ..metrics import logits_to_classes, logits_to_probabilities
from .confidence import Certainty
from .frames import PRESENCE, THRESHOLD

CERTAINTY = "certainty"  # of an item


class KeepPresenced(MapTransform):
    """Takes presence from the metadata of logits, which Invertd replaces, into the item; `FrameInferer` puts it there.

    Args:
        keys: logits (C, H, W, N).
        allow_missing_keys: pass over keys that are not there.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            meta = d[key].meta if isinstance(d[key], MetaTensor) else {}
            if PRESENCE in meta:  # MONAI Label makes no batches, and leaves theirs in front
                d[PRESENCE] = [float(value) for value in torch.as_tensor(meta[PRESENCE]).flatten()]
                d[THRESHOLD] = float(torch.as_tensor(meta[THRESHOLD]).flatten()[0])
        return d


class Certaintyd(MapTransform):
    """Adds the `Certainty` of logits (C, H, W, N) at the image's size as the item "certainty".

    Args:
        keys: logits.
        allow_missing_keys: pass over keys that are not there.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, Any]:
        d = dict(data)
        presence, threshold = d.pop(PRESENCE, None), d.pop(THRESHOLD, None)
        for key in self.key_iterator(d):
            frames = convert_to_tensor(d[key], track_meta=False).unbind(-1)
            d[CERTAINTY] = Certainty(presence, threshold, [lesion_confidence(frame) for frame in frames])
        return d


def lesion_confidence(logits: torch.Tensor) -> list[float]:
    """The mean probability of each foreground class over the pixels of its mask (K,), nan without a pixel.

    Args:
        logits: (C, H, W) of one frame.
    """
    mask = logits_to_classes(logits[None])[0, 0]
    numbers = range(1, max(2, len(logits)))
    inside = (logits_to_probabilities(logits[:, mask == number])[min(number, len(logits) - 1)] for number in numbers)
    return [float(values.mean()) if values.numel() else np.nan for values in inside]
