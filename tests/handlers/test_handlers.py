"""What happens around the iterations: files that survive a kill, seeds, summaries and records."""

import csv
import json
import logging
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from ignite.engine import Engine, Events
from PIL import Image
from torch import nn
from tqdm import tqdm

from scripts.data.transforms import resize_image
from scripts.handlers import (
    CacheFill,
    Checkpoints,
    EpochSeed,
    EpochSummary,
    PanelWriter,
    ProgressBar,
    RunRecord,
    TensorBoard,
    Tracker,
    save_atomically,
)
from scripts.handlers.progress import epoch_line
from scripts.utils import screen

TERMS = {"task": 1.0, "distill": 2.0, "feature": 3.0}


def make_evaluator(metric: float = -1, epoch: int = -1) -> SimpleNamespace:
    """What the handlers read of an evaluator."""
    metrics = {"val_mean_dice": metric}
    return SimpleNamespace(
        state=SimpleNamespace(best_metric=metric, best_metric_epoch=epoch, epoch=epoch, metrics=metrics)
    )


def make_trainer(losses=((1.0, 1), (4.0, 2))) -> Engine:
    """An engine with an optimizer that goes through (loss, batch size) pairs, as SupervisedTrainer reports them."""

    def step(engine: Engine, batch: tuple[float, int]) -> list[dict]:
        engine.state.loss_terms = {name: batch[0] * factor for name, factor in TERMS.items()}
        return [{"loss": torch.tensor(batch[0])}] * batch[1]

    engine = Engine(step)
    engine.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    engine.losses = list(losses)
    return engine


def at_epoch(epoch: int, max_epochs: int = 10) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(epoch=epoch, max_epochs=max_epochs, iteration=0, epoch_length=3))


# atomic files


