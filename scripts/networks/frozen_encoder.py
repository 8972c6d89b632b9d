"""A frozen SAM that is asked for its embeddings alone, tuned or as it was published."""

from __future__ import annotations

import logging

from .frozen_teacher import FrozenTeacher
from .teacher import SamTeacher

logger = logging.getLogger(__name__)


class FrozenEncoder(FrozenTeacher):
    """As `FrozenTeacher`, but without a `lora_checkpoint` it is SAM or LiteMedSAM as published.

    Its embeddings can be learned then, while nobody has taught its masks anything.
    """

    def require_adapter(self) -> None:
        """Nothing is required."""

    def _build_member(self, path: str | None) -> SamTeacher:
        if path is not None:
            return super()._build_member(path)
        options, sam = self.options, self.build_base().requires_grad_(False)
        logger.info("teacher: %s as published, without an adapter", options["model_name"])
        return SamTeacher(sam, self.img_size, options["normalization"], options["mask_tokens"]).eval()
