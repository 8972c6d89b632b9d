"""What Weights & Biases keeps of a run, read back from its offline folder."""

import json
import shutil
import struct
from pathlib import Path

import pytest
from conftest import CONFIGS
from tracked_runs import Folder, commands, make_distilled, make_store, needs

from scripts.handlers import WandbRecord
from scripts.run.tracking import FILES, TrackedRun, flatten_sections, small_picture

BLOCK, WHOLE, FIRST, LAST = 32768, 1, 2, 4  # of a file of W&B

store = pytest.fixture(scope="module")(make_store)
distilled = pytest.fixture(scope="module")(make_distilled)


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


@needs("wandb")
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
    for name in ("train/task", "train/distill", "train/lr"):
        assert [row[name] for row in rows if name in row] == [values[name] for _, values in wanted]
    assert [row["_step"] for row in rows if "val/val_mean_dice" in row] == [2, 4]
    summary = {u.key or u.nested_key[0]: json.loads(u.value_json) for r in records for u in r.summary.update}
    figures = TrackedRun({}, None, Folder(distilled[0])).test_figures()
    assert figures
    assert {name: summary.get(name) for name in figures} == figures


@needs("wandb")
def test_wandb_offline_run_holds_panels_and_files(distilled, store):
    folder = wandb_folder(distilled[0], store)
    assert {*FILES} <= {path.name for path in (folder / "files").iterdir()}
    assert (folder / "files" / "report.html").read_bytes() == (distilled[0] / "report.html").read_bytes()
    panels = list((folder / "files" / "media" / "images" / "panels").glob("*.png"))
    assert len(panels) == len(list((distilled[0] / "visualizations").glob("*.png")))
    assert all(small_picture(path).width <= 960 for path in panels)


@needs("wandb")
def test_overlay_is_offline_unless_asked(tmp_path):
    assert json.loads((CONFIGS / "wandb.json").read_text())["wandb_record"]["mode"] == "offline"
    with pytest.raises(ValueError, match="wandb_record::mode must be one of offline, online, got 'on'"):
        WandbRecord(TrackedRun({}, None, Folder(tmp_path)), tmp_path, "some", mode="on")


@needs("wandb")
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