def test_crash_while_saving_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_atomically({"epoch": 1}, path)

    def half(content, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, random, signal, sys, time
import torch
from pathlib import Path
from scripts.handlers.checkpoints import save_atomically
path = Path(sys.argv[1])
torch.set_num_threads(1)  # OpenMP does not survive a fork
save_atomically({"count": 0, "data": torch.zeros(1)}, path)
for attempt in range(5):
    before = path.stat().st_mtime_ns
    child = os.fork()
    if child == 0:
        count = 0
        while True:
            count += 1
            save_atomically({"count": count, "data": torch.full((300_000,), float(count))}, path)
    while path.stat().st_mtime_ns == before:  # the child has begun to save
        time.sleep(0.01)
    time.sleep(random.uniform(0.0, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    content = torch.load(path, weights_only=True)
    assert (content["data"] == content["count"]).all() and content["count"] > 0
print("whole")
"""


def test_file_is_whole_after_each_of_five_kills(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "last.pt")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.stdout == "whole\n", result.stderr


# checkpoints


def test_best_file_is_named_after_epoch_and_dice_and_replaces_the_former(tmp_path):
    network, evaluator = nn.Linear(1, 1), make_evaluator(0.5, 1)
    checkpoints = Checkpoints(tmp_path, network, evaluator, {"network": network})
    checkpoints.save(at_epoch(1))
    assert {path.name for path in tmp_path.iterdir()} == {"best_epoch001_dice0.5000.pt", "last.pt"}
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.61238, 2
    checkpoints.save(at_epoch(2))
    checkpoints.save(at_epoch(3))
    assert {path.name for path in tmp_path.iterdir()} == {"best_epoch002_dice0.6124.pt", "last.pt"}
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["progress"] == {"epoch": 3, "best_metric": 0.61238, "best_metric_epoch": 2, "settings": {}}


def run_checkpoints(
    folder, network, evaluator, best_epochs: dict[int, float], max_epochs: int = 3, **options
) -> Engine:
    """A run in which the epochs of `best_epochs` have a new best metric."""
    engine = make_trainer()

    def validate(engine: Engine) -> None:
        if engine.state.epoch in best_epochs:
            evaluator.state.best_metric, evaluator.state.best_metric_epoch = (
                best_epochs[engine.state.epoch],
                engine.state.epoch,
            )

    engine.add_event_handler(Events.EPOCH_COMPLETED, validate)
    engine.state.max_epochs = max_epochs
    Checkpoints(folder, network, evaluator, {"network": network}, **options).attach(engine)
    return engine


class Tuned(nn.Linear):
    """A network that decides itself what its best file holds, as a teacher that is tuned does."""

    best_suffix = ".pth"

    def best_state(self) -> dict[str, torch.Tensor]:
        return {"tuned": self.weight.detach().clone()}


def test_best_of_the_run_is_published_as_the_network_gives_it_once_the_run_is_complete(tmp_path):
    network, published, seen = Tuned(1, 1), tmp_path / "published" / "model.pt", []
    engine = run_checkpoints(tmp_path / "run", network, make_evaluator(), {1: 0.4, 2: 0.5}, model_file=str(published))
    best = network.weight.detach().clone()
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(published.exists()))
    engine.add_event_handler(Events.EPOCH_STARTED(once=3), lambda: nn.init.zeros_(network.weight))
    engine.run(engine.losses)
    assert seen == [False, False, False]
    for path in (published, tmp_path / "run" / "best_epoch002_dice0.5000.pth"):
        assert torch.load(path, weights_only=True) == {"tuned": best}
    assert [path.name for path in published.parent.iterdir()] == ["model.pt"]


def test_run_that_fails_leaves_the_published_model(tmp_path):
    published = tmp_path / "model.pt"
    published.write_text("former")
    engine = run_checkpoints(tmp_path / "run", nn.Linear(1, 1), make_evaluator(), {1: 0.5}, model_file=published)

    def fail():
        raise FloatingPointError("the loss is nan")

    engine.add_event_handler(Events.EPOCH_STARTED(once=2), fail)
    with pytest.raises(FloatingPointError):
        engine.run(engine.losses)
    assert published.read_text() == "former"
    assert (tmp_path / "run" / "best_epoch001_dice0.5000.pt").is_file()


def test_run_that_stops_early_publishes_its_best(tmp_path):
    published = tmp_path / "model.pt"
    engine = run_checkpoints(tmp_path / "run", nn.Linear(1, 1), make_evaluator(), {1: 0.5}, model_file=published)
    engine.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda: engine.terminate())
    engine.run(engine.losses)
    assert engine.state.epoch == 2
    assert published.is_file()


def test_run_without_a_best_epoch_publishes_nothing_and_says_so(tmp_path, caplog):
    published = tmp_path / "model.pt"
    engine = run_checkpoints(tmp_path / "run", nn.Linear(1, 1), make_evaluator(), {}, model_file=published)
    engine.run(engine.losses)
    assert not published.exists()
    assert "holds no best_epoch* file" in caplog.text


@pytest.mark.parametrize("metric", [float("nan"), float("inf")])
def test_metric_that_is_no_number_is_never_best(tmp_path, metric):
    network, evaluator = nn.Linear(1, 1), make_evaluator(metric, 1)
    checkpoints = Checkpoints(tmp_path, network, evaluator, {})
    checkpoints.save(at_epoch(1))
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt"}
    assert evaluator.state.best_metric_epoch == -1  # the next epoch is best, whatever it is


def test_checkpoint_is_kept_every_interval(tmp_path):
    checkpoints = Checkpoints(tmp_path, nn.Linear(1, 1), make_evaluator(), {}, interval=2)
    for epoch in range(1, 6):
        checkpoints.save(at_epoch(epoch))
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "checkpoint_epoch002.pt", "checkpoint_epoch004.pt"}
    with pytest.raises(ValueError, match="the checkpoint interval must be at least 1 epoch, got 0"):
        Checkpoints(tmp_path, nn.Linear(1, 1), make_evaluator(), {}, interval=0)


def test_restored_run_has_weights_epoch_and_best_of_the_saved_one(tmp_path):
    network = nn.Linear(1, 1)
    saving = Checkpoints(tmp_path, network, make_evaluator(0.5, 3), {"network": network})
    saving.save(at_epoch(3))
    saving.save(at_epoch(4))
    other, evaluator, engine = nn.Linear(1, 1), make_evaluator(), at_epoch(0)
    Checkpoints(tmp_path, other, evaluator, {"network": other}, resume=tmp_path / "last.pt").restore(engine)
    assert other.weight == network.weight
    assert (engine.state.epoch, engine.state.iteration) == (4, 12)
    assert (evaluator.state.best_metric, evaluator.state.best_metric_epoch) == (0.5, 3)


def test_checkpoint_that_cannot_be_resumed_is_refused_when_attached(tmp_path):
    network = nn.Linear(1, 1)
    Checkpoints(tmp_path, network, make_evaluator(), {"network": network}).save(at_epoch(4))
    resumed = Checkpoints(tmp_path, network, make_evaluator(), {"network": network}, resume=tmp_path / "last.pt")
    with pytest.raises(ValueError, match="has completed 4 epochs of 4; pass a higher --training::num_epochs"):
        resumed.attach(at_epoch(0, max_epochs=4))
    resumed = Checkpoints(tmp_path, network, make_evaluator(), {"student": network}, resume=tmp_path / "last.pt")
    with pytest.raises(
        ValueError, match="training::resume: .*last.pt holds network, progress, expected progress, student: it was"
    ):
        resumed.attach(at_epoch(0))
    (tmp_path / "last.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="training::resume: .*last.pt is no checkpoint; pass the folder of a run"):
        resumed.attach(at_epoch(0))


def test_run_that_has_completed_its_epochs_goes_on_where_something_is_missing(tmp_path):
    network = nn.Linear(1, 1)
    Checkpoints(tmp_path, network, make_evaluator(), {"network": network}).save(at_epoch(4))
    options = {"resume": tmp_path / "last.pt", "unfinished": True}
    engine = make_trainer()
    engine.state.max_epochs = 4
    Checkpoints(tmp_path, network, make_evaluator(), {"network": network}, **options).attach(engine)
    engine.add_event_handler(Events.ITERATION_STARTED, lambda: pytest.fail("trained on"))
    engine.run(engine.losses)
    assert engine.state.epoch == 4


class Renamed(nn.Linear):
    """A module whose weights had other names in an earlier version."""

    @staticmethod
    def rename_former(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name.removeprefix("former."): tensor for name, tensor in state.items()}


def test_weights_of_an_earlier_version_are_read_under_their_names_of_today(tmp_path):
    former, loss = nn.Sequential(), Renamed(2, 1)
    former.add_module("former", nn.Linear(2, 1))
    Checkpoints(tmp_path, former, make_evaluator(), {"loss": former}).save(at_epoch(1))
    resumed = Checkpoints(tmp_path, loss, make_evaluator(), {"loss": loss}, resume=tmp_path / "last.pt")
    engine = make_trainer()
    engine.state.max_epochs = 4
    resumed.attach(engine)
    resumed.restore(at_epoch(0))
    assert torch.equal(loss.weight, former.former.weight)


def saved(folder, epoch: int = 4, network: nn.Module | None = None, **options):
    """A checkpoint of `epoch`, last.pt of `folder`."""
    network = network or nn.Linear(2, 1)
    Checkpoints(folder, network, make_evaluator(), {"network": network}, **options).save(at_epoch(epoch))
    return folder / "last.pt"


def resume(checkpoint, network: nn.Module | None = None, **options) -> None:
    """Attach a run that goes on from `checkpoint`; whatever it is refused for, it writes nothing."""
    network = network or nn.Linear(2, 1)
    before = {path: path.stat().st_mtime_ns for path in checkpoint.parent.rglob("*")}
    try:
        handler = Checkpoints(
            checkpoint.parent, network, make_evaluator(), {"network": network}, resume=checkpoint, **options
        )
        engine = make_trainer()
        engine.state.max_epochs = 10
        handler.attach(engine)
    finally:
        assert {path: path.stat().st_mtime_ns for path in checkpoint.parent.rglob("*")} == before


SETTINGS = {"training": {"lr": 1e-4, "seed": 0}, "data": {"dataset_dir": ROOT / "data"}, "epoch_length": 3}


def test_settings_are_kept_by_id_in_what_json_has(tmp_path):
    content = torch.load(saved(tmp_path, settings=SETTINGS), weights_only=True)
    assert content["progress"]["settings"] == {
        "training::lr": 1e-4,
        "training::seed": 0,
        "data::dataset_dir": str(ROOT / "data"),
        "epoch_length": 3,
    }
    resume(tmp_path / "last.pt", settings=SETTINGS)


def test_resuming_with_other_settings_is_refused_with_each_of_them(tmp_path):
    checkpoint = saved(tmp_path, settings=SETTINGS)
    changed = {**SETTINGS, "training": {"lr": 1e-3, "seed": 1}}
    match = (
        "last.pt was trained with other settings: training::lr was 0.0001 and is 0.001; training::seed was 0 and "
        "is 1. Pass"
    )
    with pytest.raises(ValueError, match=match):
        resume(checkpoint, settings=changed)
    with pytest.raises(ValueError, match="epoch_length was 'not recorded' and is 3"):
        resume(saved(tmp_path / "old"), settings=SETTINGS)


def test_long_settings_are_shown_where_they_differ(tmp_path):
    text = "x" * 500
    checkpoint = saved(tmp_path, settings={"augmentation": f"{text}15.0{text}"})
    with pytest.raises(
        ValueError, match=r"augmentation was \.{3}x{40}15\.0x{36}\.{3} and is \.{3}x{40}0\.0x{37}\.{4} Pass"
    ):
        resume(checkpoint, settings={"augmentation": f"{text}0.0{text}"})


def test_resuming_with_another_network_is_refused_with_its_keys_and_shapes(tmp_path):
    checkpoint = saved(tmp_path)
    match = (
        r"training::resume: the network in .*last.pt does not fit .*: weight is \(1, 2\) in the checkpoint and \(1, "
        r"5\) in this"
    )
    with pytest.raises(ValueError, match=match):
        resume(checkpoint, nn.Linear(5, 1))
    with pytest.raises(ValueError, match="bias is in the checkpoint only"):
        resume(checkpoint, nn.Linear(2, 1, bias=False))
    with pytest.raises(ValueError, match="bias is missing in the checkpoint"):
        resume(saved(tmp_path / "other", network=nn.Linear(2, 1, bias=False)))


def test_resuming_from_before_the_last_epoch_is_refused_and_a_copy_is_not(tmp_path):
    early = saved(tmp_path / "run", epoch=2).rename(tmp_path / "run" / "checkpoint_epoch002.pt")
    saved(tmp_path / "run", epoch=4)
    match = (
        "checkpoint_epoch002.pt is of epoch 2, but .*last.pt is of epoch 4, .* copy the checkpoint to the folder "
        "models/ of a new"
    )
    with pytest.raises(ValueError, match=match):
        resume(early)
    (tmp_path / "new" / "models").mkdir(parents=True)
    resume(early.rename(tmp_path / "new" / "models" / early.name))


def test_run_resumed_without_the_former_best_file_finds_its_own(tmp_path):
    network, evaluator = nn.Linear(1, 1), make_evaluator()
    Checkpoints(tmp_path, network, make_evaluator(0.9, 3), {"network": network}).save(at_epoch(4))
    Checkpoints(tmp_path, network, evaluator, {"network": network}, resume=tmp_path / "last.pt").restore(at_epoch(0))
    # 0.9 would never be beaten, and nothing would hold weights to evaluate
    assert evaluator.state.best_metric_epoch == -1


# progress


@pytest.fixture
def terminal(monkeypatch, capsys):
    """A terminal, whose bars are drawn anew in every step."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(screen, "tqdm", partial(tqdm, mininterval=0))


def test_progress_bar_shows_the_epoch_and_the_loss_terms(terminal, capsys):
    engine = make_trainer()
    ProgressBar(desc="train").attach(engine)
    engine.run(engine.losses, max_epochs=2)
    shown = capsys.readouterr().err
    assert "train 1/2" in shown
    assert "train 2/2" in shown
    assert "task=" in shown
    assert "distill=" in shown


def test_progress_bar_works_on_an_engine_without_loss_terms(terminal, capsys):
    engine = Engine(lambda engine, batch: None)
    ProgressBar(desc="validate").attach(engine)
    engine.run([1, 2], max_epochs=1)
    shown = capsys.readouterr().err
    assert "validate:" in shown
    assert "2/2" in shown


def test_bar_is_gone_before_the_lines_that_an_epoch_ends_with(terminal, capsys):
    engine, bar = make_trainer(), ProgressBar(desc="train")
    bar.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: print("the epoch's line", file=sys.stderr))
    engine.run(engine.losses, max_epochs=1)
    before, after = capsys.readouterr().err.split("the epoch's line")
    assert before.endswith("\r")
    assert "train" not in after


def test_bar_of_a_run_that_fails_is_taken_away_and_the_error_goes_on(terminal):
    engine, bar = make_trainer(), ProgressBar(desc="train")
    bar.attach(engine)

    def fail():
        raise FloatingPointError("the loss is nan")

    engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), fail)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        engine.run(engine.losses, max_epochs=1)
    assert bar.progress.bar.disable  # closed


