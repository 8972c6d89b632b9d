"""A student's backbone that learns a teacher's embeddings before there are any labels: configs/pretrain.json.

What is kept is the backbone under the names of TinyUSFM's published file, so that it starts any student by
`student::checkpoint`, whatever its classes and image size.

Shapes: B batch, D channels, H W pixels, h w patches.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ..utils.options import BACKBONE
from .student import Student, build_student
from .tinyusfm import StudentOutput, TinyUSFMSeg


class ReadsFeatures(Protocol):
    """A loss that names its terms, and what the student is to return for them."""

    terms: dict
    student_features: str | None


class BackboneInTraining(TinyUSFMSeg):
    """Images (B, 1 or 3, H, W) in [0, 1] -> `StudentOutput` with the last block's output and logits of 0.

    Neck and head stand aside: they are neither run, trained nor kept. The best file is the backbone, with the suffix
    .pth.
    """

    best_suffix = ".pth"

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.neck.requires_grad_(False)
        self.decode_head.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> StudentOutput:
        self._check_image(image)
        return StudentOutput(torch.zeros_like(image[:, :1]), self.encode(image)[-1])

    def best_state(self) -> dict[str, torch.Tensor]:
        """The backbone's weights, named as in TinyUSFM's published file."""
        return {f"model.{name}": weight for name, weight in self.backbone.state_dict().items()}


def backbone_in_training(student: Student, loss: ReadsFeatures, img_size: int = 224) -> TinyUSFMSeg:
    """The backbone of a section `student`, new or from its checkpoint.

    Args:
        student: the section.
        loss: that it learns by.
        img_size: rows and columns in pixels, a multiple of 16.

    Raises:
        ValueError: a term of the loss reads what is not trained here, or a checkpoint does not fit.
    """
    others = [term.key for term in loss.terms.values() if term.reads != "features"]
    if others or loss.student_features != BACKBONE:
        reads = f"{', '.join(others)} of the loss" if others else f"features {loss.student_features}"
        raise ValueError(
            f"configs/pretrain.json trains the backbone alone, by the teacher's embeddings, and {reads} would train "
            "nothing; pass --distillation::features backbone, and alpha, beta and all weights but gamma and mgd as 0."
        )
    return build_student(student, img_size=img_size, network=BackboneInTraining)
