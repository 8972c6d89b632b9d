"""What experiment trackers are told of a run, read back from their stores; and the commands of docs/tracking.md."""

import atexit
import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, ROOT, TINY_STUDENT, run, workflow
from ignite.engine import Events
from monai.utils import path_to_uri
from PIL import Image

from scripts.handlers import MLflowRecord, WandbRecord
from scripts.run.config_check import find_user_error
from scripts.run.tracking import (
    FILES,
    SECTIONS,
    WIRING,
    TrackedRun,
    data_hashes,
    describe_origin,
    flatten_sections,
    require,
    small_picture,
)
from scripts.utils.machine import git_revision

EXTRAS = ("mlflow", "wandb")
INSTALLED = [name for name in EXTRAS if importlib.util.find_spec(name) is not None]
needs_mlflow = pytest.mark.skipif("mlflow" not in INSTALLED, reason="mlflow is an optional extra that is not installed")
BLOCK, WHOLE, FIRST, LAST = 32768, 1, 2, 4  # of a file of W&B
needs_wandb = pytest.mark.skipif("wandb" not in INSTALLED, reason="wandb is an optional extra that is not installed")


def record_run(overrides: dict, *overlays: str, run_id: str = "training"):
    """A run to its end, as monai.bundle.run does it."""
    flow = run(overrides, *overlays, run_id=run_id)
    flow.finalize()
    return flow


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Of all records in this file; to make MLflow's tables costs seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def tracked(overrides, store) -> dict:
    """Overrides of runs whose records go to `store`."""
    own = {"mlflow_record::store": str(store), "mlflow_record::log_model": False, "wandb_record::store": str(store)}
    return {**overrides, **{key: value for key, value in own.items() if key.partition("_")[0] in INSTALLED}}


def only(overrides: dict, extra: str) -> dict:
    """The overrides without those of other records."""
    others = tuple(f"{name}_" for name in EXTRAS if name != extra)
    return {key: value for key, value in overrides.items() if not key.startswith(others)}


@pytest.fixture(scope="module")
def distilled(request, tmp_path_factory, store):
    """One distillation that all installed trackers have recorded: its run folder, its student, and its overrides."""
    if not INSTALLED:
        pytest.skip("neither mlflow nor wandb is installed")
    path = tmp_path_factory.mktemp("tracked")
    phantoms, sam, lora = (request.getfixturevalue(name) for name in ("phantoms", "sam_checkpoint", "lora_checkpoint"))
    targets = [handler["_target_"] for handler in json.loads((CONFIGS / "train.json").read_text())["train"]["handlers"]]
    overrides = {
        "bundle_root": str(ROOT),
        "run_folder::root": str(path / "distillation"),
        "run_folder::timestamp": "run",
        "model_file": str(path / "model.pt"),
        "data::dataset_dir": str(phantoms),
        "data::img_size": 64,
        "teacher::model_name": "vit_test",
        "teacher::img_size": 64,
        "teacher::sam_checkpoint": str(sam),
        "teacher::lora_checkpoint": str(lora),
        "teacher::cache_dir": str(path / "cache"),
        "network_def": TINY_STUDENT,
        "training::num_epochs": 4,
        "training::warmup_epochs": 0,
        "training::batch_size": 3,
        "training::num_workers": 0,
        "training::lr": 5e-3,
        "hardware::gpu_ids": [],
        "hardware::precision": "fp32",
        "val_interval": 2,
        f"train::handlers::{targets.index('scripts.handlers.PanelWriter')}::interval": 4,
    }
    records = {f"{name}_record::store": str(store) for name in INSTALLED}
    flow = record_run({**overrides, **records}, *(f"{name}.json" for name in INSTALLED))
    return path / "distillation" / "phantoms" / "run", flow.parser.get_parsed_content("network"), overrides


# what is known of a run