def test_short_epoch_without_a_terminal_shows_nothing(capsys, caplog):
    engine = make_trainer()
    ProgressBar(desc="train").attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run(engine.losses, max_epochs=1)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records


def test_epoch_draws_the_same_numbers_whatever_came_before():
    drawn, told = [], []
    handler = EpochSeed(3, SimpleNamespace(set_epoch=told.append))
    for epoch, wasted in ((2, 0), (2, 5), (3, 0)):
        torch.rand(wasted)
        handler(at_epoch(epoch))
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert told == [1, 1, 2]
    EpochSeed(4)(at_epoch(2))
    assert torch.rand(4).tolist() != drawn[0]


def test_epoch_seed_is_set_before_the_first_batch():
    engine, seen = make_trainer(), []
    EpochSeed(3).attach(engine)
    engine.add_event_handler(Events.GET_BATCH_STARTED(once=1), lambda: seen.append(torch.initial_seed()))
    engine.run(engine.losses, max_epochs=1)
    assert seen == [3 * 100_003 + 1]


def read_rows(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_summary_weighs_each_batch_by_its_images(tmp_path):
    engine, evaluator = make_trainer([(1.0, 1), (4.0, 2)]), make_evaluator(0.5, 1)
    EpochSummary(tmp_path, evaluator).attach(engine)
    engine.run(engine.losses, max_epochs=2)
    first, second = read_rows(tmp_path / "history.csv")
    assert float(first["loss"]) == pytest.approx(3.0)  # (1 * 1 + 2 * 4) / 3, not (1 + 4) / 2
    assert float(first["distill"]) == pytest.approx(6.0)
    assert float(first["feature"]) == pytest.approx(9.0)
    assert float(first["lr"]) == 0.5
    assert 0 <= float(first["data_wait"]) <= 1
    assert first["val_mean_dice"] == "0.5"
    assert second["val_mean_dice"] == ""  # the second had no validation


def test_summary_of_a_resumed_run_replaces_the_epochs_that_it_repeats(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,loss\n1,9.0\n2,8.0\n3,7.0\n")
    engine = make_trainer()
    EpochSummary(tmp_path).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "epoch", 1))
    engine.run(engine.losses, max_epochs=2)
    assert [(row["epoch"], float(row["loss"])) for row in read_rows(tmp_path / "history.csv")] == [
        ("1", 9.0),
        ("2", 3.0),
    ]


