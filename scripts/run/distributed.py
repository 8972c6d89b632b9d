"""Processes that train or evaluate together, started by torchrun: each has a GPU, or a share of the CPU, and a rank.

DistributedDataParallel, Li et al. 2020, arXiv:2006.15704. Every rank runs the same configuration on its own share of
the images, gradients are averaged before each step, and rank 0 alone writes. What all ranks must agree on is decided by
rank 0.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import ignite.distributed as idist
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ..utils.hardware import TORCHRUN, Hardware, pick_device
from ..utils.screen import tell
from .run_folder import RunFolder

NO_NAME = "none"  # torchrun's name of a launch that was given none
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
# what torch says of a connection whose other end is gone
LOST = re.compile("closed by peer|reset by peer|Broken pipe|NCCL|Connection refused|Timed out")


class RankHardware(Hardware):
    """Device and precision of this rank; joins the group of all ranks.

    `rank` and `num_ranks` count all processes, `local_ranks` those on this machine.

    Args:
        gpu_ids: a GPU for each process on this machine, in the order of their local ranks; None takes the first ones,
            or the CPU where there is no GPU; [] is the CPU.
        precision: see `Hardware`.
        timeout_hours: a rank that waits longer for the others ends with an error. One that has died is noticed by
            torchrun at once, so that this only has to be longer than the longest wait, such as for another rank's share
            of the teacher's cache.

    Raises:
        ValueError: this process was not started by torchrun, GPUs that are not there, or not one GPU for each process.
    """

    def __init__(
        self, gpu_ids: Sequence[int] | None = None, precision: str = "auto", timeout_hours: float = 12.0
    ) -> None:
        if "LOCAL_RANK" not in os.environ:
            command = TORCHRUN.format(2)
            raise ValueError(
                f"this configuration is for several processes, but this one was started alone; run {command}."
            )
        self.local_ranks = int(os.environ["LOCAL_WORLD_SIZE"])
        super().__init__(gpu_ids, precision)
        join(self.device, timedelta(hours=timeout_hours))
        self.rank, self.num_ranks = dist.get_rank(), dist.get_world_size()
        if self.rank > 0:
            logging.disable(logging.INFO)  # what rank 0 says is enough

    @property
    def settings(self) -> dict[str, int | str]:
        """What a resumed run has in common with the earlier one, by config key."""
        return {**super().settings, "num_ranks": self.num_ranks}

    def _pick_device(self, gpu_ids: Sequence[int] | None) -> torch.device:
        local_rank = int(os.environ["LOCAL_RANK"])
        if gpu_ids is None:
            gpu_ids = range(self.local_ranks) if torch.cuda.is_available() else ()
        if not isinstance(gpu_ids, Sequence) or isinstance(gpu_ids, str):
            raise ValueError(f"hardware::gpu_ids must be a list such as [0, 1], got {gpu_ids!r}.")
        if gpu_ids and len(gpu_ids) != self.local_ranks:
            raise ValueError(
                f"hardware::gpu_ids {list(gpu_ids)} names {len(gpu_ids)} GPUs, but torchrun has started "
                f"{self.local_ranks} "
                f"processes on this machine; pass --nproc_per_node={len(gpu_ids)}, or a GPU for each process."
            )
        return pick_device(gpu_ids[local_rank : local_rank + 1])

    def leave(self) -> None:
        """Leave the group of ranks when all is done."""
        if dist.is_initialized():
            dist.destroy_process_group()
            idist.sync()


def join(device: torch.device, timeout: timedelta) -> None:
    """Make this process a member of torchrun's group; one that is a member stays it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend, device_id = ("nccl", device) if device.type == "cuda" else ("gloo", None)
        dist.init_process_group(backend, timeout=timeout, device_id=device_id)
    with _outside_slurm():
        idist.sync()