def test_params_are_every_key_of_the_users_sections(overrides):
    config = workflow({**overrides, "training::lr": 2e-3}).parser.get_parsed_content("checked_config")
    params = flatten_sections(config)
    shipped = json.loads((CONFIGS / "train.json").read_text())
    keys = [f"{section}.{key}" for section in SECTIONS for key in shipped[section] if key[0] != "_"]
    assert sorted(params) == sorted({*keys} - {*WIRING})
    assert {*WIRING} < {*keys}
    assert params["training.lr"] == 2e-3
    assert params["teacher.model_name"] == "vit_test"
    assert params["teacher.num_classes"] == 2
    assert params["training.val_interval"] == 1  # references to values
    assert params["augmentation.zoom_range"] == "[0.9, 1.1]"
    assert params["training.resume"] is None


def test_params_keep_the_name_of_an_object_that_a_config_refers_to():
    config = {
        "teacher": {"lora_checkpoint": "@tuned", "rank": "@ranks::0"},
        "tuned": {"_target_": "some.function"},
        "ranks": [4],
    }
    assert flatten_sections(config) == {"teacher.lora_checkpoint": "@tuned", "teacher.rank": 4}


def test_hashes_tell_changed_files_from_changed_lists(overrides, phantoms, tmp_path):
    def hashes(folder: Path) -> dict:
        return data_hashes(workflow({**overrides, "data::dataset_dir": str(folder)}).parser.get_parsed_content("data"))

    copy = tmp_path / phantoms.name
    shutil.copytree(phantoms, copy)
    first = hashes(copy)
    assert first == hashes(phantoms)
    assert all(re.fullmatch("[0-9a-f]{16,64}", value) for value in first.values())
    path = next((copy / "labels").glob("*.png"))
    with Image.open(path) as picture:
        mask = np.array(picture)
    mask[0, 0] = mask.max() - mask[0, 0]
    Image.fromarray(mask).save(path)
    second = hashes(copy)
    assert {key for key in first if first[key] != second[key]} == {"data.files_sha256"}
    content = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**content, "training": content["training"][1:]}))
    assert all(value != second[key] for key, value in hashes(copy).items())


