"""pip install: the wheel holds the bundle, and works in an environment of its own, beside another package `scripts`."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from api_students import speckle
from conftest import ROOT
from PIL import Image

from scripts.api.student import SHARED, load

UV = os.environ.get("UV") or shutil.which("uv")
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
USE = """
import sys
import numpy, sam_tinyusfm
from sam_tinyusfm.utils.files import BUNDLE_ROOT, CONFIGS
assert CONFIGS.parent == BUNDLE_ROOT
assert (CONFIGS / "metadata.json").is_file()
assert BUNDLE_ROOT.name == "sam_tinyusfm" and "site-packages" in BUNDLE_ROOT.parts
numpy.save(sys.argv[2], sam_tinyusfm.load(engine="torch").segment(sys.argv[1]).mask)
assert not {"monai", "scripts"} & set(sys.modules)
"""


def test_every_folder_of_the_bundle_is_in_the_wheel():
    listed = re.search(r"^packages = \[(.*?)\]$", PROJECT, re.M | re.S)[1]
    packages = set(re.findall(r'"([^"]+)"', listed))
    folders = {path.parent.relative_to(ROOT) for top in ("scripts", "eval") for path in (ROOT / top).rglob("*.py")}
    folders -= {Path("scripts/api/sam_tinyusfm")}  # the package itself
    expected = {".".join(("sam_tinyusfm", *folder.parts)) for folder in folders}
    assert packages == expected | {f"sam_tinyusfm{name}" for name in ("", ".configs", ".models", ".models.teacher")}


def run(*words, **options):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment that has the wheel, and the libraries of this one."""
    if UV is None:
        pytest.skip("uv is not there")
    if not SHARED.is_file():
        pytest.skip("models/model.pt is not there")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("scripts", "eval", "configs", "models"):
        left_out = shutil.ignore_patterns("__pycache__", "results", "*.safetensors")
        shutil.copytree(ROOT / name, source / name, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-c", BUILD, folder, cwd=source)
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    run(UV, "venv", "-q", "--offline", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(UV, "pip", "install", "-q", "--offline", "--no-deps", "--python", python, wheel)
    wheel.unlink()
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    (packages / "scripts").mkdir()
    (packages / "scripts" / "__init__.py").write_text("raise ImportError('another package')")
    return python.parent


@pytest.mark.slow
def test_installed_student_finds_what_the_checkout_finds(environment, tmp_path):
    Image.fromarray(speckle(size=(300, 250))).save(tmp_path / "image.png")
    run(environment / "python", "-c", USE, tmp_path / "image.png", tmp_path / "mask.npy", cwd=tmp_path)
    expected = load(engine="torch").segment(tmp_path / "image.png").mask
    assert np.array_equal(np.load(tmp_path / "mask.npy"), expected)


@pytest.mark.slow
def test_installed_command_segments_trains_and_writes_into_the_current_folder(environment, phantoms, tmp_path):
    told = run(environment / "sam_tinyusfm", "segment", phantoms / "images", "-o", "masks", cwd=tmp_path)
    assert "segmented 10 files into masks" in told.stdout
    sizes = ["--data::img_size", "64", "--student::model_name", "TinyUSFM_Test", "--training::batch_size", "3"]
    short = ["--training::num_epochs", "1", "--training::warmup_epochs", "0", "--hardware::gpu_ids", "[]"]
    words = ["train", "train_student.json", "--data::dataset_dir", phantoms, *sizes, *short]
    run(environment / "sam_tinyusfm", *words, cwd=tmp_path)
    assert list(tmp_path.glob("logs/student/phantoms/*/report.html"))
    (best,) = tmp_path.glob("logs/student/phantoms/*/models/best_*.pt")
    assert load(best, engine="torch").engine.img_size == 64
