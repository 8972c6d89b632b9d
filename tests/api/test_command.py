"""The command sam_tinyusfm: doors that hand their options through, and --help without torch."""

import re
import subprocess
import sys

import numpy as np
import pytest
from api_students import speckle
from conftest import CONFIGS, ROOT
from PIL import Image

from scripts.api import command

WITHOUT_TORCH = """import runpy, sys
sys.modules["torch"] = None
sys.path.insert(0, sys.argv[1])
sys.argv = ["sam_tinyusfm", *sys.argv[2:]]
runpy.run_module("sam_tinyusfm", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def started(monkeypatch):
    """What a door starts, in the place of starting it."""
    calls = []
    monkeypatch.setattr(command, "_run_program", lambda module, words: calls.append((module, words)) or 0)
    return calls


@pytest.mark.parametrize("door", [[], *([name] for name in command._doors())], ids=str)
def test_help_does_without_torch(door, tmp_path):
    words = [sys.executable, "-c", WITHOUT_TORCH, str(ROOT / "scripts" / "api"), *door, "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""


def test_usage_names_every_door(capsys):
    assert command.main([]) == 0
    told = capsys.readouterr().out
    assert {"segment", "train", "evaluate", "compare", "settings", "export"} <= set(command._doors())
    assert all(f"\n  {name} " in told for name in command._doors())


def test_unknown_command_ends_with_one_line(capsys):
    assert command.main(["segmnt"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sam_tinyusfm: unknown command 'segmnt'; expected one of segment, train")


def test_doors_of_the_page_are_those_of_the_command():
    table = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").partition("## Command")[2]
    assert set(re.findall(r"`sam_tinyusfm (\w+)", table)) == set(command._doors())


def test_order_of_words_does_not_matter(started):
    assert command.main(["segment", "--recursive", "True", "-o", "masks", "--resume=True", "images"]) == 0
    assert command.main(["segment", "images", "--output", "masks", "--recursive", "True", "--resume=True"]) == 0
    assert command.main(["train", "--data::dataset_dir", "d", "from_scratch.json"]) == 0
    assert command.main(["train", "from_scratch.json", "--data::dataset_dir", "d"]) == 0
    assert sorted(started[0][1]) == sorted(started[1][1])
    assert started[2] == started[3]
    assert str(CONFIGS / "from_scratch.json") in started[2][1][3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["segment", "a.png", "b.png", "-o", "masks"], "unrecognized arguments: b.png"),
        (["segment", "images", "-o", "masks", "--dataset_dir", "x"], "pass the folders as FOLDER and -o OUT."),
        (["train", "--training::lr", "0.1", "gone.json"], "config file gone.json does not exist"),
    ],
)
def test_words_that_would_be_lost_are_refused(started, words, message, capsys):
    with pytest.raises(SystemExit):
        command.main(words)
    assert message in capsys.readouterr().err
    assert started == []


def test_segment_hands_its_options_through(started):
    assert command.main(["segment", "images", "-o", "masks", "--recursive", "True"]) == 0
    ((module, words),) = started
    pairs = dict(zip(words[1::2], words[2::2]))
    assert (module, words[0]) == ("monai.bundle", "run")
    assert pairs["--config_file"] == str(CONFIGS / "inference.json")
    assert (pairs["--dataset_dir"], pairs["--output_dir"], pairs["--recursive"]) == ("./images", "./masks", "True")
    assert pairs["--checkpoint"] == str(ROOT / "models" / "model.pt")


def test_folders_named_like_numbers_and_expressions_stay_names(started):
    for name in ("2024", "$1 + 1", "None", "a,b", "../up"):
        command.main(["segment", name, "-o", f"{name}_out", "--checkpoint", "/abs/best.pt"])
        _, words = started.pop()
        pairs = dict(zip(words[1::2], words[2::2]))
        assert (pairs["--dataset_dir"], pairs["--output_dir"]) == (f"./{name}", f"./{name}_out")
        assert pairs["--checkpoint"] == "/abs/best.pt"


def test_train_json_of_the_current_folder_is_not_that_of_the_bundle(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train.json", "evaluate.json"):
        (tmp_path / name).write_text("{}")
    command.main(["evaluate"])
    ((_, words),) = started
    assert words[3] == str([str(CONFIGS / "train.json"), str(CONFIGS / "evaluate.json")])


def test_teacher_of_a_user_goes_before_the_shared_one(started, tmp_path):
    for option in (["--teacher::lora_checkpoint=mine.pth"], ["--teacher#lora_checkpoint", "mine.pth"]):
        command.main(["train", str(CONFIGS / "shared_teacher.json"), *option])
        _, words = started.pop()
        assert str(command.SHARED_TEACHER) not in words
    (tmp_path / "shared_teacher.json").write_text('{"teacher::lora_checkpoint": "mine.pth"}')
    command.main(["train", str(tmp_path / "shared_teacher.json")])
    _, words = started.pop()
    assert str(command.SHARED_TEACHER) not in words


def test_settings_with_the_shared_teacher_find_it_where_the_bundle_lies(started, tmp_path):
    (tmp_path / "settings.json").write_text((CONFIGS / "shared_teacher.json").read_text())
    for name in (CONFIGS / "shared_teacher.json", tmp_path / "settings.json"):
        command.main(["train", str(name)])
        _, words = started.pop()
        assert words[words.index("--teacher::lora_checkpoint") + 1] == str(command.SHARED_TEACHER)


def test_training_takes_overlays_and_the_shared_teacher_where_the_bundle_lies(started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    names = ["shared_teacher.json", "mine.json"]
    assert command.main(["train", *names, "--data::dataset_dir", "data"]) == 0
    assert command.main(["evaluate", "--student::checkpoint", "best.pt"]) == 0
    (_, train), (_, evaluate) = started
    assert train[:2] == ["run", "training"]
    assert train[3] == str([str(CONFIGS / "train.json"), str(CONFIGS / "shared_teacher.json"), "mine.json"])
    assert train[train.index("--teacher::lora_checkpoint") + 1] == str(command.SHARED_TEACHER)
    assert train[4:6] == ["--data::dataset_dir", "data"]
    assert evaluate[:2] == ["run", "evaluating"]
    assert evaluate[3] == str([str(CONFIGS / "train.json"), str(CONFIGS / "evaluate.json")])


def test_missing_overlay_is_named(started, capsys):
    with pytest.raises(SystemExit):
        command.main(["train", "gone.json"])
    assert "config file gone.json does not exist, neither here nor in" in capsys.readouterr().err
    assert started == []


@pytest.mark.slow
@pytest.mark.skipif(not command.SHARED_STUDENT.is_file(), reason="models/model.pt is not there")
def test_segment_writes_into_the_current_folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(speckle()).save(tmp_path / "images" / "a.png")
    words = [sys.executable, "-m", "sam_tinyusfm", "segment", str(tmp_path / "images"), "-o", str(tmp_path / "masks")]
    done = subprocess.run(words, cwd=ROOT / "scripts" / "api", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "segmented 1 file into" in done.stdout
    assert np.asarray(Image.open(tmp_path / "masks" / "a_mask.png")).shape == (50, 60)
    again = subprocess.run(words, cwd=ROOT / "scripts" / "api", capture_output=True, text=True, timeout=300)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith("error: ")