def test_revision_tells_changed_files(tmp_path):
    def git(*arguments: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *own, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    assert git_revision(tmp_path) is None  # nothing is committed
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    assert git_revision(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert git_revision(tmp_path) == git("rev-parse", "HEAD") + "-dirty"


def test_origin_has_revision_machine_and_versions(monkeypatch):
    monkeypatch.setattr("scripts.run.tracking.git_revision", lambda: "abc-dirty")
    origin = describe_origin()
    assert origin["git.revision"] == "abc"
    assert origin["git.dirty"] == "true"
    assert origin["version.torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert int(origin["machine.cores"]) >= 1
    assert all(isinstance(value, str) for value in origin.values())
    monkeypatch.setattr("scripts.run.tracking.git_revision", lambda: None)
    assert (describe_origin()["git.revision"], describe_origin()["git.dirty"]) == ("unknown", "false")


class Folder:
    """As RunFolder, of files that are there."""

    def __init__(self, path: Path) -> None:
        self.path, self.visualizations = path, path / "visualizations"


def test_epochs_are_read_from_the_history(tmp_path):
    tracked = TrackedRun({}, None, Folder(tmp_path))
    assert list(tracked.epochs()) == []
    (tmp_path / "history.csv").write_text("epoch,task,lr,val_mean_dice\n1,0.5,0.1,\n2,0.4,0.05,0.7\n")
    assert list(tracked.epochs(after=1)) == [(2, {"train/task": 0.4, "train/lr": 0.05, "val/val_mean_dice": 0.7})]
    assert [sorted(values) for _, values in tracked.epochs()][0] == ["train/lr", "train/task"]


def test_figures_have_their_intervals_and_leave_out_what_is_unknown(tmp_path):
    tracked = TrackedRun({}, None, Folder(tmp_path))
    assert tracked.test_figures() == {}
    metrics = {"dice": {"mean": 0.8, "low": 0.7, "high": 0.9}, "hd95": {"mean": 3.0, "low": None, "high": math.nan}}
    (tmp_path / "report.json").write_text(json.dumps({"arms": {"student": {"metrics": metrics}}}))
    assert tracked.test_figures() == {
        "test/student/dice": 0.8,
        "test/student/dice_low": 0.7,
        "test/student/dice_high": 0.9,
        "test/student/hd95": 3.0,
    }


def test_pictures_are_made_smaller_and_never_larger(tmp_path):
    for size, wanted in (((2000, 1000), (960, 480)), ((100, 50), (100, 50))):
        Image.new("RGBA", size, "red").save(tmp_path / "panel.png")
        picture = small_picture(tmp_path / "panel.png")
        assert picture.size == wanted
        assert picture.mode == "RGB"
        assert picture.getpixel((5, 5)) == (255, 0, 0)


# overlays


@pytest.mark.parametrize("name", EXTRAS)
def test_missing_package_is_refused_before_anything_runs(name, overrides, run_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Exception) as error:
        workflow(overrides, f"{name}.json").initialize()
    message = str(find_user_error(error.value))
    assert re.search(rf"the package {name} is not installed.*--extra {name} .*pip install \.\[{name}\]", message)
    assert not run_folder.exists()


def test_package_that_lacks_another_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "brokenextra.py").write_text("import surely_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="surely_not_there"):
        require("brokenextra")


@pytest.mark.parametrize("name", INSTALLED)
def test_overlay_has_every_property_of_a_monai_workflow(name, tracked, run_folder):
    flow = workflow(only(tracked, name), f"{name}.json")
    flow.initialize()
    assert flow.check_properties() == []
    assert not run_folder.exists()


def test_overlays_add_up():
    overlays = [json.loads((CONFIGS / f"{name}.json").read_text()) for name in EXTRAS]
    for key in ("+train::handlers", "+initialize", "+finalize"):
        assert all(key in overlay for overlay in overlays)


# MLflow


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


@needs_mlflow
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


@needs_mlflow
def test_mlflow_has_the_three_terms_the_dice_and_the_rate_of_every_epoch(distilled, client):
    record = mlflow_run(client, distilled[0])
    wanted = list(TrackedRun({}, None, Folder(distilled[0])).epochs())
    assert len(wanted) == 4
    for name in ("train/loss", "train/task", "train/distill", "train/feature", "train/lr"):
        assert history(client, record, name) == [(epoch, values[name]) for epoch, values in wanted]
    dice = history(client, record, "val/val_mean_dice")
    assert [epoch for epoch, _ in dice] == [2, 4]


@needs_mlflow
def test_mlflow_has_the_test_figures_with_intervals(distilled, client):
    metrics = mlflow_run(client, distilled[0]).data.metrics
    arms = json.loads((distilled[0] / "report.json").read_text())["arms"]
    assert set(arms) == {"student", "teacher"}
    for arm, found in arms.items():
        dice = found["metrics"]["dice"]
        assert [metrics[f"test/{arm}/dice{end}"] for end in ("", "_low", "_high")] == [
            dice[key] for key in ("mean", "low", "high")
        ]


@needs_mlflow
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


@needs_mlflow
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
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # set_tracking_uri wrote it for child processes
    (image,), (pred,) = found["signature"].inputs.inputs, found["signature"].outputs.inputs
    assert (image.name, image.shape, image.type) == ("image", (-1, 1, 64, 64), np.dtype("float32"))
    assert (pred.name, pred.shape, pred.type) == ("pred", (-1, 1, 64, 64), np.dtype("float32"))
    images = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(found["student"](images), distilled[1].cpu().eval()(images), atol=1e-5, rtol=1e-5)


@needs_mlflow
def test_log_of_the_run_goes_on_while_mlflow_makes_its_tables(distilled):
    log = (distilled[0] / "distill.log").read_text()
    assert "epoch 1 of 4" in log
    assert "epoch 4 of 4" in log


@needs_mlflow
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


@needs_mlflow
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


@needs_mlflow
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


@needs_mlflow
def test_adapter_of_a_fine_tuned_teacher_is_kept_as_a_file(tracked, run_folder, client):
    tracked = {
        **only(tracked, "mlflow"),
        "mlflow_record::log_model": True,
        "training::num_epochs": 1,
        "teacher::cache_dir": None,
    }
    tracked.pop("network_def")
    tracked["teacher::lora_checkpoint"] = None
    record_run(tracked, "train_teacher.json", "mlflow.json")
    record = mlflow_run(client, run_folder)
    (adapter,) = client.list_artifacts(record.info.run_id, "models")
    assert re.fullmatch(r"models/best_epoch001_dice.*\.pth", adapter.path)
    assert not client.search_logged_models([record.info.experiment_id], f"source_run_id = '{record.info.run_id}'")


@needs_mlflow
def test_evaluation_is_recorded_too(distilled, tracked, client, tmp_path):
    best = next((distilled[0] / "models").glob("best_epoch*"))
    own = {
        "student::checkpoint": str(best),
        "run_folder::root": str(tmp_path / "evaluation"),
        "hardware::precision": "fp32",
    }
    tracked = {**only(tracked, "mlflow"), **own}
    record_run(tracked, "train_student.json", "evaluate.json", "mlflow.json", run_id="evaluating")
    record = mlflow_run(client, tmp_path / "evaluation" / "phantoms" / "run")
    assert record.info.run_name == "evaluation/run"
    assert record.info.status == "FINISHED"
    trained = mlflow_run(client, distilled[0]).data.metrics
    assert record.data.metrics["test/student/dice"] == pytest.approx(trained["test/student/dice"], abs=1e-6)


@needs_mlflow
@pytest.mark.parametrize("uri", ["file:///some/folder", "some/folder"])
def test_folder_as_a_store_is_refused(uri, tmp_path):
    match = (
        rf"mlflow_record::tracking_uri '{uri}' is a folder, in which MLflow no longer keeps runs; .* pass "
        rf"sqlite:///PATH or"
    )
    with pytest.raises(ValueError, match=match):
        MLflowRecord(TrackedRun({}, None, Folder(tmp_path)), tmp_path, "some", tracking_uri=uri)


@needs_mlflow
def test_store_of_the_users_own_is_used(tmp_path, store):
    record = MLflowRecord(TrackedRun({}, None, Folder(tmp_path)), tmp_path, "some", f"sqlite:///{store / 'mlflow.db'}")
    assert record.tracking_uri.endswith("mlflow.db")
    assert str(store) in record.tracking_uri


@needs_mlflow
def test_only_the_first_of_several_processes_records(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    record = MLflowRecord(TrackedRun({}, None, Folder(tmp_path / "run")), tmp_path / "store", "some")
    record.start()
    record.log_epochs()
    record.finish()
    assert not list(tmp_path.iterdir())


# W&B


def wandb_folder(folder: Path, store: Path) -> Path:
    """The offline folder of a run."""
    (found,) = (store / "wandb").glob(f"offline-run-*-{json.loads((folder / 'wandb_record.json').read_text())['id']}")
    return found


def wandb_records(folder: Path) -> list:
    """What the file of an offline run holds, in order. It is a LevelDB log: blocks with chunks of checksum, length
    and kind.
    """
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("run-*.wandb")
    data, offset, text, records = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while offset + 7 <= len(data):
        left = BLOCK - offset % BLOCK
        if left < 7:
            offset += left
            continue
        length, kind = struct.unpack_from("<HB", data, offset + 4)
        text = (b"" if kind in (WHOLE, FIRST) else text) + data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (WHOLE, LAST):
            records.append(wandb_internal_pb2.Record.FromString(text))
    return records


@needs_wandb
def test_wandb_offline_run_holds_parameters_metrics_figures_and_files(distilled, store):
    folder = wandb_folder(distilled[0], store)
    records = wandb_records(folder)
    config = {
        update.key: json.loads(update.value_json)
        for r in records
        for update in (*r.run.config.update, *r.config.update)
    }
    params = flatten_sections(json.loads((distilled[0] / "config.json").read_text()))
    assert {key: config.get(key) for key in params} == params
    assert config["data.files_sha256"]
    assert config["git.revision"]
    logged = [record.history.item for record in records if record.history.item]
    rows = [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in items} for items in logged]
    wanted = list(TrackedRun({}, None, Folder(distilled[0])).epochs())
    for name in ("train/task", "train/distill", "train/feature", "train/lr"):
        assert [row[name] for row in rows if name in row] == [values[name] for _, values in wanted]
    assert [row["_step"] for row in rows if "val/val_mean_dice" in row] == [2, 4]
    summary = {u.key or u.nested_key[0]: json.loads(u.value_json) for r in records for u in r.summary.update}
    figures = TrackedRun({}, None, Folder(distilled[0])).test_figures()
    assert figures
    assert {name: summary.get(name) for name in figures} == figures


@needs_wandb
def test_wandb_offline_run_holds_panels_and_files(distilled, store):
    folder = wandb_folder(distilled[0], store)
    assert {*FILES} <= {path.name for path in (folder / "files").iterdir()}
    assert (folder / "files" / "report.html").read_bytes() == (distilled[0] / "report.html").read_bytes()
    panels = list((folder / "files" / "media" / "images" / "panels").glob("*.png"))
    assert len(panels) == len(list((distilled[0] / "visualizations").glob("*.png")))
    assert all(small_picture(path).width <= 960 for path in panels)


@needs_wandb
def test_overlay_is_offline_unless_asked(tmp_path):
    assert json.loads((CONFIGS / "wandb.json").read_text())["wandb_record"]["mode"] == "offline"
    with pytest.raises(ValueError, match="wandb_record::mode must be one of offline, online, got 'on'"):
        WandbRecord(TrackedRun({}, None, Folder(tmp_path)), tmp_path, "some", mode="on")


# docs/tracking.md


def commands(program: str) -> list[list[str]]:
    """Words of every command of a program in docs/tracking.md, from its name on."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "tracking.md").read_text(), re.S):
        lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
        found += [words[words.index(program) :] for words in lines if program in words]
    return found


@pytest.mark.parametrize("name", INSTALLED)
def test_training_command_of_the_docs_names_the_overlay(name):
    (words,) = [
        words for words in commands("monai.bundle") if f"configs/{name}.json" in words[words.index("--config_file") + 1]
    ]
    assert words[1:3] == ["run", "training"]  # the fixture `distilled` runs it on phantoms
    config = json.loads((CONFIGS / "train.json").read_text())
    for option in words[5::2]:
        section, key = option.removeprefix("--").split("::")
        assert key in config[section]


@needs_mlflow
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


def test_page_of_tensorboard_opens(tmp_path, monkeypatch):
    from tensorboard import default
    from tensorboard.program import TensorBoard

    (words,) = commands("tensorboard.main")
    monkeypatch.chdir(tmp_path)
    program = TensorBoard(default.get_plugins())
    program.configure([*words[: words.index("--port")], "--port", "0"])
    with urllib.request.urlopen(program.launch(), timeout=60) as page:
        assert "TensorBoard" in page.read().decode()


@needs_wandb
def test_command_that_sends_an_offline_run_finds_it(distilled, store, tmp_path, monkeypatch):
    from wandb.cli.cli import cli

    (words,) = commands("wandb")
    (tmp_path / "logs").mkdir()
    name = wandb_folder(distilled[0], store).name
    shutil.copytree(store / "wandb" / name, tmp_path / "logs" / "wandb" / name)
    monkeypatch.chdir(tmp_path)
    path = words[2].replace("offline-run-20261101_120000-RUN_ID", name)
    assert path != words[2]
    assert Path(path).is_dir()
    assert words[1] in cli.commands
