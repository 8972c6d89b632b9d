"""What ranks do in the tests of several processes: a training, an evaluation, a backward pass.

Ranks are forked from a server that has this module loaded, with the environment that torchrun gives.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
from importlib import import_module
from pathlib import Path

import torch
from conftest import ROOT, TINY, workflow
from ignite.engine import Engine, Events
from torch import nn

from scripts.losses import distillation_loss
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.report import run_evaluation
from scripts.run import distributed
from scripts.run.distributed import RankHardware, bare, data_parallel
from scripts.run.errors import find_user_error
from scripts.run.history import read_history
from scripts.utils.digests import weights_digest

PAGE = ROOT / "docs" / "many_machines.md"
TRAINING, VALIDATION, TEST = 7, 3, 5  # images: no number that two ranks can halve
EPOCHS = 3
OVERLAYS = ("multi_gpu_train.json",)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def as_rank(rank, world, port, launch, function, arguments, result):
    """In a process of its own: call a function in torchrun's environment, and keep what it returns or the message of
    its error.
    """
    if world:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            LOCAL_WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID=launch,
            TORCHELASTIC_MAX_RESTARTS="3",
        )
    torch.set_num_threads(1)
    try:
        found = function(*arguments)
    except Exception as error:
        cause = find_user_error(error) or error  # what the command line shows
        found = f"{type(cause).__name__}: {cause}"
    Path(result).write_bytes(pickle.dumps(found))


def folder_of(settings: dict, name: str) -> Path:
    return Path(settings["run_folder::root"]) / "uneven" / name


def comparable_history(folder: Path) -> list[dict]:
    """Without what differs from run to run."""
    return [{key: row[key] for key in row if key not in ("seconds", "data_wait")} for row in read_history(folder)]


def last_weights(folder: Path) -> str:
    return weights_digest(torch.load(folder / "models" / "last.pt", weights_only=True)["network"])


# what each rank does


def train(settings, name, overlays, fault=None):
    """Run a training and return what this rank has seen of it; a fault is (kind, rank, epoch)."""
    computed, seen, segment = [], [], FrozenTeacher.segment
    FrozenTeacher.segment = lambda self, image: computed.append(len(image)) or segment(self, image)
    reports, write = [], run_evaluation.write_results
    run_evaluation.write_results = lambda *arguments: reports.append(arguments) or write(*arguments)
    flow = workflow({**settings, "run_folder::timestamp": name}, *overlays)
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train::trainer")

    def look(engine):
        sums = engine.state.batch["image"].sum((1, 2, 3)).tolist()
        seen.append((engine.state.iteration, dict(zip(engine.state.batch["case"], sums))))

    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, look)
    if fault:
        trainer.add_event_handler(Events.ITERATION_STARTED, break_down, *fault)
    flow.run()
    properties = flow.check_properties()
    network, evaluator = bare(trainer.network), flow.parser.get_parsed_content("validate::evaluator")
    terms = flow.parser.get_parsed_content("loss").terms
    flow.finalize()
    return {
        "network": weights_digest(network.state_dict()),
        "adapter": weights_digest(terms["feature"].state_dict()) if "feature" in terms else None,
        "computed": sum(computed),
        "seen": seen,
        "epoch": trainer.state.epoch,
        "metrics": dict(evaluator.state.metrics),
        "best": (evaluator.state.best_metric_epoch, evaluator.state.best_metric),
        "draw": float(torch.rand(())),
        "reports": len(reports),
        "properties": properties,
    }


def break_down(engine, kind, rank, epoch):
    """What goes wrong on a rank in the middle of an epoch."""
    if (
        int(os.environ["RANK"]) != rank
        or engine.state.epoch != epoch
        or engine.state.iteration % engine.state.epoch_length != 1
    ):
        return
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    engine.state.batch["image"][0] = float("nan")


def validate(settings, weights):
    flow = workflow({**settings, "hardware::gpu_ids": []})
    flow.initialize()
    evaluator = flow.parser.get_parsed_content("validate::evaluator")
    evaluator.network.load_state_dict(torch.load(weights, weights_only=True))
    evaluator.run()
    (score,) = [flow.parser.get_parsed_content("validate::key_metric")["val_mean_dice"]]
    return len(score.scores.cases), float(evaluator.state.metrics["val_mean_dice"])


def evaluate(settings, name, overlays, fault=None):
    """Run an evaluation; a fault is (module, function, rank) that fails there."""
    if fault and int(os.environ["RANK"]) == fault[2]:
        setattr(import_module(fault[0]), fault[1], broken_disk)
    flow = workflow({**settings, "run_folder::timestamp": name}, *overlays, run_id="evaluating")
    flow.initialize()
    flow.run()
    flow.finalize()
    return "done"


def broken_disk(*arguments):
    raise OSError("the disk is broken")


def local_rank_in_slurm():
    import ignite.distributed as idist

    os.environ.update(SLURM_JOB_ID="7", SLURM_LOCALID="0")
    RankHardware([], "fp32")
    return os.environ["LOCAL_RANK"], idist.get_local_rank(), os.environ["SLURM_JOB_ID"]


# gradients


class Nothing(nn.Module):
    """In the place of the Dice, for the cross-entropy alone."""

    def forward(self, logits, label):
        return logits.new_zeros(())


def gradients(norms_train: bool, weights: dict, gamma: float, with_dice: bool = True):
    """Largest difference, relative to the largest gradient, between two ranks with half a batch each and one process
    with all of it; and the batch norms' running means when `SharedStatistics` has put them together.
    """
    hardware = RankHardware([], "fp32")
    torch.manual_seed(0)
    network = TinyUSFMSeg(
        img_size=64, **TINY, drop_path_rate=0.0, dropout=0.0, return_features="neck" if gamma > 0 else None
    )
    loss = distillation_loss(**weights, gamma=gamma, student_channels=6, teacher_channels=8)
    if not with_dice:
        loss.terms["task"].dice = Nothing()
    modules = nn.ModuleList([network, loss])
    bars = torch.tensor([0.1, 0.3, 0.6, 0.9])[:, None, None, None]
    image, label = torch.rand(4, 1, 64, 64), (torch.rand(4, 1, 64, 64) > bars).float()
    teacher, embedding = torch.randn(4, 1, 64, 64), torch.randn(4, 8, 4, 4)

    def backward(network, loss, rows):
        modules.zero_grad()
        student = network(image[rows])
        logits, features = student if gamma else (student, None)
        loss(logits, label[rows], teacher[rows], features, embedding[rows])["loss"].backward()
        return torch.cat([p.grad.flatten() for p in modules.parameters() if p.grad is not None])

    modules.train()
    statistics = distributed.SharedStatistics([network, loss])
    for norm in statistics.norms:
        norm.train(norms_train)
    whole = backward(network, loss, slice(None))
    parallel = data_parallel(network, hardware.device), data_parallel(loss, hardware.device)
    for _ in range(2):  # the first pass of DistributedDataParallel is not as all others
        shared = backward(*parallel, slice(hardware.rank, None, hardware.num_ranks))
    engine = Engine(lambda engine, batch: None)
    statistics.attach(engine)
    engine.run([0, 1], max_epochs=1)
    hardware.leave()
    return float((whole - shared).abs().max() / whole.abs().max()), torch.cat(
        [norm.running_mean for norm in statistics.norms]
    )