def test_summary_is_a_short_line_on_the_screen_and_a_long_one_in_the_log(tmp_path, caplog):
    engine, evaluator = make_trainer(), make_evaluator(0.5, 1)
    EpochSummary(tmp_path, evaluator).attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run(engine.losses, max_epochs=1)
    lines = {record.name: record.message for record in caplog.records}
    assert set(lines) == {"scripts.screen", "scripts.handlers.progress"}
    shown = r"epoch 1/1  loss 3         Dice 0\.5000  best 0\.5000 \(epoch 1\)  \d+\.\d s  left 0 s"
    assert re.fullmatch(shown, lines["scripts.screen"])
    logged = lines["scripts.handlers.progress"]
    assert logged.startswith("epoch 1: loss 3, task 3, distill 6, feature 9, lr 0.5, val_mean_dice 0.5 (")
    assert "waiting for data" in logged


@pytest.mark.parametrize("loss", [0.5, 1.23456e-05, 123456.7, 1e20, float("nan")])
@pytest.mark.parametrize(("epoch", "max_epochs"), [(1, 2), (7, 150), (9998, 9999)])
@pytest.mark.parametrize("left", [0.0, 59.0, 5400.0, 999 * 3600.0 + 59 * 60])
def test_line_of_an_epoch_has_at_most_110_characters(loss, epoch, max_epochs, left):
    row = {"epoch": epoch, "loss": loss, "seconds": 12345.6, "val_mean_dice": 0.87654}
    line = epoch_line(row, max_epochs, (0.87654, epoch), left)
    assert len(line) <= 110
    assert "\n" not in line
    assert line.startswith(f"epoch {epoch:>{len(str(max_epochs))}}/{max_epochs}  loss ")


