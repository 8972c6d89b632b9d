"""Read state dicts from checkpoint files, tell what they hold, and load them strictly.

A file that does not fit is refused with its keys listed; nothing is loaded by halves. `utils/weight_files.py` checks
that a file is whole and finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..utils.digests import weights_digest
from ..utils.weight_files import read_weight_file

# where training scripts keep the state dict: the reference implementation, torch habit, upstream, MONAI
WRAPPERS = ("model_state_dict", "state_dict", "model", "network")
MAX_LISTED = 10

STUDENT, BACKBONE, LORA, DECODER, TEACHER, LITE_MEDSAM, SAM, UNKNOWN = (
    "a TinyUSFM student (backbone.*, neck.*, decode_head.*)",
    "a pretrained TinyUSFM backbone (model.*)",
    "a LoRA adapter (w_a_*, w_b_*, or *.lora_A for LiteMedSAM)",
    "a tuned mask decoder (prompt_encoder.*, mask_decoder.*)",
    "the whole network of a teacher fine-tuning (sam.*)",
    "a LiteMedSAM file (TinyViT image_encoder.*)",
    "a SAM base file (image_encoder.*)",
    "neither a student, a SAM nor an adapter",
)
# the first prefix that some key has decides
SIGNS = (
    ("decode_head.", STUDENT),
    ("backbone.", STUDENT),
    ("model.", BACKBONE),
    ("w_a_", LORA),
    ("base_model.model.", LORA),
    ("sam.", TEACHER),
    ("image_encoder.vit.", LORA),
    ("image_encoder.patch_embed.seq.", LITE_MEDSAM),
    ("image_encoder.", SAM),
    ("mask_decoder.", DECODER),
)
# the config id that a file of each kind is for
HOMES = {
    STUDENT: "student::checkpoint",
    BACKBONE: "student::checkpoint",
    LORA: "teacher::lora_checkpoint",
    DECODER: "teacher::lora_checkpoint",
    LITE_MEDSAM: "teacher::sam_checkpoint with teacher::model_name lite_medsam",
    SAM: "teacher::sam_checkpoint",
}


class Gaps(NamedTuple):
    """Keys that a strict load left out by name: `missing` in the file, `unexpected` by the module."""

    missing: list[str]
    unexpected: list[str]


def read_state_dict(path: str | Path, name: str = "checkpoint") -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file by name, on the CPU.

    The usual wrappers are taken off; entries that are no tensors (such as the string `adaptation_mode` of the reference
    implementation) are left out.

    Args:
        path: what torch.save wrote, or a .safetensors file.
        name: the config id that gave the path, for the message.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, cannot be read, holds no tensors, or a value that is not finite.
    """
    return read_noted_state_dict(path, name)[0]


def read_noted_state_dict(path: str | Path, name: str = "checkpoint") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """As `read_state_dict`, with the texts that lie beside the tensors, by name."""
    content = read_weight_file(path, name, lambda content: _named(content, f"{name} {path}"))
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    return tensors, {key: value for key, value in content.items() if isinstance(value, str)}


def name_base(state: Mapping[str, torch.Tensor], path: str | Path) -> str:
    """A base by the SHA-256 over its tensors and the name of its file, as a line of sha256sum has them.

    Args:
        state: all of the file, before anything is resized.
        path: of the file.
    """
    return f"{weights_digest(state)}  {Path(path).name}"


def recognize(state: Iterable[str]) -> str:
    """What a state dict belongs to, told by its keys: one of the phrases of this module, such as `STUDENT`."""
    keys = list(state)
    return next((kind for sign, kind in SIGNS if any(key.startswith(sign) for key in keys)), UNKNOWN)


def check_kind(state: Iterable[str], expected: Iterable[str], source: str) -> str:
    """The kind that `recognize` finds.

    Args:
        state: the keys.
        expected: the kinds that are welcome.
        source: config id and file, for the message.

    Raises:
        ValueError: another kind; the message says which, and which config id it is for.
    """
    kind, expected = recognize(state), tuple(expected)
    if kind not in expected:
        home = f"; it is for {HOMES[kind]}" if kind in HOMES else f" (keys {list_keys(state)})"
        raise ValueError(f"{source} is {kind}, not {' or '.join(expected)}{home}.")
    return kind


def load_strict(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    allowed_missing: Iterable[str] = (),
    allowed_unexpected: Iterable[str] = (),
    source: str = "",
) -> Gaps:
    """Load a state dict in full or not at all; returns the named gaps that were used.

    Args:
        module: gets the weights; untouched when the state dict is refused.
        state: tensors by name; a tensor of another shape is always refused.
        allowed_missing: fnmatch patterns of keys that the state dict may lack.
        allowed_unexpected: fnmatch patterns of keys that the module may lack.
        source: the file, for the message.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; they are listed.
    """
    target = module.state_dict()
    gaps = Gaps(sorted(target.keys() - state.keys()), sorted(state.keys() - target.keys()))
    faults = {
        "missing": _outside(gaps.missing, allowed_missing),
        "unexpected": _outside(gaps.unexpected, allowed_unexpected),
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in target.items()
            if key in state and state[key].shape != tensor.shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {fault}: {list_keys(keys)}" for fault, keys in faults.items() if keys)
        raise ValueError(f"{source or 'the state dict'} does not fit {type(module).__name__}: {listed}.")
    module.load_state_dict({key: state[key] for key in target if key in state}, strict=False)
    return gaps


def list_keys(keys: Iterable[str]) -> str:
    """The first ten keys, then how many more."""
    keys = list(keys)
    more = f" and {len(keys) - MAX_LISTED} more" if len(keys) > MAX_LISTED else ""
    return ", ".join(keys[:MAX_LISTED]) + more


def _named(content: Any, source: str) -> Mapping[str, Any]:
    """The tensors and texts of the state dict in a file's content."""
    state = _unwrap(content)
    if not isinstance(state, Mapping) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{source} holds no state dict (named tensors), but {_describe(state)}.")
    return {key: value for key, value in state.items() if isinstance(value, (torch.Tensor, str))}


def _unwrap(content: Any) -> Any:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary with the keys {list_keys(map(str, content))}" if content else "an empty dictionary"
    return f"an object of type {type(content).__name__}"


def _outside(keys: Iterable[str], patterns: Iterable[str]) -> list[str]:
    patterns = tuple(patterns)
    return [key for key in keys if not any(fnmatchcase(key, pattern) for pattern in patterns)]
