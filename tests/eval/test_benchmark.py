"""The benchmark: the whole program at test size, what it compares with what, and its arithmetic."""

import json
import re
import time

import pytest
import torch
from conftest import ROOT

from eval.benchmark.__main__ import main
from eval.benchmark.bundle_runs import fill, train
from eval.benchmark.cache_reads import look, read_batches
from eval.benchmark.cases import load_cases, write_datalists
from eval.benchmark.contenders import list_contenders, select
from eval.benchmark.data_sets import keep_items
from eval.benchmark.fits import fit_line, fit_power
from eval.benchmark.measure import peak_memory
from eval.benchmark.plots import main as draw
from eval.benchmark.program import run_all, run_apart
from eval.benchmark.reference_loop import reference_loss
from eval.benchmark.settings import Settings, quick_settings
from eval.benchmark.students import EXPORTS, mean_dice
from eval.benchmark.targets import SAME_ALLOCATOR, TARGETS, derive, judge
from eval.benchmark.teachers import compare_logits, stock_teacher, write_weights
from scripts.export.formats import FORMATS
from scripts.losses import distillation_loss
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.teacher import build_base
from scripts.utils.machine import without_folders


@pytest.fixture(scope="module")
def report_file(tmp_path_factory):
    """What `python -m eval.benchmark --quick` writes."""
    path, threads = tmp_path_factory.mktemp("benchmark") / "benchmark.json", torch.get_num_threads()
    main(["--quick", "--threads", "1", "--output", str(path)])
    torch.set_num_threads(threads)
    return path


@pytest.fixture
def report(report_file):
    return json.loads(report_file.read_text())


# the program


@pytest.mark.slow
def test_every_target_has_a_value(report):
    assert [row["name"] for row in report["targets"]] == [target.name for target in TARGETS]
    assert all(isinstance(row["value"], float) and row["met"] in (True, False) for row in report["targets"])


@pytest.mark.slow
def test_every_ratio_with_our_allocator_on_both_sides_has_a_value(report):
    assert [row["name"] for row in report["same_allocator"]] == [ratio.name for ratio in SAME_ALLOCATOR]
    assert all(row["value"] > 0 for row in report["same_allocator"])


@pytest.mark.slow
def test_report_has_figures_settings_machine_versions_and_revision(report):
    assert report["machine"]["threads"] == 1
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert report["settings"]["quick"]
    assert report["settings"]["data"] == "phantoms"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", report["date"])
    assert report["command"].startswith("python -m eval.benchmark --quick")
    assert {"revision", "seed", "notes", "fits", "derived"} <= report.keys()
    assert report["figures"]["fill_replay_vit_b"]["cache_bytes"] > 0
    assert report["figures"]["control"]["epochs"] == report["settings"]["epochs"]


@pytest.mark.slow
def test_report_has_no_paths_of_the_machine(report_file):
    text = report_file.read_text()
    assert str(ROOT.parent) not in text
    assert str(report_file.parent) not in text
    assert "benchmark-" not in text


@pytest.mark.slow
def test_stock_and_fast_teacher_compute_the_same(report):
    figures = report["figures"]["teacher_vit_b_fast_fp32"]
    assert figures["scaled_difference"] < 1e-4
    assert figures["mask_dice"] > 0.999
    assert report["figures"]["teacher_vit_b_stock_fp32"]["logit_deviation"] > 0.01


@pytest.mark.slow
def test_trainings_with_a_complete_cache_never_load_the_teacher(report):
    loaded = {name: found["teacher_loaded"] for name, found in report["figures"].items() if "teacher_loaded" in found}
    assert [name for name, was_loaded in loaded.items() if was_loaded] == ["online_vit_b"]
    assert {"control", "replay_vit_b", "replay_vit_h", "warp_vit_b"} <= loaded.keys()


@pytest.mark.slow
def test_formats_are_compared_on_images_that_int8_was_not_calibrated_on(report):
    figures = report["figures"]
    assert figures["exports"]["calibration"]["list"] == "training"
    runs_here = [name for name in EXPORTS if FORMATS[name].lacks() is None]
    assert {figures[f"student_infer_{name}"]["list"] for name in ("fp32", "bf16", *runs_here)} == {"validation"}


@pytest.mark.slow
def test_plots_are_small_files(report_file, tmp_path, capsys):
    draw(["--report", str(report_file), "--output_dir", str(tmp_path)])
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sorted(sizes) == ["performance_growth.png", "performance_memory.png", "performance_speed.png"]
    assert all(0 < size < 150_000 for size in sizes.values())


