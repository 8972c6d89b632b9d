"""The parts of a run by several processes, each on its own: devices, shares, seeds and sums."""

import os
import re

import pytest
import torch
from conftest import root_cause, run, workflow
from ignite.engine import Engine
from on_ranks import OVERLAYS, PAGE, local_rank_in_slurm

from scripts.data.dataset import ViewSampler
from scripts.evaluation.calibration import Reliability
from scripts.handlers import EpochSeed
from scripts.losses import task_loss
from scripts.metrics import SegmentationScore
from scripts.run import distributed
from scripts.run.distributed import RankHardware, bare, data_parallel
from scripts.utils.hardware import Hardware, worker_count

pytest_plugins = "ranks_fixtures"


# devices


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


def test_slurm_does_not_take_the_local_rank(ranks, monkeypatch):
    """Inside `srun torchrun` SLURM's local rank is 0 in every process."""
    assert ranks(local_rank_in_slurm) == [("0", 0, "7"), ("1", 1, "7")]


# shares, seeds and sums


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
    assert merged[:count] == whole
    assert merged[count:] == (whole * num_ranks)[: len(merged) - count]
    uneven = [order(rank, num_ranks, even=False) for rank in range(num_ranks)]
    assert all(uneven)
    assert {item for share in uneven for item in share} == set(whole)
    assert sum(map(len, uneven)) == max(count, num_ranks)


def test_workers_of_a_machine_are_shared(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert worker_count(8, torch.device("cuda"), local_ranks=4) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert worker_count(8, torch.device("cpu"), local_ranks=2) == 3
    assert worker_count(8, torch.device("cpu"), local_ranks=8) == 0


def test_settings_of_one_process_have_no_ranks():
    assert Hardware([], "fp32").settings == {"precision": "fp32"}


def test_module_without_weights_to_train_is_not_wrapped():
    loss = task_loss()
    assert data_parallel(loss, torch.device("cpu")) is loss
    assert bare(loss) is loss


def test_each_rank_draws_its_own_dropout_and_the_first_as_without_ranks(monkeypatch):
    engine, draws = Engine(lambda engine, batch: None), []
    engine.state.epoch = 2
    for rank in (0, 1, 2):
        monkeypatch.setattr("scripts.handlers.progress.idist.get_rank", lambda rank=rank: rank)
        EpochSeed(1)(engine)
        draws.append(float(torch.rand(())))
    torch.manual_seed(100_003 + 2)
    assert draws[0] == float(torch.rand(()))
    assert len(set(draws)) == 3


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
