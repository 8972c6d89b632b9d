"""The commands that go on from a check."""

from __future__ import annotations

from pathlib import Path

from .suggest import ADAPTER, PRETRAINING, TEACHER
from .survey import Survey

TUNED = "logs/teacher/{name}/TIMESTAMP/models/best_epoch...pth"
CONTROL = "logs/student/{name}/TIMESTAMP/models/best_epoch...pt"


def next_commands(kind: str, survey: Survey, settings: Path) -> list[tuple[str, str]]:
    """What each command does, and the command, in their order.

    Args:
        kind: of the plan.
        survey: of the data set.
        settings: the overlay's file.
    """
    tuned, control = (path.format(name=survey.folder.name) for path in (TUNED, CONTROL))
    if kind == "evaluate":
        files = f"configs/train.json configs/{TEACHER} {settings}"
        command = f"python -m eval.robustness --config_file {files} --student::checkpoint models/model.pt"
        return [("Measure the shared student and its teacher on the validation list", command)]
    if kind == "pretrain":
        return [("Pretrain a backbone", _run(f"configs/{PRETRAINING}", str(settings)))]
    train_control = (
        "Train the student without a teacher (the control)",
        _run("configs/train_student.json", str(settings)),
    )
    preflight = f"python -m eval.preflight --config_file configs/train.json {settings} --control {control}"
    distill = _run(str(settings))
    if kind == "tune":
        tune = ("Tune a teacher", _run(str(settings), "configs/train_teacher.json"))
        adapter = f" --{ADAPTER} {tuned}"
        return [
            train_control,
            tune,
            ("Ask whether the teacher is better", preflight + adapter),
            ("Distill it", distill + adapter),
        ]
    return [("Distill the shared teacher", distill), train_control, ("Ask whether the teacher is better", preflight)]


def _run(*overlays: str) -> str:
    files = ",".join(f"'{name}'" for name in ("configs/train.json", *overlays))
    return f'python -m monai.bundle run training --config_file "[{files}]"'
