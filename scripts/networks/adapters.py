"""Adapters: a tuned teacher without its base, as a .pth file or a peft folder, and merged into a plain SAM.

The .pth is that of the reference implementation (MedFM), a flat dictionary w_a_000 and so on; the folder is what peft's
`save_pretrained` writes. Both hold the same tensors, and one becomes the other bit by bit; lora_names.py has the names.
Surprise: an adapter holds no encoder and no position tables; SAM's base file is always needed too.

Shapes: D encoder width, R rank.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from segment_anything.modeling import Sam
from torch import nn

from ..utils.files import atomic_path
from ..utils.weight_files import save_safetensors
from .lite_medsam import TINY_VIT
from .lora import is_tiny_vit, peft_config
from .lora_names import (
    DECODER_ONLY,
    ENCODER,
    FULL,
    PEFT_PREFIX,
    TRANSFORMER,
    SamNames,
    TinyVitNames,
    from_peft,
    names_of,
    normalize_module,
)
from .sam import name_size
from .weights import DECODER, LORA, check_kind, list_keys, load_strict, read_noted_state_dict

logger = logging.getLogger(__name__)

BASE_NOTE = "tuned_on"  # beside the tensors of either format
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# torch's name of a `LowRank` factor; its other entry, `.original`, is the frozen weight
PARAMETRIZED = re.compile(r"(.*)\.parametrizations\.weight\.0\.lora_([AB])")


class Adapter(NamedTuple):
    """A tuned teacher without its base.

    module: one of `MODULES`. rank: 0 without LoRA. num_mask_tokens: of the decoder. depth, width: blocks with LoRA and
    channels of the image encoder, 0 without LoRA. state: tensors under an adapter's names. source: where it was read,
    for messages. base: `name_base` of the weights that it was tuned on; None in files of version 0.6 and before.
    """

    module: str
    rank: int
    num_mask_tokens: int
    depth: int
    width: int
    state: dict[str, torch.Tensor]
    source: str
    base: str | None = None


def adapter_state(model: nn.Module, module: str) -> dict[str, torch.Tensor]:
    """The tuned weights under an adapter's names, copied to the CPU.

    Args:
        model: what `add_lora` returned.
        module: the one it was given.
    """
    if is_peft(model):
        from peft import get_peft_model_state_dict

        state = from_peft(get_peft_model_state_dict(model))
    else:
        tensors = model.state_dict()
        state = {name: tensors[key] for name, key in tuned_names(model, module).items()}
    return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}


def is_peft(model: nn.Module) -> bool:
    """Whether peft holds the LoRA of what `add_lora` returned."""
    return hasattr(model, "peft_config")


def tuned_names(model: nn.Module, module: str) -> dict[str, str]:
    """The model's own names of its tuned weights, by an adapter's; for one without peft.

    Args:
        model: what `add_lora` returned.
        module: the one it was given.
    """
    if normalize_module(module) == DECODER_ONLY:
        return {key: key for key in model.state_dict() if key.startswith(SamNames.tuned)}
    names = {key: PARAMETRIZED.sub(r"\1.lora_\2.weight", key) for key in model.state_dict()}
    return {name: key for key, name in names.items() if key.startswith(TinyVitNames.tuned) or name != key}


def checkpoint_content(
    state: Mapping[str, torch.Tensor], adaptation_mode: str, base: str | None
) -> dict[str, torch.Tensor | str]:
    """What the flat .pth holds; arguments as `save_checkpoint_file`."""
    return {**state, "adaptation_mode": adaptation_mode, **_note_base(base)}


def save_checkpoint_file(
    state: Mapping[str, torch.Tensor], path: str | Path, adaptation_mode: str, base: str | None = None
) -> None:
    """Write the flat .pth, whole or not at all.

    Args:
        state: from `adapter_state`.
        path: of the file; its folder is made.
        adaptation_mode: a note in the file, the module's name; reading goes by the keys.
        base: see `Adapter`; another note.
    """
    with atomic_path(path) as partial:
        torch.save(checkpoint_content(state, adaptation_mode, base), partial)


def save_peft_adapter(state: Mapping[str, torch.Tensor], folder: str | Path, base: str | None = None) -> None:
    """Write a peft adapter folder that `PeftModel.from_pretrained` loads onto a SAM with split qkv.

    Args:
        state: from `adapter_state`.
        folder: gets adapter_model.safetensors and adapter_config.json.
        base: see `Adapter`; a note in the header of the first.

    Raises:
        ValueError: the state has no LoRA, or is no adapter.
    """
    adapter = describe_adapter(state, "the state to save")
    if adapter.module == DECODER_ONLY:
        raise ValueError(f"a peft adapter needs LoRA, but teacher::module is {DECODER_ONLY}; write a .pth file.")
    names = names_of(state)
    to_peft = names.to_peft(adapter.depth)
    tensors = {to_peft.get(key, f"{PEFT_PREFIX}{key}"): tensor for key, tensor in state.items()}
    config = peft_config(adapter.module, adapter.rank, adapter.num_mask_tokens, names)
    config.inference_mode = True
    with TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        text = Path(scratch, PEFT_CONFIG).read_bytes()
    # the config last: a folder without it is refused
    save_safetensors(tensors, Path(folder) / PEFT_WEIGHTS, _note_base(base))
    with atomic_path(Path(folder) / PEFT_CONFIG) as partial:
        partial.write_bytes(text)


def read_adapter(path: str | Path, name: str = "teacher::lora_checkpoint") -> Adapter:
    """An adapter file or folder, its module, rank and sizes recognized from its keys.

    Args:
        path: the reference implementation's .pth, or a peft folder with adapter_config.json and
            adapter_model.safetensors.
        name: the config id that gave the path, for messages.

    Raises:
        FileNotFoundError: no such file, or one of the folder's two is missing.
        ValueError: a file of another kind, or whose keys are not those of one module.
    """
    path = Path(path)
    folder = path.parent if path.name == PEFT_WEIGHTS else path
    if folder.is_dir():
        _check_scale(folder / PEFT_CONFIG, name)
        state, notes = read_noted_state_dict(folder / PEFT_WEIGHTS, name)
        state = from_peft(state)
    else:
        state, notes = read_noted_state_dict(path, name)
    return describe_adapter(state, f"{name} {path}", notes.get(BASE_NOTE))


def describe_adapter(state: Mapping[str, torch.Tensor], source: str, base: str | None = None) -> Adapter:
    """The adapter that a state under an adapter's names is.

    Args:
        state: tensors under an adapter's names.
        source: where it was read, for messages.
        base: see `Adapter`.

    Raises:
        ValueError: the keys or ranks are not those of one module; they are listed.
    """
    kind, names = check_kind(state, (LORA, DECODER), source), names_of(state)
    module = DECODER_ONLY if kind == DECODER else FULL if "fati_qa" in state else ENCODER
    depth = names.count_blocks(state)
    pairs = names.pairs(state, module, depth)
    factors = {key for pair in pairs for key in pair}
    missing = sorted(factors - state.keys())
    foreign = sorted(key for key in state.keys() - factors if not key.startswith(names.tuned))
    if missing or foreign or "mask_decoder.mask_tokens.weight" not in state:
        missing = missing or ([] if foreign else ["mask_decoder.mask_tokens.weight"])
        raise ValueError(
            f"{source} is no whole {module} adapter: missing [{list_keys(missing)}], unexpected [{list_keys(foreign)}]."
        )
    rank = _common_rank([(state[a], state[b]) for a, b in pairs], source)
    # TinyViT widens from stage to stage: its last width counts, as in its qkv
    width = max(state[a].shape[1] for (a, _), layer in pairs.items() if ".qkv" in layer) if depth else 0
    return Adapter(module, rank, len(state["mask_decoder.mask_tokens.weight"]), depth, width, dict(state), source, base)


def check_base(adapter: Adapter, sam: Sam) -> None:
    """Refuse a base that an adapter was not tuned on; an adapter that names none is taken, and the log says so.

    Args:
        adapter: from `read_adapter`.
        sam: from `build_base`.

    Raises:
        ValueError: another base; the message names both.
    """
    if adapter.base is None:
        logger.info("%s does not say what it was tuned on; it is taken to fit the base %s", adapter.source, sam.base)
        return
    (tuned_on, _, tuned_name), (given, _, given_name) = (base.partition("  ") for base in (adapter.base, sam.base))
    if given != tuned_on:
        raise ValueError(
            f"{adapter.source} was tuned on {tuned_name} (weights {tuned_on[:12]}), but teacher::sam_checkpoint is "
            f"{given_name} (weights {given[:12]}); pass the --teacher::sam_checkpoint it was tuned on."
        )


def check_adapter(adapter: Adapter, sam: Sam, module: str, rank: int, num_classes: int) -> None:
    """Compare an adapter with the config that names it.

    Args:
        adapter: from `read_adapter`.
        sam: the base that it shall be merged into.
        module: teacher::module.
        rank: teacher::rank; not looked at without LoRA.
        num_classes: the decoder's mask tokens but one, as the reference implementation counts.

    Raises:
        ValueError: another SAM size, module, rank or class count; the message names the id.
    """
    module = normalize_module(module)
    source = adapter.source
    if adapter.module != module:
        raise ValueError(
            f"{source} was tuned as {adapter.module}, but teacher::module is {module}; "
            f"pass --teacher::module {adapter.module}."
        )
    if names_of(adapter.state) is TinyVitNames and is_tiny_vit(sam):
        _check_tiny_vit_layers(adapter, sam)
    expected = _encoder_size(sam)
    if adapter.depth and (adapter.width, adapter.depth) != expected:
        raise ValueError(
            f"{source} is LoRA for {_name_encoder(adapter.width, adapter.depth)}, but teacher::model_name is "
            f"{_name_encoder(*expected)}; pass the --teacher::model_name it was tuned for."
        )
    if adapter.depth and adapter.rank != rank:
        raise ValueError(
            f"{source} has LoRA rank {adapter.rank}, but teacher::rank is {rank}; pass --teacher::rank {adapter.rank}."
        )
    if adapter.num_mask_tokens - 1 != num_classes:
        raise ValueError(
            f"{source} has {adapter.num_mask_tokens} mask tokens, that is {adapter.num_mask_tokens - 1} classes, but "
            f"the teacher is built for {num_classes}; check data::num_classes and teacher::mask_tokens."
        )


def _check_tiny_vit_layers(adapter: Adapter, sam: Sam) -> None:
    expected = {name for name, _ in sam.named_modules() if re.fullmatch(TinyVitNames.targets(), name)}
    adapted = set(TinyVitNames.pairs(adapter.state).values())
    if missing := sorted(expected - adapted):
        raise ValueError(
            f"{adapter.source} is no whole {adapter.module} adapter: LoRA is missing for [{list_keys(missing)}]."
        )
    if foreign := sorted(adapted - expected):
        raise ValueError(
            f"{adapter.source} has LoRA that this encoder has no place for, for [{list_keys(foreign)}]; tune it anew."
        )


def merge_adapter(sam: Sam, adapter: Adapter) -> None:
    """Load an adapter into its base and add LoRA to the weights, so that a plain SAM computes the tuned one.

    Args:
        sam: the base weights, qkv fused; untouched when the adapter is refused.
        adapter: from `read_adapter`.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; they are listed.
    """
    base, names = sam.state_dict(), names_of(adapter.state)
    merged = {key: tensor for key, tensor in adapter.state.items() if key.startswith(names.tuned)}
    for (a, b), layer in names.pairs(adapter.state, adapter.module, adapter.depth).items():
        key, rows = _weight_rows(layer, adapter.width)
        delta = adapter.state[b].float() @ adapter.state[a].float()
        if key not in base or base[key][rows].shape != delta.shape:
            raise ValueError(f"{adapter.source}: {b} @ {a} {tuple(delta.shape)} fits no rows of the base SAM's {key}.")
        merged.setdefault(key, base[key].clone())[rows] += delta.to(base[key])
    gaps = [names.frozen, f"{TRANSFORMER}*"] if adapter.module == FULL else [names.frozen]
    load_strict(sam, merged, allowed_missing=gaps, source=adapter.source)


def _note_base(base: str | None) -> dict[str, str]:
    return {BASE_NOTE: base} if base else {}


def _check_scale(path: Path, name: str) -> None:
    """Refuse a peft adapter whose LoRA has another scale than 1, which the .pth cannot say."""
    if not path.is_file():
        raise FileNotFoundError(f"{name} {path.parent} is no peft adapter folder: {path.name} does not exist.")
    try:
        config = json.loads(path.read_text())
        rank, alpha = config["r"], config["lora_alpha"]
        others = config.get("use_rslora") or config.get("alpha_pattern")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} {path} is no LoRA configuration of peft: {error!r}.") from error
    if alpha != rank or others:
        raise ValueError(
            f"{name} {path}: LoRA must have scale 1 (lora_alpha = r), got lora_alpha {alpha} and r {rank}."
        )


def _common_rank(pairs: list[tuple[torch.Tensor, torch.Tensor]], source: str) -> int:
    ranks = {rank for a, b in pairs for rank in (a.shape[0], b.shape[1])}
    if len(ranks) > 1:
        raise ValueError(f"{source} must have one LoRA rank, got {sorted(ranks)}.")
    return ranks.pop() if ranks else 0


def _name_encoder(width: int, depth: int) -> str:
    is_lite = (width, depth) == (TINY_VIT["embed_dims"][-1], sum(TINY_VIT["depths"][TinyVitNames.first_stage :]))
    return "lite_medsam" if is_lite else name_size(width, depth)


def _encoder_size(sam: Sam) -> tuple[int, int]:
    """Width and depth of an image encoder: the blocks that LoRA adapts, and the channels of the last."""
    if is_tiny_vit(sam):
        blocks = [
            block for stage in list(sam.image_encoder.vit.stages)[TinyVitNames.first_stage :] for block in stage.blocks
        ]
        return blocks[-1].attn.qkv.in_features, len(blocks)
    blocks = getattr(sam.image_encoder, "blocks", ())
    return (blocks[0].attn.qkv.in_features, len(blocks)) if len(blocks) else (0, 0)


def _weight_rows(layer: str, width: int) -> tuple[str, slice]:
    """Where a Linear of the split SAM lies in the fused one: the weight's key and its rows."""
    parent, name = layer.rsplit(".", 1)
    if not parent.endswith(".qkv"):
        return f"{layer}.weight", slice(None)
    start = "qkv".index(name) * width
    return f"{parent}.weight", slice(start, start + width)
