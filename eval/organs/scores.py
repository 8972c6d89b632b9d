"""What the networks of each set find on its list, and how one student for all sets compares with the single ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import set_determinism

from scripts.evaluation.case_table import CaseTable, patients_note
from scripts.evaluation.class_subset import ClassSubset
from scripts.evaluation.evaluate import Arm, evaluate
from scripts.evaluation.results import table as csv_table
from scripts.evaluation.statistics import compare_arms, summarize_arms
from scripts.utils.files import atomic_path
from scripts.utils.options import CONTROL, STUDENT, TEACHER
from scripts.utils.screen import tell

from ..arms import build_arm
from .lists import JOINT
from .page import JOINT_STUDENT
from .trainings import Runs, Task

MARGIN = 0.01  # Dice that one student for all organs may lose against a single one
PAIRS = ((STUDENT, CONTROL, None), (STUDENT, TEACHER, None), (JOINT_STUDENT, STUDENT, MARGIN))
KEPT = ("epochs", "seconds", "val_dice")  # of a training


def score_sets(
    tasks: Sequence[Task],
    runs: Mapping[str, Runs],
    joint: Task | None,
    classes: Mapping[str, Sequence[int]],
    split: str,
) -> dict[str, Any]:
    """By set its figures, see `score_set`.

    Args:
        tasks: of the single sets.
        runs: of `train_tasks`.
        joint: of the joint list, None where no student of all sets was trained.
        classes: by set the joint classes of its own; read with `joint` alone.
        split: the list that is read.
    """
    figures = {}
    for task in tasks:
        name = task.organs.name
        tell(f"{name}: reading its {split} list")
        arms = [build_arm(task.plan, *key, run["checkpoint"]) for key, run in runs[name].items()]
        if joint:
            arms += [_one_organ(joint, *key, run, classes[name]) for key, run in runs[JOINT].items()]
        figures[name] = score_set(task, arms, split)
        figures[name]["trainings"] = describe_runs(runs[name])
    return figures


def _one_organ(joint: Task, arm: str, seed: int, run: Mapping[str, Any], classes: Sequence[int]) -> Arm:
    """A network of all sets that is asked for one set's classes alone: each image's organ is known from its list."""
    network, img_size = build_arm(joint.plan, arm, seed, run["checkpoint"])[1:3]
    return Arm(f"{JOINT} {arm}", ClassSubset(network, classes), img_size, seed)


def score_set(task: Task, arms: Sequence[Arm], split: str) -> dict[str, Any]:
    """Of one set: classes, sizes, left_out, arms, comparisons and notes, see `summarize_arms` and `compare_arms`.

    A row a case, arm and seed is written to metrics_LIST.csv in the folder of its trainings.

    Args:
        task: of the set.
        arms: to measure, with the set's classes.
        split: the list that is read.
    """
    parser = task.plan.workflow(STUDENT, 0, {"test::dataset::data": f"$@data.{split}"}).parser
    data, dataset = parser.get_parsed_content("data"), parser.get_parsed_content("test::dataset")
    device, autocast = parser.get_parsed_content("device"), parser.get_parsed_content("hardware").autocast()
    set_determinism(0)
    rows = evaluate(dataset, arms, len(task.organs.names), device, autocast).rows
    _write_rows(rows, task.plan.output_dir / f"metrics_{split}.csv")
    return {**describe_set(task), **compare_rows(rows, task.organs.names), "notes": [*data.notes, patients_note(rows)]}


def compare_rows(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The parts `arms` and `comparisons` of a set's figures, patient by patient, of all classes and of each.

    Args:
        rows: of all arms and seeds.
        names: of the classes, the background first.
    """
    cases = CaseTable(rows)
    dice = ["dice", *(f"dice_class{number}" for number in range(1, len(names)) if len(names) > 2)]
    pairs = [pair for pair in PAIRS if {*pair[:2]} <= {*cases.runs}]
    return {
        "arms": summarize_arms(cases, [*dice, "hd95"]),
        "comparisons": [compare_arms(cases, *pair[:2], metric, pair[2]) for pair in pairs for metric in dice],
    }


def describe_set(task: Task) -> dict[str, Any]:
    """Classes, sizes of the lists, and how many training images were left out."""
    organs = task.organs
    return {"classes": list(organs.names), "sizes": organs.sizes, "left_out": organs.left_out}


def describe_runs(runs: Runs) -> dict[str, dict[str, dict[str, Any]]]:
    """By arm and seed the epochs, the seconds of training and the best validation Dice of its training."""
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for (arm, seed), run in runs.items():
        told.setdefault(arm, {})[str(seed)] = {key: run[key] for key in KEPT if key in run}
    return told


def _write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with atomic_path(path) as partial:
        partial.write_text(csv_table(rows), encoding="utf-8", newline="")