def test_lines_of_the_epochs_of_a_run_stand_below_each_other():
    rows = [{"epoch": epoch, "loss": 0.5 / epoch, "seconds": 3.2} for epoch in (7, 8, 100)]
    rows[1]["val_mean_dice"] = 0.8
    lines = [epoch_line(row, 150, (0.8, 8) if row["epoch"] > 7 else None, 60.0) for row in rows]
    assert lines == [
        "epoch   7/150  loss 0.07143   Dice      -  best -  3.2 s  left 60 s",
        "epoch   8/150  loss 0.0625    Dice 0.8000  best 0.8000 (epoch   8)  3.2 s  left 60 s",
        "epoch 100/150  loss 0.005     Dice      -  best 0.8000 (epoch   8)  3.2 s  left 60 s",
    ]


def test_summary_tells_the_time_that_is_left(tmp_path, caplog, monkeypatch):
    """From the mean of the epochs of this process, also of one that resumes."""
    clock = iter(range(0, 100_000, 10))
    monkeypatch.setattr("scripts.handlers.progress.time.perf_counter", lambda: float(next(clock)))
    engine = make_trainer()
    EpochSummary(tmp_path).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: setattr(engine.state, "epoch", 8))
    with caplog.at_level(logging.INFO, "scripts.screen"):
        engine.run(engine.losses, max_epochs=10)
    first, second = [record.message for record in caplog.records if record.name == "scripts.screen"]
    assert first.endswith("left 70 s")  # the clock has been asked 8 times in this epoch
    assert second.endswith("left 0 s")


