"""What MLflow keeps of a run, read back from its store."""

import atexit
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, ROOT, workflow
from ignite.engine import Events
from monai.utils import path_to_uri
from tracked_runs import Folder, commands, make_distilled, make_store, make_tracked, needs, only, record_run

from scripts.handlers import MLflowRecord
from scripts.run.tracking import FILES, TrackedRun, flatten_sections
from scripts.utils.machine import git_revision

store = pytest.fixture(scope="module")(make_store)
tracked = pytest.fixture(make_tracked)
distilled = pytest.fixture(scope="module")(make_distilled)


@pytest.fixture(scope="module")
def client(store):
    """Of the store of this file."""
    mlflow = pytest.importorskip("mlflow")
    return mlflow.MlflowClient(f"sqlite:///{store / 'mlflow.db'}")


def mlflow_run(client, folder: Path):
    """The record of a run folder."""
    return client.get_run(json.loads((folder / "mlflow_record.json").read_text())["id"])


def history(client, record, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(record.info.run_id, name)]


@needs("mlflow")
def test_mlflow_has_parameters_and_origin(distilled, client):
    record = mlflow_run(client, distilled[0])
    assert record.info.status == "FINISHED"
    assert record.info.run_name == "distillation/run"
    config = json.loads((distilled[0] / "config.json").read_text())
    assert record.data.params == {key: str(value) for key, value in flatten_sections(config).items()}
    assert client.get_experiment(record.info.experiment_id).name == "phantoms"
    tags = record.data.tags
    assert tags["git.revision"] == (git_revision() or "unknown").removesuffix("-dirty")
    assert tags["git.dirty"] in ("true", "false")
    assert {"data.lists", "data.datalist_sha256", "data.files_sha256", "machine.cpu", "version.monai"} <= set(tags)


@needs("mlflow")
def test_mlflow_has_the_terms_the_dice_and_the_rate_of_every_epoch(distilled, client):
    record = mlflow_run(client, distilled[0])
    wanted = list(TrackedRun({}, None, Folder(distilled[0])).epochs())
    assert len(wanted) == 4
    for name in ("train/loss", "train/task", "train/distill", "train/lr"):
        assert history(client, record, name) == [(epoch, values[name]) for epoch, values in wanted]
    dice = history(client, record, "val/val_mean_dice")
    assert [epoch for epoch, _ in dice] == [2, 4]


@needs("mlflow")
def test_mlflow_has_the_test_figures_with_intervals(distilled, client):
    metrics = mlflow_run(client, distilled[0]).data.metrics
    arms = json.loads((distilled[0] / "report.json").read_text())["arms"]
    assert set(arms) == {"student", "teacher"}
    for arm, found in arms.items():
        dice = found["metrics"]["dice"]
        assert [metrics[f"test/{arm}/dice{end}"] for end in ("", "_low", "_high")] == [
            dice[key] for key in ("mean", "low", "high")
        ]


@needs("mlflow")
def test_mlflow_has_the_files_and_panels(distilled, client, store):
    record = mlflow_run(client, distilled[0])
    names = {file.path for file in client.list_artifacts(record.info.run_id)}
    assert {*FILES, "visualizations"} <= names
    panels = {Path(file.path).name for file in client.list_artifacts(record.info.run_id, "visualizations")}
    assert panels == {path.name for path in (distilled[0] / "visualizations").glob("*.png")}
    assert panels >= {"epoch_004.png", "test_sample_000.png"}
    copy = Path(client.download_artifacts(record.info.run_id, "report.html"))
    assert copy.read_bytes() == (distilled[0] / "report.html").read_bytes()
    assert record.info.artifact_uri.startswith(path_to_uri(store / "artifacts"))


@needs("mlflow")
def test_python_of_the_docs_loads_the_logged_student_with_its_signature_and_the_same_logits(distilled, client, store):
    import mlflow

    assert mlflow.active_run() is None
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tracking.md").read_text(), re.S)
    id = mlflow_run(client, distilled[0]).info.run_id
    code = code.replace("logs/mlflow/mlflow.db", str(store / "mlflow.db")).replace("RUN_ID", id)
    assert not mlflow.tracking.is_tracking_uri_set()  # as before the run
    found: dict = {}
    try:
        exec(code, found)
    finally:
        mlflow.set_tracking_uri(None)
    (image,), (pred,) = found["signature"].inputs.inputs, found["signature"].outputs.inputs
    assert (image.name, image.shape, image.type) == ("image", (-1, 1, 64, 64), np.dtype("float32"))
    assert (pred.name, pred.shape, pred.type) == ("pred", (-1, 1, 64, 64), np.dtype("float32"))
    images = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(found["student"](images), distilled[1].cpu().eval()(images), atol=1e-5, rtol=1e-5)


@needs("mlflow")
def test_log_of_the_run_goes_on_while_mlflow_makes_its_tables(distilled):
    log = (distilled[0] / "distill.log").read_text()
    assert "epoch 1/4" in log
    assert "epoch 4/4" in log


@needs("mlflow")
def test_resumed_run_goes_on_in_its_record(tracked, run_folder, client):
    tracked = {**only(tracked, "mlflow"), "final_evaluation": None}
    record_run({**tracked, "training::num_epochs": 1}, "train_student.json", "mlflow.json")
    first = mlflow_run(client, run_folder)
    record_run({**tracked, "training::resume": str(run_folder)}, "train_student.json", "mlflow.json")
    second = mlflow_run(client, run_folder)
    assert first.info.run_id == second.info.run_id
    assert second.info.status == "FINISHED"
    assert [step for step, _ in history(client, second, "train/task")] == [1, 2]
    assert second.data.params["training.num_epochs"] == "1"
    assert second.data.tags["resumed.training.num_epochs"] == "2"


