"""Will distillation help? Checks the teacher on the validation list before you spend hours on a training.

    python -m eval.preflight --dataset_dir data/BUSBRA --teacher::model_name lite_medsam \\
        --teacher::module mask_decoder --teacher::lora_checkpoint PATH --control PATH

It compares the teacher with a student that was trained without one. It measures how confident the teacher is where it
is wrong, and which probe (docs/robustness.md) costs it most. It prints GO or NO-GO with the reason, and the settings to
pass to the distillation. The exit code is 0 for GO and 2 for NO-GO.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.utils.files import atomic_path
from scripts.utils.options import CONTROL, TEACHER
from scripts.utils.screen import tell, track

from .command_line import parse_run, run_program

if TYPE_CHECKING:  # what imports torch is imported where it is used, so that --help answers at once
    import torch

    from scripts.evaluation.evaluate import Arm

    from .arms import Plan

GO, NO_GO = "go", "no-go"
MANY_CONFIDENT_ERRORS = 0.4  # of the wrong pixels; upstream's teacher, which hurt its student, had 0.43 to 0.75
PROBED_CASES = 60  # at most, so that it stays quick
POOR_CALIBRATION = 1.5  # temperature, or one over it
RUN_NOISE = 0.02  # Dice by which runs of one config differ


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0 for go, 2 for no-go, 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("preflight", lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    options, overrides = _parse(arguments)
    from .arms import Plan

    plan = Plan(options.config_file, overrides, (options.output_dir or Path("logs/preflight")).resolve())
    report, answer = look(plan, options.control)
    path = write(report, answer, options.output_dir) if options.output_dir else None
    tell(describe(report, answer, path))
    return 0 if answer["decision"] == GO else 2


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.preflight", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--control", type=Path, required=True, help="a student that train_student.json trained")
    parser.add_argument(
        "--output_dir", type=Path, help="gets preflight.json and a report; nothing is written when left out"
    )
    return parse_run(parser, arguments)


def look(plan: Plan, control: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A report on teacher and control on the validation list, with pictures, and the answer of `judge`.

    Args:
        plan: with the teacher's section.
        control: checkpoint of a student trained without a teacher.

    Raises:
        FileNotFoundError: a checkpoint misses.
        ValueError: there is no teacher, or a file does not fit.
    """
    from scripts.evaluation.evaluate import evaluate
    from scripts.evaluation.robustness import spread_cases
    from scripts.report.findings import compile_report
    from scripts.report.robustness import probe_arms
    from scripts.report.run_evaluation import add_cases

    from .arms import build_arm, check_plan

    teacher_path = plan.given_teacher()
    if not teacher_path:
        raise ValueError("teacher::lora_checkpoint is required for a preflight; pass --teacher::lora_checkpoint PATH.")
    check_plan(plan)
    arms = [build_arm(plan, TEACHER, 0, teacher_path), build_arm(plan, CONTROL, 0, str(control))]
    parser = plan.workflow(CONTROL, 0, {"test::dataset::data": "$@data.validation"}).parser
    dataset, num_classes = parser.get_parsed_content("test::dataset"), parser.get_parsed_content("data::num_classes")
    device, hardware = parser.get_parsed_content("device"), parser.get_parsed_content("hardware")
    measured = evaluate(dataset, arms, num_classes, device, hardware.autocast(), with_outlines=True)
    data = parser.get_parsed_content("data")
    title = "Preflight on the validation list"
    report = compile_report(measured.rows, measured.reliability, title, problems=data.notes)
    report = add_cases(report, measured, arms, dataset, num_classes, device, data.name, data.labels[1:])
    probed = spread_cases(dataset, PROBED_CASES)
    report["probes"] = probe_arms(report["warnings"], probed, arms[:1], num_classes, device, hardware.autocast())
    return report, judge(report, _temperature(arms[0], dataset, device, hardware))


def _temperature(arm: Arm, dataset: Any, device: torch.device, hardware: Any) -> float:
    """The temperature at which the teacher's probabilities fit the validation list best."""
    from scripts.data.segment import segment
    from scripts.evaluation.calibration import fit_temperature

    logits, labels = [], []
    for index in track(range(len(dataset)), "Calibrating", len(dataset)):
        item = dataset[index]
        logits.append(segment(arm.network, item["image"], arm.img_size, device, hardware.autocast()))
        labels.append(item["label"])
    return fit_temperature(logits, labels)


def judge(report: dict[str, Any], temperature: float) -> dict[str, Any]:
    """Go or no-go, the reason, and what to pass to the distillation.

    Args:
        report: of `compile_report`, on arms teacher and control.
        temperature: that calibrates the teacher.

    Returns:
        decision (go or no-go), reason, advice (settings to pass), teacher_dice, control_dice, empty_predictions (masks
        of a class, by arm), difference (teacher less control) with low and high, accuracy, ece, confident_errors,
        temperature, worst_probe (the probe that costs the teacher most Dice, with the change, its low and high, and its
        meaning; None where none was measured), warnings.

    Raises:
        ValueError: the two cannot be compared.
    """
    compared = next((row for row in report["comparisons"] if row["metric"] == "dice"), None)
    if compared is None:
        raise ValueError("teacher and control cannot be compared: " + " ".join(report["warnings"]))
    # the comparison is control less teacher
    gain, low, high = -compared["difference"], -compared["high"], -compared["low"]
    calibration = report["calibration"][TEACHER]
    dice = {arm: summary["metrics"]["dice"]["mean"] for arm, summary in report["arms"].items()}
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
        "worst_probe": _worst_probe(report.get("probes")),
        "warnings": report["warnings"],
    }


