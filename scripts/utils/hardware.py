"""Where a run computes and in which precision: the config section `hardware`."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeVar

import torch
from torch import nn

logger = logging.getLogger(__name__)

# M_MMAP_MAX: no mapping of its own for a large block; M_TRIM_THRESHOLD: give nothing back; M_TOP_PAD: grow by 256 MB
MALLOPT = {-4: 0, -1: 2**31 - 1, -2: 2**28}
PRECISIONS = ("auto", "fp32", "bf16")
TORCHRUN = (
    "torchrun --standalone --nproc_per_node={} -m monai.bundle run training "
    "--config_file \"['configs/train.json','configs/multi_gpu_train.json']\", see docs/many_machines.md"
)


class Hardware:
    """Device and precision of a run.

    Args:
        gpu_ids: the GPU to use, in a list; an empty list is the CPU, and so is 0 on a machine without a GPU. [list of
            one number, or of none]
        precision: bf16 runs the networks under autocast (weights, loss and optimizer stay fp32), fp32 without; auto is
            bf16 where the processor computes it natively. [auto, fp32, bf16]

    Raises:
        ValueError: a GPU that is not there, several GPUs or processes, or an unknown precision.
    """

    def __init__(self, gpu_ids: Sequence[int] = (0,), precision: str = "auto") -> None:
        self.device = self._pick_device(gpu_ids)
        if self.device.type == "cpu":
            keep_freed_memory()
        if precision not in PRECISIONS:
            raise ValueError(f"hardware::precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
        self.precision = precision  # as it was asked for
        self.bf16 = precision == "bf16" or (precision == "auto" and has_native_bf16(self.device))

    @property
    def resolved(self) -> str:
        """The precision that is in force: `fp32` or `bf16`."""
        return "bf16" if self.bf16 else "fp32"

    @property
    def settings(self) -> dict[str, int | str]:
        """What a resumed run has in common with the earlier one, by config key."""
        return {"precision": self.resolved}

    def autocast(self) -> torch.autocast:
        """A context in which networks run in the run's precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _pick_device(self, gpu_ids: Sequence[int]) -> torch.device:
        if num_processes() > 1:
            raise ValueError(
                f"torchrun has started {num_processes()} processes, but this configuration is for one; add "
                "configs/multi_gpu_train.json, or for an evaluation configs/multi_gpu_evaluate.json, to --config_file."
            )
        return pick_device(gpu_ids)


Function = TypeVar("Function", bound=Callable)


def full_precision(function: Function) -> Function:
    """Run a function of tensors without autocast, on the device of its first argument.

    For what computes coordinates, means or figures: bf16 has 8 significant bits, a pixel of 256.
    """

    @wraps(function)
    def run(tensor: torch.Tensor, *args, **kwargs):
        with torch.autocast(tensor.device.type, enabled=False):
            return function(tensor, *args, **kwargs)

    return run


class PrecisionInferer:
    """Runs a network on a whole batch in the hardware's precision: MONAI's SimpleInferer under autocast.

    It does not derive from it, so that programs that compute on this hardware need not import MONAI.

    Args:
        hardware: gives the autocast context.
    """

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args, **kwargs):
        """What `network(inputs)` returns."""
        with self.hardware.autocast():
            return network(inputs, *args, **kwargs)


def pick_device(gpu_ids: Sequence[int]) -> torch.device:
    """The one device of a run; see `Hardware`."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not isinstance(gpu_ids, Sequence) or isinstance(gpu_ids, str):
        raise ValueError(f"hardware::gpu_ids must be a list such as [0], got {gpu_ids!r}.")
    if len(gpu_ids) > 1:
        raise ValueError(
            f"hardware::gpu_ids {list(gpu_ids)} names several GPUs, but this run uses one; pass [0], or start a "
            f"process for each GPU: {TORCHRUN.format(len(gpu_ids))}."
        )
    if not gpu_ids or (count == 0 and list(gpu_ids) == [0]):
        logger.info("no GPU is used: computing on the CPU.")
        return torch.device("cpu")
    if gpu_ids[0] not in range(count):
        raise ValueError(
            f"hardware::gpu_ids {list(gpu_ids)} does not exist: this machine has {count} GPUs; pass [0] or []."
        )
    return torch.device("cuda", gpu_ids[0])


def num_processes() -> int:
    """Processes that torchrun has started with this one, on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the process; whether it does (not on other C libraries).

    By default glibc gives every large tensor back to the system when it is freed, and the next one is mapped and
    cleared anew, page by page. Kept, a training step of the student at 224, batch size 16, took 1.2 s instead of 1.9 s,
    and LiteMedSAM's encoder 0.72 s instead of 0.95 s, on two cores. See `man mallopt`.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    accepted = [mallopt(option, value) for option, value in MALLOPT.items()]  # all of them, whatever the first says
    return all(accepted)


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed by instructions of its own, so that autocast is faster than fp32 and not an
    emulation.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(
        getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() or getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    )


def worker_count(num_workers: int, device: torch.device | str | None = None, local_ranks: int = 1) -> int:
    """Data-loading processes: `num_workers`, but no more than the machine has cores; 0 with one core to spare.

    Images are in memory and a batch of 16 takes 12 ms to augment. Where the CPU trains too, processes that do it beside
    the training take its cores away: with OpenMP, whose threads wait for the slowest, steps then take twice as long on
    two cores.

    Args:
        num_workers: asked for.
        device: of the training; None looks at the cores alone.
        local_ranks: processes that train on this machine and share its cores.
    """
    if num_workers < 0:
        raise ValueError(f"training::num_workers must not be negative, got {num_workers}.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device is not None and torch.device(device).type == "cpu":
        cores -= local_ranks * torch.get_num_threads()  # those that the training leaves
    return min(num_workers, cores // local_ranks) if cores > 1 else 0