# the cache


class Filled(nn.Module):
    """A teacher with a cache, which says what it was filled with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[torch.Tensor], int]] = []

    def fill(self, images, count: int) -> None:
        self.calls.append((list(images), count))


def images_of(count: int, size: int) -> list[dict]:
    return [{"image": torch.rand(1, size, size)} for _ in range(count)]


def final_evaluation(dataset, **networks) -> partial:
    return partial(print, dataset=dataset, networks=networks, img_size=8)


def test_cache_is_filled_with_the_images_of_panels_and_evaluation_and_their_number(tmp_path):
    teacher, engine, panels, test = Filled(), make_trainer(), images_of(6, 8), images_of(3, 12)
    CacheFill(teacher, panels, final_evaluation(test, student=nn.Identity(), teacher=teacher)).attach(engine)
    engine.run(engine.losses, max_epochs=1)
    engine.run(engine.losses, max_epochs=2)  # as in the next round of a federation
    ((images, count),) = teacher.calls
    expected = [case["image"] for case in panels[:4]] + [resize_image(case["image"], 8) for case in test]
    assert count == len(expected) == 7
    assert len(images) == 7
    assert all(map(torch.equal, images, expected))


@pytest.mark.parametrize("evaluation", [None, final_evaluation(images_of(3, 8), control=nn.Identity())])
def test_cache_is_not_filled_with_images_that_the_teacher_is_not_asked_about(evaluation):
    teacher = Filled()
    CacheFill(teacher, images_of(2, 8), evaluation)()
    CacheFill(teacher, None, evaluation)()
    assert [(len(images), count) for images, count in teacher.calls] == [(2, 2), (0, 0)]


@pytest.mark.parametrize("teacher", [None, nn.Identity()])
def test_run_without_a_cache_fills_none(teacher):
    engine = make_trainer()
    CacheFill(teacher, images_of(2, 8)).attach(engine)
    assert not engine.has_event_handler(Events.STARTED)


# records


def test_event_file_holds_the_three_terms_the_rate_and_the_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    engine, evaluator = make_trainer([(1.0, 1), (4.0, 2)]), make_evaluator(0.5, 2)
    TensorBoard(tmp_path / "tensorboard", evaluator).attach(engine)
    assert not (tmp_path / "tensorboard").exists()
    engine.run(engine.losses, max_epochs=2)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss",
        "train/task",
        "train/distill",
        "train/feature",
        "train/lr",
        "val/val_mean_dice",
    }
    assert [(event.step, event.value) for event in events.Scalars("train/distill")] == [
        (1, 2.0),
        (2, 8.0),
        (3, 2.0),
        (4, 8.0),
    ]
    assert [(event.step, event.value) for event in events.Scalars("val/val_mean_dice")] == [(2, 0.5)]


def test_event_file_holds_the_panels_of_their_epochs_made_smaller(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    engine, panels = make_trainer([(1.0, 1)]), tmp_path / "visualizations"
    panels.mkdir()

    def draw(engine: Engine) -> None:
        if engine.state.epoch == 2:
            Image.new("RGB", (1200, 600), "red").save(panels / "epoch_002.png")

    engine.add_event_handler(Events.EPOCH_COMPLETED, draw)
    TensorBoard(tmp_path / "tensorboard", panels=panels).attach(engine)
    engine.run(engine.losses, max_epochs=3)
    (event,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("panels")
    assert (event.step, event.width, event.height) == (2, 960, 480)


def test_tracker_starts_its_record_with_the_network_and_tells_it_of_every_epoch():
    engine, told = make_trainer(), []
    engine.network = nn.Linear(1, 1)
    record = SimpleNamespace(
        start=lambda network: told.append(network), log_epochs=lambda: told.append(engine.state.epoch)
    )
    Tracker(record).attach(engine)
    engine.run(engine.losses, max_epochs=2)
    assert told == [engine.network, 1, 2]


def test_event_files_of_a_resumed_run_hold_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    network, folder, boards = nn.Linear(1, 1), tmp_path / "tensorboard", []

    def start(losses: list, **options) -> Engine:
        engine, evaluator = make_trainer(losses), make_evaluator(0.5, 1)
        engine.state.max_epochs = 3
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: setattr(evaluator.state, "epoch", engine.state.epoch))
        Checkpoints(tmp_path / "models", network, evaluator, {"network": network}, **options).attach(engine)
        boards.append(TensorBoard(folder, evaluator))
        boards[-1].attach(engine)
        return engine

    def fail():
        raise KeyboardInterrupt

    engine = start([(1.0, 1), (2.0, 1), (3.0, 1)])
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=5), fail)  # 4 and 5 are logged, and in no checkpoint
    with pytest.raises(KeyboardInterrupt):
        engine.run(engine.losses)
    boards[-1].writer.flush()  # what the writer's thread does by itself every two minutes
    engine = start([(7.0, 1), (8.0, 1), (9.0, 1)], resume=tmp_path / "models" / "last.pt")
    engine.run(engine.losses)
    events = EventAccumulator(str(folder)).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert logged == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 7.0), (5, 8.0), (6, 9.0), (7, 7.0), (8, 8.0), (9, 9.0)]
    assert [event.step for event in events.Scalars("val/val_mean_dice")] == [1, 2, 3]


class Constant(nn.Module):
    """A network that says how often it has run."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.full((len(image), 1, 4, 4), self.value)


