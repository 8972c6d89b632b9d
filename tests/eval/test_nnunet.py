"""nnU-Net as an anchor: what it is given, how its masks are measured, and what is refused. A stand-in plays nnU-Net."""

import inspect
import json
import logging
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from comparing import settings_of
from conftest import ROOT
from PIL import Image

from eval import compare
from eval.nnunet import driver
from eval.nnunet.__main__ import main
from eval.nnunet.raw_data import dataset_name, write_images
from scripts.evaluation.results import read_rows
from scripts.metrics import case_metrics

NNUNET_PYTHON = os.environ.get("NNUNET_PYTHON", "")


@pytest.fixture
def python(tmp_path, monkeypatch):
    """A program that stands for the Python of an environment with nnU-Net."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("nnunet_stand_in.py")} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def words(overrides, python):
    """A command line without the folder's name."""
    left_out = ("bundle_root", "model_file")
    pairs = [(key, value) for key, value in settings_of(overrides).items() if key not in left_out]
    own = ["--python", str(python), "--epochs", "2", "--iterations", "10", "--output_dir", "out"]
    return [*own, *(text for key, value in pairs for text in (f"--{key}", repr(value)))]


def printed(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "scripts.screen"]


def test_lists_become_a_raw_data_set_with_our_split(words, phantoms):
    assert main(words) == 0
    raw, prepared = (Path("out", f"nnUNet_{name}", "Dataset001_phantoms") for name in ("raw", "preprocessed"))
    lists = json.loads((phantoms / "dataset.json").read_text())
    (fold,) = json.loads((prepared / "splits_final.json").read_text())
    for split, key in (("training", "train"), ("validation", "val")):
        assert fold[key] == [f"{split}_{index:05d}" for index in range(len(lists[split]))]
        for name, entry in zip(fold[key], lists[split]):
            image = np.asarray(Image.open(raw / "imagesTr" / f"{name}_0000.png"))
            assert np.array_equal(image, np.asarray(Image.open(phantoms / entry["image"]).convert("L")))
            label = np.asarray(Image.open(raw / "labelsTr" / f"{name}.png"))
            assert np.array_equal(label, np.asarray(Image.open(phantoms / entry["label"])) > 0)
    assert len(list((raw / "imagesTr").iterdir())) == len(lists["training"]) + len(lists["validation"])
    about = json.loads((raw / "dataset.json").read_text())
    assert list(about["labels"].values()) == [0, 1]
    assert about["numTraining"] == 8
    assert not Path("out/test").exists()


def test_masks_are_measured_and_compared_as_those_of_a_student(words, phantoms, caplog):
    with caplog.at_level(logging.INFO):
        assert main(words) == 0
    rows = read_rows("out/validation/metrics.csv")
    entries = json.loads((phantoms / "dataset.json").read_text())["validation"]
    for row, entry in zip(rows, entries):
        label = (np.asarray(Image.open(phantoms / entry["label"])) > 0).astype(int)
        expected = case_metrics(np.roll(label, 2, axis=0), label, 2)
        assert row["dice"] == pytest.approx(expected["dice"])
        assert row["hd95"] == pytest.approx(expected["hd95"])
        assert (row["arm"], row["seed"]) == ("student", 0)
    results = json.loads(Path("out/results.json").read_text())
    chosen = {"epochs": 2, "iterations": 10, "val_iterations": 2, "gpu_memory_target": None, "device": "cpu"}
    assert results["training"] == {**chosen, "seconds": 6.0}
    assert results["plan"]["patch_size"] == [64, 64]
    assert results["parameters"] == 123
    assert results["results"]["validation"]["metrics"]["dice"]["mean"] == pytest.approx(
        np.mean([row["dice"] for row in rows])
    )
    assert str(Path.cwd()) not in json.dumps(results)
    assert printed(caplog)[-2].startswith("validation: Dice 0.")
    tables = ["out/validation/metrics.csv", "nnU-Net=out/validation/metrics.csv"]
    assert compare.main(["--output_dir", "compared", "--tables", *tables]) == 0
    report = json.loads(Path("compared/report.json").read_text())
    assert list(report["arms"]) == ["student", "nnU-Net"]
    assert {(c["arm"], c["reference"]) for c in report["comparisons"]} == {("student", "nnU-Net")}


