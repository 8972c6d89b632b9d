"""A training that is stopped by a signal in the middle of an epoch says what it keeps, and how to go on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from scripts.run.history import read_history

EPOCHS = 3
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests" / "run")}


@pytest.fixture
def training(overrides, tmp_path):
    """Words of a command that trains, and waits in an epoch."""
    left_out = ("bundle_root", "run_folder::timestamp")
    tiny = {key: value for key, value in overrides.items() if key not in left_out}
    tiny |= {"training::num_epochs": EPOCHS, "final_evaluation": None, "model_file": None}
    tiny |= {"train::dataloader::num_workers": 2}  # whose end torch must not take for a crash
    (tmp_path / "tiny.json").write_text(json.dumps(tiny))

    def command(name: str, epoch: int) -> list[str]:
        pause = {"_target_": "pausing.PauseOnce", "marker": str(tmp_path / name), "epoch": epoch}
        (tmp_path / f"{name}.json").write_text(json.dumps({"+train::handlers": [pause]}))
        files = ["configs/train.json", str(tmp_path / "tiny.json"), str(tmp_path / f"{name}.json")]
        program = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(files)]
        return [*program, "--run_folder::timestamp", name]

    return command


def stop(command: list[str], marker: Path, number: signal.Signals) -> tuple[int, str]:
    """Exit code of a training that gets a signal when it waits, and the last line of what it has said."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not marker.exists():
        assert process.poll() is None, process.stderr.read()[-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, number)  # as a terminal and a batch system do: to the workers too
    errors = process.communicate(timeout=60)[1]
    assert "Traceback" not in errors
    return process.returncode, errors.splitlines()[-1]


def comparable(folder: Path) -> list[dict]:
    """The history without what differs from run to run."""
    return [{key: row[key] for key in row if key not in ("seconds", "data_wait")} for row in read_history(folder)]


@pytest.mark.slow
def test_interrupted_training_goes_on_as_if_it_had_not_been(training, run_folder, tmp_path):
    code, line = stop(training("interrupted", epoch=2), tmp_path / "interrupted", signal.SIGINT)
    interrupted, whole = run_folder.parent / "interrupted", run_folder.parent / "whole"
    kept, _, command = line.partition("; go on with: ")
    assert code == 130
    assert kept == f"stopped: the first epoch is kept in {interrupted}"
    assert len(read_history(interrupted)) == 1
    subprocess.run(shlex.split(command), cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    (tmp_path / "whole").touch()  # it does not wait
    subprocess.run(training("whole", epoch=2), cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    assert len(comparable(whole)) == EPOCHS
    assert comparable(interrupted) == comparable(whole)


@pytest.mark.slow
def test_terminated_training_says_that_nothing_is_kept_in_the_first_epoch(training, tmp_path):
    code, line = stop(training("terminated", epoch=1), tmp_path / "terminated", signal.SIGTERM)
    kept, _, command = line.partition("; start again with: ")
    assert code == 143
    assert kept == "stopped: nothing is kept yet"
    assert shlex.split(command)[1:] == training("terminated", epoch=1)[1:]
