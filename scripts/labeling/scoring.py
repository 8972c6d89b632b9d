"""MONAI Label's scoring method of the student: how sure it is of every unlabeled image.

MONAI Label (0.8.5) runs it in a process of its own: when the server has started, after a training, and after an image
was offered. What is known of the current student is kept, so that this costs nothing where nothing has changed.

Legend: C channels of logits, H W pixels of the network's input, N frames.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any, Protocol

import torch

from ..evaluation.detection import mask_confidence
from ..metrics import logits_to_classes
from .order import sureness
from .scores import ScoreFile, Scores

logger = logging.getLogger(__name__)

SAVED_AFTER = 20  # images
MOST_CHARACTERS = 200  # of an error, in the file


class Datastore(Protocol):
    """What is read of MONAI Label's datastore here and in `strategy`."""

    def get_unlabeled_images(self, label_tag: Any = None, labels: Any = None) -> list[str]:
        """Ids of the images without a final label."""

    def get_image_uri(self, image_id: str) -> str:
        """The file of an image."""

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image, such as when it was offered."""


class StudentCertainty:
    """Writes the sureness of every unlabeled image that the current student has not been asked about.

    Images that cannot be segmented are noted with the reason, and tried again by the next scoring. Nothing of a request
    is read.

    Args:
        segment: from the path of an image to logits (C, H, W, N) and, of a student that tells it, presence (N).
        scores: where they are written.
    """

    description = "How sure the student is of each unlabeled image"

    def __init__(
        self, segment: Callable[[str], tuple[torch.Tensor, Sequence[float] | None]], scores: ScoreFile
    ) -> None:
        self.segment, self.scores = segment, scores

    def info(self) -> dict[str, Any]:
        """For MONAI Label's page of what it offers."""
        return {"description": self.description}

    def is_complete(self, datastore: Datastore) -> bool:
        """Whether the current student was asked about all unlabeled images."""
        return not self.scores.read().lacking(datastore.get_unlabeled_images())

    def __call__(self, request: Any, datastore: Datastore) -> dict[str, Any]:
        """Score what lacks a score; a student that is replaced meanwhile is asked about all images anew.

        Returns:
            total (unlabeled images), executed (scored now), unreadable and latency in s.

        Raises:
            FileNotFoundError: there is no student.
            RuntimeError: not one image could be segmented.
        """
        begun, known = time.time(), self.scores.read()
        if not known.student:
            raise FileNotFoundError(f"{self.scores.model} does not exist; put the student's weights there.")
        images = sorted(datastore.get_unlabeled_images())
        lacking = [image for image in images if image not in known.sure]
        logger.info("scoring %d of %d unlabeled images with the current student", len(lacking), len(images))
        for number, image in enumerate(lacking, 1):
            self._score(image, datastore, known)
            if number % SAVED_AFTER == 0 or number == len(lacking):
                if self.scores.student() != known.student:
                    logger.info("a new student has come: all images are scored anew")
                    return self(request, datastore)
                self.scores.write(known)
        return self._summary(known, images, lacking, time.time() - begun)

    def _score(self, image: str, datastore: Datastore, known: Scores) -> None:
        """Add what the student says of an image, or why it cannot say anything."""
        known.unreadable.pop(image, None)
        try:
            logits, presence = self.segment(datastore.get_image_uri(image))
            known.sure[image] = round(frames_sureness(logits, presence), 6)
        except Exception as error:  # of any reader or transform; one bad file must not stop the others
            reason = f"{type(error).__name__}: {error}"[:MOST_CHARACTERS]
            known.unreadable[image] = reason
            logger.warning("%r cannot be segmented, and is not offered for labeling: %r", image, reason)

    @staticmethod
    def _summary(known: Scores, images: list[str], lacking: list[str], seconds: float) -> dict[str, Any]:
        failed = [image for image in images if image in known.unreadable]
        if lacking and len(failed) == len(images):
            raise RuntimeError(
                f"none of the {len(images)} unlabeled images could be segmented, {failed[0]!r} because of "
                f"{known.unreadable[failed[0]]}; look at the images and at models/model.pt."
            )
        executed = len(lacking) - len(failed)
        summary = {"total": len(images), "executed": executed, "unreadable": len(failed), "latency": round(seconds, 3)}
        logger.info("scored: %s", summary)
        return summary


def frames_sureness(logits: torch.Tensor, presence: Sequence[float] | None = None) -> float:
    """The mean `sureness` of the frames of an image.

    Args:
        logits: (C, H, W, N), unnormalized; of frames without presence they are empty already.
        presence: (N) probability that a frame shows any foreground; None of a student that does not tell it.

    Raises:
        ValueError: logits that are not finite.
    """
    if not torch.isfinite(logits).all():
        raise ValueError("the student gives logits that are not finite; look at models/model.pt.")
    presences = [None] * logits.shape[-1] if presence is None else presence
    return mean(_sureness(frame, one) for frame, one in zip(logits.unbind(-1), presences, strict=True))


def _sureness(logits: torch.Tensor, presence: float | None) -> float:
    found = bool(logits_to_classes(logits[None]).any())
    return sureness(mask_confidence(logits, presence), found, presence)
