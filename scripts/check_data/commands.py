"""The commands that go on from a check: those of the bundle's folder, or of an installation from any other folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..run.errors import shell_word
from ..utils.files import bundle_root
from .suggest import ADAPTER, PRETRAINING, TEACHER
from .survey import Survey

TUNED = "logs/teacher/{name}/TIMESTAMP/models/best_epoch...pth"
CONTROL = "logs/student/{name}/TIMESTAMP/models/best_epoch...pt"
SHARED_STUDENT, SHARED_ADAPTER = "models/model.pt", "models/teacher/lite_medsam_busbra.pth"


def next_commands(kind: str, survey: Survey, settings: Path) -> list[tuple[str, str]]:
    """What each command does, and the command, in their order.

    Args:
        kind: of the plan.
        survey: of the data set.
        settings: the overlay's file.
    """
    tuned, control = (path.format(name=survey.folder.name) for path in (TUNED, CONTROL))
    if kind == "evaluate":
        words = [_config("train.json"), _config(TEACHER), settings, "--student::checkpoint", _file(SHARED_STUDENT)]
        shared = [] if _is_in_bundle() else [f"--{ADAPTER}", _file(SHARED_ADAPTER)]
        command = _program("robustness", "--config_file", *words, *shared)
        return [("Measure the shared student and its teacher on the validation list", command)]
    if kind == "pretrain":
        return [("Pretrain a backbone", _training([_config(PRETRAINING), settings]))]
    train_control = (
        "Train the student without a teacher (the control)",
        _training([_config("train_student.json"), settings]),
    )
    look = ["--config_file", _config("train.json"), settings, "--control", control]
    if kind == "tune":
        adapter = [f"--{ADAPTER}", tuned]
        return [
            train_control,
            ("Tune a teacher", _training([settings, _config("train_teacher.json")])),
            ("Ask whether the teacher is better", _program("preflight", *look, *adapter)),
            ("Distill it", _training([settings], adapter)),
        ]
    shared = [] if _is_in_bundle() else [f"--{ADAPTER}", _file(SHARED_ADAPTER)]
    return [
        ("Distill the shared teacher", _training([settings])),
        train_control,
        ("Ask whether the teacher is better", _program("preflight", *look, *shared)),
    ]


def _is_in_bundle() -> bool:
    """Whether the programs start as `python -m` from the current folder; elsewhere the command sam_tinyusfm does it."""
    return bundle_root() == "."


def _config(name: str) -> str:
    return _file(f"configs/{name}")


def _file(name: str) -> str:
    return str(Path(bundle_root(), name))


def _training(overlays: Sequence[str | Path], options: Sequence[str] = ()) -> str:
    if not _is_in_bundle():
        return _joined("sam_tinyusfm", "train", *overlays, *options)
    files = ",".join(repr(str(name)) for name in (_config("train.json"), *overlays))
    return _joined("python", "-m", "monai.bundle", "run", "training", "--config_file", f"[{files}]", *options)


def _program(name: str, *words: str | Path) -> str:
    start = ["python", "-m", f"eval.{name}"] if _is_in_bundle() else ["sam_tinyusfm", name]
    return _joined(*start, *words)


def _joined(*words: str | Path) -> str:
    return " ".join(shell_word(str(word)) for word in words)