@needs("mlflow")
def test_resumed_run_whose_record_is_in_another_store_says_what_to_do(tracked, run_folder):
    from mlflow import MlflowException

    run_folder.mkdir(parents=True)
    (run_folder / "mlflow_record.json").write_text(json.dumps({"id": "0" * 32, "last_epoch": 1}))
    config = workflow({**only(tracked, "mlflow"), "final_evaluation": None}, "train_student.json", "mlflow.json")
    config.initialize()
    record = config.parser.get_parsed_content("mlflow_record")
    with pytest.raises(
        ValueError, match="mlflow_record.json says that .* run 0{32} .* pass the mlflow_record::store or"
    ) as error:
        record.start()
    assert isinstance(error.value.__cause__, MlflowException)


@needs("mlflow")
def test_run_that_ends_by_an_error_is_marked_as_failed_when_the_process_ends(tracked, run_folder, client, monkeypatch):
    registered = []
    monkeypatch.setattr(atexit, "register", lambda function, *arguments: registered.append((function, arguments)))
    flow = workflow({**only(tracked, "mlflow"), "final_evaluation": None}, "train_student.json", "mlflow.json")
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train::trainer")

    def fail() -> None:
        raise FloatingPointError("the loss is nan")

    trainer.add_event_handler(Events.EPOCH_STARTED(once=2), fail)
    with pytest.raises(FloatingPointError):
        trainer.run()
    assert mlflow_run(client, run_folder).info.status == "RUNNING"
    for function, arguments in registered:
        function(*arguments)
    record = mlflow_run(client, run_folder)
    assert record.info.status == "FAILED"
    assert [step for step, _ in history(client, record, "train/task")] == [1]


@needs("mlflow")
def test_adapter_of_a_fine_tuned_teacher_is_kept_as_a_file(tracked, run_folder, client):
    tracked = {
        **only(tracked, "mlflow"),
        "mlflow_record::log_model": True,
        "training::num_epochs": 1,
        "teacher::cache_dir": None,
    }
    tracked["teacher::lora_checkpoint"] = None
    record_run(tracked, "train_teacher.json", "mlflow.json")
    record = mlflow_run(client, run_folder)
    (adapter,) = client.list_artifacts(record.info.run_id, "models")
    assert re.fullmatch(r"models/best_epoch001_dice.*\.pth", adapter.path)
    assert not client.search_logged_models([record.info.experiment_id], f"source_run_id = '{record.info.run_id}'")


@needs("mlflow")
def test_evaluation_is_recorded_too(distilled, tracked, client, tmp_path):
    best = next((distilled[0] / "models").glob("best_epoch*"))
    own = {
        "student::checkpoint": str(best),
        "run_folder::root": str(tmp_path / "evaluation"),
        "hardware::precision": "fp32",
        "final_evaluation::networks": {"student": "@network"},
    }
    tracked = {**only(tracked, "mlflow"), **own}
    record_run(tracked, "evaluate.json", "mlflow.json", run_id="evaluating")
    record = mlflow_run(client, tmp_path / "evaluation" / "phantoms" / "run")
    assert record.info.run_name == "evaluation/run"
    assert record.info.status == "FINISHED"
    trained = mlflow_run(client, distilled[0]).data.metrics
    assert record.data.metrics["test/student/dice"] == pytest.approx(trained["test/student/dice"], abs=1e-6)


@needs("mlflow")
@pytest.mark.parametrize("uri", ["file:///some/folder", "some/folder"])
def test_folder_as_a_store_is_refused(uri, tmp_path):
    match = (
        rf"mlflow_record::tracking_uri '{uri}' is a folder, in which MLflow no longer keeps runs; .* pass "
        rf"sqlite:///PATH or"
    )
    with pytest.raises(ValueError, match=match):
        MLflowRecord(TrackedRun({}, None, Folder(tmp_path)), tmp_path, "some", tracking_uri=uri)


@needs("mlflow")
def test_store_of_the_users_own_is_used(tmp_path, store):
    record = MLflowRecord(TrackedRun({}, None, Folder(tmp_path)), tmp_path, "some", f"sqlite:///{store / 'mlflow.db'}")
    assert record.tracking_uri.endswith("mlflow.db")
    assert str(store) in record.tracking_uri


@needs("mlflow")
def test_only_the_first_of_several_processes_records(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    record = MLflowRecord(TrackedRun({}, None, Folder(tmp_path / "run")), tmp_path / "store", "some")
    record.start()
    record.log_epochs()
    record.finish()
    assert not list(tmp_path.iterdir())


@needs("mlflow")
def test_command_of_the_docs_shows_the_store_of_the_overlay(distilled, store, monkeypatch, tmp_path):
    import mlflow.server
    from click.testing import CliRunner
    from mlflow.cli import cli

    started = []
    monkeypatch.setattr(mlflow.server, "_run_server", lambda **options: started.append(options))
    (tmp_path / "logs" / "mlflow").mkdir(parents=True)
    shutil.copy(store / "mlflow.db", tmp_path / "logs" / "mlflow")
    monkeypatch.chdir(tmp_path)
    (words,) = commands("mlflow")
    result = CliRunner().invoke(cli, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert started[0]["file_store_path"] == "sqlite:///logs/mlflow/mlflow.db"
    assert started[0]["port"] == 5000
    assert (
        json.loads((CONFIGS / "mlflow.json").read_text())["mlflow_record"]["store"] == "$@bundle_root + '/logs/mlflow'"
    )
