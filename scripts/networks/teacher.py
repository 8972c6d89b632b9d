"""The teacher: a fine-tuned SAM that segments without prompts.

Kirillov et al. 2023, arXiv:2304.02643 (SAM) with LoRA, Hu et al. 2021, arXiv:2106.09685, as SAMed, Zhang and Liu 2023,
arXiv:2304.13785, uses it: image encoder -> prompt encoder without prompts -> mask decoder -> bilinear to the image
size.

Shapes: B batch, C classes, D embedding channels, H W pixels of the input, S teacher image size.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional as F

from ..cache.output_cache import OutputCache
from ..utils.options import check_choice, check_num_classes
from .fast_encoder import speed_up
from .lite_medsam import build_lite_medsam, load_lite_medsam
from .sam import SAM_SIZES, TEST_SIZE, build_sam, load_sam_checkpoint

logger = logging.getLogger(__name__)

LITE_MEDSAM = "lite_medsam"
MODEL_NAMES = (*(name for name in SAM_SIZES if name != TEST_SIZE), LITE_MEDSAM)
MASK_TOKENS = ("single", "multimask", "all")
# (mean, std) per channel for images in [0, 1]
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "sam": ((123.675 / 255, 116.28 / 255, 103.53 / 255), (58.395 / 255, 57.12 / 255, 57.375 / 255)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class TeacherOutput(NamedTuple):
    """What the teacher says of a batch.

    logits: (B, 1 or C, S, S), unnormalized. features: (B, 256, h, w), the image embedding.
    """

    logits: torch.Tensor
    features: torch.Tensor


class SamTeacher(nn.Module):
    """SAM without prompts: images in [0, 1] -> `TeacherOutput`.

    Args:
        sam: offers `image_encoder`, `prompt_encoder` and `mask_decoder`.
        img_size: rows and columns that the image encoder reads; inputs of another size are resized, never padded.
        normalization: `imagenet` (teachers of the reference implementation), `sam` (SAM's own) or `unit` ([0, 1],
            LiteMedSAM).
        mask_tokens: which decoder tokens are the channels of the logits: `single` (token 0), `multimask` (tokens 1..)
            or `all` (SAMed: token 0 is the background). Two channels become one, their difference.
        cache_dir: directory that keeps a frozen image encoder's embeddings (`OutputCache`), for tuning what follows it.

    Raises:
        ValueError: an unknown option, another img_size than the image encoder's, or a cache for a trainable image
            encoder.
    """

    def __init__(
        self,
        sam: nn.Module,
        img_size: int = 256,
        normalization: str = "imagenet",
        mask_tokens: str = "single",
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_choice("teacher::normalization", normalization, NORMALIZATIONS)
        check_choice("teacher::mask_tokens", mask_tokens, MASK_TOKENS)
        if img_size != sam.image_encoder.img_size:
            raise ValueError(
                f"teacher::img_size is {img_size}, but the image encoder reads {sam.image_encoder.img_size} pixels."
            )
        self.sam = sam
        self.img_size = img_size
        self.mask_tokens = mask_tokens
        mean, std = NORMALIZATIONS[normalization]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.encoder_is_frozen = not any(p.requires_grad for p in sam.image_encoder.parameters())
        if cache_dir and not self.encoder_is_frozen:
            raise ValueError(
                "teacher::cache_dir needs a frozen image encoder, but teacher::module trains LoRA in it; "
                "pass --teacher::module mask_decoder or leave cache_dir out."
            )
        self.embeddings = OutputCache(cache_dir, sam.image_encoder) if cache_dir else None

    def forward(self, image: torch.Tensor) -> TeacherOutput:
        """Segment a batch.

        Args:
            image: (B, 1 or 3, H, W) float in [0, 1].

        Raises:
            ValueError: another number of dimensions or channels.
        """
        masks, features = self.segment(image)
        return TeacherOutput(enlarge(masks, self.img_size), features)

    def segment(self, image: torch.Tensor) -> TeacherOutput:
        """As `forward`, with the logits as the decoder gives them, (B, 1 or C, 4 h, 4 w)."""
        features = self.encode(self.prepare(image))
        return TeacherOutput(self.decode(features), features)

    def encode(self, prepared: torch.Tensor) -> torch.Tensor:
        """Image embeddings (B, 256, h, w) of prepared images (B, 3, S, S)."""
        encoder = self.sam.image_encoder
        if not self.encoder_is_frozen:
            return encoder(prepared)
        with torch.no_grad():
            if self.embeddings:
                return self.embeddings(prepared, lambda missing: encoder(prepared[missing]))
            return encoder(prepared)

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Mask logits (B, 1 or C, 4 h, 4 w) of image embeddings (B, 256, h, w), before they are resized."""
        sparse, dense = self.sam.prompt_encoder(points=None, boxes=None, masks=None)
        with torch.autocast(features.device.type, enabled=False):  # bf16 would move the positions
            positions = self.sam.prompt_encoder.get_dense_pe()
        masks, _ = self.sam.mask_decoder.predict_masks(
            image_embeddings=features,
            image_pe=positions,
            sparse_prompt_embeddings=sparse,  # (1, 0, 256) and (1, 256, h, w) broadcast over B
            dense_prompt_embeddings=dense,
        )
        masks = {"single": masks[:, :1], "multimask": masks[:, 1:], "all": masks}[self.mask_tokens]
        # softmax([a, b])[1] = sigmoid(b - a)
        return masks[:, 1:] - masks[:, :1] if masks.shape[1] == 2 else masks

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """Images (B, 1 or 3, H, W) in [0, 1] -> what the encoder reads, (B, 3, S, S), resized and normalized."""
        if image.ndim != 4 or image.shape[1] not in (1, 3):
            raise ValueError(f"teacher images must be (B, 1 or 3, H, W), got {tuple(image.shape)}.")
        if image.shape[-2:] != (self.img_size,) * 2:
            image = F.interpolate(
                image, size=(self.img_size,) * 2, mode="bilinear", align_corners=False, antialias=True
            )
        return (image.expand(-1, 3, -1, -1) - self.mean) / self.std


