"""What MONAI Label asks of train.json and of the masks; its server itself is in test_monai_label_server.py."""

import json
import logging
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import CONFIGS, root_cause
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor

from scripts.inference.label_result import LabelResultd
from scripts.run.errors import find_user_error
from scripts.run.history import read_history
from scripts.run.monai_label import fitting_warmup, labeling_overrides

TEACHER_FILES = ("sam_checkpoint", "lora_checkpoint")


def lists(folder: Path, count: int = 6) -> list[dict]:
    """Studies as MONAI Label names them: absolute paths and nothing else."""
    content = json.loads((folder / "dataset.json").read_text())
    return [{key: str(folder / item[key]) for key in ("image", "label")} for item in content["training"][:count]]


@pytest.fixture
def request_of_monai_label(overrides, phantoms, tmp_path) -> dict:
    """The overrides that MONAI Label 0.8.5 gives to monai.bundle.run, and those that make it a run of seconds."""
    ours = ("data::dataset_dir", "training::num_epochs", *(f"teacher::{key}" for key in ("model_name", *TEACHER_FILES)))
    tiny = {key: value for key, value in overrides.items() if key not in ours}
    studies = lists(phantoms)
    handlers = json.loads((CONFIGS / "train.json").read_text())["train"]["handlers"]
    return {
        **tiny,
        "training::warmup_epochs": 5,
        "train#trainer#max_epochs": 2,
        "train#dataset#data": studies[:4],
        "validate#dataset#data": studies[4:],
        "device": "cpu",
        "train#handlers": handlers,
    }


def run_as_monai_label(overrides: dict) -> ConfigWorkflow:
    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        run_id="run",
        **overrides,
    )
    flow.initialize()
    flow.run()
    return flow


def test_studies_train_without_a_teacher_and_the_log_says_so(request_of_monai_label, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("scripts.run.monai_label.MODELS", tmp_path)
    handlers, start = request_of_monai_label["train#handlers"], tmp_path / "start.pt"
    first = {
        **request_of_monai_label,
        "train#trainer#max_epochs": 1,
        "run_folder::timestamp": "first",
        "model_file": str(start),
    }
    run_as_monai_label(first)
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(start),
        "load_dict": {"model": "$@network"},
        "strict": False,
    }
    caplog.clear()
    with caplog.at_level(logging.INFO):
        flow = run_as_monai_label({**request_of_monai_label, "train#handlers": [loader, *handlers]})
    assert "4 studies for training and 2 for validation, and train.json names no teacher" in caplog.text
    assert "WITHOUT A TEACHER" in caplog.text
    assert f"Restored all variables from {start}" in caplog.text
    assert flow.trainer.teacher is None
    assert flow.trainer.state.epoch == 2
    (log,) = [r.message for r in caplog.records if r.message.startswith("training on")]
    assert "2 epochs of 2 iterations" in log
    folder = tmp_path / "logs" / "images" / "run"
    history = read_history(folder)
    assert [row["loss"] == row["task"] for row in history] == [True, True]
    assert "distill" not in history[0]
    assert (tmp_path / "model.pt").is_file()
    assert not (folder / "test_results.txt").exists()


def test_named_teacher_is_distilled(request_of_monai_label, sam_checkpoint, lora_checkpoint, tmp_path, caplog):
    teacher = {"model_name": "vit_test", "sam_checkpoint": str(sam_checkpoint), "lora_checkpoint": str(lora_checkpoint)}
    with caplog.at_level(logging.INFO):
        flow = run_as_monai_label(
            {**request_of_monai_label, **{f"teacher::{key}": value for key, value in teacher.items()}}
        )
    assert f"the student is DISTILLED from the teacher {lora_checkpoint}" in caplog.text
    assert flow.trainer.teacher is not None
    history = read_history(tmp_path / "logs" / "images" / "run")
    assert [row["distill"] > 0 for row in history] == [True, True]


