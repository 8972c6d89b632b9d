"""Several processes that train and evaluate together: the numbers of one, files written once, and what a lost process
leads to.

Ranks are forked from a server that has the libraries loaded, with the environment that torchrun gives; the tests marked
slow run the commands of docs/many_machines.md with torchrun itself.
"""

import ast
import csv
import json
import multiprocessing
import os
import pickle
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIGS, ROOT, TINY_STUDENT, root_cause, run, workflow
from ignite.engine import Engine, Events
from torch import nn

from scripts.data.dataset import ViewSampler
from scripts.data.phantoms import write_phantom_dataset
from scripts.evaluation import evaluate as evaluation
from scripts.evaluation.calibration import Reliability
from scripts.handlers import Checkpoints, EpochSeed, RunRecord
from scripts.losses import DistillationLoss
from scripts.metrics import SegmentationScore
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.networks.weights import fingerprint
from scripts.run import distributed
from scripts.run.config_check import find_user_error
from scripts.run.distributed import RankHardware, data_parallel, launch_name
from scripts.run.run_folder import RunFolder
from scripts.trainer import bare
from scripts.utils.hardware import Hardware, worker_count

PAGE = ROOT / "docs" / "many_machines.md"
TRAINING, VALIDATION, TEST = 7, 3, 5  # images: no number that two ranks can halve
EPOCHS = 3
SMALL = dict(embed_dim=24, depth=4, num_heads=2, out_indices=(0, 1, 2, 3), channels=16)  # a student


# ranks


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


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Calls a function on `world` ranks at once and returns what each has found; None of one that was killed. World 0
    is one process without torchrun.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_distributed"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.forkserver.ensure_running()

    def call(function, *arguments, world=2, launch="test"):
        folder, port = tmp_path_factory.mktemp("ranks"), free_port()
        results = [folder / f"{rank}.pickle" for rank in range(world or 1)]
        processes = [
            context.Process(target=as_rank, args=(rank, world, port, launch, function, arguments, str(result)))
            for rank, result in enumerate(results)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=240)
            assert not process.is_alive(), "the ranks wait for each other"
        return [pickle.loads(result.read_bytes()) if result.is_file() else None for result in results]

    return call


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Path:
    """Phantoms whose lists two ranks cannot share evenly."""
    folder = tmp_path_factory.mktemp("data") / "uneven"
    write_phantom_dataset(folder, num_training=TRAINING, num_validation=VALIDATION, num_test=TEST, size=64)
    return folder


@pytest.fixture(scope="module")
def settings(uneven, sam_checkpoint, lora_checkpoint, tmp_path_factory) -> dict:
    """Overrides of a run of seconds; the folders are the module's."""
    path = tmp_path_factory.mktemp("runs")
    return {
        "bundle_root": str(ROOT),
        "run_folder::root": str(path / "logs"),
        "model_file": str(path / "model.pt"),
        "data::dataset_dir": str(uneven),
        "data::img_size": 64,
        "teacher::model_name": "vit_test",
        "teacher::img_size": 64,
        "teacher::sam_checkpoint": str(sam_checkpoint),
        "teacher::lora_checkpoint": str(lora_checkpoint),
        "teacher::cache_dir": str(path / "cache"),
        "network_def": TINY_STUDENT,
        "training::num_epochs": EPOCHS,
        "training::warmup_epochs": 0,
        "training::batch_size": 2,
        "training::num_workers": 0,
        "training::lr": 1e-3,
        "hardware::precision": "fp32",
        "distillation::gamma": 0.1,
        "distillation::student_channels": 6,
        "distillation::mode": "replay",
        "distillation::views": 2,
    }


def folder_of(settings: dict, name: str) -> Path:
    return Path(settings["run_folder::root"]) / "uneven" / name


def last_weights(folder: Path) -> str:
    return fingerprint(torch.load(folder / "models" / "last.pt", weights_only=True)["network"])


def read_history(folder: Path) -> list[dict]:
    with open(folder / "history.csv", newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in ("seconds", "data_wait")}
            for row in csv.DictReader(file)
        ]


# a training, on each rank


