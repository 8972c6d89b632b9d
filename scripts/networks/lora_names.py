"""How the weights of an adapter are called: `SamNames` for SAM's ViT, `TinyVitNames` for LiteMedSAM's TinyViT.

SAM's are those of the reference implementation (MedFM): w_a_000, w_b_000 and so on, q and v taking turns. It has no
names for TinyViT, whose adapters have peft's names without their prefix. Both say which Linears LoRA adapts and which
weights are kept whole.

Shapes: D encoder width, R rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

ENCODER = "sam_lora_image_encoder"
FULL = "sam_lora_image_encoder_mask_decoder"
DECODER_ONLY = "mask_decoder"
MODULES = (ENCODER, FULL, DECODER_ONLY)

PEFT_PREFIX = "base_model.model."
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"
TRANSFORMER = "mask_decoder.transformer."
DECODER_LAYERS = 2
# attentions in every layer of the decoder transformer, by their short names in a checkpoint, and the one after the
# layers
ATTENTIONS = {"sa": "self_attn", "cti": "cross_attn_token_to_image", "cit": "cross_attn_image_to_token"}
FINAL = "final_attn_token_to_image"
ENCODER_TARGETS = r"image_encoder\.blocks\.\d+\.attn\.qkv\.[qv]"
DECODER_TARGETS = rf"mask_decoder\.transformer\.(layers\.\d+\.({'|'.join(ATTENTIONS.values())})|{FINAL})\.[qv]_proj"
DECODER_PARTS = ("prompt_encoder", "mask_decoder")

Pairs = dict[tuple[str, str], str]


class SamNames:
    """Names of a SAM's adapter."""

    tuned = ("prompt_encoder.", "mask_decoder.")  # keys that begin so are whole weights
    frozen = "image_encoder.*"  # what an adapter lacks

    @staticmethod
    def count_blocks(state: Iterable[str]) -> int:
        """Blocks of the image encoder that have LoRA."""
        return sum(key.startswith("w_a_") for key in state) // 2

    @staticmethod
    def pairs(state: Iterable[str], module: str, depth: int) -> Pairs:
        """Names (A, B) of every LoRA pair that an adapter must have -> the Linear it adapts, in a SAM with split qkv.

        Args:
            state: the adapter's keys; not looked at.
            module: one of `MODULES`.
            depth: blocks of the image encoder.
        """
        pairs: Pairs = {}
        if module != DECODER_ONLY:
            for i in range(2 * depth):  # q and v take turns
                pairs[f"w_a_{i:03d}", f"w_b_{i:03d}"] = f"image_encoder.blocks.{i // 2}.attn.qkv.{'qv'[i % 2]}"
        if module == FULL:
            for short, attention in ATTENTIONS.items():
                for i in range(2 * DECODER_LAYERS):
                    layer = f"{TRANSFORMER}layers.{i // 2}.{attention}.{'qv'[i % 2]}_proj"
                    pairs[f"{short}_a_{i:03d}", f"{short}_b_{i:03d}"] = layer
            for letter in "qv":
                pairs[f"fati_{letter}a", f"fati_{letter}b"] = f"{TRANSFORMER}{FINAL}.{letter}_proj"
        return pairs

    @classmethod
    def to_peft(cls, depth: int) -> dict[str, str]:
        """The names of all LoRA tensors -> peft's."""
        return {
            name: f"{PEFT_PREFIX}{layer}.lora_{matrix}.weight"
            for pair, layer in cls.pairs((), FULL, depth).items()
            for matrix, name in zip("AB", pair)
        }

    @staticmethod
    def targets(module: str) -> str:
        """Regular expression of the Linears that LoRA adapts; peft stores a list of names without order."""
        return f"({ENCODER_TARGETS}|{DECODER_TARGETS})" if module == FULL else ENCODER_TARGETS

    @staticmethod
    def whole_modules(module: str, num_mask_tokens: int) -> list[str]:
        """Modules that are tuned as a whole."""
        if module != FULL:
            return list(DECODER_PARTS)
        hypernetworks = [f"output_hypernetworks_mlps.{i}" for i in range(num_mask_tokens)]
        parts = ("iou_token", "mask_tokens", "output_upscaling", *hypernetworks, "iou_prediction_head")
        return ["prompt_encoder", *(f"mask_decoder.{part}" for part in parts)]


class TinyVitNames:
    """Names of a LiteMedSAM's adapter."""

    prefix = "image_encoder.vit."
    neck = "image_encoder.neck"
    first_stage = 2  # with LoRA
    tuned = (*SamNames.tuned, f"{neck}.")
    frozen = f"{prefix}*"

    @staticmethod
    def count_blocks(state: Iterable[str]) -> int:
        """As `SamNames.count_blocks`."""
        return sum(key.endswith(f".qkv{LORA_A}") for key in state)

    @staticmethod
    def pairs(state: Iterable[str], module: str = ENCODER, depth: int = 0) -> Pairs:
        """As `SamNames.pairs`; from half a pair in the state too, so that its other half is missed."""
        ends = (LORA_A, LORA_B)
        layers = sorted({key.removesuffix(end) for key in state for end in ends if key.endswith(end)})
        return {(layer + LORA_A, layer + LORA_B): layer for layer in layers}

    @staticmethod
    def to_peft(depth: int) -> dict[str, str]:
        """Nothing is called otherwise."""
        return {}

    @classmethod
    def targets(cls, module: str = ENCODER) -> str:
        """As `SamNames.targets`."""
        stages = rf"image_encoder\.vit\.stages\.[{cls.first_stage}-3]\.blocks\.\d+\."
        return rf"{stages}(attn\.(qkv|proj)|mlp\.fc[12])"

    @classmethod
    def whole_modules(cls, module: str = ENCODER, num_mask_tokens: int = 0) -> list[str]:
        """As `SamNames.whole_modules`."""
        return [cls.neck, *DECODER_PARTS]


Names = type[SamNames] | type[TinyVitNames]


def names_of(state: Iterable[str]) -> Names:
    """The names that an adapter's keys have."""
    return TinyVitNames if any(key.startswith(TinyVitNames.prefix) for key in state) else SamNames


def from_peft(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state under peft's names -> under an adapter's."""
    depth = sum(key.endswith(f"attn.qkv.q{LORA_A}") for key in state)
    names = {peft: name for name, peft in SamNames.to_peft(depth).items()}
    return {names.get(key, key.removeprefix(PEFT_PREFIX)): tensor for key, tensor in state.items()}


def normalize_module(module: str) -> str:
    """The module without a leading `model.`, as the reference implementation has it.

    Raises:
        ValueError: no such module.
    """
    name = str(module).removeprefix("model.")
    if name not in MODULES:
        raise ValueError(f"teacher::module must be one of {', '.join(MODULES)}, got {module!r}.")
    return name
