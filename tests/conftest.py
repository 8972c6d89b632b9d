"""Tiny networks and images for all tests: a run of the whole bundle takes seconds."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts.data.phantoms import write_phantom_dataset

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
CONFIGS = ROOT / "configs"
TINY_STUDENT = {
    "_target_": "scripts.networks.tinyusfm.TinyUSFMSeg",
    "num_classes": "@data::num_classes",
    "img_size": "@data::img_size",
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "out_indices": [0, 1, 2, 3],
    "channels": 16,
    "return_features": "$@distillation.student_features",
}


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
    from scripts.networks.teacher import build_trainable_teacher, export_adapter

    torch.manual_seed(1)
    teacher = build_trainable_teacher("vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint))
    path = tmp_path_factory.mktemp("lora") / "best_epoch001_dice0.5000.pth"
    torch.save(export_adapter(teacher), path)
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
        "network_def": TINY_STUDENT,
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
    files = [str(CONFIGS / name) for name in ("train.json", *overlays)]
    return ConfigWorkflow(
        config_file=files,
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        run_id=run_id,
        **deepcopy(overrides),  # MONAI sets network_def::channels in the dict it was given
    )


def run(overrides: dict, *overlays: str, run_id: str = "training") -> ConfigWorkflow:
    """Run it to its end."""
    flow = workflow(overrides, *overlays, run_id=run_id)
    flow.initialize()
    flow.run()
    return flow


def root_cause(error: BaseException) -> BaseException:
    """The error at the start of MONAI's chain."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return error
