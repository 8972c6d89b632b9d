"""What a lost or failing process leads to, and how a launch that is started again finds its run."""

import re
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY
from ignite.engine import Engine
from on_ranks import EPOCHS, OVERLAYS, comparable_history, evaluate, folder_of, last_weights, train
from torch import nn

from scripts.handlers import Checkpoints, RunRecord
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.run import distributed
from scripts.run.distributed import launch_name
from scripts.run.run_folder import RunFolder

pytest_plugins = "ranks_fixtures"


@pytest.mark.parametrize(
    "fault", [("scripts.evaluation.evaluate", "read_case", 1), ("scripts.report.run_evaluation", "write_results", 0)]
)
def test_evaluation_that_fails_on_one_rank_ends_the_others_with_advice(ranks, settings, tmp_path, fault):
    student = tmp_path / "student.pt"
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), student)
    changes = {"student::checkpoint": str(student), "distillation::gamma": 0.0, "distillation::mode": "online"}
    overlays = ("evaluate.json", "multi_gpu_evaluate.json")
    rank = fault[-1]
    found = ranks(evaluate, {**settings, **changes}, f"broken_{rank}", overlays, fault)
    # MONAI's around an error that is not the bundle's own
    assert found[rank].startswith("RuntimeError: Failed to evaluate")
    assert found[1 - rank].startswith(
        "ConnectionError: another process has ended, see what it says and torchrun's summary; start"
    )


def test_killed_rank_ends_the_others_and_the_restart_ends_as_an_unbroken_run(together, ranks, settings):
    """Killed in the second epoch of three; started again under the same name, as torchrun --max-restarts does."""
    killed, other = 1, 0
    brief = {**settings, "final_evaluation": None}
    found = ranks(train, brief, "killed", OVERLAYS, ("killed", killed, 2), launch="killed")
    assert found[killed] is None
    assert found[other].startswith("ConnectionError: another process has ended"), found[other]
    assert "nothing but the unfinished epoch is lost" in found[other]
    folder = folder_of(settings, "killed")
    assert torch.load(folder / "models" / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    assert "the run ends: " in (folder / "distill.log").read_text()
    # another name would be another folder: that of the launch is found again
    again = ranks(train, brief, "another", OVERLAYS, launch="killed")
    assert again[0]["network"] == again[1]["network"] == last_weights(folder) == last_weights(together[1])
    assert comparable_history(folder) == comparable_history(together[1])
    assert not folder_of(settings, "another").exists()
    # and once more, as after a failure of the final evaluation
    assert not (folder / "test_results.txt").exists()
    last = ranks(train, settings, "third", OVERLAYS, launch="killed")
    assert last[0]["epoch"] == EPOCHS
    assert last[0]["seen"] == []
    assert (folder / "test_results.txt").is_file()
    assert comparable_history(folder) == comparable_history(together[1])


def test_loss_that_is_no_number_on_one_rank_ends_all_with_its_files(ranks, settings):
    # where no cache looks at the image first
    settings = {**settings, "distillation::mode": "warp", "distillation::gamma": 0.0}
    found = ranks(train, settings, "nan", OVERLAYS, ("nan", 1, 2), launch="nan")
    assert found[0] == found[1]
    assert found[0].startswith("FloatingPointError: the loss is nan")
    assert "in epoch 2" in found[0]
    assert len(re.findall(r"phantom_\d+\.png", found[0])) == 2  # the batch of one rank
    folder = folder_of(settings, "nan")
    assert torch.load(folder / "models" / "last.pt", weights_only=True)["progress"]["epoch"] == 1


# the folder of a launch


def test_launch_that_is_to_be_restarted_needs_a_name(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launch_name() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert launch_name() is None
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match="--max-restarts 3 starts a run again.*pass --standalone, or --rdzv_id NAME"):
        launch_name()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job_17")
    assert launch_name() == "job_17"
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(
        ValueError, match=f"would look for those that have ended.*start it as {distributed.OWN_STORE} torchrun"
    ):
        launch_name()


def recorded(run: RunFolder) -> None:
    """Begin a run in its folder."""
    record = RunRecord(run, {})
    record.start()
    record.stop()


def test_run_goes_on_in_the_folder_that_its_launch_began(tmp_path):
    first = RunFolder(str(tmp_path), "set", timestamp="one", launch="job_17")
    assert not first.restarted
    assert not first.resumed
    recorded(first)
    again = RunFolder(str(tmp_path), "set", launch="job_17")
    assert again.path == first.path
    assert again.restarted
    assert again.resumed
    assert again.resume_checkpoint is None
    recorded(again)
    first.models.mkdir()
    (first.models / "last.pt").touch()
    assert RunFolder(str(tmp_path), "set", launch="job_17").resume_checkpoint == first.models / "last.pt"
    for launch in ("job_18", None):
        other = RunFolder(str(tmp_path), "set", launch=launch)
        assert other.path != first.path
        assert not other.restarted
        assert other.resume_checkpoint is None


def test_log_says_that_a_launch_goes_on(tmp_path, monkeypatch, caplog):
    """A name that is used again by mistake would otherwise not be noticed."""
    monkeypatch.setattr(distributed.dist, "broadcast_object_list", lambda objects: None)
    monkeypatch.setattr(distributed, "launch_name", lambda: "job_17")
    with caplog.at_level("INFO"):
        first = distributed.shared_run_folder(0, str(tmp_path), "set", timestamp="one")
        assert not caplog.messages
        recorded(first)
        caplog.clear()
        distributed.shared_run_folder(0, str(tmp_path), "set")
    assert caplog.messages == [
        f"{first.path} was begun by the launch job_17, which goes on there.",
        "A new run needs a new --rdzv_id.",
    ]


def test_resumed_run_that_is_restarted_goes_on_from_its_newer_checkpoint(tmp_path):
    folder = tmp_path / "elsewhere" / "set" / "one"
    (folder / "models").mkdir(parents=True)
    for name in ("last.pt", "checkpoint_epoch020.pt"):
        (folder / "models" / name).touch()
    old = str(folder / "models" / "checkpoint_epoch020.pt")
    assert (
        RunFolder(str(tmp_path), "set", resume=old, launch="job_17").resume_checkpoint.name == "checkpoint_epoch020.pt"
    )
    (folder / "launch.txt").write_text("job_17")
    again = RunFolder(str(tmp_path), "set", resume=old, launch="job_17")
    assert again.path == folder
    assert again.resume_checkpoint.name == "last.pt"


def test_complete_run_is_resumed_by_a_restart_alone(tmp_path):
    network, evaluator = nn.Linear(1, 1), SimpleNamespace(state=SimpleNamespace(best_metric=0.5, best_metric_epoch=2))
    saving = Checkpoints(tmp_path, network, evaluator, {"network": network})
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch = 2
    saving.save(engine)
    engine = Engine(lambda engine, batch: pytest.fail("trained"))
    engine.state.max_epochs = 2
    options = {"resume": tmp_path / "last.pt"}
    with pytest.raises(ValueError, match="has completed 2 epochs of 2"):
        Checkpoints(tmp_path, network, evaluator, {"network": network}, **options).attach(engine)
    Checkpoints(tmp_path, network, evaluator, {"network": network}, unfinished=True, **options).attach(engine)
    engine.run([0])
    assert engine.state.epoch == 2
