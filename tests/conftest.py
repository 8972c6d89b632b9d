"""Tiny networks and images for all tests: a run of the whole bundle takes seconds."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts.data.phantoms import write_phantom_dataset
from scripts.networks.student import STUDENT_SIZES, TEST_SIZE
from scripts.run.workflow import build_workflow
from scripts.utils.screen import SCREEN, Console

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
CONFIGS = ROOT / "configs"
TINY = STUDENT_SIZES[TEST_SIZE]._asdict()  # arguments of TinyUSFMSeg


def pytest_configure():
    """A suite that was started in the background ignores Ctrl-C, and so would the programs that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--write", action="store_true", help="write docs/reliability.md (with tests/faults)")


@pytest.fixture(autouse=True)
def quiet_console():
    """Takes away what a program, run in a test, has set up to print; it would print for the next test too."""
    yield
    for logger in (SCREEN, logging.getLogger()):
        for handler in [handler for handler in logger.handlers if isinstance(handler, Console)]:
            logger.removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def own_exports(tmp_path_factory):
    """Exports of students are not those of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAM_TINYUSFM_CACHE", str(tmp_path_factory.mktemp("exports")))
        yield


@pytest.fixture(autouse=True)
def same_environment():
    """Takes back what a test or a library's command has written into the process's environment, such as MLflow's."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A data set of ten 64-pixel phantoms."""
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantom_dataset(folder, num_training=6, num_validation=2, num_test=2, size=64)
    return folder


@pytest.fixture(scope="session")
def sam_checkpoint(tmp_path_factory) -> Path:
    """A SAM base file of the test size, for img_size 64."""
    from scripts.networks.sam import build_sam

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sam") / "sam_vit_test.pth"
    torch.save(build_sam("vit_test", 64, 4).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def lora_checkpoint(tmp_path_factory, sam_checkpoint) -> Path:
    """A teacher of the test size, as fine-tuning writes it."""
    from scripts.networks.frozen_teacher import FrozenTeacher
    from scripts.networks.tuning import tunable_teacher

    torch.manual_seed(1)
    teacher = tunable_teacher(FrozenTeacher("vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint)))
    path = tmp_path_factory.mktemp("lora") / "best_epoch001_dice0.5000.pth"
    torch.save(teacher.best_state(), path)
    return path


@pytest.fixture
def overrides(phantoms, sam_checkpoint, lora_checkpoint, tmp_path) -> dict:
    """What makes configs/train.json a run of seconds."""
    return {
        "bundle_root": str(ROOT),
        "run_folder::root": str(tmp_path / "logs"),
        "run_folder::timestamp": "run",
        "model_file": str(tmp_path / "model.pt"),
        "data::dataset_dir": str(phantoms),
        "data::img_size": 64,
        "teacher::model_name": "vit_test",
        "teacher::img_size": 64,
        "teacher::sam_checkpoint": str(sam_checkpoint),
        "teacher::lora_checkpoint": str(lora_checkpoint),
        "teacher::cache_dir": str(tmp_path / "cache"),
        "student::model_name": TEST_SIZE,
        "training::num_epochs": 2,
        "training::warmup_epochs": 0,
        "training::batch_size": 3,
        "training::num_workers": 0,
        "hardware::gpu_ids": [],
    }


@pytest.fixture
def run_folder(tmp_path) -> Path:
    """Where a run with `overrides` writes."""
    return tmp_path / "logs" / "phantoms" / "run"


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that the machine has a number of GPUs."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def workflow(overrides: dict, *overlays: str, run_id: str = "training") -> ConfigWorkflow:
    """A run of configs/train.json and its overlays, not started."""
    return build_workflow(["train.json", *overlays], overrides, run_id)


def run(overrides: dict, *overlays: str, run_id: str = "training") -> ConfigWorkflow:
    """Run it to its end."""
    flow = workflow(overrides, *overlays, run_id=run_id)
    flow.initialize()
    flow.run()
    return flow


def root_cause(error: BaseException) -> BaseException:
    """The error at the start of MONAI's chain."""
    while before := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = before
    return error
