"""Every mistake that a user can make: one message with the thing, what was found and the fix, and nothing written."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import CONFIGS, ROOT, TINY, root_cause, run, workflow
from monai.bundle import ConfigWorkflow
from PIL import Image

from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.networks.tuning import tunable_teacher
from scripts.run.errors import _brief_excepthook


@pytest.fixture
def refusal(overrides, tmp_path, capsys):
    """Runs a changed configuration to its end, and returns the one line that the command line would show."""

    def try_run(changes: dict, *overlays: str) -> str:
        with pytest.raises(Exception) as error:
            run({**overrides, **changes}, *overlays)
        assert not (tmp_path / "logs").exists(), "something was written"
        assert not (tmp_path / "model.pt").exists(), "something was written"
        capsys.readouterr()
        _brief_excepthook(error.type, error.value, error.tb)
        shown = capsys.readouterr().err
        assert re.fullmatch(r"error: [^\n]+\n", shown), shown
        return shown

    return try_run


@pytest.fixture
def dataset(phantoms, tmp_path):
    """A copy of the phantoms to spoil: (folder, content of dataset.json, function that writes it back)."""
    folder = tmp_path / "spoiled"
    shutil.copytree(phantoms, folder)
    content = json.loads((folder / "dataset.json").read_text())
    return folder, content, lambda: (folder / "dataset.json").write_text(json.dumps(content))


# ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatur": 3}, "unknown id 'temperatur' .* did you mean --distillation::temperature"),
        ({"trainng": 3}, "unknown id 'trainng' .* did you mean --training"),
        ({"img_size": 64}, "unknown id 'img_size' .* did you mean --.*::img_size"),
        ({"training.lr": 1e-3}, "unknown id 'training.lr' .* write --training::lr, with two colons"),
        ({"distillation.temperature": 6.0}, "unknown id .* write --distillation::temperature, with two colons"),
        (
            {"distillation::temperatur": 3},
            "unknown key distillation::temperatur; did you mean distillation::temperature",
        ),
        (
            {"teacher::lora_chekpoint": "x"},
            "unknown key teacher::lora_chekpoint; did you mean teacher::lora_checkpoint",
        ),
        ({"run_folder::log_nam": "x"}, "unknown key run_folder::log_nam; did you mean run_folder::log_name"),
    ],
)
def test_mistyped_id_is_refused_with_the_nearest_one(refusal, changes, message):
    assert re.search(message, refusal(changes))


def test_mistyped_section_of_a_program_is_refused_with_the_nearest_one(overrides):
    message = "unknown section 'distilation' in --distilation::temperature; did you mean --distillation::temperature"
    with pytest.raises(ValueError, match=message):
        workflow({**overrides, "distilation::temperature": 3.0})


def test_mistyped_section_of_a_command_line_is_refused_by_monai_with_the_nearest_one(overrides):
    """Before any code of the bundle runs."""
    with pytest.raises(KeyError, match="distilation") as error:
        ConfigWorkflow(
            config_file=str(CONFIGS / "train.json"),
            meta_file=str(CONFIGS / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            **{**overrides, "distilation::temperature": 3.0},
        )
    assert "By 'distilation', did you mean 'distillation'?" in str(root_cause(error.value))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--distillation::temperatur", "3"],
            "unknown key distillation::temperatur; did you mean distillation::temperature.",
        ),
        (
            ["--training.lr", "1e-3"],
            "unknown id 'training.lr' in the configuration or on the command line; write --training::lr",
        ),
    ],
)
def test_command_line_ends_with_one_line_and_a_non_zero_exit(arguments, message, tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.json"]
    arguments = [*arguments, "--run_folder::root", str(tmp_path / "logs"), "--model_file", str(tmp_path / "model.pt")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode != 0
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.count("error:") == 1
    assert list(tmp_path.iterdir()) == []


# data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data::dataset_dir": None}, "data::dataset_dir is required, got None; pass --data::dataset_dir PATH"),
        ({"data::dataset_dir": "nowhere"}, "data::dataset_dir .*nowhere is no folder; pass --data::dataset_dir PATH"),
        (
            {"data::datalist": "other.json"},
            "data::datalist .*other.json does not exist; build one with .*make_datalist",
        ),
        ({"data::num_classes": 1}, "data::num_classes must be an integer of at least 2 .* got 1"),
        (
            {"data::num_classes": 3},
            "data::num_classes is 3, but .*dataset.json names 2 classes .* pass --data::num_classes 2",
        ),
    ],
)
def test_missing_dataset_is_refused(refusal, changes, message):
    assert re.search(message, refusal(changes))


@pytest.mark.parametrize("key", ["image", "label"])
def test_missing_file_is_named(refusal, dataset, key):
    folder, content, _ = dataset
    missing = folder / content["training"][1][key]
    missing.unlink()
    message = refusal({"data::dataset_dir": str(folder)})
    assert f"{key} file {missing} does not exist (1 of 10 {key} files are missing); check data::dataset_dir" in message


def test_unreadable_image_is_named(refusal, dataset):
    folder, content, _ = dataset
    bad = folder / content["test"][0]["image"]
    bad.write_bytes(bad.read_bytes()[:100])
    assert f"file {bad} cannot be read as an image" in refusal({"data::dataset_dir": str(folder)})


def test_mask_of_another_size_is_named(refusal, dataset):
    folder, content, _ = dataset
    label = folder / content["validation"][0]["label"]
    Image.new("L", (60, 64)).save(label)
    message = refusal({"data::dataset_dir": str(folder)})
    assert f"label {label} has size (60, 64) (width, height) and image" in message
    assert "(64, 64); expected equal sizes" in message


def test_label_value_outside_the_classes_is_named(refusal, dataset):
    folder, content, save = dataset
    label = folder / content["training"][0]["label"]
    mask = np.zeros((64, 64), np.uint8)
    mask[:2], mask[2:4] = 1, 5
    Image.fromarray(mask).save(label)
    message = refusal({"data::dataset_dir": str(folder)})
    assert f"label {label} holds the values 0, 1, 5; expected 0 and 1, or 0 and 255, for data::num_classes 2" in message
    content["labels"] = {"0": "background", "1": "nerve", "2": "vessel"}
    save()
    message = refusal({"data::dataset_dir": str(folder), "data::num_classes": 3})
    assert f"label {label} holds the values 0, 1, 5; expected class indices 0..2" in message


def test_test_case_without_label_ends_the_run_before_the_training(refusal, dataset):
    folder, content, save = dataset
    del content["test"][1]["label"]
    save()
    message = refusal({"data::dataset_dir": str(folder)})
    image = folder / content["test"][1]["image"]
    assert f"test case {image} in datalist {folder / 'dataset.json'} has no label (1 of 2 have none)" in message


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_empty_split_is_named(refusal, dataset, split):
    folder, content, save = dataset
    content[split] = []
    save()
    assert re.search(rf"datalist .*dataset.json has no {split} cases", refusal({"data::dataset_dir": str(folder)}))


def test_patient_in_two_splits_is_named(refusal, dataset):
    folder, content, save = dataset
    content["training"][0]["patient"] = content["test"][0]["patient"] = "P7"
    save()
    message = refusal({"data::dataset_dir": str(folder)})
    assert "1 patient is in two splits (training and test): P7; expected each patient in one split" in message


# teacher


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher::lora_checkpoint": None},
            r"lora_checkpoint is required for distillation; pass --teacher::lora_checkpoint PATH",
        ),
        ({"teacher::lora_checkpoint": "no.pth"}, "teacher::lora_checkpoint no.pth does not exist"),
        (
            {"teacher::sam_checkpoint": None},
            "teacher::sam_checkpoint is required .*pass --teacher::sam_checkpoint PATH",
        ),
        ({"teacher::sam_checkpoint": "no.pth"}, "teacher::sam_checkpoint no.pth does not exist"),
        ({"teacher::rank": 8}, "has LoRA rank 4, but teacher::rank is 8; pass --teacher::rank 4"),
        (
            {"teacher::module": "mask_decoder"},
            "teacher::module is mask_decoder; pass --teacher::module sam_lora_image_encoder",
        ),
        ({"teacher::model_name": "vit_x"}, "teacher::model_name must be one of vit_b, .* got 'vit_x'"),
        ({"teacher::img_size": 100}, "img_size must be a .*multiple of 16, got 100"),
    ],
)
def test_teacher_that_does_not_fit_is_refused(refusal, changes, message):
    assert re.search(message, refusal(changes))


def test_lora_of_another_sam_size_is_refused(refusal, lora_checkpoint, tmp_path):
    state = torch.load(lora_checkpoint, weights_only=True)
    state = {key: value for key, value in state.items() if not key.startswith(("w_a_", "w_b_"))}
    for i in range(24):
        state[f"w_a_{i:03d}"], state[f"w_b_{i:03d}"] = torch.zeros(4, 768), torch.zeros(768, 4)
    torch.save(state, tmp_path / "vit_b.pth")
    message = refusal({"teacher::lora_checkpoint": str(tmp_path / "vit_b.pth")})
    assert re.search(
        "is LoRA for vit_b.*, but teacher::model_name is vit_test.*; pass the --teacher::model_name", message
    )


def save_student(path, num_classes: int = 2) -> str:
    torch.save(TinyUSFMSeg(num_classes=num_classes, img_size=64, **TINY).state_dict(), path)
    return str(path)


@pytest.mark.parametrize("key", ["lora_checkpoint", "sam_checkpoint"])
def test_student_file_given_as_teacher_is_refused(refusal, tmp_path, key):
    message = refusal({f"teacher::{key}": save_student(tmp_path / "student.pt")})
    assert f"teacher::{key}" in message
    assert "student.pt" in message
    assert "is a TinyUSFM student" in message
    assert "student::checkpoint" in message


def test_teacher_file_given_as_student_is_refused(refusal, lora_checkpoint):
    message = refusal({"student::checkpoint": str(lora_checkpoint)})
    assert str(lora_checkpoint) in message
    assert "is a LoRA adapter" in message
    assert "teacher::lora_checkpoint" in message


def test_teacher_and_student_of_different_classes_are_refused(refusal, sam_checkpoint, tmp_path):
    section = FrozenTeacher("vit_test", img_size=64, num_classes=3, sam_checkpoint=str(sam_checkpoint))
    torch.save(tunable_teacher(section).best_state(), tmp_path / "lora3.pth")
    message = refusal({"teacher::lora_checkpoint": str(tmp_path / "lora3.pth")})
    assert "3 classes, but the teacher is built for 2; check data::num_classes" in message
    message = refusal({"teacher::lora_checkpoint": str(tmp_path / "lora3.pth"), "teacher::num_classes": 3})
    assert "teacher::num_classes is 3, but data::num_classes is 2" in message


def test_student_checkpoint_of_other_classes_is_refused(refusal, tmp_path):
    message = refusal({"student::checkpoint": save_student(tmp_path / "three.pt", num_classes=3)})
    assert "segments 3 classes, but data::num_classes is 2; pass --data::num_classes 3" in message


def test_evaluation_of_a_backbone_without_a_head_is_refused(refusal, tmp_path):
    state = torch.load(save_student(tmp_path / "student.pt"), weights_only=True)
    backbone = {key.replace("backbone.", "model."): v for key, v in state.items() if key.startswith("backbone.")}
    torch.save(backbone, tmp_path / "TinyUSFM.pth")
    message = refusal({"student::checkpoint": str(tmp_path / "TinyUSFM.pth")}, "evaluate.json")
    assert "student::checkpoint" in message
    assert "is a pretrained TinyUSFM backbone (model.*), not a TinyUSFM student" in message


def test_evaluation_at_another_img_size_is_refused(refusal, tmp_path):
    path = save_student(tmp_path / "student.pt")
    message = refusal({"student::checkpoint": path, "data::img_size": 32}, "evaluate.json")
    assert f"student::checkpoint {path} was trained at 64 pixels, but the student is built for 32; pass" in message


# numbers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data::img_size": 100}, "data::img_size must be a positive multiple of 16, got 100"),
        ({"distillation::temperature": 0}, "temperature must be positive, got 0; pass --distillation::temperature 4.0"),
        ({"distillation::temperature": -1.0}, "temperature must be positive, got -1.0"),
        ({"distillation::alpha": -0.5}, "alpha must not be negative, got -0.5; pass --distillation::alpha 0"),
        ({"distillation::beta": -0.5}, "beta must not be negative, got -0.5; pass --distillation::beta 0"),
        ({"distillation::gamma": -0.5}, "gamma must not be negative, got -0.5; pass --distillation::gamma 0"),
        (
            {"hardware::gpu_ids": [99]},
            r"hardware::gpu_ids \[99\] does not exist: this machine has \d+ GPUs; pass \[0\] or \[\]",
        ),
        ({"hardware::precision": "fp8"}, "hardware::precision must be one of auto, fp32, bf16, got 'fp8'"),
        ({"training::lr": 0}, "lr must be positive, got 0; pass --training::lr 1e-4"),
        ({"training::num_epochs": 0}, "num_epochs must be at least 1, got 0; pass --training::num_epochs"),
        ({"training::warmup_epochs": 2}, r"warmup_epochs must be at least 0 and below num_epochs \(2\), got 2"),
        ({"training::patience": -1}, "training::patience must not be negative, got -1"),
        ({"training::num_workers": -1}, "training::num_workers must not be negative, got -1"),
        ({"training::resume": "nowhere"}, "training::resume: nowhere does not exist; name the folder of a run"),
        ({"augmentation::flip_prob": 2}, "augmentation::flip_prob must be a number from 0 to 1, got 2"),
        ({"cached_teacher": None}, "there is no teacher; give one, or set the weights of these terms to 0"),
    ],
)
def test_number_out_of_range_is_refused(refusal, changes, message):
    assert re.search(message, refusal(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher::img_size": 100, "teacher::lora_checkpoint": None}, "img_size must be a .*multiple of 16, got 100"),
        ({"teacher::rank": 3}, "has LoRA rank 4, but teacher::rank is 3; pass --teacher::rank 4"),
        ({"teacher::rank": 0, "teacher::lora_checkpoint": None}, "rank"),
    ],
)
def test_fine_tuning_refuses_what_does_not_fit(refusal, changes, message):
    assert re.search(message, refusal(changes, "train_teacher.json"))
