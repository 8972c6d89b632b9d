"""Checkpoints: files that survive a kill, what is best, what is published, and what can be resumed."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from handler_stand_ins import at_epoch, make_evaluator, make_trainer
from ignite.engine import Engine, Events
from torch import nn

from scripts.handlers import Checkpoints, save_atomically
from scripts.handlers import checkpoints as checkpoints_module
from scripts.run.run_folder import find_best


def test_crash_while_saving_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_atomically({"epoch": 1}, path)

    def half(content, file):
        file.write(b"half")
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
    with pytest.raises(
        ValueError, match="training::resume .*last.pt cannot be read as weights: .*; pass the folder of a run"
    ):
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


class Killed(Exception):
    """In the place of a kill."""


def saving_files(monkeypatch, allowed: int) -> None:
    """Let the process be killed before it has written one file more."""
    done, save = [], checkpoints_module.save_atomically

    def count(content, path):
        if len(done) == allowed:
            raise Killed
        done.append(path.name)
        save(content, path)

    monkeypatch.setattr(checkpoints_module, "save_atomically", count)


@pytest.mark.parametrize("files", [0, 1, 2])
def test_kill_between_the_files_of_an_epoch_loses_none(tmp_path, monkeypatch, files):
    """Epoch 2 is a new best and due a checkpoint that is kept: three files."""
    network, evaluator = nn.Linear(1, 1), make_evaluator(0.5, 1)
    options = {"states": {"network": network}, "interval": 2}
    Checkpoints(tmp_path, network, evaluator, **options).save(at_epoch(1))
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.6, 2
    with monkeypatch.context() as patch, pytest.raises(Killed):
        saving_files(patch, files)
        Checkpoints(tmp_path, network, evaluator, **options).save(at_epoch(2))
    assert (tmp_path / "best_epoch001_dice0.5000.pt").is_file()

    engine = at_epoch(0)
    resumed = Checkpoints(tmp_path, network, evaluator, **options, resume=tmp_path / "last.pt")
    resumed.restore(engine)
    assert engine.state.epoch == 1
    assert find_best(tmp_path).name == "best_epoch001_dice0.5000.pt"
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.6, 2
    resumed.save(at_epoch(2))
    names = {"best_epoch002_dice0.6000.pt", "checkpoint_epoch002.pt", "last.pt"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_kill_before_the_former_best_is_removed_leaves_the_latest_by_its_name(tmp_path):
    network, evaluator = nn.Linear(1, 1), make_evaluator(0.6, 2)
    handler = Checkpoints(tmp_path, network, evaluator, {"network": network}, resume=tmp_path / "last.pt")
    handler.save(at_epoch(2))
    former = tmp_path / "best_epoch001_dice0.5000.pt"
    torch.save({}, former)  # newer by its time
    assert find_best(tmp_path).name == "best_epoch002_dice0.6000.pt"
    handler.restore(at_epoch(0))
    assert not former.exists()