@contextmanager
def naming_lost_ranks(advice: str) -> Iterator[None]:
    """Where ranks wait for each other: what torch says of one that is gone, as an error that tells what can be done.

    Args:
        advice: the end of the message.

    Raises:
        ConnectionError: another rank is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if idist.get_world_size() == 1 or not LOST.search(str(error)):
            raise
        raise ConnectionError(
            f"another process has ended, see what it says and torchrun's summary; {advice}"
        ) from error


@contextmanager
def _outside_slurm() -> Iterator[None]:
    """Inside a SLURM job ignite takes SLURM's local rank, which is 0 in all processes that one torchrun has started."""
    job = os.environ.pop("SLURM_JOB_ID", None)
    try:
        yield
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job


def launch_name() -> str | None:
    """What torchrun calls this launch, the same after a restart; None where it was given no name and is not to be
    restarted.

    Raises:
        ValueError: a launch is to be restarted that has no name, and could not find its run again, or whose ranks would
            be told the addresses of those before the restart (pytorch issue 135712).
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID", NO_NAME)
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            f"after a restart by torchrun --max-restarts {restarts} the processes would look for those that have "
            "ended, since "
            f"torchrun keeps their addresses; start it as {OWN_STORE} torchrun ..., see docs/many_machines.md."
        )
    if restarts and name == NO_NAME:
        raise ValueError(
            f"torchrun --max-restarts {restarts} starts a run again, which then has to find its folder by the name of "
            "the launch; pass --standalone, or --rdzv_id NAME with a name that no other launch has."
        )
    return None if name == NO_NAME else name


def shared_run_folder(
    rank: int,
    root: str,
    dataset: str,
    resume: str | None = None,
    timestamp: str | None = None,
    log_name: str = "distill.log",
) -> RunFolder:
    """The run folder that rank 0 chooses, on every rank; that of the same launch before a restart, where there is one.

    Args:
        rank: of this process.
        root: see `RunFolder`, and the other arguments too.
    """
    folders = [RunFolder(root, dataset, resume, timestamp, launch_name(), log_name) if rank == 0 else None]
    if rank == 0 and folders[0].restarted:
        tell(f"{folders[0].path} was begun by the launch {folders[0].launch}, which goes on there.")
        tell("A new run needs a new --rdzv_id.")
    dist.broadcast_object_list(folders)
    return folders[0]


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with its gradients averaged over the ranks after each backward pass; one without weights to train as
    it is.

    On GPUs its batch norms count the images of all ranks (torch has this for GPUs alone). On the CPU each rank
    normalizes by its own, see `SharedStatistics`. Parameters that no loss reaches keep no gradient, as in one process.

    Args:
        module: the same on every rank; moved to the device.
        device: of this rank.
    """
    module = module.to(device)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    gpu = device.type == "cuda"
    if gpu:
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    # not static_graph, which loses the gradients of weights that are used after others are not
    parallel = DistributedDataParallel(module, device_ids=[device] if gpu else None, find_unused_parameters=True)
    # from here on; as an argument, which newer versions of torch deprecate, at the start too
    parallel.broadcast_buffers = False
    return parallel


def bare(module: nn.Module) -> nn.Module:
    """The module itself, taken out of DistributedDataParallel, whose names of weights differ."""
    return module.module if isinstance(module, DistributedDataParallel) else module


class SharedStatistics:
    """Averages the running statistics of batch norms over the ranks at the end of each epoch, before a validation reads
    them.

    Args:
        modules: whose batch norms are meant; those that count the images of all ranks anyway are passed over.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        layers = dict.fromkeys(layer for module in modules for layer in module.modules())  # each once
        norms = [layer for layer in layers if isinstance(layer, _BatchNorm)]
        self.norms = [norm for norm in norms if norm.track_running_stats and not isinstance(norm, nn.SyncBatchNorm)]

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Average after the last iteration of an epoch."""
        if engine.state.iteration % engine.state.epoch_length == 0:
            for norm in self.norms:
                for statistic in (norm.running_mean, norm.running_var):
                    statistic.copy_(idist.all_reduce(statistic) / idist.get_world_size())