def test_stopped_run_goes_on_where_it_was(words, capsys):
    Path("fail_nnUNetv2_train").touch()
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nnunet: nnUNetv2_train ended with exit code 3: MemoryError: too little memory (out/")
    assert main(words) == 0
    calls = [json.loads(line) for line in Path("out/calls.txt").read_text().splitlines()]
    commands = ["nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_train", "nnUNetv2_predict"]
    assert [call[0] for call in calls] == commands
    assert ["--c" in call for call in calls[1:3]] == [False, True]
    assert json.loads(Path("out/results.json").read_text())["training"]["seconds"] == 6.0  # of both logs
    assert main(words) == 0  # nothing is left to do
    assert len(Path("out/calls.txt").read_text().splitlines()) == 4


def test_mask_that_a_kill_left_unreadable_is_made_again(words):
    assert main(words) == 0
    Path("out/validation/metrics.csv").unlink()
    mask = Path("out/validation/masks/validation_00001.png")
    whole = mask.read_bytes()
    mask.write_bytes(whole[:20])
    assert main(words) == 0
    assert mask.read_bytes() == whole


def test_test_list_is_read_when_asked_for_and_once(words, caplog):
    assert main([*words, "--test"]) == 0
    assert len(read_rows("out/test/metrics.csv")) == 2
    before = Path("out/test/metrics.csv").read_bytes()
    with caplog.at_level(logging.INFO):
        assert main([*words, "--test"]) == 0
    assert "the test list was measured already: its results are kept" in printed(caplog)
    assert Path("out/test/metrics.csv").read_bytes() == before
    assert list(json.loads(Path("out/results.json").read_text())["results"]) == ["validation", "test"]


def test_memory_that_the_plan_may_take_goes_to_nnunet(words):
    assert main([*words, "--gpu_memory_target", "1.5"]) == 0
    plan = json.loads(Path("out/calls.txt").read_text().splitlines()[0])
    assert plan[plan.index("-gpu_memory_target") + 1] == "1.5"


def test_folder_of_another_training_is_refused(words, capsys):
    assert main(words) == 0
    assert main([*words, "--epochs", "3"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("was begun with epochs 2 instead of 3; give its command again, or pass another --output_dir.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--gpu_memory_target", "0"], "--gpu_memory_target must be above 0, got 0.0"),
        (["--workers", "-1"], "--workers must be at least 0, got -1"),
        (["--python", "gone"], "--python gone does not exist; pass the Python that has nnU-Net"),
        (["--python", "./bare"], "--python ./bare has no nnU-Net: pip install nnunetv2 in an environment of its own"),
        (["--python", "/bin/false"], "--python /bin/false does not run"),
        (["--output_dir", "full"], "--output_dir full holds other files; pass a new folder"),
        (["--data::dataset_dir", "gone"], "is no folder; pass --data::dataset_dir PATH"),
    ],
)
def test_what_cannot_be_run_ends_with_one_line(words, capsys, options, message):
    Path("bare").write_text("#!/bin/sh\necho '{\"nnunetv2\": null}'\n")
    Path("bare").chmod(0o755)
    Path("full").mkdir()
    Path("full/notes.txt").touch()
    assert main([*words, *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nnunet: ")
    assert message in line
    assert not Path("out").exists()
    assert [path.name for path in Path("full").iterdir()] == ["notes.txt"]


def test_images_of_more_than_8_bits_keep_16(tmp_path):
    pixels = torch.linspace(0, 1, 12).reshape(1, 3, 4)
    write_images(tmp_path / "images", [{"image": pixels, "label": torch.zeros(1, 3, 4), "case": "a"}], "test")
    stored = np.asarray(Image.open(tmp_path / "images" / "test_00000_0000.png"))
    assert np.allclose(stored / 65535, pixels[0], atol=1e-5)


def test_parameters_are_counted_once_and_a_checkpoint_runs_no_code(tmp_path, capsys):
    class Code:
        def __reduce__(self):
            return print, ("code has run",)

    weight = torch.zeros(3, 4)
    state = {"network_weights": {"a": weight, "b": weight, "c": torch.zeros(5)}, "_best_ema": np.float64(0.5)}
    state["logging"] = {"ema": [np.float32(0.5)]}
    torch.save(state, tmp_path / "whole.pth")
    assert driver.count_parameters(str(tmp_path / "whole.pth")) == 17
    torch.save({**state, "more": Code()}, tmp_path / "code.pth")
    with pytest.raises(pickle.UnpicklingError):
        driver.count_parameters(str(tmp_path / "code.pth"))
    assert "code has run" not in capsys.readouterr().out


def test_name_of_a_data_set_has_nnunets_form():
    assert dataset_name("BUS-BRA (2024)") == "Dataset001_BUSBRA2024"
    assert dataset_name("...") == "Dataset001_images"


def test_trainer_gets_its_length_and_stays_the_same_otherwise(monkeypatch):
    class Trainer:
        def __init__(self, plans, fold=0):
            self.arguments = list(inspect.signature(self.__init__).parameters)
            self.num_epochs, self.initial_lr = 1000, 1e-2

        def perform_actual_validation(self, save_probabilities=False):
            raise AssertionError("the validation list is predicted by nnUNetv2_predict")

    module = types.ModuleType("nnUNetTrainer")
    module.nnUNetTrainer = Trainer
    monkeypatch.setitem(sys.modules, "nnunetv2.training.nnUNetTrainer.nnUNetTrainer", module)
    for name in ("nnunetv2", "nnunetv2.training", "nnunetv2.training.nnUNetTrainer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    driver.set_length(3, 40, 8)
    trainer = Trainer({}, fold=0)
    trainer.perform_actual_validation(False)
    lengths = (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch)
    assert lengths == (3, 40, 8)
    assert trainer.save_every == 1
    assert trainer.initial_lr == 1e-2
    assert trainer.arguments == ["plans", "fold"]


def test_page_names_the_program():
    assert "python -m eval.nnunet" in (ROOT / "docs" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not NNUNET_PYTHON, reason="NNUNET_PYTHON names no Python of an environment with nnunetv2")
def test_nnunet_itself_trains_and_segments(words):
    real = ["--python", NNUNET_PYTHON, "--epochs", "1", "--iterations", "1", "--threads", "1"]
    assert main([*words, *real]) == 0
    assert len(read_rows("out/validation/metrics.csv")) == 2
    results = json.loads(Path("out/results.json").read_text())
    assert results["parameters"] > 1e5
    assert results["training"]["seconds"] > 0
    (fold,) = Path("out/nnUNet_results").glob("*/*/fold_0")
    assert "6 training and 2 validation cases" in next(fold.glob("training_log*")).read_text()
