"""A training that is cut off at any point ends as one that was not: early stopping, a full disk, files of one epoch."""

import resource

import pytest
import torch
from conftest import run, workflow
from ignite.engine import Events

from scripts.handlers import Checkpoints
from scripts.run import run_folder as folders
from scripts.run.errors import describe, find_user_error
from scripts.run.history import read_history
from scripts.utils.digests import weights_digest


def epochs(folder) -> list[int]:
    return [row["epoch"] for row in read_history(folder)]


def weights(folder) -> str:
    return weights_digest(torch.load(folder / "models" / "last.pt", weights_only=True)["network"])


def fail_at(overrides, epoch, problem=KeyError, event=Events.EPOCH_STARTED):
    """A run that ends in the middle."""
    flow = workflow(overrides)
    flow.initialize()

    def fail(engine):
        if engine.state.epoch == epoch:
            raise problem

    flow.parser.get_parsed_content("train::trainer").add_event_handler(event, fail)
    with pytest.raises(Exception) as error:
        flow.run()
    return error.value


@pytest.mark.parametrize(("val_interval", "cuts", "last"), [(1, (3, 4), 4), (2, (4, 6), 8)])
def test_early_stopping_comes_in_the_epoch_in_which_it_would_have_come(overrides, run_folder, val_interval, cuts, last):
    overrides |= {
        "training::num_epochs": 20,
        "training::patience": 3,
        "training::lr": 1e-9,  # no epoch is better than the first
        "val_interval": val_interval,
        "final_evaluation": None,
    }
    run(overrides)
    assert epochs(run_folder) == list(range(1, last + 1))
    stopped = run_folder.parent / "stopped"
    own = {**overrides, "run_folder::timestamp": "stopped"}
    for cut in cuts:
        fail_at(own, cut)
        own["training::resume"] = str(stopped)
    run(own)
    assert epochs(stopped) == epochs(run_folder)
    assert weights(stopped) == weights(run_folder)


def test_full_disk_is_named_with_the_epochs_that_are_kept_and_the_run_goes_on(overrides, run_folder):
    overrides |= {"final_evaluation": None}
    run({**overrides, "run_folder::timestamp": "whole"})
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    flow = workflow(overrides)
    flow.initialize()

    def fill(engine):
        if engine.state.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, former[1]))  # less than a checkpoint

    trainer = flow.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.EPOCH_STARTED, fill)
    try:
        with pytest.raises(Exception) as error:
            flow.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    told = describe(find_user_error(error.value))
    assert told.startswith(f"{run_folder}/")
    assert "cannot be written (File too large)" in told
    assert f"The first epoch is kept in {run_folder}; go on with: " in told
    assert f"--training::resume {run_folder}" in told
    assert "\n" not in told
    run({**overrides, "training::resume": str(run_folder)})
    assert weights(run_folder) == weights(run_folder.parent / "whole")
    assert not list(run_folder.rglob(".*.*"))


def test_run_folder_that_cannot_be_made_is_named(overrides, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Exception) as error:
        run({**overrides, "run_folder::root": str(tmp_path / "file")})
    assert str(find_user_error(error.value)).startswith(f"{tmp_path}/file/phantoms/run cannot be written (Not a dir")


def test_model_file_that_cannot_be_written_is_refused_before_the_first_epoch(overrides, run_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Exception) as error:
        run({**overrides, "model_file": str(tmp_path / "file" / "model.pt")})
    assert "model.pt cannot be written" in str(find_user_error(error.value))
    assert not run_folder.exists()


def test_spoilt_history_is_refused_before_it_costs_an_epoch(overrides, run_folder):
    overrides |= {"final_evaluation": None}
    run({**overrides, "training::num_epochs": 1})
    (run_folder / "history.csv").write_text("epoch,loss\n1")
    before = weights(run_folder)
    with pytest.raises(Exception) as error:
        run({**overrides, "training::resume": str(run_folder)})
    assert "history.csv is damaged" in str(find_user_error(error.value))
    assert weights(run_folder) == before
    (run_folder / "history.csv").rename(run_folder / "history_damaged.csv")
    run({**overrides, "training::resume": str(run_folder)})
    assert epochs(run_folder) == [2]


def test_numbers_that_are_not_finite_in_the_first_epoch_keep_nothing_and_say_so(overrides):
    told = find_user_error(fail_at(overrides, 1, FloatingPointError("the loss is nan."), Events.ITERATION_STARTED))
    assert str(told) == "the loss is nan. No epoch is complete yet."


def test_run_that_is_killed_in_its_final_evaluation_makes_it_up(overrides, run_folder):
    run(overrides)
    results = (run_folder / "test_results.txt").read_text()
    (run_folder / "report.html").unlink()  # written after the results
    run({**overrides, "training::resume": str(run_folder)})
    assert (run_folder / "report.html").is_file()
    assert (run_folder / "test_results.txt").read_text() == results


def test_checkpoint_is_the_last_file_of_an_epoch(overrides, run_folder, monkeypatch):
    """A run that is killed before it repeats the epoch with all its files, and one killed after it has them."""
    seen, save = [], Checkpoints.save

    def look(self, engine):
        names = ("visualizations/epoch_010.png", "history.csv", "models/last.pt")
        seen.append([name for name in names if (run_folder / name).is_file()])
        save(self, engine)

    monkeypatch.setattr(Checkpoints, "save", look)
    overrides |= {"final_evaluation": None, "training::num_epochs": 10}
    run(overrides)
    assert seen[0] == ["history.csv"]
    assert seen[-1] == ["visualizations/epoch_010.png", "history.csv", "models/last.pt"]


def test_second_resume_of_a_run_is_refused_while_the_first_one_lives(overrides, run_folder, monkeypatch):
    monkeypatch.setattr(folders, "PATIENCE", 0.2)
    overrides |= {"final_evaluation": None}
    run({**overrides, "training::num_epochs": 1})
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.name != ".lock"}
    first = folders.RunFolder("logs", "phantoms", resume=str(run_folder))
    first.lock()
    with pytest.raises(Exception) as error:
        run({**overrides, "training::resume": str(run_folder)})
    assert f"the run folder {run_folder} is in use by another process" in str(find_user_error(error.value))
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.name != ".lock"} == before
    first.unlock()
    run({**overrides, "training::resume": str(run_folder)})
    assert epochs(run_folder) == [1, 2]
    first.lock()  # a run that has ended keeps nobody out
    first.unlock()
