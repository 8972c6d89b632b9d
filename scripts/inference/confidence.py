"""How sure the student is of what it found: presence of a frame, confidence of a lesion, and which ones to look at.

Needs neither torch nor MONAI; `certainty` has the transforms.

Legend: N frames, K classes without the background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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
