"""What experiment trackers are told of a run, their overlays, and the commands of docs/tracking.md.

What they keep of it is read back in test_mlflow.py and test_wandb.py.
"""

import json
import math
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, workflow
from PIL import Image
from tracked_runs import EXTRAS, INSTALLED, Folder, commands, make_store, make_tracked, only

from scripts.run.errors import find_user_error
from scripts.run.tracking import (
    SECTIONS,
    WIRING,
    Record,
    TrackedRun,
    data_hashes,
    describe_origin,
    flatten_sections,
    require,
    small_picture,
)
from scripts.utils.machine import git_revision

store = pytest.fixture(scope="module")(make_store)
tracked = pytest.fixture(make_tracked)


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


def test_hashes_count_images_without_labels_where_they_teach(overrides, phantoms, tmp_path):
    def hashes(*overlays: str, **changes) -> dict:
        options = {**overrides, **{f"data::{key}": value for key, value in changes.items()}}
        return data_hashes(workflow(options, *overlays).parser.get_parsed_content("data"))

    copy = tmp_path / phantoms.name
    shutil.copytree(phantoms, copy)
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(copy / "more.png")
    content = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**content, "unlabeled": ["more.png"]}))
    off, on = hashes(dataset_dir=str(copy)), hashes(dataset_dir=str(copy), unlabeled_share=0.5)
    assert {key for key in off if off[key] != on[key]} == {"data.lists", "data.files_sha256"}
    assert off["data.files_sha256"] == hashes(dataset_dir=str(phantoms))["data.files_sha256"]
    folder = hashes("pretrain.json", dataset_dir=str(copy / "images"))
    assert folder.keys() == {"data.lists", "data.files_sha256"}
    (copy / "images" / "new.png").write_bytes((copy / "more.png").read_bytes())
    assert all(value != folder[key] for key, value in hashes("pretrain.json", dataset_dir=str(copy / "images")).items())


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


# docs/tracking.md


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


def test_page_of_tensorboard_opens(tmp_path, monkeypatch):
    from tensorboard import default
    from tensorboard.program import TensorBoard

    (words,) = commands("tensorboard.main")
    monkeypatch.chdir(tmp_path)
    program = TensorBoard(default.get_plugins())
    program.configure([*words[: words.index("--port")], "--port", "0"])
    with urllib.request.urlopen(program.launch(), timeout=60) as page:
        assert "TensorBoard" in page.read().decode()


class NoRecord(Record):
    """A tracker that keeps nothing."""

    package = "json"

    def _open(self, id):
        return "17"

    def _log_epoch(self, values, epoch):
        pass

    def _log_results(self, figures, panels, files):
        pass

    def _close(self):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "17"}', '{"id": "17", "last_epoch": null}'])
def test_spoilt_state_of_a_record_is_named(tmp_path, content):
    path = tmp_path / "json_record.json"
    path.write_text(content)
    record = NoRecord(TrackedRun({}, None, Folder(tmp_path)))
    with pytest.raises(ValueError, match=r"json_record.json is damaged .*; move it away for a new record"):
        record.start()
    assert path.read_text() == content
