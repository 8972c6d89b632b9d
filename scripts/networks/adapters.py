"""Adapters: a tuned teacher without its base, kept as the seed's .pth or as a peft folder, and merged into a plain SAM.

The formats are those of the seed's fine-tuning (a flat dictionary, w_a_000 and so on) and of peft's `save_pretrained`;
both hold the same tensors, and one becomes the other bit by bit. The seed has no names for LiteMedSAM's TinyViT: there
the flat dictionary has peft's names without their prefix. Surprise: an adapter holds no encoder and no position tables;
SAM's base file is always needed too.

Shapes: D encoder width, R rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from segment_anything.modeling import Sam
from torch import nn

from ..utils.files import atomic_path
from .lite_medsam import TINY_VIT
from .lora import (
    ATTENTIONS,
    DECODER_ONLY,
    ENCODER,
    FINAL,
    FULL,
    TINY_VIT_FROM,
    TINY_VIT_TARGETS,
    TINY_VIT_TUNED,
    is_tiny_vit,
    normalize_module,
    peft_config,
)
from .sam import name_size
from .weights import DECODER, LORA, check_kind, list_keys, load_strict, read_state_dict

PEFT_PREFIX = "base_model.model."
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TUNED = ("prompt_encoder.", "mask_decoder.")
TINY_VIT_PREFIX = "image_encoder.vit."
TINY_VIT_KEPT = (*TUNED, f"{TINY_VIT_TUNED}.")
# torch's name of a `LowRank` factor; its other entry, `.original`, is the frozen weight
PARAMETRIZED = re.compile(r"(.*)\.parametrizations\.weight\.0\.lora_([AB])")
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
TRANSFORMER = "mask_decoder.transformer."
DECODER_LAYERS = 2


class Adapter(NamedTuple):
    """A tuned teacher without its base.

    module: one of `MODULES`. rank: 0 without LoRA. num_mask_tokens: of the decoder. depth, width: blocks with LoRA and
    channels of the image encoder, 0 without LoRA. state: tensors under the seed's names. source: where it was read, for
    messages.
    """

    module: str
    rank: int
    num_mask_tokens: int
    depth: int
    width: int
    state: dict[str, torch.Tensor]
    source: str


def adapter_state(model: nn.Module, module: str) -> dict[str, torch.Tensor]:
    """The tuned weights under the seed's names, copied to the CPU.

    Args:
        model: what `add_lora` returned.
        module: the one it was given.
    """
    module = normalize_module(module)
    if module == DECODER_ONLY:
        state = {key: tensor for key, tensor in model.state_dict().items() if key.startswith(TUNED)}
    elif is_tiny_vit(model):
        names = {key: PARAMETRIZED.sub(r"\1.lora_\2.weight", key) for key in model.state_dict()}
        state = {
            names[key]: tensor
            for key, tensor in model.state_dict().items()
            if key.startswith(TINY_VIT_KEPT) or names[key] != key
        }
    else:
        from peft import get_peft_model_state_dict

        state = _to_seed_names(get_peft_model_state_dict(model))
    return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}


def save_seed_checkpoint(state: Mapping[str, torch.Tensor], path: str | Path, adaptation_mode: str) -> None:
    """Write the seed's flat .pth, whole or not at all.

    Args:
        state: from `adapter_state`.
        path: of the file; its folder is made.
        adaptation_mode: a note in the file, the module's name; reading goes by the keys.
    """
    with atomic_path(path) as partial:
        torch.save({**state, "adaptation_mode": adaptation_mode}, partial)


def save_peft_adapter(state: Mapping[str, torch.Tensor], folder: str | Path) -> None:
    """Write a peft adapter folder that `PeftModel.from_pretrained` loads onto a SAM with split qkv.

    Args:
        state: from `adapter_state`.
        folder: gets adapter_model.safetensors and adapter_config.json.

    Raises:
        ValueError: the state has no LoRA, or is no adapter.
    """
    from safetensors.torch import save_file

    adapter = describe_adapter(state, "the state to save")
    if adapter.module == DECODER_ONLY:
        raise ValueError(f"a peft adapter needs LoRA, but teacher::module is {DECODER_ONLY}; write a .pth file.")
    tiny_vit = _is_for_tiny_vit(state)
    to_peft = {} if tiny_vit else {seed: peft for peft, seed in _peft_names(adapter.depth).items()}
    tensors = {to_peft.get(key, f"{PEFT_PREFIX}{key}"): tensor.contiguous() for key, tensor in state.items()}
    config = peft_config(adapter.module, adapter.rank, adapter.num_mask_tokens, tiny_vit)
    config.inference_mode = True
    with TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        text = Path(scratch, PEFT_CONFIG).read_bytes()
    # the config last: a folder without it is refused
    with atomic_path(Path(folder) / PEFT_WEIGHTS) as partial:
        save_file(tensors, partial, {"format": "pt"})
    with atomic_path(Path(folder) / PEFT_CONFIG) as partial:
        partial.write_bytes(text)


def read_adapter(path: str | Path, name: str = "teacher::lora_checkpoint") -> Adapter:
    """An adapter file or folder, its module, rank and sizes recognized from its keys.

    Args:
        path: the seed's .pth, or a peft folder with adapter_config.json and adapter_model.safetensors.
        name: the config id that gave the path, for messages.

    Raises:
        FileNotFoundError: no such file, or one of the folder's two is missing.
        ValueError: a file of another kind, or whose keys are not those of one module.
    """
    path = Path(path)
    folder = path.parent if path.name == PEFT_WEIGHTS else path
    if not folder.is_dir():
        return describe_adapter(read_state_dict(path, name), f"{name} {path}")
    _check_scale(folder / PEFT_CONFIG, name)
    return describe_adapter(_to_seed_names(read_state_dict(folder / PEFT_WEIGHTS, name)), f"{name} {path}")


def describe_adapter(state: Mapping[str, torch.Tensor], source: str) -> Adapter:
    """The adapter that a state under the seed's names is.

    Raises:
        ValueError: the keys or ranks are not those of one module; they are listed.
    """
    kind = check_kind(state, (LORA, DECODER), source)
    tiny_vit = _is_for_tiny_vit(state)
    module = DECODER_ONLY if kind == DECODER else FULL if "fati_qa" in state else ENCODER
    depth = sum(key.endswith(f".qkv{LORA_A}") if tiny_vit else key.startswith("w_a_") for key in state) // (
        1 if tiny_vit else 2
    )
    layers = _layers(state, module, depth)
    names = {key for pair in layers for key in pair}
    missing = sorted(names - state.keys())
    foreign = sorted(key for key in state.keys() - names if not key.startswith(_tuned_prefixes(state)))
    if missing or foreign or "mask_decoder.mask_tokens.weight" not in state:
        missing = missing or ([] if foreign else ["mask_decoder.mask_tokens.weight"])
        raise ValueError(
            f"{source} is no whole {module} adapter: missing [{list_keys(missing)}], unexpected [{list_keys(foreign)}]."
        )
    rank = _common_rank([(state[a], state[b]) for a, b in layers], source)
    # TinyViT widens from stage to stage: its last width counts, as in its qkv
    width = max(state[a].shape[1] for (a, _), layer in layers.items() if ".qkv" in layer) if depth else 0
    return Adapter(module, rank, len(state["mask_decoder.mask_tokens.weight"]), depth, width, dict(state), source)


def check_adapter(adapter: Adapter, sam: Sam, module: str, rank: int, num_classes: int) -> None:
    """Compare an adapter with the config that names it.

    Args:
        adapter: from `read_adapter`.
        sam: the base that it shall be merged into.
        module: teacher::module.
        rank: teacher::rank; not looked at without LoRA.
        num_classes: the decoder's mask tokens but one, as the seed counts.

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
    if _is_for_tiny_vit(adapter.state) and is_tiny_vit(sam):
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
            "the "
            f"teacher is built for {num_classes}; check data::num_classes and teacher::mask_tokens."
        )


