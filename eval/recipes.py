"""What each addition to the loss brings: one short training a recipe and seed, and the table of docs/distillation.md.

    python -m eval.recipes --output_dir logs/recipes --dataset_dir data/BUSBRA --teacher::model_name lite_medsam \\
        --teacher::module mask_decoder --teacher::lora_checkpoint PATH

Small on purpose (img_size 128, 15 epochs, the first 192 training images), so that a seed of all recipes takes some 25
minutes on a core: it can show what does harm and what may be worth a comparison (eval.compare), no more. The figure is
the validation Dice after the last epoch; nothing is selected by it, and the test list is not read. A run that was
stopped goes on where it was. `--config_file` takes overlays, such as configs/shared_teacher.json, below what makes the
trainings short; overrides go above it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from scripts.data.datalist_file import read_datalist
from scripts.utils.files import BUNDLE_ROOT, atomic_path, clear_leftovers
from scripts.utils.machine import describe_machine, git_revision, list_versions, without_folders
from scripts.utils.options import CONTROL, STUDENT
from scripts.utils.screen import tell

from .command_line import parse_run, run_program

RESULTS = "eval/results/recipes.json"
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
    parser.add_argument("--output_dir", type=Path, required=True, help="of the runs; the same again to go on")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--num_images", type=int, default=192, help="of the training list, the first")
    parser.add_argument("--results", type=Path, default=BUNDLE_ROOT / RESULTS)
    options, overrides = parse_run(parser, arguments)
    dataset_dir = overrides.pop("data::dataset_dir", None)
    if not dataset_dir:
        raise ValueError("--dataset_dir is required; pass the folder of dataset.json.")
    options.dataset_dir = Path(dataset_dir)
    options.command = without_folders(" ".join(["python -m eval.recipes", *arguments]))
    return options, overrides


def run_all(options: argparse.Namespace, overrides: Mapping[str, Any]) -> Results:
    """By recipe: dice (by seed), mean, spread, and gain over the recipe that it adds to."""
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
    results: Results = {name: {"dice": {}} for name in RECIPES}
    for seed in options.seeds:  # all recipes of a seed first, so that a stopped run can be read
        for name, (arm, changes, _) in RECIPES.items():
            tell(f"recipe: {name}, seed {seed}")
            folder = options.output_dir.resolve() / name.replace(" ", "_").replace(",", "")
            plan = Plan(options.config_file, {**short, **overrides, **changes}, folder)
            run = train_arm(plan, arm, seed, plan.given_teacher())["run"]
            results[name]["dice"][str(seed)] = _last_dice(read_history(run), run)
    for name, (_, _, base) in RECIPES.items():
        summarize(results, name, base)
    return results


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
    lines = ["| recipe | validation Dice, mean of seeds (spread) | gain over its base |", "|---|---|---|"]
    for name, row in results.items():
        lines.append(f"| {name} | {row['mean']:.3f} ({row['spread']:.3f}) | {_gain(row)} |")
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
