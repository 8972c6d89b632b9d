"""The student on its own: training steps and inference, as eager fp32 and as the bundle does them.

Shapes: B batch, H W pixels (H = W = img_size).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scripts.export.formats import FORMATS, load_runner
from scripts.export.metadata import describe
from scripts.losses import distillation_loss
from scripts.networks.student import STUDENT_SIZES, load_trained_student
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.optimization import build_optimizer
from scripts.utils.digests import file_digest
from scripts.utils.hardware import Hardware, keep_freed_memory
from scripts.utils.machine import without_folders

from .bundle_runs import best_model
from .cases import load_cases
from .measure import count_gflop, roofline, step_figures, time_steps
from .settings import Settings

FP32, OURS, BF16 = "fp32", "ours", "bf16"
# of scripts.export.formats
EXPORTS = ("onnx", "onnx_int8", "openvino", "openvino_bf16", "openvino_int8")
SCORED, CALIBRATED = "validation", "training"  # lists: variants are compared on one that int8 was not calibrated on
CALIBRATION = 16  # images
EXPORT_FOLDER = "exports"
MAX_NORM = 1.0


def build_student(settings: Settings, img_size: int | None = None) -> TinyUSFMSeg:
    """The run's student with random weights."""
    return TinyUSFMSeg(img_size=img_size or settings.img_size, **STUDENT_SIZES[settings.student]._asdict())


def train_step(
    settings: Settings, variant: str, img_size: int | None = None, keep_memory: bool = False
) -> dict[str, float]:
    """Figures of a training step on one batch: forward, distillation loss, backward, clipping, AdamW.

    Args:
        settings: of the run.
        variant: `fp32`, eager with the allocator as it comes, or `ours`, the bundle's precision and allocator.
        img_size: in pixels; that of the run when None.
        keep_memory: with the bundle's allocator, which `ours` always has.
    """
    if keep_memory:
        keep_freed_memory()
    torch.manual_seed(settings.seed)
    device, size = settings.device, img_size or settings.img_size
    hardware = Hardware([0] if device == "cuda" else []) if variant == OURS else None
    student, loss = build_student(settings, size).to(device).train(), distillation_loss()
    optimizer = build_optimizer(student, lr=settings.lr)
    images, labels = (x.to(device) for x in load_cases(settings, size, settings.batch_size))
    teacher_logits = torch.randn(settings.batch_size, 1, settings.teacher_size, settings.teacher_size, device=device)

    def step() -> None:
        with hardware.autocast() if hardware else torch.autocast(device, enabled=False):
            logits = student(images)
        optimizer.zero_grad()
        loss(logits, labels, teacher_logits)["loss"].backward()
        nn.utils.clip_grad_norm_(student.parameters(), MAX_NORM)
        optimizer.step()

    figures = step_figures(time_steps(step, 3, settings.steps, device), settings.batch_size, device)
    return {**figures, **roofline(count_gflop(step), figures["step_seconds"], device, bool(hardware and hardware.bf16))}


def infer(settings: Settings, variant: str) -> dict[str, float]:
    """Figures of one validation image at a time through the trained student, and how far its masks are from eager
    fp32's.

    Args:
        settings: of the run.
        variant: `fp32`, `bf16` or one of `EXPORTS`.
    """
    images, labels = load_cases(settings, settings.img_size, split=SCORED)
    run = _runner(settings, variant)
    masks = torch.cat([torch.as_tensor(run(image)).float().cpu() > 0 for image in images.split(1)])  # the warm-up too
    one_by_one = cycle(images.split(1))
    figures = step_figures(
        time_steps(lambda: run(next(one_by_one)), 1, 4 * settings.steps, settings.device), 1, settings.device
    )
    path = settings.folder / f"masks_{settings.device}.pt"
    if variant == FP32:
        torch.save(masks, path)
    reference = torch.load(path, weights_only=True)
    dice, before = mean_dice(masks, labels), mean_dice(reference, labels)
    disagreement = float((masks != reference).float().mean())
    scored = {"list": SCORED, "images": len(images), "dice": dice}
    return {**figures, **scored, "dice_change": abs(dice - before), "mask_disagreement": disagreement}


def export(settings: Settings) -> dict[str, Any]:
    """Write the trained student in all `EXPORTS`, and tell what int8 is calibrated on; what kept a variant from it is
    in `failed`.
    """
    images, _ = load_cases(settings, settings.img_size, min(CALIBRATION, settings.num_images), CALIBRATED)
    student, folder, failed = _trained_student(settings), settings.folder / EXPORT_FOLDER, {}
    about = describe(student, 2, checkpoint_sha256=file_digest(_trained_file(settings)))
    folder.mkdir()
    start = time.perf_counter()
    for variant in EXPORTS:
        try:
            if not (folder / FORMATS[variant].files[0]).exists():  # else another variant has written it
                FORMATS[variant].write(student, folder, images.split(1), about)
        except Exception as error:  # each library has its own; the other variants go on
            failed[variant] = without_folders(f"{type(error).__name__}: {error}")
    calibration = {"list": CALIBRATED, "images": len(images)}
    return {
        "export_seconds": time.perf_counter() - start,
        "calibration": calibration,
        **({"failed": failed} if failed else {}),
    }


def _trained_student(settings: Settings) -> TinyUSFMSeg:
    return load_trained_student(build_student(settings), _trained_file(settings)).eval()


def _trained_file(settings: Settings) -> str | Path:
    return settings.checkpoint or best_model(settings, "control")


def mean_dice(masks: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean over images of 2 |mask and label| / (|mask| + |label|), 1 where both are empty; (B, 1, H, W) each."""
    masks, labels = masks.flatten(1), labels.flatten(1) > 0
    both, sizes = (masks & labels).sum(1), masks.sum(1) + labels.sum(1)
    return float(torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), 1.0).mean())


def _runner(settings: Settings, variant: str) -> Callable:
    """A function of images (1, 1, H, W) in [0, 1] that gives logits (1, 1, H, W)."""
    if variant in EXPORTS:
        return load_runner(variant, settings.folder / EXPORT_FOLDER, settings.img_size, settings.threads)
    student, enabled = _trained_student(settings).to(settings.device), variant == BF16

    @torch.inference_mode()
    def run(image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(settings.device, torch.bfloat16, enabled=enabled):
            return student(image.to(settings.device))

    return run
