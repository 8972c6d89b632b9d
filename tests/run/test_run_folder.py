"""Where a run writes, and what it can be resumed from."""

import os
import re

import pytest

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
    with pytest.raises(FileNotFoundError, match=r"training::resume: .*last.pt is not there; pass the folder of a run"):
        find_checkpoint(earlier)
    with pytest.raises(FileNotFoundError, match="training::resume: .*nothing is not there"):
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
    (earlier / RESULTS).touch()
    assert not lacks_evaluation(folder, evaluation)


def test_launch_that_is_started_again_goes_on_in_its_folder_whatever_is_there(earlier):
    (earlier / "launch.txt").write_text("job 17")
    (earlier / RESULTS).touch()
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
