"""The arms of a comparison: the same student with and without a teacher, and the teacher, each trained with every seed.

Each training is a run of the bundle as `python -m monai.bundle run training` does it, in a folder of the comparison.
The checkpoint that counts is the best on the validation list; no training here reads the test list.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import nn

from scripts.evaluation.evaluate import Arm
from scripts.networks.student import load_trained_student
from scripts.run.config_check import check_config
from scripts.run.history import read_history
from scripts.run.run_folder import BEST, LAST_CHECKPOINT, PATIENCE
from scripts.run.workflow import build_workflow
from scripts.utils.digests import json_digest
from scripts.utils.files import atomic_path, clear_leftovers, naming_path
from scripts.utils.options import CONTROL, STUDENT, TEACHER
from scripts.utils.weight_files import read_weight_file

OVERLAYS = {TEACHER: ("train_teacher.json",), CONTROL: ("train_student.json",), STUDENT: ()}
# what a user sets for the students does not hold for the teacher's fine-tuning
TEACHER_SECTIONS = ("data", "teacher", "hardware")
STUDENT_ALONE = ("teacher::cache_dir", "teacher::lora_checkpoint")
PLACES = ("_meta_", "bundle_root", "run_folder", "hardware")  # of a configuration: where it runs, not what is trained


@dataclass(frozen=True)
class Plan:
    """What all arms have in common.

    Args:
        config_files: train.json and overlays.
        overrides: config ids and values, as on the command line.
        output_dir: of the comparison; the runs lie in its folder runs.
        teacher_config: overlays for the teacher's fine-tuning alone.
        student_config: overlays for the distilled student alone, such as a backbone that a teacher has taught already.
        starts: by arm and seed what `train_arm` returned of the training that an arm goes on from (a teacher is taken
            as it is, where the config gives none); empty where all start as the config says.
    """

    config_files: tuple[str, ...]
    overrides: Mapping[str, Any]
    output_dir: Path
    teacher_config: tuple[str, ...] = ()
    student_config: tuple[str, ...] = ()
    starts: Mapping[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)

    def workflow(self, arm: str, seed: int, more: Mapping[str, Any] | None = None) -> ConfigWorkflow:
        """The bundle's run of an arm, not started.

        Args:
            arm: teacher, control or student.
            seed: of weights, order and augmentation.
            more: further config ids and values.
        """
        overlays = {TEACHER: self.teacher_config, STUDENT: self.student_config}.get(arm, ())
        fixed = {
            "training::seed": seed,
            "run_folder::root": str(self.output_dir / "runs"),
            "run_folder::timestamp": f"{arm}_seed{seed}",
            "model_file": None,
            "final_evaluation": None,
            "training::on_completion": None,
            **({} if arm == STUDENT else {"data::unlabeled_share": 0}),  # there is no teacher to say what they show
        }
        overrides = {**_overrides_of(self.overrides, arm), **fixed, **(more or {})}
        return build_workflow([*self.config_files, *OVERLAYS[arm], *overlays], overrides)

    def given_teacher(self, seed: int = 0) -> Any:
        """What the config says of teacher::lora_checkpoint: a path, a list of them, None, or a reference that makes
        one.
        """
        parser = self.workflow(STUDENT, seed).parser
        value = parser["teacher::lora_checkpoint"]
        if value is None or is_reference(value):
            return value
        value = parser.get_parsed_content("teacher::lora_checkpoint")
        return [str(path) for path in value] if isinstance(value, (list, tuple)) else value and str(value)


def _overrides_of(overrides: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """The overrides that hold for an arm."""
    if arm != TEACHER:
        return dict(overrides)
    keys = [key for key in overrides if key.partition("::")[0] in TEACHER_SECTIONS and key not in STUDENT_ALONE]
    return {key: overrides[key] for key in keys}


def train_arm(plan: Plan, arm: str, seed: int, teacher_file: Any = None) -> dict[str, Any]:
    """Train an arm, or go on with it where it was stopped; its best checkpoint and how it was reached.

    Args:
        plan: of the comparison.
        arm: teacher, control or student.
        seed: of the training.
        teacher_file: what a student is distilled from.

    Returns:
        checkpoint, run (its folder), epochs, seconds (of the training, without validation), val_dice (the best);
        started_from, the same of the training that it went on from, whose checkpoint stays the arm's where no epoch was
        better.

    Raises:
        ValueError: another process is training it, or its run was begun with other settings or another teacher.
    """
    runs = plan.output_dir / "runs"
    try:
        with naming_path(runs):
            runs.mkdir(parents=True, exist_ok=True)
            lock = FileLock(runs / f"{arm}_seed{seed}.lock", timeout=PATIENCE).acquire()
    except Timeout:
        raise ValueError(
            f"{arm}, seed {seed} is being trained by another process in {runs}; wait for its end."
        ) from None
    with lock:
        clear_leftovers(runs)
        return _train_alone(plan, arm, seed, teacher_file, runs / f"{arm}_seed{seed}.sha256")


def _train_alone(plan: Plan, arm: str, seed: int, teacher_file: Any, settings_file: Path) -> dict[str, Any]:
    """`train_arm`, in the one process that does it; `settings_file` tells one run's settings from another's."""
    more = {"teacher::lora_checkpoint": teacher_file} if arm == STUDENT else {}
    earlier = plan.starts.get((arm, seed))
    if earlier:
        more |= {"student::pretrained": True, "student::checkpoint": earlier["checkpoint"]}
    parser = plan.workflow(arm, seed, more).parser
    run, settings = parser.get_parsed_content("run_folder"), json_digest(_settings(parser, arm))
    epochs = _completed_epochs(run.models / LAST_CHECKPOINT)
    if epochs and settings_file.is_file() and settings_file.read_text() != settings:
        raise ValueError(f"{run.path} was trained with other settings or another teacher; pass another --output_dir.")
    with atomic_path(settings_file) as partial:
        partial.write_text(settings)
    if epochs < parser.get_parsed_content("training::num_epochs"):
        if epochs:
            more["training::resume"] = str(run.path)
        elif run.path.is_dir():  # stopped before anything was saved
            shutil.rmtree(run.path)
        flow = plan.workflow(arm, seed, more)
        flow.initialize()
        flow.run()
        flow.finalize()
    result = {"checkpoint": str(run.best_model()), "run": str(run.path), **_progress(run.path)}
    return _with_start(result, earlier) if earlier else result


def _with_start(result: dict[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What a training gave, and what it went on from; the better checkpoint of the two on the validation list."""
    best = earlier if (earlier.get("val_dice") or 0) > (result.get("val_dice") or 0) else result
    start = {"checkpoint": best["checkpoint"], "val_dice": best.get("val_dice"), "started_from": dict(earlier)}
    return {**result, **start}


