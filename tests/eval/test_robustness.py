"""The program that measures probes: which networks it takes, what it prints and writes, and what it refuses."""

import json
import logging

import pytest
import torch
from comparing import settings_of
from conftest import ROOT, TINY
from PIL import Image

from eval.robustness import main
from scripts.networks.tinyusfm import TinyUSFMSeg

FEW = ["--probes", "left", "darker", "--cases", "2"]


def words(overrides, **changes):
    settings = {**settings_of(overrides), **changes}
    left_out = ("bundle_root", "model_file")
    return [text for key, value in settings.items() if key not in left_out for text in (f"--{key}", repr(value))]


@pytest.fixture
def student(tmp_path):
    torch.manual_seed(0)
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), tmp_path / "student.pt")
    return tmp_path / "student.pt"


def test_student_and_teacher_of_the_configuration_are_probed(overrides, student, tmp_path, caplog):
    options = words(overrides, **{"student::checkpoint": str(student)})
    with caplog.at_level(logging.INFO):
        assert main([*FEW, "--output_dir", str(tmp_path / "out"), *options]) == 0
    printed = [record.getMessage() for record in caplog.records if record.name == "scripts.screen"]
    assert printed[0].startswith("phantoms, validation list\n\nchange of Dice [95 % interval]")
    assert printed[1] == f"report: {tmp_path / 'out' / 'report.html'}"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["probe"] for row in report["probes"]["rows"]] == ["left", "darker"]
    assert list(report["probes"]["rows"][1]["arms"]) == ["teacher", "student"]
    assert report["probes"]["num_cases"] == 2
    assert report["about"]["student, seed 0"] == "student.pt"
    assert {arm["num_cases"] for arm in report["arms"].values()} == {2}


def test_probes_go_into_the_report_of_a_run(overrides, student, tmp_path):
    options = words(overrides, **{"teacher::lora_checkpoint": None})
    options = [*FEW, "--checkpoint", f"student={student}", f"control:1={student}", *options]
    assert main([*options, "--output_dir", str(tmp_path / "out")]) == 0
    first = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(first["probes"]["rows"][1]["arms"]) == ["student", "control"]
    assert main([*options, "--list", "test", "--report", str(tmp_path / "out")]) == 0
    second = json.loads((tmp_path / "out" / "report.json").read_text())
    assert second["arms"] == first["arms"]
    assert second["probes"] != first["probes"]


def test_arms_of_a_comparison_are_probed(overrides, student, phantoms, tmp_path, capsys):
    from eval.arms import Plan

    folder = tmp_path / "comparison"
    folder.mkdir()
    settings = {key: value for key, value in settings_of(overrides).items() if key not in ("bundle_root", "model_file")}
    digest = Plan(("train.json",), settings, tmp_path).workflow("student", 0).parser.get_parsed_content("data").digest
    arms = {
        arm: {"0": {"checkpoint": str(student)}, "3": {"checkpoint": str(student)}} for arm in ("control", "student")
    }
    state = {"lists": digest, "arms": arms}
    (folder / "comparison.json").write_text(json.dumps(state))
    options = [*FEW, "--comparison", str(folder), *words(overrides)]
    assert main([*options, "--output_dir", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {arm: summary["num_seeds"] for arm, summary in report["arms"].items()} == {"control": 1, "student": 1}
    assert any("evaluated several times" in warning for warning in report["warnings"])  # one file for both seeds
    (folder / "comparison.json").write_text(json.dumps({**state, "lists": "others"}))
    assert main(options) == 1
    assert "has other lists than this configuration" in capsys.readouterr().err
    (folder / "comparison.json").unlink()
    assert main(options) == 1
    assert "holds no comparison.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ([], {"teacher::lora_checkpoint": None}, "there is no network to probe; pass --student::checkpoint PATH"),
        (["--checkpoint", "student=gone.pt"], {}, "the checkpoint gone.pt does not exist"),
        (["--checkpoint", "student"], {}, "--checkpoint student must be ARM[:SEED]=PATH"),
        (["--probes", "up"], {}, "--probes must be one of left, "),
        (["--cases", "0"], {}, "the number of cases must be positive, got 0"),
        (["--report", "nowhere"], {}, "nowhere/report.json does not exist"),
        (["--checkpoint", "student=a.pt", "--comparison", "b"], {}, "--checkpoint goes not with --comparison"),
    ],
)
def test_what_cannot_be_probed_ends_with_one_line(overrides, tmp_path, capsys, options, changes, message):
    assert main([*options, "--output_dir", str(tmp_path / "out"), *words(overrides, **changes)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("robustness: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_list_without_lesions_is_refused_and_nothing_written(overrides, student, phantoms, tmp_path, capsys):
    lists = json.loads((phantoms / "dataset.json").read_text())
    for entry in lists["validation"]:
        size = Image.open(phantoms / entry["label"]).size
        (tmp_path / entry["label"]).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(tmp_path / entry["label"])
        entry.update(image=str(phantoms / entry["image"]), label=str(tmp_path / entry["label"]))
    (tmp_path / "empty.json").write_text(json.dumps(lists))
    own = {"data::datalist": str(tmp_path / "empty.json"), "data::allow_outside": True}
    options = words(overrides, **own, **{"teacher::lora_checkpoint": None})
    assert main(["--checkpoint", f"student={student}", "--output_dir", str(tmp_path / "out"), *options]) == 1
    assert "no case of the list has a lesion" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_wrong_probe_of_a_final_evaluation_is_refused_before_the_training(overrides):
    from conftest import root_cause, workflow

    flow = workflow({**overrides, "final_evaluation::probes": ["left", "up"]})
    with pytest.raises(Exception, match=".") as caught:
        flow.initialize()
    assert "final_evaluation::probes must be one of left" in str(root_cause(caught.value))


def test_page_names_the_program():
    assert "python -m eval.robustness" in (ROOT / "docs" / "robustness.md").read_text()