def enlarge(masks: torch.Tensor, img_size: int) -> torch.Tensor:
    """Mask logits (B, C, h, w) -> (B, C, S, S) float32, bilinear (align_corners=False)."""
    return F.interpolate(masks.float(), size=(img_size,) * 2, mode="bilinear", align_corners=False)


def default_mask_tokens(num_classes: int) -> str:
    """`single` for two classes, else `multimask`."""
    return "single" if num_classes == 2 else "multimask"


def default_normalization(model_name: str) -> str:
    """`unit` for lite_medsam, `imagenet` for SAM as the reference implementation tuned it."""
    return "unit" if model_name == LITE_MEDSAM else "imagenet"


def count_mask_tokens(num_classes: int, mask_tokens: str) -> int:
    """Decoder tokens for a class count that includes the background.

    The reference implementation's files have one token more than classes; with `all` (SAMed) token 0 is the background
    itself.

    Raises:
        ValueError: an unknown `mask_tokens`, or one that does not fit the class count.
    """
    check_choice("teacher::mask_tokens", mask_tokens, MASK_TOKENS)
    check_num_classes(num_classes)
    if mask_tokens == "single" and num_classes != 2:
        raise ValueError(
            f"teacher::mask_tokens single is for two classes, got data::num_classes {num_classes}; "
            "pass --teacher::mask_tokens multimask."
        )
    return num_classes if mask_tokens == "all" else num_classes + 1


def fill_options(
    model_name: str, num_classes: int, normalization: str | None, mask_tokens: str | None
) -> tuple[str, str]:
    """Normalization and mask tokens with None replaced; mistakes show here, before any weights are read."""
    _check_model_name(model_name)
    normalization = normalization or default_normalization(model_name)
    mask_tokens = mask_tokens or default_mask_tokens(num_classes)
    check_choice("teacher::normalization", normalization, NORMALIZATIONS)
    count_mask_tokens(num_classes, mask_tokens)
    return normalization, mask_tokens


def build_base(model_name: str, img_size: int, num_mask_tokens: int, sam_checkpoint: str | None) -> Sam:
    """SAM with its base weights, qkv fused; its attribute `base` is the file's `name_base`.

    Args:
        model_name: one of `MODEL_NAMES`.
        img_size: of the teacher, in pixels.
        num_mask_tokens: see `count_mask_tokens`.
        sam_checkpoint: SAM's base file; None is LiteMedSAM's, which its package brings.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is another network's.
    """
    if model_name == LITE_MEDSAM:
        sam = build_lite_medsam(num_mask_tokens, img_size)
        sam.base = load_lite_medsam(sam, sam_checkpoint)
        return sam
    sam = build_sam(model_name, img_size, num_mask_tokens)
    sam.base = load_sam_checkpoint(sam, sam_checkpoint)
    speed_up(sam.image_encoder)
    return sam


def _check_model_name(model_name: str) -> None:
    if model_name != TEST_SIZE:
        check_choice("teacher::model_name", model_name, MODEL_NAMES)
