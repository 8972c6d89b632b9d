"""How sure the student is of what it found: presence of a frame, confidence of a lesion, and which ones to look at.

Legend: C channels of logits, W columns, H rows, N frames, K classes without the background.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from ..metrics import logits_to_classes, logits_to_probabilities
from .frames import PRESENCE, THRESHOLD

CERTAINTY = "certainty"  # of an item
# a frame or lesion to look at: its odds of presence are within this factor of the threshold's, ...
NEAR_ODDS = 3.0
# ... or the mean foreground probability in its mask is below this
LOW_CONFIDENCE = 0.85
DECIMALS = 4


class Certainty(NamedTuple):
    """Of all frames of an image.

    Args:
        presence: (N,) probability that a frame shows any foreground; None where the student does not tell it.
        threshold: below it the mask is left empty; None likewise.
        confidence: (N, K) mean probability of each class in its mask; nan where the mask is empty.
    """

    presence: list[float] | None
    threshold: float | None
    confidence: list[list[float]]

    def columns(self, frame: int, number: int) -> dict[str, Any]:
        """The columns of lesions.csv: presence, confidence, look ("yes" where a person should) and note.

        Args:
            frame: from 0.
            number: of the class, from 1.
        """
        presence = None if self.presence is None else self.presence[frame]
        confidence = self.confidence[frame][number - 1]
        look = confidence < LOW_CONFIDENCE or is_near(presence, self.threshold)
        return {
            "presence": "" if presence is None else round(presence, DECIMALS),
            "confidence": "" if math.isnan(confidence) else round(confidence, DECIMALS),
            "look": "yes" if look else "no",
            "note": self.note(frame),
        }

    def rows(self, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """`columns` with frame and class, for each frame and class."""
        return [
            {"frame": frame, "class": name, **self.columns(frame, number)}
            for frame in range(len(self.confidence))
            for number, name in enumerate(class_names, start=1)
        ]

    def note(self, frame: int) -> str:
        """Why the mask of a frame was left empty; an empty text where presence did not decide so."""
        return f"presence below {self.threshold:.{DECIMALS}f}, mask left empty" if self.is_absent(frame) else ""

    def summary(self) -> str:
        """The same of all frames, in at most 64 characters; an empty text where presence emptied no mask."""
        frames = range(len(self.confidence))
        absent = sum(map(self.is_absent, frames))
        if not absent:
            return ""
        return f"presence below {self.threshold:.{DECIMALS}f} in {absent} of {len(frames)}, masks left empty"

    def is_absent(self, frame: int) -> bool:
        """Whether presence is below the threshold."""
        return self.presence is not None and self.presence[frame] < self.threshold


def is_near(presence: float | None, threshold: float | None) -> bool:
    """Whether the odds of a presence are within the factor NEAR_ODDS of the threshold's, both not 0 or 1."""
    if presence is None or not 0 < threshold < 1 or not 0 < presence < 1:
        return False
    odds = (math.log(value / (1 - value)) for value in (presence, threshold))
    return abs(next(odds) - next(odds)) < math.log(NEAR_ODDS)


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
    probabilities = logits_to_probabilities(logits)
    mask = logits_to_classes(logits[None])[0, 0]
    foreground = probabilities if len(probabilities) == 1 else probabilities[1:]
    inside = (values[mask == number] for number, values in enumerate(foreground, start=1))
    return [float(values.mean()) if values.numel() else np.nan for values in inside]
