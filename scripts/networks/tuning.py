"""The teacher as a network to train: SAM with a trainable adapter.

Configs name `tunable_teacher` in train_teacher.json; what it writes is read by `teacher::lora_checkpoint`.

Shapes: B batch, C classes, H W pixels of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..utils.screen import tell
from .adapters import Adapter, adapter_state, checkpoint_content, is_peft, tuned_names
from .frozen_teacher import FrozenTeacher
from .lora import add_lora
from .lora_names import PEFT_PREFIX, names_of
from .teacher import SamTeacher
from .weights import list_keys


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
    """The teacher that a section `teacher` describes, its adapter trainable, all else frozen.

    The adapter is new, or goes on from the section's `lora_checkpoint`.

    Its `cache_dir` keeps the embeddings of a frozen image encoder, which pays where the same views come back.

    Args:
        teacher: the section; it names one adapter at most.

    Raises:
        FileNotFoundError: SAM's base file is not there.
        ValueError: an option does not fit a fine-tuning, or the adapter does not fit the options.
    """
    if len(teacher.adapters) > 1:
        raise ValueError(
            f"teacher::lora_checkpoint names {len(teacher.adapters)} adapters, but a fine-tuning goes on from one; "
            "name one, or null for a new one."
        )
    if teacher.flips:
        raise ValueError("teacher::flips is for a frozen teacher; leave it false in train_teacher.json.")
    options = teacher.options
    sam = teacher.build_base()
    adapter = teacher.fitting_adapter(teacher.adapters[0], sam) if teacher.adapters else None
    base, tunable = sam.base, add_lora(sam, options["module"], options["rank"])
    if adapter is not None:
        load_adapter(tunable, adapter)
        tell(f"the fine-tuning goes on from {adapter.source}")
    arguments = (options["img_size"], options["normalization"], options["mask_tokens"], teacher.cache_dir)
    return TunableTeacher(options["module"], base, tunable, *arguments)


def load_adapter(model: nn.Module, adapter: Adapter) -> None:
    """Load an adapter into a model that trains one of the same kind: the way back of `adapter_state`.

    Args:
        model: what `add_lora` returned; untouched when the adapter is refused.
        adapter: from `read_adapter`.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; they are listed.
    """
    own = adapter_state(model, adapter.module)
    foreign = [key for key, tensor in adapter.state.items() if key not in own or own[key].shape != tensor.shape]
    missing = sorted(own.keys() - adapter.state.keys())
    if foreign or missing:
        raise ValueError(
            f"{adapter.source} does not fit the teacher that is tuned: missing [{list_keys(missing)}], "
            f"unexpected or of another shape [{list_keys(sorted(foreign))}]."
        )
    if is_peft(model):
        from peft import set_peft_model_state_dict

        to_peft = names_of(adapter.state).to_peft(adapter.depth)
        state = {to_peft.get(key, f"{PEFT_PREFIX}{key}"): tensor for key, tensor in adapter.state.items()}
        set_peft_model_state_dict(model, state)
        return
    tensors, names = model.state_dict(), tuned_names(model, adapter.module)
    for name, tensor in adapter.state.items():
        tensors[names[name]].copy_(tensor)
