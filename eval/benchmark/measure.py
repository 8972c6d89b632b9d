"""Seconds, memory and arithmetic of a step.

Surprise: ru_maxrss of a new process starts at its parent's memory on Linux, so the peak is read from /proc where there
is one.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

STATUS = Path("/proc/self/status")
MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}


def time_steps(step: Callable[[], object], warmup: int, steps: int, device: str = "cpu") -> list[float]:
    """Seconds of each of `steps` steps after `warmup` untimed ones: the first of a process are page faults."""
    for _ in range(warmup):
        step()
    seconds = []
    for _ in range(steps):
        wait_for(device)
        start = time.perf_counter()
        step()
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def step_figures(seconds: list[float], images: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds a step and an image, images a second, spread and peak memory.

    Args:
        seconds: of each timed step.
        images: of a step.
        device: where it ran.
    """
    median = statistics.median(seconds)
    return {
        "step_seconds": median,
        "image_seconds": median / images,
        "images_per_second": images / median,
        "spread": (max(seconds) - min(seconds)) / median,
        "steps": len(seconds),
        **peak_memory(device),
    }


def wait_for(device: str) -> None:
    """Until a GPU has done what it was given; nothing on the CPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(device: str = "cpu") -> dict[str, float]:
    """Peak memory in MB (1e6 bytes): `peak_mb` of this process, and `gpu_peak_mb` of its tensors on a GPU."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines()) if STATUS.is_file() else {}
    if "VmHWM" in fields:
        kibibytes = int(fields["VmHWM"].split()[0])  # which it calls kB
    else:
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    peak = {"peak_mb": kibibytes * 1024 / 1e6}
    if device == "cuda":
        peak["gpu_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return peak


def count_gflop(step: Callable[[], object]) -> float:
    """GFLOP (multiply and add are two) of the matrix products and convolutions of a step; it is run once.

    Attention is taken apart for the count, so that kernels which the counter does not know are in it.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return counter.get_total_flops() / 1e9


def matmul_gflops(device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """GFLOP a second of a large matrix product: the roof that a network can at best come near.

    Args:
        device: where.
        dtype: of the factors.
        repeats: the fastest counts.
    """
    size = MATMUL_SIZE[device]
    a, b = torch.randn(2, size, size, device=device).to(dtype).unbind()
    seconds = time_steps(lambda: a @ b, warmup=1, steps=repeats, device=device)
    return 2 * size**3 / min(seconds) / 1e9


def roofline(gflop: float, seconds: float, device: str, bf16: bool) -> dict[str, float]:
    """The arithmetic of a step, and its share of what a large matrix product of the same type reaches.

    Args:
        gflop: of the step.
        seconds: of the step.
        device: where it ran.
        bf16: whether in bf16, else in fp32.
    """
    roof = matmul_gflops(device, torch.bfloat16 if bf16 else torch.float32)
    return {"gflop": gflop, "gflop_per_second": gflop / seconds, "roof_share": gflop / seconds / roof}
