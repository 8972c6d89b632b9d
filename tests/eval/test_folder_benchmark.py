"""The benchmark of folders and loops: its table, its inputs, and what it refuses."""

import json
import sys

import nibabel
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from PIL import Image

from eval.benchmark import folders
from eval.benchmark.folders import main, print_rows, write_folder, write_loop
from scripts.networks.tinyusfm import TinyUSFMSeg


@pytest.mark.slow
def test_program_measures_both_versions_in_turn(tmp_path, capsys):
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), tmp_path / "model.pt")
    network = {"_target_": "scripts.networks.tinyusfm.TinyUSFMSeg", "img_size": 64, **TINY}
    sizes = ["--count", "2", "--frames", "2", "--repeats", "1", "--engines", "torch", "--earlier", str(ROOT)]
    ids = ["--checkpoint", str(tmp_path / "model.pt"), "--img_size", "64", "--network_def", str(network)]
    assert main([*sizes, "--output", str(tmp_path / "folders.json"), *ids]) == 0
    figures = json.loads((tmp_path / "folders.json").read_text())
    assert {name: list(rows) for name, rows in figures.items()} == {
        "image": ["earlier", "torch"],
        "frame": ["earlier", "torch"],
    }
    assert all(row["ms"] > 0 and row["cpu_ms"] > 0 for rows in figures.values() for row in rows.values())
    assert "earlier /" in capsys.readouterr().out


def test_ratios_are_of_the_earlier_version_to_this_one(capsys):
    print_rows("image", {"earlier": {"ms": 150.0, "cpu_ms": 140.0}, "onnx": {"ms": 50.0, "cpu_ms": 70.0}})
    assert capsys.readouterr().out.splitlines()[-1].split() == ["onnx", "50.0", "20.0", "70.0", "3.00", "2.00"]
    print_rows("image", {"onnx": {"ms": 50.0, "cpu_ms": 70.0}})
    assert capsys.readouterr().out.splitlines()[-1].split()[-2:] == ["-", "-"]


def test_folder_repeats_its_pictures_and_the_loop_moves(tmp_path):
    (tmp_path / "given").mkdir()
    for name in "ab":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)).save(
            tmp_path / "given" / f"{name}.png"
        )
    made = write_folder(tmp_path / "images", tmp_path / "given", 5)
    assert [path.resolve().name for path in sorted(made.iterdir())] == ["a.png", "b.png", "a.png", "b.png", "a.png"]
    frames = np.asarray(nibabel.load(write_loop(tmp_path / "loop.nii", tmp_path / "given", 3)).dataobj)
    assert frames.shape == (800, 600, 1, 3)
    assert (frames[..., 0] != frames[..., 1]).any()
    assert len(list(write_folder(tmp_path / "phantoms_too", None, 3).iterdir())) == 3


def test_bad_arguments_end_with_one_line(tmp_path, capsys, monkeypatch):
    assert main(["--count", "0"]) == 1
    assert "--count must be at least 1, got 0." in capsys.readouterr().err
    assert main(["--earlier", str(tmp_path)]) == 1
    assert f"--earlier {tmp_path} is no bundle" in capsys.readouterr().err
    assert main(["--images", str(tmp_path)]) == 1
    assert f"--images {tmp_path} holds no picture" in capsys.readouterr().err
    monkeypatch.setattr(sys, "executable", "false")
    assert main(["--count", "1", "--frames", "1"]) == 1
    assert f"the run in {folders.BUNDLE_ROOT} failed: no message" in capsys.readouterr().err
