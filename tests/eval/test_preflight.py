"""The preflight: go and no-go with the reason, the advice, and a run on tiny networks."""

import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import TINY

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
            arm: {
                "metrics": {"dice": {"mean": dice, "low": dice - 0.02, "high": dice + 0.02}},
                "counts": {"empty_prediction": 3},
            }
            for arm, dice in dices.items()
        },
        "calibration": {"teacher": {"ece": 0.02, "accuracy": 0.95, "confident_errors": confident_errors}},
        "failures": [],
        "warnings": [],
    }


BETTER = report(-0.1, -0.15, -0.05)


def test_better_teacher_is_a_go_without_advice():
    answer = judge(BETTER, 1.0)
    assert (answer["decision"], answer["advice"]) == ("go", [])
    assert (answer["difference"], answer["low"], answer["high"]) == (0.1, 0.05, 0.15)
    assert answer["reason"] == (
        "the teacher is better than the control by 0.100 Dice (95 % CI 0.050 to 0.150). A student can learn from it."
    )


def test_table_and_decision_are_printed():
    lines = describe(BETTER, judge(BETTER, 1.0)).splitlines()
    assert lines[:4] == [
        "mean [95 % interval]  teacher               control",
        "Dice                  0.800 [0.780, 0.820]  0.700 [0.680, 0.720]",
        "failures              0                     0",
        "empty predictions     3                     3",
    ]
    assert lines[-1].startswith("GO: the teacher is better than the control by 0.100 Dice")


def test_path_of_a_written_report_is_printed():
    answer = judge(BETTER, 1.0)
    assert "report:" not in describe(BETTER, answer)
    assert describe(BETTER, answer, Path("out/report.html")).splitlines()[-1] == "report: out/report.html"


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (
            report(0.1, 0.05, 0.15),
            "the teacher is worse than the student that it would teach, by 0.100 Dice (95 % CI 0.050 to 0.150). "
            "Train the teacher longer first.",
        ),
        (
            report(-0.01, -0.05, 0.03),
            "the teacher is not shown to be better than the control: +0.010 Dice (95 % CI -0.030 to 0.050).",
        ),
        (
            report(-0.1, -0.1, -0.1, num_patients=1),
            "1 patient on the validation list cannot decide, 10 are needed (teacher less control +0.100 Dice, "
            "95 % CI 0.100 to 0.100).",
        ),
        (
            report(-0.01, -0.015, -0.005),
            "the teacher is better than the control by 0.010 Dice (95 % CI 0.005 to 0.015), but two runs of one config "
            "differ by as much (0.02).",
        ),
    ],
)
def test_other_teachers_are_a_no_go(measured, reason):
    answer = judge(measured, 1.0)
    assert answer["decision"] == "no-go"
    assert answer["reason"] == reason
    assert describe(measured, answer).splitlines()[-1] == f"NO-GO: {reason}"


@pytest.mark.parametrize("temperature", [0.05, 20.0])
def test_temperature_at_the_end_of_the_search_is_not_advised(temperature):
    (advice,) = judge(BETTER, temperature)["advice"]
    assert "no temperature calibrates the teacher" in advice
    assert "--distillation" not in advice


def test_warnings_of_the_report_are_kept_and_printed():
    measured = {**BETTER, "warnings": ["one seed"]}
    answer = judge(measured, 1.0)
    assert answer["warnings"] == ["one seed"]
    assert "Warning: one seed" in describe(measured, answer)


def test_confident_errors_call_for_the_gate_and_poor_calibration_for_its_temperature():
    advice = judge(report(-0.1, -0.15, -0.05, confident_errors=0.6), 2.5)["advice"]
    assert "60%" in advice[0]
    assert "--distillation::gate agreement" in advice[0]
    assert advice[1] == "the teacher is too confident: pass --distillation::teacher_temperature 2.50."
    assert "not confident enough" in judge(BETTER, 0.5)["advice"][0]


def test_teacher_and_control_that_cannot_be_compared_are_an_error():
    with pytest.raises(ValueError, match="cannot be compared: other cases"):
        judge({**report(0, 0, 0), "comparisons": [], "warnings": ["other cases"]}, 1.0)


def test_probe_that_costs_the_teacher_most_is_told():
    rows = [
        {
            "probe": name,
            "meaning": f"what {name} is",
            "num_cases": 58,
            "arms": {"teacher": {"dice": {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}}},
        }
        for name, mean in (("text", -0.04), ("left", -0.16), ("jpeg", 0.0))
    ]
    answer = judge({**BETTER, "probes": {"rows": rows}}, 1.0)
    assert (answer["worst_probe"]["probe"], answer["worst_probe"]["change"]) == ("left", -0.16)
    line = "The probe that costs the teacher most is left (what left is): -0.160 Dice "
    assert f"{line}(95 % CI -0.210 to -0.110, 58 images)." in describe(BETTER, answer).splitlines()
    assert judge(BETTER, 1.0)["worst_probe"] is None


@pytest.fixture
def arguments(overrides, tmp_path):
    torch.manual_seed(0)
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), tmp_path / "control.pt")
    options = {
        key: value
        for key, value in overrides.items()
        if not key.startswith("run_folder") and key not in ("bundle_root", "model_file")
    }
    pairs = [text for key, value in options.items() for text in (f"--{key}", repr(value))]
    return ["--control", str(tmp_path / "control.pt"), "--output_dir", str(tmp_path / "out"), *pairs]


def test_validation_list_is_looked_at_and_the_decision_kept(arguments, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        code = main(arguments)
    answer = json.loads((tmp_path / "out" / "preflight.json").read_text())
    assert code == {"go": 0, "no-go": 2}[answer["decision"]]
    (printed,) = [record.getMessage() for record in caplog.records if record.name == "scripts.screen"]
    assert f"{answer['decision'].upper()}: " in printed
    assert printed.splitlines()[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    assert answer["temperature"] > 0
    assert answer["worst_probe"]["change"] <= 0
    assert f"The probe that costs the teacher most is {answer['worst_probe']['probe']} (" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {arm["num_cases"] for arm in report["arms"].values()} == {2}
    assert report["about"]["description"].startswith(answer["decision"].upper())
    assert list(report["probes"]["rows"][-1]["arms"]) == ["teacher"]
    assert set(report["pictures"]["seeds"]) == {"teacher", "control"}
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/jpeg") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: ["--control", "gone.pt", *a[2:]], "the checkpoint gone.pt does not exist"),
        (lambda a: [*a, "--teacher::lora_checkpoint", "None"], "teacher::lora_checkpoint is required"),
    ],
)
def test_missing_files_are_named(arguments, tmp_path, capsys, change, message):
    assert main(change(arguments)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