def _settings(parser: ConfigParser, arm: str) -> list[Any]:
    """What a training depends on: its configuration, and a student's teacher by the content of its files."""
    config = {key: value for key, value in parser.config.items() if key not in PLACES}
    return [config, parser.get_parsed_content("teacher").description if arm == STUDENT else None]


def _completed_epochs(checkpoint: Path) -> int:
    """Of the run that wrote it; 0 where there is none."""
    if not checkpoint.is_file():
        return 0
    return read_weight_file(checkpoint, "the checkpoint", lambda content: content["progress"], mmap=True)["epoch"]


def check_plan(plan: Plan) -> None:
    """Look at the configuration of every arm before the first is trained: ids, values, loss, the teacher's files.

    Raises:
        Exception: MONAI's around the ValueError or OSError, see `find_user_error`.
    """
    given = plan.given_teacher()
    for arm in OVERLAYS:
        if arm == TEACHER and given is not None:  # it is not trained here
            continue
        parser = plan.workflow(arm, 0).parser
        check_config(parser.config)
        for section in ("data", "loss", "hardware", "augmentation"):
            parser.get_parsed_content(section)
        if arm == STUDENT and given is not None and not is_reference(given):
            parser.get_parsed_content("teacher").load()


def is_reference(value: Any) -> bool:
    """Whether a config value names another part of the configuration, which makes it."""
    return isinstance(value, str) and value.startswith("@")


def teacher_file(plan: Plan, seed: int) -> dict[str, Any]:
    """The teacher of a seed: the given file, what the config's reference makes, the one of the comparison that this
    goes on from, or a fine-tuning with train_teacher.json.
    """
    given = plan.given_teacher(seed)
    if given is None:
        return dict(plan.starts.get((TEACHER, seed)) or train_arm(plan, TEACHER, seed))
    if is_reference(given):
        return describe_file(str(plan.workflow(STUDENT, seed).parser.get_parsed_content("teacher::lora_checkpoint")))
    return {"checkpoint": given}


def describe_file(checkpoint: str) -> dict[str, Any]:
    """What `train_arm` returns, of the best checkpoint in a run's folder; of any other file its path alone."""
    path, run = Path(checkpoint), Path(checkpoint).parent.parent
    progress = _progress(run)
    is_best = path.name.startswith(BEST) and f"_dice{progress.get('val_dice') or 0:.4f}" in path.name
    return {"checkpoint": checkpoint, **({"run": str(run), **progress} if is_best else {})}


def _progress(folder: Path) -> dict[str, Any]:
    """Epochs, the seconds of their trainings and the best validation Dice of a run's history."""
    rows = read_history(folder)
    if not rows:
        return {}
    scores = [row["val_mean_dice"] for row in rows if "val_mean_dice" in row]
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    return {"epochs": len(rows), "seconds": seconds, "val_dice": max(scores, default=None)}


def build_arm(plan: Plan, arm: str, seed: int, checkpoint: Any) -> Arm:
    """An arm to evaluate, its trained weights loaded. The teacher sees what it teaches on, the student's images.

    Raises:
        FileNotFoundError: the checkpoint misses.
        ValueError: a file that does not fit.
    """
    for path in checkpoint if isinstance(checkpoint, Sequence) and not isinstance(checkpoint, str) else [checkpoint]:
        if not Path(path).exists():
            raise FileNotFoundError(f"the checkpoint {path} does not exist.")
    if arm == TEACHER:
        parser = plan.workflow(STUDENT, seed, {"teacher::lora_checkpoint": checkpoint}).parser
        teacher = parser.get_parsed_content("teacher").to(parser.get_parsed_content("device"))
        teacher.load()  # on its device, which decides on the type of its weights
        return Arm(arm, teacher, parser.get_parsed_content("data::img_size"), seed)
    parser = plan.workflow(arm, seed, {"student::pretrained": False, "student::checkpoint": None}).parser
    network: nn.Module = load_trained_student(
        parser.get_parsed_content("network_def"), checkpoint, f"arm {arm}, seed {seed}"
    )
    return Arm(arm, network, parser.get_parsed_content("data::img_size"), seed)
