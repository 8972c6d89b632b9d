"""What each addition to the loss or to the augmentation brings: one short training a recipe and seed, and its table.

    python -m eval.recipes --output_dir logs/recipes --dataset_dir data/BUSBRA --teacher::model_name lite_medsam \\
        --teacher::module mask_decoder --teacher::lora_checkpoint PATH

Small on purpose (img_size 128, 15 epochs, the first 192 training images), so that a seed of all recipes takes some 25
minutes on a core: it can show what does harm and what may be worth a comparison (eval.compare), no more. The figure is
the validation Dice after the last epoch; nothing is selected by it, and the test list is not read. A run that was
stopped goes on where it was. `--config_file` takes overlays, such as configs/shared_teacher.json, below what makes the
trainings short; overrides go above it.

    python -m eval.recipes --recipes augmentation --output_dir logs/augmentation --dataset_dir data/BUSBRA \\
        --student::checkpoint models/model.pt --num_images 1047 --epochs 6 --training::lr 4e-4

takes the additions to the augmentation, without a teacher, and adds what probes cost (docs/robustness.md).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from scripts.data.datalist_file import read_datalist
from scripts.utils.files import BUNDLE_ROOT, atomic_path, clear_leftovers
from scripts.utils.machine import describe_machine, git_revision, list_versions, without_folders
from scripts.utils.options import CONTROL, STUDENT
from scripts.utils.screen import tell

from .command_line import parse_run, run_program

if TYPE_CHECKING:  # what imports torch is imported where it is used, so that --help answers at once
    from .arms import Plan

RESULTS = {"loss": "eval/results/recipes.json", "augmentation": "eval/results/augmentation.json"}
CONTROL_BASE, BASE = "control, no teacher", "distillation as it is"
WHITENED_BACKBONE = {"distillation::features": "backbone", "distillation::whiten": True}
# name -> arm, overrides, and the recipe that it adds to
RECIPES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    CONTROL_BASE: (CONTROL, {}, None),
    "control, initialization random": (CONTROL, {"student::initialization": "random"}, CONTROL_BASE),
    BASE: (STUDENT, {}, None),
    "teacher_temperature 1.31": (STUDENT, {"distillation::teacher_temperature": 1.31}, BASE),
    "gate confidence": (STUDENT, {"distillation::gate": "confidence"}, BASE),
    "gate agreement": (STUDENT, {"distillation::gate": "agreement"}, BASE),
    "boundary 0.5": (STUDENT, {"distillation::boundary": 0.5}, BASE),
    "cwd 0.1": (STUDENT, {"distillation::cwd": 0.1}, BASE),
    "dist_intra 0.5": (STUDENT, {"distillation::dist_intra": 0.5}, BASE),
    "gamma 1": (STUDENT, {"distillation::gamma": 1.0}, BASE),
    "gamma 1, whiten": (STUDENT, {"distillation::gamma": 1.0, "distillation::whiten": True}, BASE),
    "gamma 1, whiten, features backbone": (STUDENT, {**WHITENED_BACKBONE, "distillation::gamma": 1.0}, BASE),
    "gamma 1, whiten, features backbone, cwd 0.1": (
        STUDENT,
        {**WHITENED_BACKBONE, "distillation::gamma": 1.0, "distillation::cwd": 0.1},
        BASE,
    ),
    "mgd 1, whiten, features backbone": (STUDENT, {**WHITENED_BACKBONE, "distillation::mgd": 1.0}, BASE),
    "temperature 1": (STUDENT, {"distillation::temperature": 1.0}, BASE),
    "temperature 1, gamma 1, whiten, features backbone": (
        STUDENT,
        {**WHITENED_BACKBONE, "distillation::gamma": 1.0, "distillation::temperature": 1.0},
        BASE,
    ),
}
PLAIN = "augmentation as it is"
MOVED = {"augmentation::shift_fraction": 0.35, "augmentation::mirror_prob": 0.7}
ZOOMED = {**MOVED, "augmentation::zoom_range": [0.6, 2.2]}
LOOKS = {
    "sector_prob": 0.15,
    "brightness_range": [-0.25, 0.25],
    "gain_range": [0.6, 1.4],
    "resolution_range": [0.35, 1.0],
    "speckle_range": [0.0, 0.25],
    "drawings_prob": 0.25,
    "lesion_free_prob": 0.12,
}
AUGMENTATIONS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    PLAIN: (CONTROL, {}, None),
    "shift_fraction 0.35, black around": (CONTROL, {"augmentation::shift_fraction": 0.35}, PLAIN),
    "shift_fraction 0.35, mirror_prob 0.7": (CONTROL, MOVED, PLAIN),
    "shift_fraction 0.35, mirror_prob 0.7, zoom_range [0.6, 2.2]": (CONTROL, ZOOMED, PLAIN),
    **{f"{key} {value}": (CONTROL, {f"augmentation::{key}": value}, PLAIN) for key, value in LOOKS.items()},
    "all together": (CONTROL, {**ZOOMED, **{f"augmentation::{key}": value for key, value in LOOKS.items()}}, PLAIN),
}
PROBED = ("left", "right", "shallow", "deep", "smaller", "darker", "borders", "sector", "text", "speckle")
Results = dict[str, dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("recipes", lambda: _run(arguments), kept="what is trained is kept")


def _run(arguments: list[str]) -> int:
    options, overrides = _parse(arguments)
    results = run_all(options, overrides)
    _write(results, options)
    tell(table(results))
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.recipes", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--recipes", choices=tuple(RESULTS), default="loss", help="additions to what")
    parser.add_argument("--output_dir", type=Path, required=True, help="of the runs; the same again to go on")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--num_images", type=int, default=192, help="of the training list, the first")
    parser.add_argument("--cases", type=int, default=60, help="of the validation list that are probed")
    parser.add_argument("--results", type=Path, help=f"file to write (default: {' or '.join(RESULTS.values())})")
    options, overrides = parse_run(parser, arguments)
    options.results = options.results or BUNDLE_ROOT / RESULTS[options.recipes]
    dataset_dir = overrides.pop("data::dataset_dir", None)
    if not dataset_dir:
        raise ValueError("--dataset_dir is required; pass the folder of dataset.json.")
    options.dataset_dir = Path(dataset_dir)
    options.command = without_folders(" ".join(["python -m eval.recipes", *arguments]))
    return options, overrides


def run_all(options: argparse.Namespace, overrides: Mapping[str, Any]) -> Results:
    """By recipe: dice (by seed), mean, spread, and gain over the recipe that it adds to; of augmentations also probes,
    the change of Dice by each, as the mean of the seeds.
    """
    short = {
        "data::img_size": 128,
        "training::num_epochs": options.epochs,
        "training::warmup_epochs": 1,
        "training::lr": 1e-3,
        "training::patience": 0,
        "optimizer::layer_decay": 1.0,
        "val_interval": options.epochs,
        "data::dataset_dir": str(options.dataset_dir.resolve()),
        "data::datalist": str(write_datalist(options)),
        "teacher::cache_dir": str(options.output_dir.resolve() / "cache"),
    }
    from scripts.run.history import read_history

    from .arms import Plan, train_arm  # here and not above: --help can do without torch

    clear_leftovers(options.output_dir)
    probed = options.recipes == "augmentation"
    recipes = AUGMENTATIONS if probed else RECIPES
    results: Results = {name: {"dice": {}} for name in recipes}
    changes_of_dice: dict[str, list[dict[str, float]]] = {name: [] for name in recipes}
    for seed in options.seeds:  # all recipes of a seed first, so that a stopped run can be read
        for name, (arm, changes, _) in recipes.items():
            tell(f"recipe: {name}, seed {seed}")
            folder = options.output_dir.resolve() / re.sub(r"[^\w.]+", "_", name).strip("_")
            plan = Plan(options.config_file, {**short, **overrides, **changes}, folder)
            trained = train_arm(plan, arm, seed, plan.given_teacher())
            results[name]["dice"][str(seed)] = _last_dice(read_history(trained["run"]), trained["run"])
            if probed:
                changes_of_dice[name].append(_probe(plan, arm, seed, trained["checkpoint"], options.cases))
    for name, (_, _, base) in recipes.items():
        summarize(results, name, base)
        if probed:
            results[name]["probes"] = {probe: mean(one[probe] for one in changes_of_dice[name]) for probe in PROBED}
    return results


def _probe(plan: Plan, arm: str, seed: int, checkpoint: str, cases: int) -> dict[str, float]:
    """The change of validation Dice by each probe; nan where no case shows a lesion after it."""
    from scripts.evaluation.robustness import measure_probes, spread_cases

    from .arms import build_arm

    parser = plan.workflow(arm, seed, {"test::dataset::data": "$@data.validation"}).parser
    dataset = spread_cases(parser.get_parsed_content("test::dataset"), cases)
    settings = parser.get_parsed_content("data::num_classes"), parser.get_parsed_content("device")
    rows = measure_probes(dataset, [build_arm(plan, arm, seed, checkpoint)], *settings, probes=PROBED)["rows"]
    return {row["probe"]: row["arms"][arm]["dice"]["mean"] if row["arms"] else float("nan") for row in rows}


def _last_dice(rows: list[dict[str, float]], run: str) -> float:
    if not rows or "val_mean_dice" not in rows[-1]:
        raise ValueError(
            f"{run} has no validation Dice in history.csv; move this folder away, and it is trained again."
        )
    return rows[-1]["val_mean_dice"]


def write_datalist(options: argparse.Namespace) -> Path:
    """The data set's lists, the training list cut to the first images; paths stay below the data set's folder."""
    content = read_datalist(options.dataset_dir / "dataset.json")
    path = options.output_dir.resolve() / "dataset.json"
    with atomic_path(path) as partial:
        partial.write_text(json.dumps({**content, "training": content.get("training", [])[: options.num_images]}))
    return path


def summarize(results: Results, name: str, base: str | None) -> None:
    """Add mean, spread (largest less smallest of the seeds) and gain (mean of the differences seed by seed) to a
    recipe.
    """
    dice = results[name]["dice"]
    results[name].update(mean=mean(dice.values()), spread=max(dice.values()) - min(dice.values()))
    if base:
        gains = [dice[seed] - results[base]["dice"][seed] for seed in dice]
        results[name].update(base=base, gain=mean(gains), gain_spread=max(gains) - min(gains))


def table(results: Results) -> str:
    """Markdown; a gain inside the spread of the seeds' gains is called noise, and one seed has no spread to say so."""
    probes = list(next(iter(results.values())).get("probes", {}))
    lines = [
        " | ".join(["| recipe", "validation Dice, mean of seeds (spread)", "gain over its base", *probes]) + " |",
        "|---|---|---|" + "---|" * len(probes),
    ]
    for name, row in results.items():
        changes = "".join(f" {row['probes'][probe]:+.3f} |" for probe in probes)
        lines.append(f"| {name} | {row['mean']:.3f} ({row['spread']:.3f}) | {_gain(row)} |{changes}")
    return "\n".join(lines)


def _gain(row: Mapping[str, Any]) -> str:
    if "gain" not in row:
        return ""
    if len(row["dice"]) == 1:
        return f"{row['gain']:+.3f}, one seed"
    word = "noise" if abs(row["gain"]) <= row["gain_spread"] else "gain" if row["gain"] > 0 else "loss"
    return f"{row['gain']:+.3f}, {word}"


def _write(results: Results, options: argparse.Namespace) -> None:
    report = {
        "recipes": results,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "num_images": options.num_images,
        "machine": describe_machine(),
        "versions": list_versions(),
        "revision": git_revision(),
        "command": options.command,
    }
    with atomic_path(options.results) as partial:
        partial.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
