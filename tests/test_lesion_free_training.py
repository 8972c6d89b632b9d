"""Distillations whose lists hold images without a lesion, and balanced ones, run whole on phantoms."""

import json

import numpy as np
import pytest
import torch
from conftest import root_cause, run
from PIL import Image

from scripts.data.phantoms import write_phantom_dataset


@pytest.fixture
def mixed(tmp_path):
    """Phantoms of which every third has a black mask, of two sets."""
    folder = tmp_path / "mixed"
    write_phantom_dataset(folder, num_training=6, num_validation=3, num_test=3, size=64)
    content = json.loads((folder / "dataset.json").read_text())
    for split in ("training", "validation", "test"):
        for number, item in enumerate(content[split]):
            item["set"] = "small" if number == 1 else "large"
            if number % 3 == 2:
                item["lesion_free"] = True
                Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / item["label"])
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def change_masks(folder, split):
    for item in json.loads((folder / "dataset.json").read_text())[split]:
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / item["label"])


def test_distillation_with_lesion_free_images_and_balance_ends_with_its_report(mixed, overrides, tmp_path, caplog):
    with caplog.at_level("INFO"):
        run({**overrides, "data::dataset_dir": str(mixed), "training::balance": "set", "training::balance_power": 0.0})
    folder = tmp_path / "logs" / "mixed" / "run"
    summary = json.loads((folder / "summary.json").read_text())
    assert {arm: means["lesion_free_images"] for arm, means in summary.items()} == {"student": 1, "teacher": 1}
    assert "dice_with_lesion" in summary["student"]
    report = json.loads((folder / "report.json").read_text())
    assert report["arms"]["student"]["lesion_free"]["images"] == 1
    assert "lesion-free images left empty" in (folder / "test_results.txt").read_text()
    assert "images of an epoch, balanced by set: large 5 -> 3, small 1 -> 3" in caplog.text
    assert "set" in {row["column"] for row in report["subgroups"]}
    state = torch.load(folder / "models" / "last.pt", weights_only=True)
    assert "training::balance" in json.dumps(state["progress"])


def test_training_without_a_lesion_is_refused_before_the_run_folder(mixed, overrides, tmp_path):
    change_masks(mixed, "training")
    with pytest.raises(Exception) as error:
        run({**overrides, "data::dataset_dir": str(mixed)})
    assert "none of the 6 training masks shows a lesion" in str(root_cause(error.value))
    assert not (tmp_path / "logs").exists()


def test_column_that_is_not_there_is_refused_before_the_run_folder(mixed, overrides, tmp_path):
    with pytest.raises(Exception) as error:
        run({**overrides, "data::dataset_dir": str(mixed), "training::balance": "device"})
    assert "training::balance is 'device', which the training list does not have" in str(root_cause(error.value))
    assert not (tmp_path / "logs").exists()


def test_augmentation_that_loses_the_lesions_is_refused_before_the_run_folder(overrides, tmp_path):
    far = {"augmentation::shift_fraction": 1.0, "augmentation::prob": 1.0, "augmentation::zoom_range": [2.0, 3.0]}
    with pytest.raises(Exception) as error:
        run({**overrides, **far})
    assert "the augmentation pushes the lesion out of" in str(root_cause(error.value))
    assert not (tmp_path / "logs").exists()
