"""The teacher as a network to train: SAM with a trainable adapter.

Configs name `tunable_teacher` in train_teacher.json; what it writes is read by `teacher::lora_checkpoint`.

Shapes: B batch, C classes, H W pixels of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from .adapters import adapter_state, checkpoint_content
from .frozen_teacher import FrozenTeacher
from .lora import add_lora
from .teacher import SamTeacher, build_base, count_mask_tokens


class TunableTeacher(SamTeacher):
    """Images in [0, 1] -> logits of their size; other arguments as `SamTeacher`.

    Its best file is the adapter, with the suffix .pth.

    Args:
        module: what is tuned, see `FrozenTeacher`.
        base: `name_base` of the weights that are tuned.
    """

    best_suffix = ".pth"

    def __init__(self, module: str, base: str | None, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.module, self.base = module, base

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1 or C, H, W) of images (B, 1 or 3, H, W) in [0, 1]."""
        logits = super().forward(image).logits
        if logits.shape[-2:] == image.shape[-2:]:
            return logits
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """The tuned weights under an adapter's names."""
        return adapter_state(self.sam, self.module)

    def best_state(self) -> dict[str, torch.Tensor | str]:
        """What the flat .pth holds: the tuned weights, the module's name, and what they were tuned on."""
        return checkpoint_content(self.adapter_state(), self.module, self.base)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args, **kwargs) -> Any:
        """As torch's, for a training that goes on.

        Raises:
            ValueError: the weights that are not tuned differ, so that the base is another one.
        """
        weights = dict(self.named_parameters())
        if any(weight.requires_grad for weight in weights.values()):  # else it is an average, which rounds all of them
            self._check_base(state_dict, {name: w for name, w in weights.items() if not w.requires_grad})
        return super().load_state_dict(state_dict, *args, **kwargs)

    def _check_base(self, state: Mapping[str, torch.Tensor], frozen: Mapping[str, torch.Tensor]) -> None:
        for name, weight in frozen.items():
            # tables that are resized when they are read differ in the last bits from processor to processor
            if name in state and not torch.allclose(weight, state[name].to(weight), rtol=1e-4, atol=1e-5):
                raise ValueError(
                    f"the checkpoint was tuned on another base than teacher::sam_checkpoint, "
                    f"{self.base.partition('  ')[2]}; it differs first in {name}: pass the base it was tuned on."
                )


def tunable_teacher(teacher: FrozenTeacher) -> TunableTeacher:
    """The teacher that a section `teacher` describes, its adapter new and trainable, all else frozen.

    Its `cache_dir` keeps the embeddings of a frozen image encoder, which pays where the same views come back.

    Args:
        teacher: the section; it names no adapter.

    Raises:
        FileNotFoundError: SAM's base file is not there.
        ValueError: an option does not fit a fine-tuning.
    """
    if teacher.adapters:
        raise ValueError(
            f"teacher::lora_checkpoint is what fine-tuning writes, got {teacher.adapters[0]}; leave it null in "
            "train_teacher.json."
        )
    if teacher.flips:
        raise ValueError("teacher::flips is for a frozen teacher; leave it false in train_teacher.json.")
    options = teacher.options
    tokens = count_mask_tokens(options["num_classes"], options["mask_tokens"])
    sam = build_base(options["model_name"], options["img_size"], tokens, teacher.sam_checkpoint)
    base, tunable = sam.base, add_lora(sam, options["module"], options["rank"])
    arguments = (options["img_size"], options["normalization"], options["mask_tokens"], teacher.cache_dir)
    return TunableTeacher(options["module"], base, tunable, *arguments)
