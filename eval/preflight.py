"""Will distillation help? A look at the teacher on the validation list before hours are spent.

    python -m eval.preflight --dataset_dir data/BUSBRA --teacher::model_name lite_medsam \\
        --teacher::module mask_decoder --teacher::lora_checkpoint PATH --control PATH

Compares the teacher with a student that was trained without one, looks at how sure the teacher is where it is wrong,
and says go or no-go with the reason and the settings that its answers call for. Ends with 0 for go and 2 for no-go.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scripts.evaluation.calibration import TEMPERATURES, fit_temperature
from scripts.evaluation.case_table import FEW_PATIENTS
from scripts.evaluation.evaluate import Arm, evaluate, predict
from scripts.report.findings import compile_report
from scripts.report.sections import write_report
from scripts.utils.files import atomic_path

from .arms import CONTROL, TEACHER, Plan, build_arm, check_plan, parse_run, report_error

GO, NO_GO = "go", "no-go"
MANY_CONFIDENT_ERRORS = 0.4  # of the wrong pixels; upstream's teacher, which hurt its student, had 0.43 to 0.75
POOR_CALIBRATION = 1.5  # temperature, or one over it
RUN_NOISE = 0.02  # Dice by which runs of one config differ


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0 for go, 2 for no-go, 1 after a message on stderr."""
    try:
        options, plan = _parse(sys.argv[1:] if arguments is None else arguments)
        found = look(plan, options.control, options.output_dir)
    except Exception as error:
        return report_error("preflight", error)
    print(describe(found))
    return 0 if found["decision"] == GO else 2


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, Plan]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.preflight", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--control", type=Path, required=True, help="a student that train_student.json trained")
    parser.add_argument(
        "--output_dir", type=Path, help="gets preflight.json and a report; nothing is written when left out"
    )
    options, overrides = parse_run(parser, arguments)
    return options, Plan(options.config_file, overrides, (options.output_dir or Path("logs/preflight")).resolve())


def look(plan: Plan, control: Path, output_dir: Path | None = None) -> dict[str, Any]:
    """What the validation list says of a teacher beside a control.

    Args:
        plan: with the teacher's section.
        control: checkpoint of a student trained without a teacher.
        output_dir: of preflight.json and the report; None writes nothing.

    Returns:
        decision (go or no-go), reason, advice (settings to pass), teacher_dice, control_dice, empty_predictions (masks
        of a class, by arm), difference with low and high, accuracy, ece, confident_errors, temperature, warnings.

    Raises:
        FileNotFoundError: a checkpoint misses.
        ValueError: there is no teacher, or a file does not fit.
    """
    teacher_path = plan.given_teacher()
    if not teacher_path:
        raise ValueError("teacher::lora_checkpoint is required for a preflight; pass --teacher::lora_checkpoint PATH.")
    check_plan(plan)
    arms = [build_arm(plan, TEACHER, 0, teacher_path), build_arm(plan, CONTROL, 0, str(control))]
    parser = plan.workflow(CONTROL, 0, {"test::dataset::data": "$@data.validation"}).parser
    dataset, num_classes = parser.get_parsed_content("test::dataset"), parser.get_parsed_content("data::num_classes")
    device, hardware = parser.get_parsed_content("device"), parser.get_parsed_content("hardware")
    measured = evaluate(dataset, arms, num_classes, device, hardware.autocast())
    report = compile_report(measured.rows, measured.reliability, "Preflight on the validation list")
    found = judge(report, _temperature(arms[0], dataset, device, hardware))
    if output_dir:
        report["about"]["description"] = f"{found['decision'].upper()}: {found['reason']}"
        write_report(report, [], output_dir)
        with atomic_path(output_dir / "preflight.json") as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _temperature(arm: Arm, dataset: Any, device: torch.device, hardware: Any) -> float:
    """The temperature at which the teacher's probabilities fit the validation list best."""
    logits, labels = [], []
    for index in tqdm(range(len(dataset)), "Calibrating", leave=False, disable=None):
        item = dataset[index]
        with hardware.autocast():
            logits.append(predict(arm.network, item["image"], arm.img_size, device).cpu())
        labels.append(item["label"])
    return fit_temperature(logits, labels)