def train(settings, name, overlays, fault=None):
    """Run a training and return what this rank has seen of it; a fault is (kind, rank, epoch)."""
    computed, seen, segment = [], [], FrozenTeacher.segment
    FrozenTeacher.segment = lambda self, image: computed.append(len(image)) or segment(self, image)
    reports, write = [], evaluation.write_results
    evaluation.write_results = lambda *arguments: reports.append(arguments) or write(*arguments)
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
    adapter = flow.parser.get_parsed_content("loss").adapter
    flow.finalize()
    return {
        "network": fingerprint(network.state_dict()),
        "adapter": fingerprint(adapter.state_dict()) if adapter else None,
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


OVERLAYS = ("multi_gpu_train.json",)


@pytest.fixture(scope="module")
def together(ranks, settings):
    """One training by two ranks, whole, which several tests look at."""
    return ranks(train, settings, "together", OVERLAYS, launch="together"), folder_of(settings, "together")


def test_ranks_end_with_the_same_weights_metrics_and_epoch(together):
    (first, second), _ = together
    assert isinstance(first, dict) and isinstance(second, dict), (first, second)
    for key in ("network", "adapter", "metrics", "best", "epoch"):
        assert first[key] == second[key], key
    assert first["epoch"] == EPOCHS and first["draw"] != second["draw"]  # dropout differs
    assert first["properties"] == []  # those of a MONAI workflow


def test_run_folder_is_written_once_by_rank_0(together):
    pair, folder = together
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "distill.log",
        "models/last.pt",
        "launch.txt",
        "test_results.txt",
        "report.html",
        "metrics.csv",
    } <= names
    assert (
        sum(name.startswith("tensorboard/") for name in names) == 1 and sum("best_epoch" in name for name in names) == 1
    )
    assert [path.name for path in folder.parent.iterdir()] == ["together"]
    assert [int(row["epoch"]) for row in read_history(folder)] == list(range(1, EPOCHS + 1))
    log = (folder / "distill.log").read_text()
    assert log.count("epoch 2 of 3: ") == 1 and log.count("teacher cache: complete") == 1
    assert [found["reports"] for found in pair] == [1, 0]


def test_checkpoint_has_the_names_of_a_run_by_one_process(together, settings):
    state = torch.load(together[1] / "models" / "last.pt", weights_only=True)
    assert not [key for key in state["network"] if key.startswith("module.")]
    assert state["progress"]["settings"]["hardware::num_ranks"] == 2
    best = next((together[1] / "models").glob("best_epoch*"))
    assert fingerprint(torch.load(settings["model_file"], weights_only=True)) == fingerprint(
        torch.load(best, weights_only=True)
    )


def test_cache_is_filled_once_and_shared(together, settings):
    (first, second), _ = together
    entries = list(Path(settings["teacher::cache_dir"]).rglob("*.safetensors"))
    panels = VALIDATION  # fewer than a panel shows
    assert len(entries) == 2 * TRAINING + panels + TEST
    assert first["computed"] + second["computed"] == len(entries)
    assert min(first["computed"], second["computed"]) >= len(entries) // 2 - 1


def test_two_ranks_see_the_batches_and_views_of_one_process(together, ranks, settings):
    """Batch size 2 on two ranks, 4 on one; the last batch holds the first image of the order a second time."""
    pairs, _ = together
    changes = {"training::batch_size": 4, "hardware::gpu_ids": [], "final_evaluation": None}
    (alone,) = ranks(train, {**settings, **changes}, "alone", (), world=0)
    assert alone["computed"] == 0  # the cache is there
    assert len(alone["seen"]) == len(pairs[0]["seen"]) == 2 * EPOCHS
    extra = 0
    for (step, whole), *halves in zip(alone["seen"], pairs[0]["seen"], pairs[1]["seen"]):
        union = {**halves[0][1], **halves[1][1]}
        extra += len(union) - len(whole)
        assert {case: union[case] for case in whole} == whole and halves[0][0] == halves[1][0] == step
    assert extra == EPOCHS  # 7 images make 8 places


def test_validation_counts_each_case_once(together, ranks, settings):
    """The best weights, validated by one process, have the metric that two ranks found."""
    (first, _), folder = together
    (alone,) = ranks(validate, settings, str(next((folder / "models").glob("best_epoch*"))), world=0)
    assert alone[0] == VALIDATION and alone[1] == first["best"][1]


