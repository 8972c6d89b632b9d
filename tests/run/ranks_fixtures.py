"""Fixtures of the tests of several processes: a plugin of pytest, so that each has one home."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
from conftest import ROOT
from on_ranks import EPOCHS, OVERLAYS, TEST, TRAINING, VALIDATION, as_rank, folder_of, free_port, train

from scripts.data.phantoms import write_phantom_dataset
from scripts.networks.student import TEST_SIZE


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Calls a function on `world` ranks at once and returns what each has found; None of one that was killed. World 0
    is one process without torchrun.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["on_ranks"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / folder) for folder in ("", "tests", "tests/run")))
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
        "student::model_name": TEST_SIZE,
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


@pytest.fixture(scope="module")
def together(ranks, settings):
    """One training by two ranks, whole, which several tests look at."""
    return ranks(train, settings, "together", OVERLAYS, launch="together"), folder_of(settings, "together")