def test_teacher_that_is_missing_is_an_error(request_of_monai_label, tmp_path):
    missing = {"teacher::model_name": "lite_medsam", "teacher::lora_checkpoint": str(tmp_path / "gone.pth")}
    with pytest.raises(Exception) as error:
        run_as_monai_label({**request_of_monai_label, **missing})
    assert "gone.pth" in str(root_cause(error.value))


def test_run_of_the_bundle_without_a_teacher_stays_an_error(overrides):
    overrides["teacher::lora_checkpoint"] = None
    with pytest.raises(Exception) as error:
        run_as_monai_label(overrides)
    assert "teacher.lora_checkpoint is required for distillation" in str(root_cause(error.value))


def test_loop_among_the_studies_is_named(request_of_monai_label, tmp_path):
    loop = tmp_path / "loop.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((64, 64, 5), np.uint8), np.eye(4)), loop)
    studies = [*request_of_monai_label["train#dataset#data"], {"image": str(loop), "label": str(loop)}]
    with pytest.raises(Exception) as error:
        run_as_monai_label({**request_of_monai_label, "train#dataset#data": studies})
    message = str(find_user_error(error.value))
    assert re.search(r"loop.nii.gz has shape \(64, 64, 5\).*save the slices or frames as separate files", message)


def config(training, validation, lora_checkpoint=None) -> dict:
    """What MONAI Label changes in train.json, and what is read of it then."""
    return {
        "data": {"num_classes": 2, "img_size": 64},
        "teacher": {"lora_checkpoint": lora_checkpoint},
        "training": {"num_epochs": 150, "warmup_epochs": 5},
        "train": {"dataset": {"data": training}, "trainer": {"max_epochs": 20}},
        "validate": {"dataset": {"data": validation}},
    }


def test_references_are_no_studies():
    assert labeling_overrides(config("$@data.training", "$@data.validation")) == {}


@pytest.mark.parametrize("name", ["train.json", "inference.json"])
def test_config_of_the_bundle_is_no_labeling_session(name):
    assert labeling_overrides(json.loads((CONFIGS / name).read_text())) == {}


@pytest.mark.parametrize(
    ("training", "validation", "message"),
    [
        (
            [],
            [],
            "gave 0 labeled studies for training and 0 for validation, expected at least one for training; save more "
            "labels",
        ),
        (
            [{}],
            [],
            "gave 1 labeled studies for training and 0 for validation, expected at least one for validation; save more",
        ),
        ([{}], "$@data.validation", "val_split is negative.*pass a val_split such as 0.2"),
    ],
)
def test_list_without_studies_is_refused(training, validation, message):
    with pytest.raises(ValueError, match=message):
        labeling_overrides(config(training, validation))


LOADER = {"_target_": "CheckpointLoader", "load_dict": {"model": "$@network"}}


@pytest.mark.parametrize(
    ("id", "value", "message"),
    [
        ("train#trainer#max_epochs", "$MARK", "max_epochs must be a whole number from 1, got .\\$"),
        ("train#trainer#max_epochs", 1.5, "max_epochs must be a whole number from 1, got 1.5"),
        ("train#trainer#max_epochs", "@training::lr", "max_epochs must be a whole number from 1, got '@training::lr'"),
        ("device", "$MARK", "device must be cpu, mps, cuda or cuda:NUMBER, got .\\$"),
        ("experiment_name", "$MARK", "tracking is not offered in MONAI Label, got experiment_name; send tracking None"),
        ("train#handlers", [{**LOADER, "load_path": "$MARK"}], "model_filename must be a file of .*models, got .\\$"),
        (
            "train#handlers",
            [{**LOADER, "load_path": f"{CONFIGS}/../models/../../x.pt"}],
            "model_filename must be a file",
        ),
        ("train#dataset#data", [{"image": "$MARK", "label": "$MARK"}], "the image of a study must be an absolute path"),
        ("validate#dataset#data", [{"image": "/a.png", "label": 3}], "the label of a study must be .*, got 3"),
    ],
)
def test_value_that_would_run_code_is_refused(id, value, message, request_of_monai_label, tmp_path):
    mark = tmp_path / "mark"
    value = json.loads(json.dumps(value).replace("$MARK", f"$__import__('pathlib').Path('{mark}').touch()"))
    with pytest.raises(Exception) as error:
        run_as_monai_label({**request_of_monai_label, id: value})
    assert not mark.exists()
    assert re.search(message, str(find_user_error(error.value)))
    assert not (tmp_path / "logs").exists()


