"""The preflight: go and no-go with the reason, the advice, and a run on tiny networks."""

import json

import pytest
import torch
from conftest import TINY_STUDENT

from eval.preflight import describe, judge, main
from scripts.networks.tinyusfm import TinyUSFMSeg


def report(difference, low, high, confident_errors=0.1, num_patients=40):
    """Control less teacher."""
    dices = {"teacher": 0.8, "control": 0.8 + difference}
    return {
        "comparisons": [
            {"metric": "dice", "difference": difference, "low": low, "high": high, "num_patients": num_patients}
        ],
        "arms": {
            arm: {"metrics": {"dice": {"mean": dice}}, "counts": {"empty_prediction": 3}} for arm, dice in dices.items()
        },
        "calibration": {"teacher": {"ece": 0.02, "accuracy": 0.95, "confident_errors": confident_errors}},
        "warnings": [],
    }


def test_better_teacher_is_a_go_without_advice():
    found = judge(report(-0.1, -0.15, -0.05), 1.0)
    assert (found["decision"], found["advice"]) == ("go", []) and "better than the control" in found["reason"]
    assert (found["difference"], found["low"], found["high"]) == (0.1, 0.05, 0.15)
    assert describe(found).splitlines()[-1].startswith("GO: the teacher is better")
    assert "empty predictions: 3 and 3" in describe(found)


def test_worse_teacher_is_no_go():
    found = judge(report(0.1, 0.05, 0.15), 1.0)
    assert found["decision"] == "no-go" and "worse than the student" in found["reason"]


def test_teacher_within_noise_of_the_control_is_no_go():
    found = judge(report(-0.01, -0.05, 0.03), 1.0)
    assert found["decision"] == "no-go" and "not shown to be better" in found["reason"]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (report(-0.1, -0.1, -0.1, num_patients=1), "1 patients cannot tell"),
        (report(-0.01, -0.015, -0.005), "by no more than runs of one config differ"),
    ],
)
def test_gain_of_few_patients_or_within_a_runs_noise_is_no_go(found, message):
    decision = judge(found, 1.0)
    assert decision["decision"] == "no-go" and message in decision["reason"]


@pytest.mark.parametrize("temperature", [0.05, 20.0])
def test_temperature_at_the_end_of_the_search_is_not_advised(temperature):
    (advice,) = judge(report(-0.1, -0.15, -0.05), temperature)["advice"]
    assert "none is advised" in advice and "--distillation" not in advice


def test_warnings_of_the_report_are_kept_and_told():
    found = judge({**report(-0.1, -0.15, -0.05), "warnings": ["one seed"]}, 1.0)
    assert found["warnings"] == ["one seed"] and "warning: one seed" in describe(found)


def test_confident_errors_call_for_the_gate_and_poor_calibration_for_its_temperature():
    advice = judge(report(-0.1, -0.15, -0.05, confident_errors=0.6), 2.5)["advice"]
    assert "60%" in advice[0] and "--distillation::gate agreement" in advice[0]
    assert advice[1] == "the teacher is too sure of itself: pass --distillation::teacher_temperature 2.50."
    assert "not sure enough" in judge(report(-0.1, -0.15, -0.05), 0.5)["advice"][0]


def test_teacher_and_control_that_cannot_be_compared_are_an_error():
    with pytest.raises(ValueError, match="cannot be compared: other cases"):
        judge({**report(0, 0, 0), "comparisons": [], "warnings": ["other cases"]}, 1.0)


@pytest.fixture
def arguments(overrides, tmp_path):
    torch.manual_seed(0)
    tiny = {
        key: value
        for key, value in TINY_STUDENT.items()
        if key not in ("_target_", "num_classes", "img_size", "return_features")
    }
    torch.save(TinyUSFMSeg(img_size=64, **tiny).state_dict(), tmp_path / "control.pt")
    own = {
        key: value
        for key, value in overrides.items()
        if not key.startswith("run_folder") and key not in ("bundle_root", "model_file")
    }
    pairs = [text for key, value in own.items() for text in (f"--{key}", repr(value))]
    return ["--control", str(tmp_path / "control.pt"), "--output_dir", str(tmp_path / "out"), *pairs]


def test_validation_list_is_looked_at_and_the_decision_kept(arguments, tmp_path, capsys):
    code = main(arguments)
    found = json.loads((tmp_path / "out" / "preflight.json").read_text())
    assert code == {"go": 0, "no-go": 2}[found["decision"]]
    assert found["decision"].upper() in capsys.readouterr().out and found["temperature"] > 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {arm["num_cases"] for arm in report["arms"].values()} == {2} and found["decision"].upper() in report[
        "about"
    ]["description"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: ["--control", "gone.pt", *a[2:]], "the checkpoint gone.pt does not exist"),
        (lambda a: [*a, "--teacher::lora_checkpoint", "None"], "teacher::lora_checkpoint is required"),
    ],
)
def test_missing_files_are_named(arguments, tmp_path, capsys, change, message):
    assert main(change(arguments)) == 1
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
