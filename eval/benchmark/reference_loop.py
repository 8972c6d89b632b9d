"""The reference implementation's loop, written plainly.

The stock teacher runs in fp32 in every step beside an eager fp32 student, and views are made image by image. What the
reference does beside this (reading files, logging) is left out, so that its true loop is slower. Its allocator is as it
comes, unless asked otherwise.

Shapes: B batch, C classes, H W pixels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from scripts.data.dataset import ViewLoader, ViewSampler
from scripts.loss_terms import Batch, Task
from scripts.losses import resize
from scripts.metrics import class_logits
from scripts.utils.hardware import keep_freed_memory, worker_count

from .cases import list_views
from .measure import step_figures, wait_for
from .settings import Settings
from .students import MAX_NORM, build_student
from .teachers import stock_teacher

TEMPERATURE, ALPHA, BETA = 4.0, 0.5, 0.5
NUM_WORKERS = 8  # of the reference implementation; no more than the machine has cores
WARMUP = 2  # steps; 1 where the teacher takes so long that page faults do not show


def reference_loop(settings: Settings, model: str, keep_memory: bool = False) -> dict[str, float]:
    """Figures of a few steps, and the seconds that an epoch of them takes.

    Args:
        settings: of the run.
        model: of the teacher.
        keep_memory: with the bundle's allocator.
    """
    if keep_memory:
        keep_freed_memory()
    torch.manual_seed(settings.seed)
    teacher, student = (
        network.to(settings.device) for network in (stock_teacher(settings, model), build_student(settings))
    )
    optimizer = torch.optim.AdamW(student.train().parameters(), lr=settings.lr)
    loader = _loader(settings)
    batches, seconds, waits = _endless(loader), [], []
    for _ in range((WARMUP if model == "vit_b" else 1) + settings.reference_steps):
        start = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - start)
        _step(batch["image"].to(settings.device), batch["label"].to(settings.device), teacher, student, optimizer)
        wait_for(settings.device)
        seconds.append(time.perf_counter() - start)
    timed, waited = seconds[-settings.reference_steps :], waits[-settings.reference_steps :]
    figures = step_figures(timed, settings.batch_size, settings.device)
    return {**figures, "epoch_seconds": statistics.median(timed) * len(loader), "data_wait": sum(waited) / sum(timed)}


def _step(
    image: torch.Tensor, label: torch.Tensor, teacher: nn.Module, student: nn.Module, optimizer: torch.optim.AdamW
) -> None:
    with torch.no_grad():
        teacher_logits = teacher(image).logits
    optimizer.zero_grad()
    reference_loss(student(image), label, teacher_logits).backward()
    nn.utils.clip_grad_norm_(student.parameters(), MAX_NORM)
    optimizer.step()


def reference_loss(student_logits: torch.Tensor, label: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """alpha * task + beta * T^2 KL(teacher || student), the classes [0, x] in two channels, mean over B, H, W.

    Args:
        student_logits: (B, 1, H, W), unnormalized; likewise teacher_logits, of any size.
        label: (B, 1, H, W), class indices.
    """
    teacher = resize(teacher_logits, student_logits.shape[-2:])
    student, teacher = (
        F.log_softmax(class_logits(logits) / TEMPERATURE, dim=1) for logits in (student_logits, teacher)
    )
    distill = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1).mean()
    return ALPHA * Task()(Batch(student_logits, label)) + BETA * TEMPERATURE**2 * distill


def _loader(settings: Settings) -> ViewLoader:
    views = list_views(settings, augmented=True)
    sampler = ViewSampler(views, seed=settings.seed)
    return ViewLoader(views, settings.batch_size, sampler=sampler, num_workers=worker_count(NUM_WORKERS))


def _endless(loader: ViewLoader) -> Iterator[dict]:
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1
