"""Where a run computes: the GPU that was asked for, or a refusal, and its precision."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from torch import nn

from scripts.utils import hardware
from scripts.utils.hardware import Hardware, PrecisionInferer, has_native_bf16, pick_device, worker_count


@pytest.mark.parametrize(
    ("count", "gpu_ids", "device"),
    [(0, [0], "cpu"), (0, [], "cpu"), (2, [], "cpu"), (1, [0], "cuda:0"), (2, [1], "cuda:1"), (2, (1,), "cuda:1")],
)
def test_device_is_the_gpu_asked_for_or_the_cpu(gpus, count, gpu_ids, device):
    gpus(count)
    assert pick_device(gpu_ids) == torch.device(device)


@pytest.mark.parametrize(
    ("count", "gpu_ids", "message"),
    [
        (0, [1], r"hardware::gpu_ids \[1\] does not exist: this machine has 0 GPUs; pass \[0\] or \[\]"),
        (2, [2], r"hardware::gpu_ids \[2\] does not exist: this machine has 2 GPUs"),
        (2, [-1], r"hardware::gpu_ids \[-1\] does not exist"),
        (2, ["0"], r"hardware::gpu_ids \['0'\] does not exist"),
        (2, [0, 1], r"hardware::gpu_ids \[0, 1\] names several GPUs, but this run uses one; pass \[0\]"),
        (2, 0, r"hardware::gpu_ids must be a list such as \[0\], got 0"),
        (2, "0", r"hardware::gpu_ids must be a list such as \[0\], got '0'"),
    ],
)
def test_gpu_that_cannot_be_used_is_refused(gpus, count, gpu_ids, message):
    gpus(count)
    with pytest.raises(ValueError, match=message):
        Hardware(gpu_ids)


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="hardware::precision must be one of auto, fp32, bf16, got 'fp16'"):
        Hardware([], "fp16")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_run_in_the_precision_asked_for(precision, dtype):
    inferer = PrecisionInferer(Hardware([], precision))
    linear = nn.Linear(4, 2)
    assert inferer(torch.ones(1, 4), linear).dtype == dtype
    assert linear.weight.dtype == torch.float32
    assert linear(torch.ones(1, 4)).dtype == torch.float32  # outside the inferer


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_is_bf16_where_it_is_native(monkeypatch, native):
    monkeypatch.setattr(hardware, "has_native_bf16", lambda device: native)
    assert Hardware([], "auto").bf16 is native


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_since_ampere_have_native_bf16(monkeypatch, capability, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_native_bf16(torch.device("cuda", 0)) is native


def test_cpu_without_a_bf16_unit_is_not_native(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert has_native_bf16(torch.device("cpu")) is False
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert has_native_bf16(torch.device("cpu")) is True


@pytest.mark.parametrize(("cores", "asked", "workers"), [(4, 8, 4), (4, 3, 3), (4, 0, 0), (1, 8, 0)])
def test_workers_are_no_more_than_the_cores(monkeypatch, cores, asked, workers):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert worker_count(asked) == workers


def test_a_training_on_all_cores_keeps_them(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for threads, workers in ((8, 0), (7, 0), (5, 3)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert worker_count(8, torch.device("cpu")) == workers
    assert worker_count(8, torch.device("cuda")) == 8


def test_negative_worker_count_is_refused():
    with pytest.raises(ValueError, match="training::num_workers must not be negative, got -1"):
        worker_count(-1)


def test_freed_memory_is_kept_for_the_next_tensor():
    code = (
        "import resource, torch\n"
        "import monai.inferers\n"  # as every training does; a small block behind a large one may pin an empty heap
        "from scripts.utils.hardware import keep_freed_memory\n"
        "kept = keep_freed_memory()\n"
        "faults = []\n"
        "for _ in range(4):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(50_000_000)\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
        "print(kept, faults[-1] < faults[0] / 10)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    if result.stdout.startswith("False"):
        pytest.skip("this C library is not glibc")
    assert result.stdout == "True True\n", result.stderr
