"""What a user sees of an epoch, and its seed."""

import csv
import io
import logging
import re
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from handler_stand_ins import at_epoch, make_evaluator, make_trainer
from ignite.engine import Engine, Events
from tqdm import tqdm

from scripts.handlers import EpochSeed, EpochSummary, ProgressBar
from scripts.handlers.progress import epoch_line
from scripts.utils import screen


class Terminal(io.StringIO):
    """What a terminal is shown, with every step of a bar."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Opens one in the place of stderr."""

    def open_one() -> Terminal:
        shown = Terminal()
        monkeypatch.setattr(sys, "stderr", shown)
        monkeypatch.setattr(screen, "tqdm", partial(tqdm, mininterval=0))
        return shown

    return open_one


def test_progress_bar_shows_the_epoch_and_the_loss_terms(terminal):
    engine, shown = make_trainer(), terminal()
    ProgressBar(desc="train").attach(engine)
    engine.run(engine.losses, max_epochs=2)
    for text in ("train 1/2", "train 2/2", "task=", "distill="):
        assert text in shown.getvalue()


def test_progress_bar_works_on_an_engine_without_loss_terms(terminal):
    engine, shown = Engine(lambda engine, batch: None), terminal()
    ProgressBar(desc="validate").attach(engine)
    engine.run([1, 2], max_epochs=1)
    assert "validate:" in shown.getvalue()
    assert "2/2" in shown.getvalue()


def test_bar_is_gone_before_the_lines_that_an_epoch_ends_with(terminal):
    engine, shown = make_trainer(), terminal()
    ProgressBar(desc="train").attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: shown.write("the line of the epoch"))
    engine.run(engine.losses, max_epochs=1)
    before, after = shown.getvalue().split("the line of the epoch")
    assert re.search(r"\r +\r$", before)  # blanks over the bar
    assert after == ""


def test_bar_of_a_run_that_fails_is_taken_away_and_the_error_goes_on(terminal):
    engine, shown = make_trainer(), terminal()
    ProgressBar(desc="train").attach(engine)

    def fail():
        raise FloatingPointError("the loss is nan")

    engine.add_event_handler(Events.ITERATION_STARTED(once=2), fail)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        engine.run(engine.losses, max_epochs=1)
    assert "1/2" in shown.getvalue()
    assert re.search(r"\r +\r$", shown.getvalue())


def test_short_epoch_without_a_terminal_shows_nothing(capsys, caplog):
    engine = make_trainer()
    ProgressBar(desc="train").attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run(engine.losses, max_epochs=1)
    assert capsys.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("scripts")]


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
    lines = {record.name: record.message for record in caplog.records if record.name.startswith("scripts")}
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
