"""SAM at any image size: segment_anything's own classes, and its official files loaded into them.

Kirillov et al. 2023, arXiv:2304.02643; sizes as segment_anything's `build_sam.py`, whose registry takes no image size.
Position tables are resized as SAMed does (Zhang and Liu 2023, arXiv:2304.13785, `load_from`): bilinear,
align_corners=False. Surprise: SAMed picks the tables by the block numbers of vit_b; here every table whose shape
differs is resized, so that vit_l and vit_h work too.

Shapes: D embedding channels, L length of a rel_pos table, T mask tokens, h w patches (img_size / 16).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn
from torch.nn import functional as F

from .weights import SAM, check_kind, load_strict, name_base, read_state_dict

logger = logging.getLogger(__name__)

PATCH_SIZE = 16
WINDOW_SIZE = 14
PROMPT_DIM = 256
POS_EMBED = "image_encoder.pos_embed"
PATCH_WEIGHT = "image_encoder.patch_embed.proj.weight"
MASK_TOKENS = "mask_decoder.mask_tokens.weight"
IOU_HEAD = "mask_decoder.iou_prediction_head."
BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.")
HYPERNETWORK = re.compile(r"mask_decoder\.output_hypernetworks_mlps\.(\d+)\.")


class SamSize(NamedTuple):
    """Width and depth of an image encoder; the blocks in `global_attn_indexes` attend to the whole image."""

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]


TEST_SIZE = "vit_test"  # no SAM, but the size for tests (8 ms an image): no message names it
SAM_SIZES = {
    "vit_b": SamSize(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": SamSize(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamSize(1280, 32, 16, (7, 15, 23, 31)),
    TEST_SIZE: SamSize(64, 2, 2, (1,)),
}


def build_sam(model_name: str = "vit_b", img_size: int = 256, num_mask_tokens: int = 4) -> Sam:
    """A SAM with random weights.

    Args:
        model_name: a key of `SAM_SIZES`.
        img_size: rows and columns in pixels, a multiple of 16.
        num_mask_tokens: rows of the decoder's `mask_tokens`; SAM's own files have 4.

    Raises:
        ValueError: an argument out of range.
    """
    if model_name not in SAM_SIZES:
        names = [name for name in SAM_SIZES if name != TEST_SIZE]
        raise ValueError(f"teacher::model_name must be one of {', '.join(names)}, got {model_name!r}.")
    if not isinstance(img_size, int) or img_size <= 0 or img_size % PATCH_SIZE:
        raise ValueError(f"teacher::img_size must be a positive multiple of {PATCH_SIZE}, got {img_size!r}.")
    if num_mask_tokens < 1:
        raise ValueError(f"num_mask_tokens must be positive, got {num_mask_tokens}.")
    grid = img_size // PATCH_SIZE
    return Sam(
        image_encoder=_build_encoder(SAM_SIZES[model_name], img_size),
        prompt_encoder=PromptEncoder(PROMPT_DIM, (grid, grid), (img_size, img_size), mask_in_chans=16),
        mask_decoder=MaskDecoder(
            transformer_dim=PROMPT_DIM,
            transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_DIM, mlp_dim=2048, num_heads=8),
            num_multimask_outputs=num_mask_tokens - 1,
        ),
    )


def load_sam_checkpoint(sam: Sam, path: str | Path) -> str:
    """Load an official-format file; position tables are resized, decoder tokens beyond the file's stay new.

    Returns the file's `name_base`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another network or SAM size, or whose keys do not fit.
    """
    state = read_state_dict(path, "teacher::sam_checkpoint")
    source, base = f"teacher::sam_checkpoint {path}", name_base(state, path)
    check_kind(state, (SAM,), source)
    target = sam.state_dict()
    _check_size(state, target, source)
    state = adapt_tokens(resize_positions(state, target), target)
    load_strict(sam, state, source=source)
    return base


def resize_positions(state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state with its position tables at the target's grid; tables of equal shape are the same objects.

    `pos_embed` (1, h, w, D) is resized over h and w, every `rel_pos` table (L, D) over L with its channels kept.
    Another D is left for the strict load to refuse.
    """
    resized = dict(state)
    for key, table in state.items():
        wanted = target[key].shape if key in target else table.shape
        if table.shape == wanted or table.shape[-1] != wanted[-1] or table.ndim != len(wanted):
            continue
        if key == POS_EMBED:
            grid = table.permute(0, 3, 1, 2)  # (1, h, w, D) -> (1, D, h, w)
            resized[key] = _bilinear(grid, wanted[1:3]).permute(0, 2, 3, 1)
        elif key.endswith((".rel_pos_h", ".rel_pos_w")):
            resized[key] = _bilinear(table[None, None], wanted)[0, 0]
    return resized