@pytest.mark.slow
def test_contender_runs_in_a_process_of_its_own(tmp_path):
    settings = quick_settings(str(tmp_path), threads=1)
    write_datalists(settings)
    figures = run_apart("student_step_fp32", settings)
    assert figures["step_seconds"] > 0
    assert figures["peak_mb"] > 100


@pytest.mark.slow
def test_training_draws_a_panel_and_ends_with_the_final_evaluation(tmp_path):
    settings = quick_settings(str(tmp_path), threads=1)
    write_datalists(settings)
    train(settings, "control", epochs=3)
    folder = tmp_path / "logs" / "cases" / "cpu_control"
    assert [path.name for path in (folder / "visualizations").glob("epoch_*")] == ["epoch_002.png"]
    assert (folder / "test_results.txt").is_file()


@pytest.mark.slow
def test_seconds_of_a_fill_include_the_loading_of_the_weights(tmp_path, monkeypatch):
    def build(*arguments):
        time.sleep(5)
        return build_base(*arguments)

    settings = quick_settings(str(tmp_path), threads=1)
    write_datalists(settings)
    write_weights(settings, "vit_b")
    monkeypatch.setattr("scripts.networks.frozen_teacher.build_base", build)
    assert fill(settings, "fill", "warp", "vit_b", 2)["fill_seconds"] > 5


def test_contender_that_fails_does_not_end_the_run(tmp_path):
    settings = quick_settings(str(tmp_path), threads=1)
    contenders = select(list_contenders(settings), ["replay_vit_b", "student_step_fp32"])
    outcomes = {"fill_replay_vit_b": {"error": "no disk"}}
    run_all(contenders, settings, lambda name, _: outcomes.get(name, {"step_seconds": 1.0}), figures := {})
    assert figures["fill_replay_vit_b"]["error"] == "no disk"
    assert figures["replay_vit_b"]["error"] == "needs fill_replay_vit_b, which failed"
    assert figures["student_step_fp32"]["step_seconds"] == 1.0
    row = next(row for row in judge(figures) if row["name"].startswith("epoch: replay_vit_b"))
    assert row["value"] is None
    assert row["met"] is None


def test_interrupted_run_writes_what_it_has_beside_the_report(tmp_path, monkeypatch):
    def run(name, _):
        if name == "student_step_ours":
            raise KeyboardInterrupt
        return {"step_seconds": 1.0}

    monkeypatch.setattr("eval.benchmark.program.run_here", run)
    output = tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        main(["--quick", "--only", "student_step_*", "--output", str(output)])
    report = json.loads(output.with_suffix(".partial.json").read_text())
    assert report["figures"]["student_step_fp32"]["step_seconds"] == 1.0
    assert "student_step_ours" in report["missing"]
    assert not output.exists()


def test_contender_runs_after_all_that_it_needs(tmp_path):
    for settings in (Settings(str(tmp_path)), quick_settings(str(tmp_path), 1)):
        seen = set()
        for contender in list_contenders(settings):
            assert seen.issuperset(contender.needs)
            seen.add(contender.name)
        assert Settings.from_json(settings.to_json()).teacher("vit_b") == settings.teacher("vit_b")


def test_only_takes_what_is_needed_along_and_refuses_other_names(tmp_path):
    contenders = list_contenders(quick_settings(str(tmp_path), 1))
    assert [c.name for c in select(contenders, ["replay_vit_b"])] == [
        "weights_vit_b",
        "fill_replay_vit_b",
        "replay_vit_b",
    ]
    with pytest.raises(ValueError, match="--only vit_x matches no contender"):
        select(contenders, ["vit_x"])


def test_contenders_with_our_allocator_stay_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    kept = [c for c in list_contenders(Settings(str(tmp_path))) if c.name.endswith("kept_memory")]
    assert {c.name for c in kept} >= {f"reference_{model}_kept_memory" for model in ("vit_b", "vit_l", "vit_h")}
    assert all(c.device == "cpu" and c.options["keep_memory"] for c in kept)


def test_lists_are_as_long_as_asked_for_or_as_the_data_set(phantoms, tmp_path):
    settings = Settings(str(tmp_path), num_images=4, num_validation=64, num_test=1)
    write_datalists(settings, phantoms)
    whole = json.loads((phantoms / "dataset.json").read_text())
    lists = json.loads((tmp_path / "cases" / "4.json").read_text())
    assert [len(lists[split]) for split in ("training", "validation", "test")] == [4, len(whole["validation"]), 1]
    images, labels = load_cases(settings, 64, split="validation")
    assert len(images) == len(labels) == len(whole["validation"])


def test_data_set_with_too_few_cases_is_refused(phantoms, tmp_path):
    with pytest.raises(ValueError, match="has 6 training cases, expected at least 8"):
        write_datalists(quick_settings(str(tmp_path), 1), phantoms)


