"""Teacher, control and student of each set, and teacher and student of all sets together, by one recipe."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.data.joined import Source
from scripts.handlers.checkpoints import save_atomically
from scripts.networks.weights import STUDENT as STUDENT_FILE
from scripts.networks.weights import check_kind, read_state_dict
from scripts.run.config_check import check_config
from scripts.utils.files import atomic_path
from scripts.utils.options import CONTROL, STUDENT, TEACHER
from scripts.utils.screen import tell

from ..arms import Plan, check_plan, teacher_file, train_arm
from .lists import JOINT, OrganSet

Runs = dict[tuple[str, int], dict[str, Any]]
TEACHER_OVERLAY = {"training::batch_size": 4, "training::patience": 0}
BALANCE = {"training::balance": "set"}  # of the joint list, whose sets are of different sizes
VALIDATIONS = 8  # of a training


@dataclass(frozen=True)
class Task:
    """What is trained on one list.

    Args:
        organs: the set.
        plan: of its trainings.
        arms: that are trained, the teacher first.
    """

    organs: OrganSet
    plan: Plan
    arms: tuple[str, ...]


def check_options(options: argparse.Namespace, overrides: Mapping[str, Any], source: Source) -> None:
    """Look at config ids, values and files before anything is written.

    Args:
        options: of the command line.
        overrides: config ids and values for all sets.
        source: one of the sets.

    Raises:
        FileNotFoundError: --backbone_of is not there.
        Exception: MONAI's around the ValueError or OSError, see `find_user_error`.
    """
    if options.backbone_of:
        _read_backbone(options.backbone_of)
    output_dir, folder = options.output_dir.resolve(), source.datalist.resolve().parent
    one = OrganSet(source.name, folder, source.datalist.resolve(), tuple(source.names), {})
    values = {**_short(options, options.epochs, output_dir), **overrides, **_data(one)}
    plan = Plan(tuple(options.config_file), values, output_dir, teacher_config=tuple(options.teacher_config))
    for arm in (TEACHER, CONTROL, STUDENT):
        check_config(plan.workflow(arm, 0).parser.config)


def plan_tasks(options: argparse.Namespace, overrides: Mapping[str, Any], sets: Sequence[OrganSet]) -> list[Task]:
    """The trainings of all sets, none started: single sets with teacher, control and student, the joint one without a
    control.

    Args:
        options: of the command line.
        overrides: config ids and values for all of them.
        sets: single ones, and the joint one last where it is wanted.
    """
    output_dir = options.output_dir.resolve()
    start = _start(options, output_dir)
    balance = _write_overlay(BALANCE, output_dir / "balance.json")
    tasks = []
    for one in sets:
        joint = one.name == JOINT
        factor = _factor(options, one, len(options.sets) if joint else 1)
        files = (*options.config_file, *([balance] if joint else []))
        folder = output_dir / JOINT if joint else output_dir / "sets" / one.name
        teacher = (_teacher_overlay(round(options.teacher_epochs * factor), folder), *options.teacher_config)
        values = {**_short(options, round(options.epochs * factor), output_dir), **start, **overrides, **_data(one)}
        arms = (TEACHER, STUDENT) if joint else (TEACHER, CONTROL, STUDENT)
        tasks.append(Task(one, Plan(files, values, folder, teacher_config=teacher), arms))
    return tasks


def _factor(options: argparse.Namespace, one: OrganSet, num_sets: int) -> float:
    """How often a list's epochs come: with same_steps as often as it is smaller than num_images a set, else once."""
    return max(1.0, num_sets * options.num_images / one.sizes["training"]) if options.same_steps else 1.0


def _short(options: argparse.Namespace, epochs: int, output_dir: Path) -> dict[str, Any]:
    """What makes the trainings short, and their teacher; overrides go above it."""
    return {
        "data::img_size": options.img_size,
        "training::num_epochs": epochs,
        "training::patience": 0,
        "val_interval": _interval(epochs),
        "teacher::model_name": "lite_medsam",
        "teacher::img_size": 168,
        "teacher::rank": 16,
        "teacher::cache_dir": str(output_dir / "cache"),
    }


def _teacher_overlay(epochs: int, folder: Path) -> str:
    """The file of the teacher's schedule."""
    schedule = {"training::num_epochs": epochs, "training::warmup_epochs": min(1, epochs - 1)}
    return _write_overlay({**TEACHER_OVERLAY, **schedule, "val_interval": _interval(epochs)}, folder / "teacher.json")


def _start(options: argparse.Namespace, output_dir: Path) -> dict[str, str]:
    """Where the students start, if from the backbone of a trained one."""
    if not options.backbone_of:
        return {}
    return {"student::checkpoint": str(_write_backbone(options.backbone_of, output_dir))}


def _interval(epochs: int) -> int:
    return max(1, epochs // VALIDATIONS)


def _data(one: OrganSet) -> dict[str, Any]:
    outside = {"data::allow_outside": True} if one.name == JOINT else {}  # its images lie where the sets are
    return {
        "data::dataset_dir": str(one.dataset_dir),
        "data::datalist": str(one.datalist),
        "data::num_classes": len(one.names),
        **outside,
    }


def _write_overlay(overlay: Mapping[str, Any], path: Path) -> str:
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(overlay, indent=4) + "\n", encoding="utf-8")
    return str(path)


def _write_backbone(checkpoint: Path, output_dir: Path) -> Path:
    """The backbone of a trained student, as a file that starts students of any classes; returns its path."""
    save_atomically(_read_backbone(checkpoint), output_dir / "backbone.pth")
    return output_dir / "backbone.pth"


def _read_backbone(checkpoint: Path) -> dict[str, Any]:
    """The weights of a trained student's backbone, under the names of TinyUSFM's published file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no student.
    """
    state = read_state_dict(checkpoint, "backbone_of")
    check_kind(state, (STUDENT_FILE,), f"--backbone_of {checkpoint}")
    prefix = "backbone."
    return {f"model.{key.removeprefix(prefix)}": state[key] for key in state if key.startswith(prefix)}


def check_tasks(tasks: Sequence[Task]) -> None:
    """Look at all configurations, and whether each student can start from its checkpoint, before the first training.

    Raises:
        Exception: MONAI's around the ValueError or OSError, see `find_user_error`.
    """
    for task in tasks:
        check_plan(task.plan)
        parser = task.plan.workflow(CONTROL, 0).parser
        if parser.get_parsed_content("student").checkpoint:
            parser.get_parsed_content("network_def")


def train_tasks(tasks: Sequence[Task], seeds: Sequence[int]) -> dict[str, Runs]:
    """By set, arm and seed what `train_arm` returns; a finished training is not repeated, a stopped one goes on.

    The teacher is trained once, with the first seed, and teaches the students of all seeds.

    Args:
        tasks: of `plan_tasks`.
        seeds: of the students.

    Raises:
        ValueError: see `train_arm`.
    """
    runs: dict[str, Runs] = {task.organs.name: {} for task in tasks}
    for seed in seeds:  # all sets of a seed first, so that a stopped run can be read
        for task in tasks:
            done = runs[task.organs.name]
            if seed == seeds[0]:
                tell(f"{task.organs.name}: {TEACHER}")
                done[TEACHER, seed] = teacher_file(task.plan, seed)
            for arm in task.arms[1:]:
                tell(f"{task.organs.name}: {arm}, seed {seed}")
                done[arm, seed] = train_arm(task.plan, arm, seed, done[TEACHER, seeds[0]]["checkpoint"])
    return runs
