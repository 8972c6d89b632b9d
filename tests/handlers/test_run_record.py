"""The run's folder, its configuration and its log."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from handler_stand_ins import make_trainer
from ignite.engine import Events

from scripts.handlers import RunRecord
from scripts.utils import screen


def run_at(path: Path, resumed: bool = False, launch: str | None = None, log_name: str = "distill.log"):
    """What the record reads of a RunFolder."""
    nothing = {"lock": lambda: None, "unlock": lambda: None}
    return SimpleNamespace(path=path, resumed=resumed, launch=launch, log_name=log_name, **nothing)


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
        FileExistsError, match=r"the run folder .* is there already, .* pass another --run_folder::timestamp\.$"
    ):
        engine.run(engine.losses, max_epochs=1)
    assert not list(tmp_path.iterdir())
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "last.pt").touch()
    engine = make_trainer()
    RunRecord(run_at(tmp_path), {}).attach(engine)
    with pytest.raises(FileExistsError, match=f"timestamp, or go on with that run by --training::resume {tmp_path}"):
        engine.run(engine.losses, max_epochs=1)


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


def test_log_holds_nothing_of_an_earlier_run_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(screen, "EARLY_RECORDS", screen.EarlyRecords())
    screen.keep_early_records()
    try:
        for name in ("first", "second"):
            record = RunRecord(run_at(tmp_path / name), {})
            record.start()
            logging.getLogger("scripts.trainer").info("trains the %s", name)
            record.stop()
    finally:
        logging.getLogger().removeHandler(screen.EARLY_RECORDS)
    log = (tmp_path / "second" / "distill.log").read_text()
    assert "trains the second" in log
    assert "first" not in log
