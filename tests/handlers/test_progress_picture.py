"""progress.png is drawn from history.csv after validated epochs, and never ends a training."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from handler_stand_ins import at_epoch, make_evaluator, make_trainer
from PIL import Image

from scripts.handlers import EpochSummary, ProgressPicture, progress_picture

HISTORY = "epoch,loss,task,lr,seconds,data_wait,val_mean_dice\n1,0.9,0.9,1e-3,3.0,0.1,\n2,0.5,0.5,1e-3,3.0,0.1,0.7\n"


def test_picture_is_drawn_of_a_training(tmp_path):
    engine, evaluator = make_trainer(), make_evaluator(0.5, 1)
    EpochSummary(tmp_path, evaluator).attach(engine)
    ProgressPicture(tmp_path, evaluator).attach(engine)
    engine.run(engine.losses, max_epochs=2)
    with Image.open(tmp_path / "progress.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "progress.png"]


def test_all_columns_are_drawn_and_epochs_without_a_value_are_gaps(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn, plot = {}, Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, x, y, **more: drawn.update({more["label"]: (x, y)}) or plot(self, x, y, **more)
    )
    (tmp_path / "history.csv").write_text(HISTORY)
    ProgressPicture(tmp_path)(at_epoch(2))
    assert set(drawn) == {"loss", "task", "lr", "seconds", "waiting for data", "val_mean_dice"}
    assert drawn["val_mean_dice"] == ((2,), (0.7,))
    assert drawn["waiting for data"][1] == pytest.approx((0.3, 0.3))


def test_epoch_that_was_not_validated_draws_nothing(tmp_path):
    (tmp_path / "history.csv").write_text(HISTORY)
    handler = ProgressPicture(tmp_path, make_evaluator(0.5, 1))
    handler(at_epoch(2))
    handler(at_epoch(3))
    assert not (tmp_path / "progress.png").exists()
    handler(at_epoch(1))
    assert (tmp_path / "progress.png").exists()


def test_short_epochs_are_passed_over_but_not_the_last(tmp_path, monkeypatch):
    """A drawing of 1 s is due again after 19 s."""
    now, drawn = [100.0], []
    monkeypatch.setattr(progress_picture, "draw_progress", lambda rows, path: now.__setitem__(0, now[0] + 1.0))
    monkeypatch.setattr(progress_picture, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    handler = ProgressPicture(tmp_path)
    for epoch in range(1, 11):  # of 7 s
        before = now[0]
        handler(at_epoch(epoch, max_epochs=10))
        drawn += [epoch] if now[0] > before else []
        now[0] += 7.0
    assert drawn == [1, 4, 7, 10]
    engine = at_epoch(11, max_epochs=20)
    engine.should_terminate, before = True, now[0]  # a training that stops early
    handler(engine)
    assert now[0] > before


def test_picture_that_cannot_be_drawn_is_one_line_in_the_log(tmp_path, monkeypatch, caplog):
    calls = []

    def fail(rows, path):
        calls.append(path)
        raise OSError("no space left on the disk")

    monkeypatch.setattr(progress_picture, "draw_progress", fail)
    handler = ProgressPicture(tmp_path)
    with caplog.at_level(logging.WARNING):
        handler(at_epoch(1))
        handler(at_epoch(2))
    assert [record.getMessage() for record in caplog.records] == [
        "progress.png is not drawn any more: no space left on the disk"
    ]
    assert len(calls) == 1


def test_other_ranks_draw_nothing(monkeypatch):
    engine = SimpleNamespace(add_event_handler=lambda *arguments: pytest.fail("registered"))
    monkeypatch.setattr("scripts.handlers.progress_picture.idist.get_rank", lambda: 1)
    ProgressPicture("folder").attach(engine)