def _check_tiny_vit_layers(adapter: Adapter, sam: Sam) -> None:
    expected = {name for name, _ in sam.named_modules() if re.fullmatch(TINY_VIT_TARGETS, name)}
    found = set(_tiny_vit_layers(adapter.state).values())
    if missing := sorted(expected - found):
        raise ValueError(
            f"{adapter.source} is no whole {adapter.module} adapter: LoRA is missing for [{list_keys(missing)}]."
        )
    if foreign := sorted(found - expected):
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
    base = sam.state_dict()
    merged = {key: tensor for key, tensor in adapter.state.items() if key.startswith(_tuned_prefixes(adapter.state))}
    for (a, b), layer in _layers(adapter.state, adapter.module, adapter.depth).items():
        key, rows = _weight_rows(layer, adapter.width)
        delta = adapter.state[b].float() @ adapter.state[a].float()
        if key not in base or base[key][rows].shape != delta.shape:
            raise ValueError(f"{adapter.source}: {b} @ {a} {tuple(delta.shape)} fits no rows of the base SAM's {key}.")
        merged.setdefault(key, base[key].clone())[rows] += delta.to(base[key])
    gaps = [f"{TINY_VIT_PREFIX}*" if _is_for_tiny_vit(adapter.state) else "image_encoder.*"]
    if adapter.module == FULL:
        gaps.append(f"{TRANSFORMER}*")
    load_strict(sam, merged, allowed_missing=gaps, source=adapter.source)


