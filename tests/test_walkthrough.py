"""The walkthrough, command by command, on phantoms in BUS-BRA's layout and in a copy of the bundle; and its pictures
and links.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import NAME, ZIP, make_repository
from conftest import ROOT
from PIL import Image
from walk import commands

from scripts.data.phantoms import make_phantom
from scripts.share.manifest import problems

PAGES = [ROOT / "docs" / f"{name}.md" for name in ("walkthrough", "sharing")]
PATIENTS, SIZE = 5, 96  # three for training, one each for validation and test
ON_CPU = ["--hardware::gpu_ids", "[]"]
SHORT = ["--training::num_epochs", "1", "--training::warmup_epochs", "0", "--training::num_workers", "0", *ON_CPU]
SMALL = {
    "scripts.make_datalist": ["--val", "0.2", "--test", "0.2"],
    "monai.bundle run training": SHORT,
    "monai.bundle run --config_file configs/inference.json": ON_CPU,
    "eval.preflight": ON_CPU,
    "eval.compare": ["--seeds", "0", *SHORT],
    "eval.publish": ON_CPU,
    # the others are the extra's and have tests of their own
    "scripts.export": ["--formats", "safetensors", "torchscript"],
}


def write_busbra(folder: Path, count: int, size: int) -> None:
    """Phantoms as a BUS-BRA download has its images."""
    for name in ("Images", "Masks"):
        (folder / name).mkdir(parents=True)
    with open(folder / "bus_data.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ID", "Case", "Pathology", "BIRADS", "Device", "Side"])
        for number in range(1, count + 1):
            image, mask = make_phantom((0, number), size)
            Image.fromarray(image).save(folder / "Images" / f"bus_{number:04d}-l.png")
            Image.fromarray(mask > 0).save(folder / "Masks" / f"mask_{number:04d}-l.png")
            table.writerow([f"bus_{number:04d}-l", number, "benign", 3, "phantom", "left"])


@pytest.fixture
def reader(tmp_path) -> Path:
    """The bundle's folder with the download in it, and new images."""
    folder = make_repository(tmp_path / "bundle", models=True)
    write_busbra(folder / "data" / "BUSBRA", PATIENTS, SIZE)
    (folder / "new_images").mkdir()
    shutil.copy(next((folder / "data" / "BUSBRA" / "Images").iterdir()), folder / "new_images")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_every_command_of_the_walkthrough_runs(reader, tmp_path):
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    command = [sys.executable, str(ROOT / "tests" / "walk.py"), str(PAGES[0]), "", str(tmp_path / "small.json")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=reader, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    started = [line.split()[1] for line in found.stdout.splitlines() if line.startswith("+ ")]
    assert started == [words[2] for words in commands(PAGES[0])]
    assert "NO-GO" in found.stdout
    assert "checks passed" in found.stdout
    (run,) = (reader / "logs" / "distillation" / "BUSBRA").iterdir()
    results = [run / "report.html", reader / "logs" / "comparison" / "report.html", reader / "export" / "export.json"]
    assert [path for path in results if not path.is_file()] == []
    assert (reader / "models" / "model.pt").read_bytes() != (ROOT / "models" / "model.pt").read_bytes()
    (mask,) = (reader / "masks").glob("*_mask.png")
    assert Image.open(mask).size == (SIZE, SIZE)
    assert (reader / "logs" / "share" / ZIP).is_file()
    assert problems(reader / "logs" / "share" / NAME) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_of_a_page_are_there(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert links
    for link in links:
        assert (page.parent / link).is_file(), link


def test_pictures_are_small_and_each_is_shown():
    text = PAGES[0].read_text()
    pictures = sorted((ROOT / "docs").glob("walkthrough_*.png"))
    assert pictures
    for path in pictures:
        assert path.stat().st_size < 150_000, path.name
        assert f"]({path.name})" in text, path.name
