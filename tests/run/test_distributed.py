"""Several processes that train and evaluate together find what one process finds, and write files once."""

import csv
import json

import pytest
import torch
from on_ranks import (
    EPOCHS,
    OVERLAYS,
    TEST,
    TRAINING,
    VALIDATION,
    comparable_history,
    evaluate,
    folder_of,
    gradients,
    train,
    validate,
)

from scripts.cache.entry_store import read_cache
from scripts.data.phantoms import write_phantom_dataset
from scripts.utils.digests import weights_digest

pytest_plugins = "ranks_fixtures"


def test_ranks_end_with_the_same_weights_metrics_and_epoch(together):
    (first, second), _ = together
    assert isinstance(first, dict), (first, second)
    assert isinstance(second, dict), (first, second)
    for key in ("network", "adapter", "metrics", "best", "epoch"):
        assert first[key] == second[key], key
    assert first["epoch"] == EPOCHS
    assert first["draw"] != second["draw"]  # dropout differs
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
    assert sum(name.startswith("tensorboard/") for name in names) == 1
    assert sum("best_epoch" in name for name in names) == 1
    assert [path.name for path in folder.parent.iterdir()] == ["together"]
    assert [row["epoch"] for row in comparable_history(folder)] == list(range(1, EPOCHS + 1))
    log = (folder / "distill.log").read_text()
    assert log.count("epoch 2/3 ") == 1
    assert log.count("epoch 2: loss ") == 1
    assert log.count("teacher cache: complete") == 1
    assert [found["reports"] for found in pair] == [1, 0]


def test_checkpoint_has_the_names_of_a_run_by_one_process(together, settings):
    state = torch.load(together[1] / "models" / "last.pt", weights_only=True)
    assert not [key for key in state["network"] if key.startswith("module.")]
    assert state["progress"]["settings"]["hardware::num_ranks"] == 2
    best = next((together[1] / "models").glob("best_epoch*"))
    assert weights_digest(torch.load(settings["model_file"], weights_only=True)) == weights_digest(
        torch.load(best, weights_only=True)
    )


def test_cache_is_filled_once_and_shared(together, settings):
    (first, second), _ = together
    entries = read_cache(settings["teacher::cache_dir"])
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
        assert {case: union[case] for case in whole} == whole
        assert halves[0][0] == halves[1][0] == step
    assert extra == EPOCHS  # 7 images make 8 places


def test_validation_counts_each_case_once(together, ranks, settings):
    """The best weights, validated by one process, have the metric that two ranks found."""
    (first, _), folder = together
    (alone,) = ranks(validate, settings, str(next((folder / "models").glob("best_epoch*"))), world=0)
    assert alone[0] == VALIDATION
    assert alone[1] == first["best"][1]


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
    assert reports[0]["calibration"] == reports[1]["calibration"]
    assert reports[0]["arms"] == reports[1]["arms"]
    with open(shared / "metrics.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * TEST
    assert sorted(path.name for path in shared.rglob("*")) == sorted(path.name for path in single.rglob("*"))


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
    assert found[0]["network"] == found[1]["network"] == found[2]["network"]
    assert found[0]["metrics"] == found[2]["metrics"]
    folder = tmp_path / "logs" / "two" / "few"
    (alone,) = ranks(validate, {**settings, **changes}, str(next((folder / "models").glob("best_epoch*"))), world=0)
    assert alone == (2, found[0]["best"][1])
    with open(folder / "metrics.csv", newline="") as file:
        cases = [row["case"] for row in csv.DictReader(file) if row["arm"] == "student"]
    assert len(cases) == len(set(cases)) == 2


def test_ranks_stop_early_together_and_the_control_needs_no_teacher(ranks, settings):
    changes = {"training::lr": 1e-12, "training::patience": 1, "training::num_epochs": 6, "distillation::gamma": 0.0}
    changes["final_evaluation"] = None
    found = ranks(train, {**settings, **changes}, "early", ("train_student.json", *OVERLAYS), launch="early")
    assert found[0]["epoch"] == found[1]["epoch"] < 6
    assert found[0]["computed"] == 0


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
        "model_file": None,
    }
    found = ranks(train, {**settings, **changes}, "teacher", ("train_teacher.json", *OVERLAYS), launch="teacher")
    assert found[0]["network"] == found[1]["network"]
    assert found[0]["epoch"] == 2
    assert list((folder_of(settings, "teacher") / "models").glob("best_epoch*.pth"))


# gradients


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
    assert difference == other
    assert torch.equal(means, other_means)
    assert (difference < 1e-5) if equal else (1e-3 < difference < 1), difference
