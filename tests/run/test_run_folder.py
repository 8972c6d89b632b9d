"""Where a run writes, and what it can be resumed from."""

import os
import re
import signal
import time

import pytest

from scripts.run import run_folder
from scripts.run.run_folder import RESULTS, RunFolder, find_best, find_checkpoint, lacks_evaluation


@pytest.fixture
def earlier(tmp_path):
    """The folder of a run that has completed an epoch."""
    folder = tmp_path / "logs" / "busbra" / "20260101_120000"
    (folder / "models").mkdir(parents=True)
    for name in ("last.pt", "checkpoint_epoch020.pt"):
        (folder / "models" / name).touch()
    return folder


def test_folder_is_root_dataset_timestamp_and_is_not_made_yet(tmp_path):
    folder = RunFolder(str(tmp_path / "logs"), "busbra", timestamp="now")
    assert folder.path == tmp_path / "logs" / "busbra" / "now"
    assert folder.resume_checkpoint is None
    assert not folder.resumed
    names = [
        path.relative_to(folder.path).as_posix() for path in (folder.models, folder.visualizations, folder.tensorboard)
    ]
    assert names == ["models", "visualizations", "tensorboard"]
    assert not (tmp_path / "logs").exists()


def test_timestamp_is_the_time(tmp_path):
    assert re.fullmatch(r"\d{8}_\d{6}", RunFolder(str(tmp_path), "busbra").path.name)


def test_resumed_run_writes_where_the_earlier_one_did(earlier):
    folder = RunFolder("elsewhere", "other", resume=str(earlier))
    assert folder.path == earlier
    assert folder.resume_checkpoint == earlier / "models" / "last.pt"
    checkpoint = earlier / "models" / "checkpoint_epoch020.pt"
    folder = RunFolder("elsewhere", "other", resume=str(checkpoint))
    assert folder.path == earlier
    assert folder.resume_checkpoint == checkpoint
    assert folder.resumed


def test_run_without_a_checkpoint_cannot_be_resumed(earlier, tmp_path):
    (earlier / "models" / "last.pt").unlink()
    with pytest.raises(FileNotFoundError, match="holds no models/last.pt, .* again without --training::resume"):
        find_checkpoint(earlier)
    with pytest.raises(FileNotFoundError, match="training::resume: .*nothing does not exist; name the folder of a run"):
        find_checkpoint(tmp_path / "nothing")


def test_checkpoint_outside_of_a_run_is_refused(tmp_path):
    (tmp_path / "last.pt").touch()
    with pytest.raises(
        ValueError, match="training::resume: .*last.pt is not in the folder models of a run; pass the run's folder"
    ):
        find_checkpoint(tmp_path / "last.pt")


def test_best_model_is_that_of_the_latest_epoch_whatever_the_clock_said(earlier):
    folder = RunFolder("logs", "busbra", resume=str(earlier))
    with pytest.raises(FileNotFoundError, match=r"models holds no best_epoch\* file: no validation has ended"):
        folder.best_model()
    for age, name in enumerate(("best_epoch002_dice0.8000.pt", "best_epoch010_dice0.7000.pt")):
        (folder.models / name).touch()
        os.utime(folder.models / name, (1000 - age, 1000 - age))
    assert folder.best_model().name == "best_epoch010_dice0.7000.pt"
    assert find_best(folder.models) == folder.best_model()


def test_folder_without_a_best_file_has_none(tmp_path):
    assert find_best(tmp_path / "models") is None


def test_completed_run_goes_on_where_its_final_evaluation_is_missing(earlier):
    folder, evaluation = RunFolder("logs", "busbra", resume=str(earlier)), object()
    assert lacks_evaluation(folder, evaluation)
    assert not lacks_evaluation(folder, None)  # a run that ends without one
    (earlier / RESULTS[0]).touch()
    assert lacks_evaluation(folder, evaluation)  # killed between its files
    (earlier / RESULTS[1]).touch()
    assert not lacks_evaluation(folder, evaluation)


def test_launch_that_is_started_again_goes_on_in_its_folder_whatever_is_there(earlier):
    (earlier / "launch.txt").write_text("job 17")
    for name in RESULTS:
        (earlier / name).touch()
    folder = RunFolder(str(earlier.parents[1]), "busbra", launch="job 17")
    assert folder.path == earlier
    assert folder.resume_checkpoint == earlier / "models" / "last.pt"
    assert folder.restarted
    assert lacks_evaluation(folder, object())
    other = RunFolder(str(earlier.parents[1]), "busbra", timestamp="new", launch="job 18")
    assert other.path == earlier.parent / "new"
    assert not other.restarted


def test_log_has_the_name_that_the_config_gives_it(tmp_path):
    assert RunFolder(str(tmp_path), "busbra").log_name == "distill.log"
    assert RunFolder(str(tmp_path), "busbra", log_name="teacher.log").log_name == "teacher.log"


def hold(folder: RunFolder) -> int:
    """A process that has the folder's lock until it is killed; its number."""
    ready, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        folder.lock()
        os.write(write, b".")
        time.sleep(60)
    os.read(ready, 1)
    return pid


def test_folder_in_use_is_refused_and_free_when_its_process_is_killed(earlier, monkeypatch):
    monkeypatch.setattr(run_folder, "PATIENCE", 0.2)
    pid = hold(RunFolder("logs", "busbra", resume=str(earlier)))
    folder = RunFolder("logs", "busbra", resume=str(earlier))
    with pytest.raises(ValueError, match=f"the run folder {earlier} is in use by another process; wait for its end"):
        folder.lock()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    folder.lock()
    folder.lock()  # of the run's record and of the training
    folder.unlock()
    other = RunFolder("logs", "busbra", resume=str(earlier))
    with pytest.raises(ValueError, match="is in use"):
        other.lock()
    folder.unlock()
    other.lock()
    other.unlock()
