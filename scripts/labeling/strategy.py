"""MONAI Label's strategy that offers the image that the student is least sure of.

It reads what `scoring` wrote, so that a request takes no time. MONAI Label (0.8.5) notes for each image when it was
offered, by which strategy; it answers one request after the other. So two annotators get two images.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from .order import offering_order
from .scores import ScoreFile, Scores
from .scoring import Datastore

logger = logging.getLogger(__name__)

HELD = 24 * 60 * 60  # seconds for which an image that was offered is not offered again, while there are others


class LeastSure:
    """The unlabeled image that the student is least sure of.

    First come images that were not offered within a day, and of patients of whom the annotators have none yet. Images
    without a score come last, in the order of their names. Images that were offered come again when there are no
    others, the one that has waited longest first: so an image that is never submitted, such as one without a lesion,
    does not stand in the way. Images that cannot be segmented are not offered.

    Args:
        scores: of the current student.
        patient: from an image's id to its patient, None where that is unknown.
        now: the time in s.
    """

    description = "The image that the student is least sure of"

    def __init__(
        self,
        scores: ScoreFile,
        patient: Callable[[str], Hashable | None] = lambda image: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.scores, self.patient, self.now = scores, patient, now

    def info(self) -> dict[str, Any]:
        """For MONAI Label's page of what it offers."""
        return {"description": self.description}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The id of an image, its sureness (None without a score) and how many images have one; None without images.

        Args:
            request: of the client; label_tag and labels are handed on to the datastore.
            datastore: MONAI Label's.
        """
        unlabeled = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        known = self.scores.read()
        images = sorted(image for image in unlabeled if image not in known.unreadable)
        self._tell(known, unlabeled, images)
        if not images:
            return None
        offered = {image: self._offered(image, datastore) for image in images}
        image = self._choose(images, offered, known)
        scored = sum(one in known.sure for one in images)
        return {"id": image, "sureness": known.sure.get(image), "scored": scored, "unlabeled": len(unlabeled)}

    def _choose(self, images: list[str], offered: Mapping[str, float], known: Scores) -> str:
        """The first one of the images.

        Args:
            images: to offer, by name.
            offered: when each was offered, 0 where that is long ago.
            known: the scores.
        """
        patients = {image: self.patient(image) for image in {*images, *known.sure}}
        # in the hands of an annotator, or labeled since the student was asked about all unlabeled images
        taken = [image for image in patients if offered.get(image) or (image in known.sure and image not in offered)]
        busy = {patients[image] for image in taken} - {None}
        apart = {image: patient for image, patient in patients.items() if patient is not None}
        order = [
            *offering_order({image: known.sure[image] for image in images if image in known.sure}, apart),
            *(image for image in images if image not in known.sure),
        ]
        return min(order, key=lambda image: (offered[image], patients[image] in busy))  # the first of equal ones

    def _offered(self, image: str, datastore: Datastore) -> float:
        """When any strategy offered an image last, 0 where that is longer ago than HELD."""
        times = [one.get("ts", 0) for one in datastore.get_image_info(image).get("strategy", {}).values()]
        last = max(times, default=0)
        return last if self.now() - last < HELD else 0

    @staticmethod
    def _tell(known: Scores, unlabeled: list[str], images: list[str]) -> None:
        """Say in the log what the offer rests on."""
        scored = sum(image in known.sure for image in images)
        if not unlabeled:
            logger.info("least_sure: all images are labeled")
        elif len(images) < len(unlabeled):
            passed = len(unlabeled) - len(images)
            logger.warning("least_sure: %d images cannot be segmented, and are not offered", passed)
        if images and not scored:
            logger.warning(
                "least_sure: there are NO SCORES of the current student; images are offered in the order of their "
                "names until the scoring method least_sure has run"
            )
        elif scored < len(images):
            logger.info("least_sure: %d of %d images have a score of the current student", scored, len(images))