def adapt_tokens(state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state with the decoder parts that belong to a mask token cut or filled up to the target's token count.

    These are the rows of `mask_tokens`, the rows of the last layer of `iou_prediction_head` and one hypernetwork a
    token. Tokens in both are the state's; tokens beyond it are the target's, that is new, and are logged.
    """
    if MASK_TOKENS not in state or MASK_TOKENS not in target:
        return dict(state)
    count, wanted = len(state[MASK_TOKENS]), len(target[MASK_TOKENS])
    if count == wanted:
        return dict(state)
    adapted = {key: tensor for key, tensor in state.items() if _token_of(key) < wanted}
    adapted.update({key: tensor for key, tensor in target.items() if _token_of(key) >= count})
    for key in target:
        if key == MASK_TOKENS or (key.startswith(IOU_HEAD) and key in state and len(state[key]) == count):
            adapted[key] = _overlap_rows(state[key], target[key])
    change = "start new" if wanted > count else "are left out"
    span = f"tokens {min(count, wanted)} to {max(count, wanted) - 1}"
    logger.info("mask decoder: the file has %d mask tokens, the network %d: %s %s", count, wanted, span, change)
    return adapted


def name_size(embed_dim: int, depth: int) -> str:
    """`vit_b (width 768, 12 blocks)`, or the numbers alone when they are no known size; (0, 0) is no SAM ViT."""
    if not depth:
        return "no SAM ViT"
    names = [name for name, size in SAM_SIZES.items() if (size.embed_dim, size.depth) == (embed_dim, depth)]
    return f"{names[0] if names else 'an unknown size'} (width {embed_dim}, {depth} blocks)"


def _build_encoder(size: SamSize, img_size: int) -> ImageEncoderViT:
    return ImageEncoderViT(
        **size._asdict(),
        img_size=img_size,
        patch_size=PATCH_SIZE,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=WINDOW_SIZE,
        out_chans=PROMPT_DIM,
    )


def _check_size(state: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor], source: str) -> None:
    size, expected = _measure(state), _measure(target)
    if size != expected:
        raise ValueError(
            f"{source} is {name_size(*size)}, but teacher::model_name is {name_size(*expected)}; "
            "change the one or the other."
        )


def _measure(state: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Width and depth of the image encoder; 0 where the keys are missing."""
    blocks = {match[1] for match in map(BLOCK.match, state) if match}
    return state[PATCH_WEIGHT].shape[0] if PATCH_WEIGHT in state else 0, len(blocks)


def _token_of(key: str) -> int:
    """The mask token whose hypernetwork the key belongs to, or -1."""
    match = HYPERNETWORK.match(key)
    return int(match[1]) if match else -1


def _overlap_rows(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if source.shape[1:] != target.shape[1:]:
        return source  # another width: load_strict refuses it
    rows = min(len(source), len(target))
    return torch.cat([source[:rows].to(target), target[rows:]])


def _bilinear(x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    return F.interpolate(x.float(), size=tuple(size), mode="bilinear", align_corners=False).to(x.dtype)