# what is compared


@pytest.mark.slow
def test_stock_lite_medsam_computes_what_the_fast_one_does(tmp_path):
    settings = Settings(str(tmp_path))
    write_weights(settings, "lite_medsam")
    image = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        stock = stock_teacher(settings, "lite_medsam")(image).logits
        (fast_teacher,) = FrozenTeacher(**settings.teacher("lite_medsam"), precision="fp32").load()
        fast = fast_teacher(image).logits
    assert compare_logits(fast, stock)["scaled_difference"] < 1e-3


def test_loss_of_the_reference_is_the_loss_of_the_bundle():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 16, 16, generator=generator), torch.randn(2, 1, 8, 8, generator=generator)
    label = torch.randint(0, 2, (2, 1, 16, 16), generator=generator)
    ours = distillation_loss()(student, label, teacher)["loss"]
    torch.testing.assert_close(reference_loss(student, label, teacher), ours)


def test_what_grows_with_the_data_is_measured_on_entries_and_items_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.benchmark.cache_reads.BATCHES", 2)
    settings = quick_settings(str(tmp_path), 1)
    for features in (False, True):
        read = read_batches(settings, features)
        assert all(read[f"{way}_seconds"] > 0 for way in ("first", "batch", "float", "file"))
    assert look(settings, 20)["look_seconds"] > 0
    assert keep_items(settings, 20)["batch_seconds"] > 0


# arithmetic


def test_growth_of_memory_is_that_of_the_largest_data_set_above_the_smallest():
    sizes = {"data_5": (5, 3.0), "data_40": (40, 9.0), "data_10": (10, 4.0)}
    figures = {name: {"images": count, "peak_mb": megabytes} for name, (count, megabytes) in sizes.items()}
    assert derive({**figures, "data_90": {"error": "no disk"}})["data_growth"] == {"extra_mb": 6.0}
    assert "data_growth" not in derive({"data_5": figures["data_5"]})


def test_compared_masks_are_cut_at_each_image_median():
    stock = torch.arange(8.0).view(1, 1, 2, 4)
    moved = stock.flip(3)  # each row backwards: the upper half stays the upper half
    found = compare_logits(moved, stock)
    assert found["max_difference"] == 3
    assert found["scaled_difference"] == pytest.approx(3 / float(stock.std()))
    assert compare_logits(stock + 5, stock)["mask_dice"] == 1
    assert compare_logits(-stock, stock)["mask_dice"] == 0


def test_megabyte_is_a_million_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.benchmark.measure.STATUS", tmp_path / "status")
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t 1000000 kB\n")
    assert peak_memory() == {"peak_mb": 1024.0}


def test_mean_dice_counts_two_empty_masks_as_one():
    masks = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool().view(2, 1, 2, 2)
    labels = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]]).view(2, 1, 2, 2)
    assert mean_dice(masks, labels) == pytest.approx((2 / 3 + 1) / 2)


def test_target_compares_a_ratio_with_its_limit():
    seconds = {"cuda_reference_vit_b": 30.0, "cuda_replay_vit_b": 2.0, "cuda_control": 1.0}
    figures = {name: {"epoch_seconds": value, "peak_mb": 1.0, "data_wait": 0.1} for name, value in seconds.items()}
    rows = {row["name"]: row for row in judge(figures, "cuda_")}
    row = rows["epoch: reference / ours, its cache complete, vit_b"]
    assert row == {"name": row["name"], "value": 15.0, "target": ">= 10", "met": True}
    assert rows["epoch: replay_vit_b, its cache complete / control"]["met"] is False


def test_best_format_keeps_the_dice():
    formats = {"fp32": (1.0, 0.0), "openvino_bf16": (0.3, 0.001), "openvino_int8": (0.2, 0.01)}
    figures = {f"student_infer_{name}": {"step_seconds": s, "dice_change": d} for name, (s, d) in formats.items()}
    row = next(row for row in judge(figures) if "inference: fp32" in row["name"])
    assert row["value"] == pytest.approx(1 / 0.3)
    assert row["met"]


def test_fits_find_exponent_and_slope():
    assert fit_power([1, 2, 4], [3, 12, 48]) == pytest.approx({"exponent": 2, "factor": 3})
    assert fit_line([0, 1, 2], [5, 7, 9]) == pytest.approx({"slope": 2, "intercept": 5})


def test_absolute_paths_are_cut_to_their_last_part():
    text = "FileNotFoundError: {}b.pth, '{}g.json'; eval/x.py 3 s/epoch"
    assert without_folders(text.format("/a/", "/e/f/")) == text.format("", "")