def judge(report: dict[str, Any], temperature: float) -> dict[str, Any]:
    """Go or no-go, the reason, and what to pass; see `look`.

    Args:
        report: of `compile_report`, on arms teacher and control.
        temperature: that calibrates the teacher.
    """
    compared = next((row for row in report["comparisons"] if row["metric"] == "dice"), None)
    if compared is None:
        raise ValueError("teacher and control cannot be compared: " + " ".join(report["warnings"]))
    # the comparison is control less teacher
    gain, low, high = -compared["difference"], -compared["high"], -compared["low"]
    calibration = report["calibration"][TEACHER]
    dice = {arm: found["metrics"]["dice"]["mean"] for arm, found in report["arms"].items()}
    decision, reason = _decide(gain, low, high, compared["num_patients"])
    return {
        "decision": decision,
        "reason": reason,
        "advice": _advice(calibration["confident_errors"], temperature),
        "teacher_dice": dice[TEACHER],
        "control_dice": dice[CONTROL],
        "empty_predictions": {arm: report["arms"][arm]["counts"]["empty_prediction"] for arm in (TEACHER, CONTROL)},
        "difference": gain,
        "low": low,
        "high": high,
        "accuracy": calibration["accuracy"],
        "ece": calibration["ece"],
        "confident_errors": calibration["confident_errors"],
        "temperature": temperature,
        "warnings": report["warnings"],
    }


def _decide(gain: float, low: float, high: float, num_patients: int) -> tuple[str, str]:
    interval = f"{gain:+.4f} Dice, 95 % interval [{low:+.4f}, {high:+.4f}]"
    if num_patients < FEW_PATIENTS:
        few = f"{num_patients} patients cannot tell ({interval})"
        return NO_GO, f"{few}; at least {FEW_PATIENTS} are needed on the validation list."
    if high < 0:
        return NO_GO, f"the teacher is worse than the student that it would teach ({interval}); tune it longer first."
    if low <= 0:
        return (
            NO_GO,
            f"the teacher is not shown to be better than the control ({interval}); there is nothing to hand on.",
        )
    if gain <= RUN_NOISE:
        return (
            NO_GO,
            f"the teacher is better than the control by no more than runs of one config differ ({interval}, "
            f"{RUN_NOISE}).",
        )
    return GO, f"the teacher is better than the control ({interval}); there is something to hand on."


def _advice(confident_errors: float, temperature: float) -> list[str]:
    advice = []
    if confident_errors > MANY_CONFIDENT_ERRORS:
        advice.append(
            f"{confident_errors:.0%} of the teacher's wrong pixels are said with a confidence above 0.9, and the "
            "student would "
            "learn them: pass --distillation::gate agreement."
        )
    lowest, highest = TEMPERATURES
    if not lowest * 1.01 < temperature < highest / 1.01:
        advice.append(
            f"no temperature calibrates the teacher (the best is at the end of the search, {temperature:.2f}): none is "
            "advised."
        )
    elif not 1 / POOR_CALIBRATION < temperature < POOR_CALIBRATION:
        kind = "too sure" if temperature > 1 else "not sure enough"
        advice.append(f"the teacher is {kind} of itself: pass --distillation::teacher_temperature {temperature:.2f}.")
    return advice


def describe(found: dict[str, Any]) -> str:
    """What the program prints."""
    lines = [
        f"teacher Dice {found['teacher_dice']:.4f}, control {found['control_dice']:.4f} on the validation list; empty "
        "predictions: "
        f"{found['empty_predictions'][TEACHER]} and {found['empty_predictions'][CONTROL]}",
        f"teacher's pixels that agree with the ground truth {found['accuracy']:.2%}, ECE {found['ece']:.4f}, wrong "
        "pixels with "
        f"confidence above 0.9: {found['confident_errors']:.1%}, calibrating temperature {found['temperature']:.2f}",
        *(f"warning: {warning}" for warning in found["warnings"]),
        *found["advice"],
        f"{found['decision'].upper()}: {found['reason']}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
