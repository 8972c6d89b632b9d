"""Share a student that a comparison has trained: its weights, its results, and what the metadata say of it.

    python -m eval.publish --comparison logs/comparison --dataset_dir data/BUSBRA [--seed 0]

Writes models/model.pt and models/model.safetensors in half precision (half the size; they are loaded in fp32), after a
look at the validation list whether the rounding changes the masks; copies report.json to eval/results/ and its figures
of the student to configs/metadata.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.utils.files import BUNDLE_ROOT, atomic_path
from scripts.utils.options import STUDENT
from scripts.utils.screen import tell

from .command_line import parse_run, run_program

if TYPE_CHECKING:  # what imports torch is imported where it is used, so that --help answers at once
    from .arms import Plan

MOST_DICE_CHANGE = 0.0005
METRICS = ("dice", "iou", "hd95", "hd95_mm", "nsd", "nsd_mm", "sensitivity", "specificity", "pixel_accuracy", "ece")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("publish", lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    options, overrides = _parse(arguments)
    from .arms import Plan

    plan = Plan(options.config_file, overrides, options.comparison.resolve())
    report = read_json(options.comparison / "report.json", "the report of a finished comparison")
    figures = eval_metrics(report.get("arms", {}), options.seed)
    change = publish_weights(plan, find_checkpoint(options.comparison, options.seed), options.bundle / "models")
    publish_results(report, figures, options.bundle, options.name or options.comparison.resolve().name)
    tell(f"models/model.pt, models/model.safetensors: half precision changes the validation Dice by {change:+.5f}")
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.publish", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--comparison", type=Path, required=True, help="output_dir of eval.compare")
    parser.add_argument("--seed", type=int, default=0, help="of the student that is shared")
    parser.add_argument("--name", help="of the results file; the comparison's folder name when left out")
    parser.add_argument("--bundle", type=Path, default=BUNDLE_ROOT, help="the bundle to write to")
    return parse_run(parser, arguments)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A file of a comparison.

    Args:
        path: of the file.
        what: it should be, for the message.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected {what}: run python -m eval.compare first.")
    return json.loads(path.read_text(encoding="utf-8"))


def find_checkpoint(comparison: Path, seed: int) -> str:
    """The student of a seed that a comparison has trained.

    Raises:
        FileNotFoundError: no comparison, or its checkpoint is gone.
        ValueError: it has no student of this seed.
    """
    from .comparison import STATE_FILE

    seeds = read_json(comparison / STATE_FILE, "a comparison")["arms"].get(STUDENT, {})
    if str(seed) not in seeds:
        raise ValueError(
            f"{comparison} has no student of seed {seed}, only of {', '.join(seeds) or 'none'}; pass another --seed."
        )
    checkpoint = seeds[str(seed)]["checkpoint"]
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"the student's checkpoint {checkpoint} does not exist any more.")
    return checkpoint


def publish_weights(plan: Plan, checkpoint: str, folder: Path) -> float:
    """Write model.pt and model.safetensors; returns by how much half precision changes the mean Dice of the validation
    list.

    Raises:
        ValueError: the file does not fit the student, or the change is too large.
    """
    import torch

    from scripts.evaluation.evaluate import Arm, evaluate
    from scripts.networks.presence import PRESENCE
    from scripts.networks.student import load_trained_student
    from scripts.utils.weight_files import save_safetensors

    more = {"student::pretrained": False, "student::checkpoint": None, "test::dataset::data": "$@data.validation"}
    parser = plan.workflow(STUDENT, 0, more).parser
    student = load_trained_student(parser.get_parsed_content("network_def"), checkpoint, "the student's checkpoint")
    data, classes = parser.get_parsed_content("test::dataset"), parser.get_parsed_content("data::num_classes")
    where = (parser.get_parsed_content("device"), parser.get_parsed_content("hardware").autocast())
    size = parser.get_parsed_content("data::img_size")

    def dice() -> float:
        return evaluate(data, [Arm(STUDENT, student, size)], classes, *where).summary[STUDENT, 0]["dice"]

    before = dice()
    state = student.cpu().state_dict()
    whole = {key for key, value in state.items() if key.startswith(PRESENCE) or not value.is_floating_point()}
    halved = {key: value if key in whole else value.half() for key, value in state.items()}
    student.load_state_dict(halved)
    change = dice() - before
    if abs(change) > MOST_DICE_CHANGE:
        raise ValueError(
            f"half precision changes the validation Dice by {change:+.5f}, more than {MOST_DICE_CHANGE}; nothing is "
            "written."
        )
    with atomic_path(folder / "model.pt") as partial:
        torch.save(halved, partial)
    save_safetensors(halved, folder / "model.safetensors")
    return change


def publish_results(report: Mapping[str, Any], figures: Mapping[str, float], bundle: Path, name: str) -> None:
    """Write eval/results/NAME.json, without images, and the student's figures into configs/metadata.json."""
    report = {key: value for key, value in report.items() if key != "pictures"}
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    metadata["eval_metrics"] = dict(figures)
    with atomic_path(bundle / "eval" / "results" / f"{name}.json") as partial:
        partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def eval_metrics(arms: Mapping[str, Mapping[str, Any]], seed: int, names: Sequence[str] = METRICS) -> dict[str, float]:
    """The means over cases of one student by metric, such as mean_dice, as metadata.json holds them.

    Args:
        arms: of a report.
        seed: of the student; a report has the mean of all seeds beside it.
        names: of the metrics, as far as the report has them.

    Raises:
        ValueError: the report has no student, or none of this seed.
    """
    if STUDENT not in arms:
        raise ValueError("the report has no arm student; there is nothing to say of the shared one.")
    metrics = arms[STUDENT]["metrics"]
    by_seed = {name: metrics[name]["seed_means"] for name in names if name in metrics}
    if any(str(seed) not in means for means in by_seed.values()):
        seeds = ", ".join(by_seed["dice"])
        raise ValueError(f"the report has no student of seed {seed}, only of {seeds}; pass another --seed.")
    return {f"mean_{name}": round(means[str(seed)], 4) for name, means in by_seed.items()}


if __name__ == "__main__":
    sys.exit(main())
