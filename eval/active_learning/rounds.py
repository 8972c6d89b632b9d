"""The rounds of a simulation: train on the labeled images, measure, and label the next batch.

A round is a training of the bundle from the start, as `eval/arms.py` does it. Its last weights count: no list chooses.
What a round measured is kept in its folder, so that a stopped simulation goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.utils import set_determinism

from scripts.data.joined import Source
from scripts.evaluation.case_table import CONFIDENCE, PRESENCE
from scripts.evaluation.evaluate import evaluate
from scripts.labeling.order import sureness
from scripts.run.config_check import check_config
from scripts.utils.digests import file_digest
from scripts.utils.files import atomic_path
from scripts.utils.options import STUDENT
from scripts.utils.screen import duration, tell

from ..arms import Plan, build_arm, is_reference, train_arm
from .page import ARMS, RANDOM
from .pool import Pool

START = "start"  # folder of the first round, which the arms share
MEASURED = "measured.json"
WARMUP_SHARE = 15  # the warm-up takes so small a part of the epochs
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Round:
    """What a training on the labeled images gave.

    Args:
        arm: of ARMS.
        seed: of the training and of the first images.
        number: from 0.
        labeled: paths of the images.
        patients: how many of them.
        seconds: of the training.
        rows: of the validation list, see `evaluate`.
        left: of the images that were not labeled then.
    """

    arm: str
    seed: int
    number: int
    labeled: list[str]
    patients: int
    seconds: float
    rows: Rows
    left: Rows


def short_training(options: argparse.Namespace, labeled: int) -> dict[str, Any]:
    """What makes a training short. Fewer images get proportionally more epochs, so that all rounds have as many steps.

    Args:
        options: of the command line.
        labeled: number of images.
    """
    epochs = max(1, round(options.epochs * sizes(options)[-1] / labeled))
    return {
        "data::img_size": options.img_size,
        "training::num_epochs": epochs,
        "training::warmup_epochs": epochs // WARMUP_SHARE,
        "training::patience": 0,
        "val_interval": epochs,  # the last weights count: nothing is chosen on the validation list
        "teacher::cache_dir": str(options.output_dir.resolve() / "cache"),
    }


def sizes(options: argparse.Namespace) -> list[int]:
    """Number of labeled images of each round."""
    return [options.first + number * options.batch for number in range(options.rounds)]


def plan_round(
    options: argparse.Namespace, overrides: Mapping[str, Any], num_classes: int, datalist: Path, labeled: int
) -> Plan:
    """The training of a round, not started.

    Args:
        options: of the command line.
        overrides: config ids and values.
        num_classes: with the background.
        datalist: of the labeled images, in the folder of the round.
        labeled: number of them.
    """
    data = {
        "data::dataset_dir": str(options.dataset_dir.resolve()),
        "data::datalist": str(datalist),
        "data::num_classes": num_classes,
    }
    values = {**short_training(options, labeled), **overrides, **data}
    return Plan(tuple(options.config_file), values, datalist.parent)


def check(options: argparse.Namespace, overrides: Mapping[str, Any], source: Source) -> None:
    """Look at the configuration before anything is written.

    Raises:
        ValueError: a student without a teacher.
        Exception: MONAI's around the ValueError or OSError, see `find_user_error`.
    """
    datalist = source.datalist.resolve()
    plan = plan_round(options, overrides, len(source.names), datalist, options.first)
    parser = plan.workflow(options.arm, 0).parser
    check_config(parser.config)
    if options.arm == STUDENT:
        if plan.given_teacher() is None:
            raise ValueError("--arm student needs a teacher; pass --teacher::lora_checkpoint PATH, or --arm control.")
        if not is_reference(plan.given_teacher()):
            parser.get_parsed_content("teacher").load()
    if parser.get_parsed_content("student").checkpoint:
        parser.get_parsed_content("network_def")


def simulate(options: argparse.Namespace, overrides: Mapping[str, Any], pool: Pool) -> list[Round]:
    """All rounds of both arms and all seeds, what is done taken as it is.

    Args:
        options: of the command line.
        overrides: config ids and values.
        pool: the images.

    Raises:
        ValueError: a list or training there was begun with other options.
    """
    done: list[Round] = []
    total = len(options.seeds) * (1 + len(ARMS) * (options.rounds - 1))
    for one in _rounds(options, overrides, pool):
        done.append(one)
        trained = {(r.seed, r.arm if r.number else START, r.number): r.seconds for r in done}
        left = (total - len(trained)) * sum(trained.values()) / len(trained)
        dice = sum(row["dice"] for row in one.rows) / len(one.rows)
        tell(
            f"seed {one.seed}, {one.arm}, {len(one.labeled)} labeled images of {one.patients} patients: "
            f"Dice {dice:.3f}; trained in {duration(one.seconds)}, about {duration(left)} of training to go"
        )
    return done


def _rounds(options: argparse.Namespace, overrides: Mapping[str, Any], pool: Pool) -> Iterator[Round]:
    for seed in options.seeds:  # all rounds of a seed first, so that a stopped run can be read
        random = pool.random_sureness(seed)
        for arm in ARMS:
            labeled = pool.next_batch(random, options.first)
            for number, size in enumerate(sizes(options)):
                folder = _folder(options, seed, arm, number)
                origin = [seed, arm if number else START, number, sizes(options), options.arm]
                labeled = pool.write_list(labeled, folder / "dataset.json", origin)
                one = _round(options, overrides, pool, folder, Round(arm, seed, number, labeled, 0, 0, [], []))
                yield one
                if number + 1 < options.rounds:
                    sure = {row["image"]: random[row["image"]] if arm == RANDOM else _sure(row) for row in one.left}
                    labeled = [*labeled, *pool.next_batch(sure, sizes(options)[number + 1] - size)]


def _folder(options: argparse.Namespace, seed: int, arm: str, number: int) -> Path:
    place = f"{arm.replace(' ', '_')}/round{number}" if number else START
    return options.output_dir.resolve() / f"seed{seed}" / place


def _sure(row: Mapping[str, Any]) -> float:
    return sureness(row[CONFIDENCE], row["predicted_area"] > 0, row.get(PRESENCE))


def _round(options: argparse.Namespace, overrides: Mapping[str, Any], pool: Pool, folder: Path, begun: Round) -> Round:
    """Train and measure a round; `begun` says which."""
    plan = plan_round(options, overrides, len(pool.source.names), folder / "dataset.json", len(begun.labeled))
    teacher = plan.given_teacher(begun.seed) if options.arm == STUDENT else None
    trained = train_arm(plan, options.arm, begun.seed, teacher)
    found = _measure(options, plan, pool, begun, trained["checkpoint"])
    patients = len(pool.patients(begun.labeled))
    return Round(
        begun.arm, begun.seed, begun.number, begun.labeled, patients, trained["seconds"], found["rows"], found["left"]
    )


def _measure(options: argparse.Namespace, plan: Plan, pool: Pool, one: Round, checkpoint: str) -> dict[str, Rows]:
    """Rows of the validation list and of the images that are left, kept for the same weights."""
    path, digest = plan.output_dir / MEASURED, file_digest(checkpoint)
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["checkpoint"] == digest:
            return kept
    left = [image for image in pool.images if image not in {*one.labeled}]
    rest = plan.output_dir / "left.json"
    pool.write_list(left, rest, [one.seed, one.arm if one.number else START, one.number, "left", sorted(left)])
    rows = _evaluate(options, plan, one.seed, checkpoint, "validation")
    others = _evaluate(options, plan, one.seed, checkpoint, "training", {"data::datalist": str(rest)}) if left else []
    found = {"checkpoint": digest, "rows": rows, "left": others}
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(found), encoding="utf-8")
    return found


def _evaluate(
    options: argparse.Namespace,
    plan: Plan,
    seed: int,
    checkpoint: str,
    split: str,
    more: Mapping[str, Any] | None = None,
) -> Rows:
    """A row an image of a list, with its path as `image`."""
    parser = plan.workflow(options.arm, seed, {**(more or {}), "test::dataset::data": f"$@data.{split}"}).parser
    dataset, device = parser.get_parsed_content("test::dataset"), parser.get_parsed_content("device")
    autocast = parser.get_parsed_content("hardware").autocast()
    set_determinism(0)
    arm = build_arm(plan, options.arm, seed, checkpoint)
    rows = evaluate(dataset, [arm], parser.get_parsed_content("data::num_classes"), device, autocast).rows
    images: Sequence[str] = [item["image"] for item in dataset.data]
    return [{**row, "image": str(image)} for row, image in zip(rows, images, strict=True)]