def lora_layers(module: str, depth: int) -> dict[tuple[str, str], str]:
    """The seed's names (A, B) of every LoRA pair -> the Linear it adapts, in a SAM with split qkv.

    Args:
        module: one of `MODULES`.
        depth: blocks of the image encoder.
    """
    layers = {}
    if module != DECODER_ONLY:
        for i in range(2 * depth):  # q and v take turns
            layers[f"w_a_{i:03d}", f"w_b_{i:03d}"] = f"image_encoder.blocks.{i // 2}.attn.qkv.{'qv'[i % 2]}"
    if module == FULL:
        for short, attention in ATTENTIONS.items():
            for i in range(2 * DECODER_LAYERS):
                layer = f"{TRANSFORMER}layers.{i // 2}.{attention}.{'qv'[i % 2]}_proj"
                layers[f"{short}_a_{i:03d}", f"{short}_b_{i:03d}"] = layer
        for letter in "qv":
            layers[f"fati_{letter}a", f"fati_{letter}b"] = f"{TRANSFORMER}{FINAL}.{letter}_proj"
    return layers


def _peft_names(depth: int) -> dict[str, str]:
    """peft's names of all LoRA tensors -> the seed's."""
    return {
        f"{PEFT_PREFIX}{layer}.lora_{matrix}.weight": name
        for pair, layer in lora_layers(FULL, depth).items()
        for matrix, name in zip("AB", pair)
    }


def _to_seed_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    names = _peft_names(sum(key.endswith("attn.qkv.q.lora_A.weight") for key in state))
    return {names.get(key, key.removeprefix(PEFT_PREFIX)): tensor for key, tensor in state.items()}


def _check_scale(path: Path, name: str) -> None:
    """Refuse a peft adapter whose LoRA has another scale than 1, which the seed's format cannot say."""
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


def _layers(state: Mapping[str, torch.Tensor], module: str, depth: int) -> dict[tuple[str, str], str]:
    """As `lora_layers`, for either encoder."""
    return _tiny_vit_layers(state) if _is_for_tiny_vit(state) else lora_layers(module, depth)


def _is_for_tiny_vit(state: Iterable[str]) -> bool:
    return any(key.startswith(TINY_VIT_PREFIX) for key in state)


def _tiny_vit_layers(state: Iterable[str]) -> dict[tuple[str, str], str]:
    """Names (A, B) of every LoRA pair of TinyViT -> the Linear it adapts; from half a pair too, so that its other
    half is missed.
    """
    layers = sorted({key.removesuffix(end) for key in state for end in (LORA_A, LORA_B) if key.endswith(end)})
    return {(layer + LORA_A, layer + LORA_B): layer for layer in layers}


def _tuned_prefixes(state: Iterable[str]) -> tuple[str, ...]:
    """Of the keys that are whole weights."""
    return TINY_VIT_KEPT if _is_for_tiny_vit(state) else TUNED


def _name_encoder(width: int, depth: int) -> str:
    is_lite = (width, depth) == (TINY_VIT["embed_dims"][-1], sum(TINY_VIT["depths"][TINY_VIT_FROM:]))
    return "lite_medsam" if is_lite else name_size(width, depth)


def _encoder_size(sam: Sam) -> tuple[int, int]:
    """Width and depth of an image encoder: the blocks that LoRA adapts, and the channels of the last."""
    if is_tiny_vit(sam):
        blocks = [block for stage in list(sam.image_encoder.vit.stages)[TINY_VIT_FROM:] for block in stage.blocks]
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
