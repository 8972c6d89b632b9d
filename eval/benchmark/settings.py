"""What one run of the benchmark is: its sizes and counts, and where its files lie while it runs.

The program passes them as JSON to the process of each contender.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LITE_MEDSAM = "lite_medsam"
SAM_NAMES = ("vit_b", "vit_l", "vit_h")


@dataclass(frozen=True)
class Settings:
    """Sizes and counts; the defaults are the full run's.

    Args:
        work: temporary folder of weights, data, caches and run folders.
        threads: of torch, and cores a process may use on the CPU.
        device: `cpu` or `cuda`.
        seed: of weights, order and views.
        models: name in the tables -> SAM size that is built for it.
        student: student::model_name.
        checkpoint: of a trained student whose exports are compared; the control's is taken when None.
        img_size: the student's, in pixels; likewise teacher_size.
        student_sizes: of the scaling fit, in pixels; likewise teacher_sizes.
        batch_size: images a training step.
        num_images: of the training list.
        num_validation: images of the validation list, on which exports are compared; num_test: of the final evaluation.
            Fewer where a data set has fewer.
        data_counts: images of the synthetic data sets, and entries of the complete caches that are looked at.
        views: of an image in `replay`.
        epochs: of a training; the first is left out of its median.
        steps: timed steps; likewise reference_steps, of the reference loop.
        lr: of the trainings, high so that few steps give masks to compare exports on.
        quick: whether this is the test size.
    """

    work: str
    threads: int = 2
    device: str = "cpu"
    seed: int = 0
    models: dict[str, str] = field(default_factory=lambda: {name: name for name in SAM_NAMES})
    student: str = "TinyUSFM_Seg"
    checkpoint: str | None = None
    img_size: int = 224
    teacher_size: int = 256
    student_sizes: tuple[int, ...] = (160, 224, 320)
    teacher_sizes: tuple[int, ...] = (256, 384, 512)
    batch_size: int = 16
    num_images: int = 64
    num_validation: int = 64
    num_test: int = 8
    data_counts: tuple[int, ...] = (1000, 5000, 20_000)
    views: int = 2
    epochs: int = 9
    steps: int = 8
    reference_steps: int = 2
    lr: float = 1e-3
    quick: bool = False

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """What `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @property
    def folder(self) -> Path:
        """The temporary folder."""
        return Path(self.work)

    @property
    def image_counts(self) -> list[int]:
        """Images of the fills that the fit of fill time and bytes compares."""
        return [self.num_images // 4, self.num_images // 2, self.num_images]

    def teacher(self, model: str, img_size: int | None = None) -> dict[str, Any]:
        """The config section `teacher` of a model whose files `write_weights` made; keyword arguments of
        FrozenTeacher too.
        """
        lite = model == LITE_MEDSAM
        return {
            "model_name": LITE_MEDSAM if lite else self.models[model],
            "module": "mask_decoder" if lite else "sam_lora_image_encoder",
            "img_size": 256 if lite else img_size or self.teacher_size,
            "sam_checkpoint": None if lite else str(self.folder / f"sam_{model}.pth"),
            "lora_checkpoint": str(self.folder / f"lora_{model}.pth"),
        }


def quick_settings(work: str, threads: int, checkpoint: str | None = None) -> Settings:
    """Everything at test size, without LiteMedSAM, which has none: the figures mean nothing, but the program runs in
    seconds.
    """
    return Settings(
        work,
        threads,
        checkpoint=checkpoint,
        models=dict.fromkeys(SAM_NAMES, "vit_test"),
        student="TinyUSFM_Test",
        img_size=64,
        teacher_size=64,
        student_sizes=(32, 64, 96),
        teacher_sizes=(64, 96, 128),
        batch_size=4,
        num_images=8,
        num_validation=8,
        data_counts=(10, 20, 40),
        views=1,
        epochs=2,
        steps=1,
        reference_steps=1,
        quick=True,
    )