def _worst_probe(probes: dict[str, Any] | None) -> dict[str, Any] | None:
    from scripts.evaluation.robustness import worst_probe

    row = worst_probe(probes, TEACHER) if probes else None
    if row is None:
        return None
    change = row["arms"][TEACHER]["dice"]
    named = {key: row[key] for key in ("probe", "meaning", "num_cases")}
    return {**named, "change": change["mean"], "low": change["low"], "high": change["high"]}


def _describe_probe(worst: dict[str, Any]) -> str:
    change, low, high = (f"{worst[key]:+.3f}" for key in ("change", "low", "high"))
    return (
        f"The probe that costs the teacher most is {worst['probe']} ({worst['meaning']}): {change} Dice "
        f"(95 % CI {low} to {high}, {worst['num_cases']} images)."
    )


def _decide(gain: float, low: float, high: float, num_patients: int) -> tuple[str, str]:
    from scripts.evaluation.case_table import FEW_PATIENTS
    from scripts.utils.screen import plural

    size, interval = f"{abs(gain):.3f} Dice", f"95 % CI {low:.3f} to {high:.3f}"
    if num_patients < FEW_PATIENTS:
        few = f"{plural(num_patients, 'patient')} on the validation list cannot decide, {FEW_PATIENTS} are needed"
        return NO_GO, f"{few} (teacher less control {gain:+.3f} Dice, {interval})."
    if high < 0:
        worse = (
            f"the teacher is worse than the student that it would teach, by {size} (95 % CI {-high:.3f} to {-low:.3f})"
        )
        return NO_GO, f"{worse}. Train the teacher longer first."
    if low <= 0:
        return NO_GO, f"the teacher is not shown to be better than the control: {gain:+.3f} Dice ({interval})."
    better = f"the teacher is better than the control by {size} ({interval})"
    if gain <= RUN_NOISE:
        return NO_GO, f"{better}, but two runs of one config differ by as much ({RUN_NOISE})."
    return GO, f"{better}. A student can learn from it."


def _advice(confident_errors: float, temperature: float) -> list[str]:
    from scripts.evaluation.calibration import TEMPERATURES

    advice = []
    if confident_errors > MANY_CONFIDENT_ERRORS:
        advice.append(
            f"{confident_errors:.0%} of the teacher's wrong pixels have a confidence above 0.9, and a student would "
            "learn them: pass --distillation::gate agreement."
        )
    lowest, highest = TEMPERATURES
    if not lowest * 1.01 < temperature < highest / 1.01:
        advice.append(
            f"no temperature calibrates the teacher (the best, {temperature:.2f}, is at the end of the search): keep "
            "its temperature as it is."
        )
    elif not 1 / POOR_CALIBRATION < temperature < POOR_CALIBRATION:
        kind = "too confident" if temperature > 1 else "not confident enough"
        advice.append(f"the teacher is {kind}: pass --distillation::teacher_temperature {temperature:.2f}.")
    return advice


def write(report: dict[str, Any], answer: dict[str, Any], output_dir: Path) -> Path:
    """Write preflight.json and the report; returns the path of report.html."""
    from scripts.report.write import write_report

    report["about"]["description"] = f"{answer['decision'].upper()}: {answer['reason']}"
    path = write_report(report, output_dir)
    with atomic_path(output_dir / "preflight.json") as partial:
        partial.write_text(json.dumps(answer, indent=1) + "\n")
    return path


def describe(report: dict[str, Any], answer: dict[str, Any], path: Path | None = None) -> str:
    """What the program prints.

    Args:
        report: of `look`.
        answer: of `judge`.
        path: of report.html; None where it was not written.
    """
    from scripts.report.summary import summary_table

    lines = [
        *summary_table(report),
        "",
        f"Of the teacher's pixels {answer['accuracy']:.2%} agree with the ground truth (ECE {answer['ece']:.3f}).",
        f"Of its wrong pixels {answer['confident_errors']:.1%} have a confidence above 0.9.",
        f"Temperature that calibrates it: {answer['temperature']:.2f}.",
        *([_describe_probe(answer["worst_probe"])] if answer["worst_probe"] else []),
        *(f"Warning: {warning}" for warning in answer["warnings"]),
        *(f"Advice: {advice}" for advice in answer["advice"]),
        "",
        f"{answer['decision'].upper()}: {answer['reason']}",
    ]
    return "\n".join([*lines, f"report: {path}"] if path else lines)


if __name__ == "__main__":
    sys.exit(main())