def test_panels_are_drawn_every_interval_and_the_teacher_runs_once(tmp_path):
    student, teacher, drawn = Constant(1.0), Constant(-1.0), []
    dataset = [{"image": torch.rand(1, 8, 8), "label": torch.zeros(1, 8, 8)} for _ in range(3)]
    engine = make_trainer()
    PanelWriter(
        tmp_path,
        dataset,
        student,
        inferer=lambda images, network: network(images),
        device=torch.device("cpu"),
        draw=lambda rows, path: drawn.append((rows, path)),
        classify=lambda logits: (logits > 0).long(),
        teacher=teacher,
        interval=2,
        num_cases=2,
    ).attach(engine)
    engine.run(engine.losses, max_epochs=5)
    assert [path.name for _, path in drawn] == ["epoch_002.png", "epoch_004.png"]
    assert (student.calls, teacher.calls) == (2, 1)
    rows = drawn[1][0]
    assert len(rows) == 2
    assert all(set(row) == {"image", "label", "student", "teacher"} for row in rows)
    assert rows[0]["student"].shape == (8, 8)
    assert rows[0]["student"].all()
    assert not rows[0]["teacher"].any()


def test_panels_without_a_teacher_have_none(tmp_path):
    drawn = []
    dataset = [{"image": torch.rand(1, 8, 8), "label": torch.zeros(1, 8, 8)}]
    writer = PanelWriter(
        tmp_path,
        dataset,
        Constant(1.0),
        lambda images, network: network(images),
        torch.device("cpu"),
        lambda rows, path: drawn.extend(rows),
        lambda logits: (logits > 0).long(),
    )
    writer(at_epoch(10))
    assert len(drawn) == 1
    assert set(drawn[0]) == {"image", "label", "student"}


