"""LoRA in a SAM: the Linears that it adapts, put there by peft.

Hu et al. 2021, arXiv:2106.09685, applied to SAM as SAMed does (Zhang and Liu 2023, arXiv:2304.13785): the q and v rows
of every fused qkv get + B(A x), scale 1, no bias, no dropout. Surprise: peft targets whole Linears, so the fused qkv is
split into q, k and v while LoRA trains. LiteMedSAM's TinyViT, whose qkv is interleaved per head, gets LoRA in every
Linear of its attentions and MLPs at a quarter of the size instead, and its neck is trained; the two stages before, at
full and half size, stay as they are and need no gradients. With 4,096 tokens of a 256-pixel image and Linears of 160 or
320 channels, B A is added to the weights there, not B(A x) to every token.

Shapes: D encoder width, R rank.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from segment_anything.modeling import Sam
from timm.models.tiny_vit import Attention
from torch import nn
from torch.nn.utils import parametrize

from ..utils.options import is_whole
from .lora_names import DECODER_ONLY, ENCODER, Names, SamNames, TinyVitNames, normalize_module


class SplitQKV(nn.Module):
    """The fused qkv Linear (D -> 3 D) as three, so that LoRA can reach q and v alone.

    Args:
        qkv: the fused Linear; its rows are q, k, v in this order.
    """

    def __init__(self, qkv: nn.Linear) -> None:
        super().__init__()
        weights = qkv.weight.chunk(3)
        biases = (None,) * 3 if qkv.bias is None else qkv.bias.chunk(3)
        self.q, self.k, self.v = map(_linear, weights, biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., 3 D)."""
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def split_qkv(image_encoder: nn.Module) -> None:
    """Replace every block's fused qkv by a `SplitQKV`, in place."""
    for block in image_encoder.blocks:
        block.attn.qkv = SplitQKV(block.attn.qkv)


def add_lora(sam: Sam, module: str = ENCODER, rank: int = 4) -> nn.Module:
    """The SAM with what the module trains unfrozen, all else frozen.

    Args:
        sam: changed in place: frozen, and its qkv split where LoRA is added.
        module: one of `MODULES`.
        rank: of the LoRA; A starts kaiming-uniform, B zero.

    Returns:
        A peft model that passes `image_encoder`, `prompt_encoder` and `mask_decoder` on (they lie in
        `base_model.model`); for `mask_decoder`, and for LiteMedSAM, the SAM itself.

    Raises:
        ValueError: an argument out of range, or a module that the encoder has no LoRA for.
    """
    module = normalize_module(module)
    sam.requires_grad_(False)
    if module == DECODER_ONLY:
        sam.prompt_encoder.requires_grad_(True)
        sam.mask_decoder.requires_grad_(True)
        return sam
    tiny_vit = is_tiny_vit(sam)
    _check_rank(rank)
    if tiny_vit and module != ENCODER or not tiny_vit and not hasattr(sam.image_encoder, "blocks"):
        choices = f"{ENCODER} or {DECODER_ONLY}" if tiny_vit else DECODER_ONLY
        raise ValueError(
            f"teacher::module {module} has no LoRA for the image encoder {type(sam.image_encoder).__name__}; "
            f"pass --teacher::module {choices}."
        )
    if tiny_vit:
        return _add_tiny_vit_lora(sam, rank)
    from peft import get_peft_model  # costs 6 s: only where LoRA trains

    config = peft_config(module, rank, sam.mask_decoder.num_mask_tokens)
    split_qkv(sam.image_encoder)
    return get_peft_model(sam, config)


class LowRank(nn.Module):
    """A frozen weight plus B A, as torch's parametrization of a Linear.

    Args:
        weight: of the Linear, (out, in).
        rank: of B A; A starts kaiming-uniform, B zero, as peft starts them.
    """

    def __init__(self, weight: torch.Tensor, rank: int) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.lora_B = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """(out, in) -> (out, in)."""
        return weight + self.lora_B @ self.lora_A


def _add_tiny_vit_lora(sam: Sam, rank: int) -> Sam:
    for name, layer in list(sam.named_modules()):
        if re.fullmatch(TinyVitNames.targets(), name):
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))
        elif isinstance(layer, Attention):
            layer.fused_attn = torch.cuda.is_available()  # its bf16 backward on the CPU takes twice as long
    for part in (sam.image_encoder.neck, sam.prompt_encoder, sam.mask_decoder):
        part.requires_grad_(True)
    return sam


def is_tiny_vit(sam: nn.Module) -> bool:
    """Whether the image encoder is LiteMedSAM's."""
    return hasattr(sam.image_encoder, "vit")


def peft_config(module: str, rank: int, num_mask_tokens: int, names: Names = SamNames) -> Any:
    """peft's LoraConfig for a module with LoRA.

    Args:
        module: one of `MODULES` but `mask_decoder`.
        rank: of the LoRA.
        num_mask_tokens: of the mask decoder.
        names: of the image encoder.

    Raises:
        ValueError: a rank that is no positive integer.
    """
    from peft import LoraConfig

    _check_rank(rank)
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=names.targets(module),
        modules_to_save=names.whole_modules(module, num_mask_tokens),
    )


def _check_rank(rank: int) -> None:
    if not is_whole(rank, 1):
        raise ValueError(f"teacher::rank must be a positive integer, got {rank!r}.")


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    linear = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    linear.load_state_dict(state)
    return linear.requires_grad_(weight.requires_grad)