def validate(settings, weights):
    flow = workflow({**settings, "hardware::gpu_ids": []})
    flow.initialize()
    evaluator = flow.parser.get_parsed_content("validate::evaluator")
    evaluator.network.load_state_dict(torch.load(weights, weights_only=True))
    evaluator.run()
    (score,) = [flow.parser.get_parsed_content("validate::key_metric")["val_mean_dice"]]
    return len(score.scores.cases), float(evaluator.state.metrics["val_mean_dice"])


def evaluate(settings, name, overlays, fault=None):
    """Run an evaluation; a fault is (function of scripts.evaluation.evaluate, rank) that fails there."""
    if fault and int(os.environ["RANK"]) == fault[1]:
        setattr(evaluation, fault[0], broken_disk)
    flow = workflow({**settings, "run_folder::timestamp": name}, *overlays, run_id="evaluating")
    flow.initialize()
    flow.run()
    flow.finalize()
    return "done"


def test_two_ranks_evaluate_as_one_process_does(together, ranks, settings):
    """To the last bit, and every case once: 5 cases on 2 ranks."""
    best = str(next((together[1] / "models").glob("best_epoch*")))
    settings = {**settings, "student::checkpoint": best, "distillation::gamma": 0.0, "distillation::mode": "online"}
    overlays = ("evaluate.json", "multi_gpu_evaluate.json")
    assert ranks(evaluate, settings, "shared", overlays) == ["done", "done"]
    assert ranks(evaluate, {**settings, "hardware::gpu_ids": []}, "single", overlays[:1], world=0) == ["done"]
    shared, single = folder_of(settings, "shared"), folder_of(settings, "single")
    for name in ("metrics.csv", "summary.json", "test_results.txt"):
        assert (shared / name).read_bytes() == (single / name).read_bytes(), name
    reports = [json.loads((folder / "report.json").read_text()) for folder in (shared, single)]
    assert reports[0]["calibration"] == reports[1]["calibration"] and reports[0]["arms"] == reports[1]["arms"]
    with open(shared / "metrics.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * TEST
    assert sorted(path.name for path in shared.rglob("*")) == sorted(path.name for path in single.rglob("*"))


def broken_disk(*arguments):
    raise OSError("the disk is broken")


@pytest.mark.parametrize(("function", "rank"), [("_read_case", 1), ("write_results", 0)])
def test_evaluation_that_fails_on_one_rank_ends_the_others_with_advice(ranks, settings, tmp_path, function, rank):
    student = tmp_path / "student.pt"
    torch.save(TinyUSFMSeg(img_size=64, **SMALL).state_dict(), student)
    changes = {"student::checkpoint": str(student), "distillation::gamma": 0.0, "distillation::mode": "online"}
    overlays = ("evaluate.json", "multi_gpu_evaluate.json")
    found = ranks(evaluate, {**settings, **changes}, f"broken_{rank}", overlays, (function, rank))
    # MONAI's around an error that is not the bundle's own
    assert found[rank].startswith("RuntimeError: Failed to evaluate")
    assert found[1 - rank].startswith(
        "ConnectionError: another process has ended, see what it says and torchrun's summary; start"
    )


def test_fewer_cases_than_ranks_are_trained_on_validated_and_evaluated_once(ranks, settings, tmp_path):
    """Three ranks, two images in each list."""
    write_phantom_dataset(tmp_path / "two", num_training=2, num_validation=2, num_test=2, size=64)
    changes = {
        "data::dataset_dir": str(tmp_path / "two"),
        "run_folder::root": str(tmp_path / "logs"),
        "training::num_epochs": 1,
    }
    found = ranks(train, {**settings, **changes}, "few", OVERLAYS, world=3, launch="few")
    assert all(isinstance(one, dict) for one in found), found
    assert (
        found[0]["network"] == found[1]["network"] == found[2]["network"] and found[0]["metrics"] == found[2]["metrics"]
    )
    folder = tmp_path / "logs" / "two" / "few"
    (alone,) = ranks(validate, {**settings, **changes}, str(next((folder / "models").glob("best_epoch*"))), world=0)
    assert alone == (2, found[0]["best"][1])
    with open(folder / "metrics.csv", newline="") as file:
        cases = [row["case"] for row in csv.DictReader(file) if row["arm"] == "student"]
    assert len(cases) == len(set(cases)) == 2


def test_killed_rank_ends_the_others_and_the_restart_ends_as_an_unbroken_run(together, ranks, settings):
    """Killed in the second epoch of three; started again under the same name, as torchrun --max-restarts does."""
    killed, other = 1, 0
    brief = {**settings, "final_evaluation": None}
    found = ranks(train, brief, "killed", OVERLAYS, ("killed", killed, 2), launch="killed")
    assert found[killed] is None
    assert found[other].startswith("ConnectionError: another process has ended"), found[other]
    assert "nothing but the unfinished epoch is lost" in found[other]
    folder = folder_of(settings, "killed")
    assert torch.load(folder / "models" / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    assert "the run ends: " in (folder / "distill.log").read_text()
    # another name would be another folder: that of the launch is found again
    again = ranks(train, brief, "another", OVERLAYS, launch="killed")
    assert again[0]["network"] == again[1]["network"] == last_weights(folder) == last_weights(together[1])
    assert read_history(folder) == read_history(together[1]) and not folder_of(settings, "another").exists()
    # and once more, as after a failure of the final evaluation
    assert not (folder / "test_results.txt").exists()
    last = ranks(train, settings, "third", OVERLAYS, launch="killed")
    assert last[0]["epoch"] == EPOCHS and last[0]["seen"] == [] and (folder / "test_results.txt").is_file()
    assert read_history(folder) == read_history(together[1])


def test_loss_that_is_no_number_on_one_rank_ends_all_with_its_files(ranks, settings):
    # where no cache looks at the image first
    settings = {**settings, "distillation::mode": "warp", "distillation::gamma": 0.0}
    found = ranks(train, settings, "nan", OVERLAYS, ("nan", 1, 2), launch="nan")
    assert found[0] == found[1] and found[0].startswith("FloatingPointError: the loss is nan")
    assert "in epoch 2" in found[0] and len(re.findall(r"phantom_\d+\.png", found[0])) == 2  # the batch of one rank
    folder = folder_of(settings, "nan")
    assert torch.load(folder / "models" / "last.pt", weights_only=True)["progress"]["epoch"] == 1


def test_ranks_stop_early_together_and_the_control_needs_no_teacher(ranks, settings):
    changes = {"training::lr": 1e-12, "training::patience": 1, "training::num_epochs": 6, "distillation::gamma": 0.0}
    changes["final_evaluation"] = None
    found = ranks(train, {**settings, **changes}, "early", ("train_student.json", *OVERLAYS), launch="early")
    assert found[0]["epoch"] == found[1]["epoch"] < 6 and found[0]["computed"] == 0


def test_fine_tuning_of_a_teacher_leaves_weights_without_gradient_alone(ranks, settings):
    """SAM's prompt encoder has weights that no loss reaches; in DistributedDataParallel they must not wait for a
    gradient.
    """
    changes = {
        "teacher::lora_checkpoint": None,
        "teacher::cache_dir": None,
        "distillation::gamma": 0.0,
        "distillation::mode": "online",
        "training::num_epochs": 2,
        "network_def": None,
        "model_file": None,
    }
    changes = {**settings, **changes}
    changes.pop("network_def")
    found = ranks(train, changes, "teacher", ("train_teacher.json", *OVERLAYS), launch="teacher")
    assert found[0]["network"] == found[1]["network"] and found[0]["epoch"] == 2
    assert list((folder_of(settings, "teacher") / "models").glob("best_epoch*.pth"))


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
        img_size=64, **SMALL, drop_path_rate=0.0, dropout=0.0, return_features="neck" if gamma > 0 else None
    )
    loss = DistillationLoss(**weights, gamma=gamma, student_channels=6, teacher_channels=8)
    if not with_dice:
        loss.task.dice = Nothing()
    modules = nn.ModuleList([network, loss])
    bars = torch.tensor([0.1, 0.3, 0.6, 0.9])[:, None, None, None]
    image, label = torch.rand(4, 1, 64, 64), (torch.rand(4, 1, 64, 64) > bars).float()
    teacher, embedding = torch.randn(4, 1, 64, 64), torch.randn(4, 8, 4, 4)

    def backward(network, loss, rows):
        modules.zero_grad()
        student = network(image[rows])
        logits, features = student if gamma else (student, None)
        loss(logits, label[rows], teacher[rows], features, embedding[rows])[0].backward()
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


CASES = {
    "cross-entropy": (False, {"alpha": 1.0, "beta": 0.0}, 0.0, False, True),
    "divergence": (False, {"alpha": 0.0, "beta": 1.0}, 0.0, True, True),
    "features": (False, {"alpha": 0.0, "beta": 0.0}, 1.0, True, True),
    # by each rank's own statistics
    "whitened features": (False, {"alpha": 0.0, "beta": 0.0, "whiten": True}, 1.0, True, False),
    "Dice": (False, {"alpha": 1.0, "beta": 0.0}, 0.0, True, False),  # sums over the batch before it divides
    # normalizes by its own rank's images on the CPU
    "batch norm": (True, {"alpha": 0.0, "beta": 1.0}, 0.0, True, False),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_two_half_batches_are_those_of_the_whole_where_the_loss_is_a_mean(ranks, name):
    *arguments, equal = CASES[name]
    (difference, means), (other, other_means) = ranks(gradients, *arguments)
    assert difference == other and torch.equal(means, other_means)
    assert (difference < 1e-5) if equal else (1e-3 < difference < 1), difference


# one process


@pytest.fixture
def torchrun(monkeypatch):
    """Pretend that torchrun has started this process, one of two; no group is joined."""
    for name, value in {
        "RANK": 1,
        "LOCAL_RANK": 1,
        "WORLD_SIZE": 2,
        "LOCAL_WORLD_SIZE": 2,
        "TORCHELASTIC_RUN_ID": "a",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(distributed, "join", lambda device, timeout: pytest.fail("joined"))


def picked(gpu_ids) -> str:
    return str(
        RankHardware._pick_device(type("Rank", (), {"local_ranks": int(os.environ["LOCAL_WORLD_SIZE"])})(), gpu_ids)
    )


def test_each_local_rank_has_its_gpu(torchrun, gpus, monkeypatch):
    gpus(4)
    for local_rank, expected in ((0, ["cuda:0", "cuda:3", "cpu"]), (1, ["cuda:1", "cuda:2", "cpu"])):
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        assert [picked(None), picked([3, 2]), picked([])] == expected
    gpus(0)
    assert picked(None) == "cpu"


@pytest.mark.parametrize(
    ("gpu_ids", "message"),
    [
        ([0], r"\[0\] names 1 GPUs, but torchrun has started 2 processes on this machine; pass --nproc_per_node=1"),
        ([0, 1, 2], r"names 3 GPUs, but torchrun has started 2"),
        ([0, 7], r"hardware::gpu_ids \[7\] does not exist: this machine has 2 GPUs"),
        (0, r"hardware::gpu_ids must be a list such as \[0, 1\], got 0"),
    ],
)
def test_gpus_that_do_not_fit_the_processes_are_refused(torchrun, gpus, gpu_ids, message):
    gpus(2)
    with pytest.raises(ValueError, match=message):
        picked(gpu_ids)


def test_more_processes_than_gpus_are_refused(torchrun, gpus):
    gpus(1)
    with pytest.raises(ValueError, match=r"hardware::gpu_ids \[1\] does not exist: this machine has 1 GPUs"):
        picked(None)


def test_several_gpus_in_a_plain_run_name_the_command(overrides, gpus):
    gpus(2)
    with pytest.raises(Exception) as error:
        run({**overrides, "hardware::gpu_ids": [0, 1]})
    message = str(root_cause(error.value))
    assert "names several GPUs, but this run uses one; pass [0], or start a process for each GPU: torchrun" in message
    (command,) = re.findall(r"(torchrun .*)(?:,) see docs/many_machines.md", message)
    assert command in PAGE.read_text()


def test_overlay_and_torchrun_need_each_other(overrides, monkeypatch):
    with pytest.raises(Exception) as error:
        workflow(overrides, *OVERLAYS).initialize()
    assert "is for several processes, but this one was started alone; run torchrun --standalone" in str(
        root_cause(error.value)
    )
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Exception) as error:
        run(overrides)
    message = "torchrun has started 2 processes, but this configuration is for one; add configs/multi_gpu_train.json"
    assert message in str(root_cause(error.value))


def test_launch_that_is_to_be_restarted_needs_a_name(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launch_name() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert launch_name() is None
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match="--max-restarts 3 starts a run again.*pass --standalone, or --rdzv_id NAME"):
        launch_name()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job_17")
    assert launch_name() == "job_17"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(
        ValueError, match=f"would look for those that have ended.*start it as {distributed.OWN_STORE} torchrun"
    ):
        launch_name()


def test_slurm_does_not_take_the_local_rank(ranks, monkeypatch):
    """Inside `srun torchrun` SLURM's local rank is 0 in every process."""
    assert ranks(local_rank_in_slurm) == [("0", 0, "7"), ("1", 1, "7")]


def local_rank_in_slurm():
    import ignite.distributed as idist

    os.environ.update(SLURM_JOB_ID="7", SLURM_LOCALID="0")
    RankHardware([], "fp32")
    return os.environ["LOCAL_RANK"], idist.get_local_rank(), os.environ["SLURM_JOB_ID"]


@pytest.mark.parametrize("count", [1, 2, 7, 8])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_shares_of_the_ranks_are_the_batches_of_one_process(count, num_ranks):
    def order(rank, num_ranks, even=True, epoch=3):
        sampler = ViewSampler(range(count), seed=1, rank=rank, num_ranks=num_ranks, even=even)
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)
        return list(sampler)

    whole = order(0, 1)
    even = [order(rank, num_ranks) for rank in range(num_ranks)]
    merged = [item for items in zip(*even, strict=True) for item in items]
    assert merged[:count] == whole and merged[count:] == (whole * num_ranks)[: len(merged) - count]
    uneven = [order(rank, num_ranks, even=False) for rank in range(num_ranks)]
    assert all(uneven) and {item for share in uneven for item in share} == set(whole)
    assert sum(map(len, uneven)) == max(count, num_ranks)


def test_workers_of_a_machine_are_shared(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert worker_count(8, torch.device("cuda"), local_ranks=4) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert (
        worker_count(8, torch.device("cpu"), local_ranks=2) == 3
        and worker_count(8, torch.device("cpu"), local_ranks=8) == 0
    )


def test_settings_of_one_process_have_no_ranks():
    assert Hardware([], "fp32").settings == {"precision": "fp32"}


def test_module_without_weights_to_train_is_not_wrapped():
    loss = DistillationLoss(alpha=1.0, beta=0.0)
    assert data_parallel(loss, torch.device("cpu")) is loss and bare(loss) is loss


def test_each_rank_draws_its_own_dropout_and_the_first_as_without_ranks(monkeypatch):
    engine, draws = Engine(lambda engine, batch: None), []
    engine.state.epoch = 2
    for rank in (0, 1, 2):
        monkeypatch.setattr("scripts.handlers.progress.idist.get_rank", lambda rank=rank: rank)
        EpochSeed(1)(engine)
        draws.append(float(torch.rand(())))
    torch.manual_seed(100_003 + 2)
    assert draws[0] == float(torch.rand(())) and len(set(draws)) == 3


def test_score_does_not_depend_on_the_order_of_the_cases():
    generator = torch.Generator().manual_seed(0)
    masks = [(torch.rand(1, 9, 9, generator=generator) > 0.5).float() for _ in range(22)]
    names, pairs, found = [f"{i}.png" for i in range(11)], list(zip(masks[:11], masks[11:])), []
    for order in (range(11), [*range(0, 11, 2), *range(1, 11, 2)]):
        score = SegmentationScore(2)
        score.update(([pairs[i][0] for i in order], [pairs[i][1] for i in order], [names[i] for i in order]))
        found.append(score.compute())
    assert found[0] == found[1]


def test_reliability_of_cases_can_be_put_together():
    whole, parts = Reliability(), Reliability()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        case = torch.rand(1, 8, 8, generator=generator), (torch.rand(1, 8, 8, generator=generator) > 0.5).float()
        whole.add(*case)
        one = Reliability()
        one.add(*case)
        parts.merge(one)
    assert parts.summary() == whole.summary()


# the folder of a launch


def test_run_goes_on_in_the_folder_that_its_launch_began(tmp_path):
    first = RunFolder(str(tmp_path), "set", timestamp="one", launch="job_17")
    assert not first.restarted and not first.resumed
    record = RunRecord(first.path, {}, launch=first.launch)
    record.start()
    record.stop()
    again = RunFolder(str(tmp_path), "set", launch="job_17")
    assert again.path == first.path and again.restarted and again.resumed and again.resume_checkpoint is None
    RunRecord(again.path, {}, resumed=again.resumed, launch=again.launch).start()
    first.models.mkdir()
    (first.models / "last.pt").touch()
    assert RunFolder(str(tmp_path), "set", launch="job_17").resume_checkpoint == first.models / "last.pt"
    for launch in ("job_18", None):
        other = RunFolder(str(tmp_path), "set", launch=launch)
        assert other.path != first.path and not other.restarted and other.resume_checkpoint is None


def test_log_says_that_a_launch_goes_on(tmp_path, monkeypatch, caplog):
    """A name that is used again by mistake would otherwise not be noticed."""
    monkeypatch.setattr(distributed.dist, "broadcast_object_list", lambda objects: None)
    monkeypatch.setattr(distributed, "launch_name", lambda: "job_17")
    with caplog.at_level("INFO"):
        first = distributed.shared_run_folder(0, str(tmp_path), "set", timestamp="one")
        assert not caplog.messages
        RunRecord(first.path, {}, launch=first.launch).start()
        caplog.clear()
        distributed.shared_run_folder(0, str(tmp_path), "set")
    assert caplog.messages == [
        f"the launch job_17 began {first.path} and goes on there; a new run needs a new --rdzv_id"
    ]


def test_resumed_run_that_is_restarted_goes_on_from_its_newer_checkpoint(tmp_path):
    folder = tmp_path / "elsewhere" / "set" / "one"
    (folder / "models").mkdir(parents=True)
    for name in ("last.pt", "checkpoint_epoch020.pt"):
        (folder / "models" / name).touch()
    old = str(folder / "models" / "checkpoint_epoch020.pt")
    assert (
        RunFolder(str(tmp_path), "set", resume=old, launch="job_17").resume_checkpoint.name == "checkpoint_epoch020.pt"
    )
    (folder / "launch.txt").write_text("job_17")
    again = RunFolder(str(tmp_path), "set", resume=old, launch="job_17")
    assert again.path == folder and again.resume_checkpoint.name == "last.pt"


def test_complete_run_is_resumed_by_a_restart_alone(tmp_path):
    network, evaluator = nn.Linear(1, 1), SimpleNamespace(state=SimpleNamespace(best_metric=0.5, best_metric_epoch=2))
    saving = Checkpoints(tmp_path, network, evaluator, {"network": network})
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch = 2
    saving.save(engine)
    engine = Engine(lambda engine, batch: pytest.fail("trained"))
    engine.state.max_epochs = 2
    options = {"resume": tmp_path / "last.pt"}
    with pytest.raises(ValueError, match="has completed 2 epochs of 2"):
        Checkpoints(tmp_path, network, evaluator, {"network": network}, **options).attach(engine)
    Checkpoints(tmp_path, network, evaluator, {"network": network}, restarted=True, **options).attach(engine)
    engine.run([0])
    assert engine.state.epoch == 2


# docs/many_machines.md with torchrun itself


def documented(start: str) -> list[str]:
    """Words of the command of the page that begins so."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S):
        found += [shlex.split(line) for line in block.replace("\\\n", " ").splitlines() if line.startswith(start)]
    assert len(found) == 1, f"{start} is there {len(found)} times"
    return found[0]


def torchrun_command(words: list[str], tiny: Path, replace: dict[str, str]) -> list[str]:
    """A documented command with this Python, a config file more, and other paths."""
    words = [replace.get(word, word) for word in words]
    place = words.index("--config_file") + 1
    words[place] = str([*ast.literal_eval(words[place]), str(tiny)])
    return [sys.executable, "-m", "torch.distributed.run", *words[words.index("torchrun") + 1 :]]


@pytest.fixture
def tiny(settings, tmp_path) -> Path:
    """A config file that makes a documented command a run of seconds."""
    ours = {"bundle_root", "data::dataset_dir", "teacher::lora_checkpoint"}
    overlay = {key: value for key, value in settings.items() if key not in ours}
    overlay |= {
        "run_folder::root": str(tmp_path / "logs"),
        "model_file": str(tmp_path / "model.pt"),
        "teacher::cache_dir": str(tmp_path / "cache"),
        "teacher::module": "sam_lora_image_encoder",
        "network_def": {**TINY_STUDENT, "_requires_": "$sys.path.insert(1, @bundle_root)"},
        "distillation::gamma": 0.0,
        "distillation::mode": "warp",
        "hardware::gpu_ids": [],
    }
    (tmp_path / "tiny.json").write_text(json.dumps(overlay))
    return tmp_path / "tiny.json"


def environment(words: list[str]) -> dict[str, str]:
    """With what the command sets before its first word."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **dict(word.split("=") for word in words[: words.index("torchrun")])}


def workers(agent: int) -> list[int]:
    """Processes that torchrun has started."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [int(child) for child in children if b"monai.bundle" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")
def test_documented_training_survives_the_kill_of_a_rank_and_is_evaluated(settings, tiny, tmp_path):
    words = documented(f"{distributed.OWN_STORE} torchrun --standalone --nproc_per_node=2 --max-restarts=3")
    paths = {
        "data/BUSBRA": settings["data::dataset_dir"],
        "PATH": settings["teacher::lora_checkpoint"],
        "lite_medsam": "vit_test",
    }
    paths["mask_decoder"] = "sam_lora_image_encoder"
    epochs = 12
    command = [
        *torchrun_command(words, tiny, paths),
        "--training::num_epochs",
        str(epochs),
        "--training::patience",
        "0",
    ]
    with open(tmp_path / "output.txt", "w") as output:
        agent = subprocess.Popen(command, cwd=ROOT, env=environment(words), stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 600
        while (
            not list((tmp_path / "logs").rglob("history.csv")) and time.monotonic() < deadline and agent.poll() is None
        ):
            time.sleep(0.2)
        assert list((tmp_path / "logs").rglob("history.csv")), (tmp_path / "output.txt").read_text()[-4000:]
        victim = workers(agent.pid)[1]
        os.kill(victim, signal.SIGKILL)
        assert agent.wait(timeout=600) == 0, (tmp_path / "output.txt").read_text()[-4000:]
    finally:
        agent.kill()
    (folder,) = (tmp_path / "logs" / "uneven").iterdir()
    log = (folder / "distill.log").read_text()
    assert log.count("resumed after epoch") == 1 and f"epoch {epochs} of {epochs}" in log
    assert [int(row["epoch"]) for row in read_history(folder)] == list(range(1, epochs + 1))
    assert (folder / "test_results.txt").is_file()
    assert (
        "Signal 9 (SIGKILL)" in (tmp_path / "output.txt").read_text()
        or str(victim) in (tmp_path / "output.txt").read_text()
    )

    paths["models/best.pt"] = str(next((folder / "models").glob("best_epoch*")))
    words = documented("torchrun --standalone --nproc_per_node=2 -m monai.bundle run evaluating")
    command = [*torchrun_command(words, tiny, paths), "--run_folder::root", str(tmp_path / "evaluation")]
    result = subprocess.run(command, cwd=ROOT, env=environment(words), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
    (evaluated,) = (tmp_path / "evaluation" / "uneven").iterdir()
    with open(evaluated / "metrics.csv", newline="") as file, open(folder / "metrics.csv", newline="") as other:
        pairs = [[row for row in csv.DictReader(one) if row["arm"] == "student"] for one in (file, other)]
    assert pairs[0] == pairs[1] and len(pairs[0]) == TEST


def test_commands_with_and_without_restarts_are_the_same_but_for_them():
    with_restarts = documented(f"{distributed.OWN_STORE} torchrun")
    plain = documented("torchrun --standalone --nproc_per_node=2 -m monai.bundle run training")
    assert [word for word in with_restarts if word not in (distributed.OWN_STORE, "--max-restarts=3")] == plain


def test_slurm_script_is_valid_and_holds_the_documented_command():
    script = ROOT / "docs" / "slurm_train.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "#SBATCH --requeue" in text and "scontrol requeue" in text and f"export {distributed.OWN_STORE}" in text
    blocks = re.findall(r"```bash\n(srun torchrun .*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 1 and blocks[0].strip() in text


def test_overrides_of_the_page_exist():
    config = json.loads((CONFIGS / "train.json").read_text())
    overlay = json.loads((CONFIGS / "multi_gpu_train.json").read_text())
    assert overlay["hardware::gpu_ids"] is None
    for keys in re.findall(r"--(\w+(?:::\w+)+)", PAGE.read_text()):
        content = config
        for key in keys.split("::"):
            assert key in content, keys
            content = content[key]
