"""docs/inference.md: each of its commands is run, with a tiny student on tiny images, and its tables are those of
the code.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from conftest import CONFIGS, ROOT, TINY
from dicom_files import write_dicom
from fire.parser import DefaultParseValue
from monai.bundle import ConfigWorkflow, ckpt_export
from PIL import Image

from eval.benchmark import folders
from eval.deploy import __main__ as deploy
from eval.presence.__main__ import main as presence
from scripts.data.phantoms import make_phantom, write_phantom_dataset
from scripts.export import check as export_check
from scripts.export import formats as export_formats
from scripts.export.__main__ import main as export
from scripts.export.formats import FORMATS, read_student
from scripts.export.metadata import describe
from scripts.export.whole import segment_in_torch, write_whole
from scripts.inference.lesions import COLUMNS
from scripts.inference.output_folder import LOCK_FILE, RUN_FILE
from scripts.networks.tinyusfm import TinyUSFMSeg

PAGE = (ROOT / "docs" / "inference.md").read_text()
NETWORK = "scripts.networks.tinyusfm.TinyUSFMSeg"
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with what the page names: images, students, data."""
    monkeypatch.chdir(tmp_path)
    write_phantom_dataset(tmp_path / "data" / "BUSBRA", 2, 1, 1, size=64)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "models").mkdir()
    torch.manual_seed(0)
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), tmp_path / "models" / "model.pt")
    torch.save(TinyUSFMSeg(img_size=64, num_classes=3, **TINY).state_dict(), tmp_path / "three.pt")
    (tmp_path / "images").mkdir()
    return tmp_path


def pairs(words: list[str]) -> dict:
    return {
        name.removeprefix("--"): DefaultParseValue(value) for name, value in zip(words[::2], words[1::2], strict=True)
    }


def segment(folder, words: list[str]) -> None:
    options = pairs(words)
    if options.get("output_format") == "dicom_seg" or "modalities" in options:
        pytest.importorskip("highdicom", reason="DICOM needs the extra dicom")
        image = np.random.default_rng(0).integers(0, 256, (50, 60), dtype=np.uint8)
        write_dicom(folder / "images" / "a.dcm", image, modality=options.get("modalities", ["US"])[-1])
    else:
        shutil.copy(next((folder / "data" / "BUSBRA" / "images").iterdir()), folder / "images" / "a.png")
    if options.get("overwrite"):
        (folder / "masks").mkdir()
        Image.new("L", (1, 1)).save(folder / "masks" / "a_mask.png")
    network_def = {"_target_": NETWORK, "num_classes": "@num_classes", "img_size": "@img_size", **TINY}
    flow = ConfigWorkflow(
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(folder),
        img_size=64,
        network_def=network_def,
        **options,
    )
    flow.initialize()
    flow.run()
    suffix = ".dcm" if options.get("output_format") == "dicom_seg" else ".png"
    assert {path.name for path in (folder / "masks").iterdir()} == {
        *(f"a_mask{suffix}", "a_overlay.png", "lesions.csv"),
        *(RUN_FILE, LOCK_FILE),
    }
    classes = [row.split(",")[2] for row in (folder / "masks" / "lesions.csv").read_text().splitlines()[1:]]
    assert classes == options.get("class_names", ["lesion"])


def export_light_formats(folder, words: list[str], monkeypatch) -> None:
    """The formats that need no further library; tests/export has the others."""
    light = {name: format for name, format in FORMATS.items() if not format.needs}
    monkeypatch.setattr(export_formats, "TinyUSFMSeg", partial(TinyUSFMSeg, **TINY))
    for module in (export_check, export_formats):
        monkeypatch.setattr(module, "FORMATS", light)
    assert export([*words, "--img_size", "64"]) == 0
    record = json.loads((folder / "export" / "export.json").read_text())
    assert list(record["formats"]) == ["safetensors", "torchscript"]
    assert record["checked_on"] == "list validation of BUSBRA"