def test_foreign_bundle_is_refused():
    with pytest.raises(ValueError, match="bundle_root is '/other', but the bundle that runs is"):
        labeling_overrides({**config([{}], [{}]), "bundle_root": "/other"})


@pytest.mark.parametrize("name", ["inference.json", "train.json"])
def test_no_value_of_a_request_reaches_what_monai_label_builds(name):
    """Its server sets device to what a client sends, and adds all displayable_configs: an expression would be run."""
    content = json.loads((CONFIGS / name).read_text())
    assert "displayable_configs" not in content
    if name == "inference.json":
        reached, waiting = set(), ["network_def", "preprocessing", "inferer", "postprocessing"]
        while waiting:
            part = waiting.pop()
            reached.add(part)
            waiting += set(re.findall(r"@(\w+)", json.dumps(content[part]))) - reached
        assert "device" not in reached


@pytest.mark.parametrize("asked", ["/../../evil.png", "$x", "..", ".png/..", "png", 7])
def test_extension_that_is_a_path_is_refused(asked):
    with pytest.raises(ValueError, match="result_extension must be an extension such as .png or .nii.gz, got"):
        LabelResultd("pred")({"image_path": "/studies/a.png", "result_extension": asked})


def test_epochs_of_monai_label_are_those_of_the_training():
    overrides = labeling_overrides(config([{}], [{}]))
    assert overrides["training::num_epochs"] == 20
    assert overrides["training::warmup_epochs"] == 2


def test_loss_without_a_teacher_is_the_task_alone():
    overrides = labeling_overrides(config([{}], [{}]))
    assert overrides["loss"] == {"_target_": "scripts.losses.task_loss", "num_classes": "@data::num_classes"}
    assert overrides["cached_teacher"] is None


def test_loss_with_a_teacher_stays_the_distillation():
    overrides = labeling_overrides(config([{}], [{}], "teacher.pth"))
    assert not {"loss", "cached_teacher"} & set(overrides)


@pytest.mark.parametrize(("epochs", "expected"), [(1, 0), (9, 0), (20, 2), (50, 5), (200, 5)])
def test_warmup_fits_the_epochs_of_monai_label(epochs, expected):
    assert fitting_warmup(5, epochs) == expected


@pytest.mark.parametrize(
    ("name", "shape", "asked", "expected_shape", "expected_extension"),
    [
        ("a.png", (3, 2), None, (3, 2), None),
        ("a.JPG", (3, 2), None, (3, 2), ".png"),
        ("a.jpeg", (3, 2), ".nrrd", (3, 2), ".nrrd"),
        ("a.nii.gz", (3, 2), None, (3, 2, 1), None),
        ("a.nii", (3, 2, 4), None, (3, 2, 4), None),
    ],
)
def test_mask_is_made_ready_for_the_writer_of_monai_label(name, shape, asked, expected_shape, expected_extension):
    mask = MetaTensor(torch.ones(1, *shape, dtype=torch.uint8), meta={"original_shape": shape})
    request = {"image_path": f"/studies/{name}", **({"result_extension": asked} if asked else {})}
    item = LabelResultd("pred")({"pred": mask, **request})
    assert tuple(item["pred"].shape) == expected_shape
    assert item.get("result_extension") == expected_extension
    assert LabelResultd("pred")({"pred": mask})["pred"] is mask  # an item of monai.bundle