def run_at(path: Path, resumed: bool = False, launch: str | None = None, log_name: str = "distill.log"):
    """What the record reads of a RunFolder."""
    return SimpleNamespace(path=path, resumed=resumed, launch=launch, log_name=log_name)


def test_record_holds_the_config_and_the_log(tmp_path):
    engine = make_trainer()
    RunRecord(run_at(tmp_path / "run", log_name="teacher.log"), {"training": {"lr": 1e-4}}).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: logging.getLogger("some").warning("seen"))
    assert not (tmp_path / "run").exists()
    handlers = list(logging.getLogger().handlers)
    engine.run(engine.losses, max_epochs=1)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"training": {"lr": 1e-4}}
    assert "WARNING some: seen" in (tmp_path / "run" / "teacher.log").read_text()
    assert logging.getLogger().handlers == handlers


def test_record_tells_why_a_run_ended_and_the_error_goes_on(tmp_path):
    engine = make_trainer()
    RunRecord(run_at(tmp_path / "run"), {}).attach(engine)

    def fail():
        raise FloatingPointError("the loss is nan")

    engine.add_event_handler(Events.ITERATION_COMPLETED, fail)
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        engine.run(engine.losses, max_epochs=1)
    assert (tmp_path / "run" / "distill.log").read_text().count("the run ends: the loss is nan") == 1
    assert logging.getLogger().handlers == handlers


def test_new_run_never_writes_into_an_existing_folder(tmp_path):
    engine = make_trainer()
    RunRecord(run_at(tmp_path), {}).attach(engine)
    with pytest.raises(
        FileExistsError, match=r"the run folder .* is there already, .* pass --run_folder::timestamp NAME, or go on"
    ):
        engine.run(engine.losses, max_epochs=1)
    assert not list(tmp_path.iterdir())


def test_resumed_run_goes_on_in_its_folder_and_appends_to_the_log(tmp_path):
    (tmp_path / "distill.log").write_text("before\n")
    engine = make_trainer()
    RunRecord(run_at(tmp_path, resumed=True), {}).attach(engine)
    engine.run(engine.losses, max_epochs=1)
    log = (tmp_path / "distill.log").read_text()
    assert log.startswith("before\n")
    assert "run folder" in log


def test_config_of_a_program_may_hold_paths(tmp_path):
    record = RunRecord(run_at(tmp_path / "run"), {"data": {"dataset_dir": tmp_path}})
    record.start()
    record.stop()
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"data": {"dataset_dir": str(tmp_path)}}


def test_record_names_its_launch_so_that_a_restart_finds_the_folder(tmp_path):
    record = RunRecord(run_at(tmp_path / "run", launch="job 17"), {})
    record.start()
    record.stop()
    assert (tmp_path / "run" / "launch.txt").read_text() == "job 17"


def test_log_holds_what_was_said_before_it_was_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(screen, "EARLY_RECORDS", screen.EarlyRecords())
    screen.keep_early_records()
    record = RunRecord(run_at(tmp_path / "run"), {})
    try:
        logging.getLogger("scripts").setLevel(logging.INFO)
        logging.getLogger("scripts.networks").info("the student is read")
        record.start()
        record.stop()
    finally:
        logging.getLogger().removeHandler(screen.EARLY_RECORDS)
        logging.getLogger("scripts").setLevel(logging.NOTSET)
    log = (tmp_path / "run" / "distill.log").read_text()
    assert log.count("INFO scripts.networks: the student is read") == 1
    assert log.index("the student is read") < log.index("run folder")
