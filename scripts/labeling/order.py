"""The order in which images are offered for labeling: the least sure first, one of each patient before a second one.

Uncertainty sampling, as in Lewis and Gale 1994, arXiv:cmp-lg/9407020. Needs neither torch nor MONAI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping


def sureness(confidence: float, found: bool, presence: float | None = None) -> float:
    """How sure a student is of what it says of an image, from 0 to 1.

    Args:
        confidence: of its mask, see `evaluation.detection.mask_confidence`. An empty mask's holds presence already.
        found: whether its mask has a pixel.
        presence: calibrated probability that the image shows anything; None of a student that does not tell it. A mask
            is worth as much as the presence of what it outlines, so the two are multiplied.
    """
    return confidence if presence is None or not found else confidence * presence


def offering_order(sure: Mapping[str, float], patients: Mapping[str, Hashable]) -> list[str]:
    """The images, the least sure first; but second images of a patient come after the first ones of all patients.

    Images of one patient are alike, so a batch of the least sure ones would hold one finding several times.

    Args:
        sure: of each image, see `sureness`.
        patients: of images; one that is not there counts as a patient of its own.
    """
    turns: Counter[Hashable] = Counter()
    keys = {}
    for image in sorted(sure, key=lambda name: (sure[name], name)):
        patient = ("patient", patients[image]) if image in patients else ("image", image)
        keys[image] = (turns[patient], sure[image], image)
        turns[patient] += 1
    return sorted(keys, key=keys.__getitem__)