def calibrate(folder, words: list[str]) -> None:
    """On six phantoms, of which the half show nothing."""
    shutil.rmtree(folder / "data")
    data = folder / "data" / "BUSBRA"
    write_phantom_dataset(data, 1, 6, 1, size=64)
    for number, entry in enumerate(json.loads((data / "dataset.json").read_text())["validation"][::2]):
        for key, value in (("image", number), ("label", 0)):
            Image.new("L", (64, 64), value).save(data / entry[key])
    test_size = ["--data::img_size", "64", "--student::model_name", "TinyUSFM_Test", "--hardware::gpu_ids", "[]"]
    assert presence([*words, *test_size]) == 0
    assert "presence.weight" in torch.load(folder / "models" / "model_presence.pt")


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_command_of_the_page_runs(folder, command, monkeypatch):
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    if words[2] == "scripts.export":
        export_light_formats(folder, words[3:], monkeypatch)
    elif words[2] == "eval.presence":
        calibrate(folder, words[3:])
    elif words[2] == "eval.deploy":  # tests/eval/test_deploy.py runs it
        assert deploy._parser().parse_args(words[3:]).model == ROOT
    elif words[2] == "eval.benchmark.folders":  # tests/eval/test_folder_benchmark.py runs it
        assert folders._parser().parse_args(words[3:]).earlier
    elif words[3] == "run":
        segment(folder, words[4:])
    else:
        assert words[2:4] == ["monai.bundle", "ckpt_export"]
        network_def = {"_target_": NETWORK, "num_classes": 2, "img_size": 64, **TINY}
        ckpt_export(**pairs(words[4:]), network_def=network_def)
        assert torch.jit.load(folder / "model.ts")(torch.rand(3, 1, 64, 64)).shape == (3, 1, 64, 64)


def test_example_without_the_bundle_finds_the_same_mask(folder, monkeypatch):
    monkeypatch.setattr(export_formats, "TinyUSFMSeg", partial(TinyUSFMSeg, **TINY))
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="exports need the extra export")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(list(filter(None, code.splitlines()))) == 10
    student = read_student(folder / "models" / "model.pt", 64, 2)
    (folder / "export").mkdir()
    write_whole(student, folder / "export", describe(student, 2))
    picture = make_phantom((0, 0), 90)[0][:70]
    Image.fromarray(picture).save(folder / "images" / "a.png")
    alone = "\nimport sys; assert not {'torch', 'monai', 'onnx', 'scripts'} & set(sys.modules)"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "HOME": str(folder)}
    result = subprocess.run(
        [sys.executable, "-c", code + alone], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    expected = segment_in_torch(student, picture)
    assert f"['background', 'lesion'] {expected.mask.sum()} " in result.stdout
    with Image.open(folder / "a_mask.png") as image:
        assert np.array_equal(np.asarray(image), 255 * expected.mask)


def test_page_has_commands_of_all_kinds():
    assert {tuple(shlex.split(command)[2:4]) for command in COMMANDS} == {
        ("monai.bundle", "run"),
        ("monai.bundle", "ckpt_export"),
        ("scripts.export", "--checkpoint"),
        ("eval.presence", "--dataset_dir"),
        ("eval.deploy", "--input"),
        ("eval.benchmark.folders", "--images"),
    }


def test_columns_of_the_table_are_those_of_the_page():
    rows = re.search(r"\| column \| what \|\n\|---\|---\|\n(.*?)\n\n", PAGE, re.S)[1]
    named = [name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert tuple(named) == COLUMNS


def test_ids_of_the_page_exist():
    config = json.loads((CONFIGS / "inference.json").read_text())
    rows = re.search(r"\| id \| what \|\n\|---\|---\|\n(.*?)\n\n", PAGE, re.S)[1]
    for name in (name for row in rows.splitlines() for name in re.findall(r"`([\w:]+)`", row.split("|")[1])):
        section, _, key = name.partition("::")
        assert section in config, name
        assert not key or key in config[section], name


def test_picture_of_the_page_is_small():
    path = ROOT / "docs" / "inference.png"
    assert path.stat().st_size < 200_000
    with Image.open(path) as picture:
        colors = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (colors == [245, 158, 11]).all(1).sum() > 100  # an outline


def test_extra_of_the_page_is_declared():
    assert re.search(r"^dicom = \[", (ROOT / "pyproject.toml").read_text(), re.M)
