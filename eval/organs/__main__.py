"""Several organs by one recipe: teacher, control and student of each data set, and one student for all of them.

    python -m eval.organs --output_dir logs/organs --sets data/usgra data/hc18 data/liver --joint --epochs 40 \\
        --teacher_epochs 8 --config_file configs/train.json configs/from_scratch.json [--ID VALUE ...]

Each set is a folder with a dataset.json. Of each, LiteMedSAM's LoRA is tuned (configs/train_teacher.json), and a
control and a student are trained, all from --config_file with the same overrides. `--joint` joins the lists, each organ
with classes of its own, tunes one teacher for all classes and distils one student from it. Each image's organ is known
from its list: the joint student's classes of other organs are left out before the argmax. It prints a table, with the
difference to the single students patient by patient. The validation lists are read; `--test` reads the test lists.

Trainings are short, and a run that was stopped goes on where it was. To share the work, processes with one --output_dir
and `--train SET ...` train these sets alone (`joint` is one) and stop; the call without it measures. `--show FILE`
prints the table of a results file; `--write PAGE` puts it between the two markers of a page. docs/organs.md says more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.utils.files import BUNDLE_ROOT, atomic_path, clear_leftovers
from scripts.utils.machine import describe_machine, git_revision, list_versions, without_folders
from scripts.utils.screen import tell

from ..command_line import parse_run, read_results, run_program
from .page import block, write_block

if TYPE_CHECKING:  # what imports torch is imported where it is used, so that --help answers at once
    from .trainings import Runs, Task

RESULTS = {False: "eval/results/organs.json", True: "eval/results/organs_test.json"}  # with --test
# config ids that the program sets itself, and what to do instead
OWN = {
    "data::dataset_dir": "name the folders with --sets",
    "data::datalist": "it is made of each set's dataset.json; leave it out",
    "data::num_classes": "it follows from each set's labels; leave it out",
    "data::img_size": "pass --img_size",
    "training::num_epochs": "pass --epochs and --teacher_epochs",
    "training::seed": "pass --seeds",
    "teacher::lora_checkpoint": "each set's teacher is tuned here; leave it out",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("organs", lambda: _run(arguments), kept="what is trained is kept")


def _run(arguments: list[str]) -> int:
    options, overrides = _parse(arguments)
    if options.show:
        return _tell(read_results(options.show, ("sets", "list", "margin"), "eval.organs"), options.write)
    results = run_all(options, overrides)
    if results is None:
        return 0
    with atomic_path(options.results) as partial:
        partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return _tell(results, options.write)


def _tell(results: Mapping[str, Any], page: Path | None) -> int:
    text = block(results)
    tell(text)
    if page:
        write_block(text, page)
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.organs", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, help="of the runs; the same again to go on")
    parser.add_argument("--sets", type=Path, nargs="+", default=[], metavar="DIR", help="folders of dataset.json")
    parser.add_argument("--joint", action="store_true", help="train one student for all sets too")
    parser.add_argument("--epochs", type=int, default=30, help="of control and student (default: %(default)s)")
    parser.add_argument("--teacher_epochs", type=int, default=6, help="of the teacher (default: %(default)s)")
    parser.add_argument("--img_size", type=int, default=128, help="side in pixels (default: %(default)s)")
    parser.add_argument(
        "--num_images", type=int, default=300, help="of a training list, spread over it (default: %(default)s)"
    )
    parser.add_argument(
        "--same_steps", action="store_true", help="smaller lists get proportionally more epochs, so as many steps"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the students (default: 0)")
    parser.add_argument("--teacher_config", nargs="*", default=[], help="overlays for the teachers' tuning alone")
    parser.add_argument(
        "--backbone_of", type=Path, metavar="STUDENT", help="a trained student whose backbone all students start from"
    )
    parser.add_argument("--train", nargs="+", default=[], metavar="SET", help="train these alone, and stop")
    parser.add_argument("--test", action="store_true", help="read the test lists instead of the validation lists")
    parser.add_argument("--results", type=Path, help=f"file to write (default: {' or '.join(RESULTS.values())})")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only print the table of this results file")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table between the markers of this page")
    options, overrides = parse_run(parser, arguments)
    _check(options, overrides)
    options.results = options.results or BUNDLE_ROOT / RESULTS[options.test]
    options.command = without_folders(" ".join(["python -m eval.organs", *arguments]))
    return options, overrides


def _check(options: argparse.Namespace, overrides: Mapping[str, Any]) -> None:
    if options.show:
        return
    if not options.output_dir or not options.sets:
        raise ValueError("--output_dir and --sets are required; pass a folder, and the folders of each dataset.json.")
    for name in ("epochs", "teacher_epochs", "num_images"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    if len(set(options.seeds)) != len(options.seeds):
        raise ValueError(f"--seeds holds one twice: {options.seeds}; each seed is one training.")
    own = next((key for key in OWN if key in overrides), None)
    if own:
        raise ValueError(f"--{own} cannot be given here: {OWN[own]}.")
    if options.backbone_of and "student::checkpoint" in overrides:
        raise ValueError("--backbone_of goes not with --student::checkpoint: both say what students start from.")


def run_all(options: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any] | None:
    """Train what is not trained yet, and measure it: what the results file holds; None where --train stops before."""
    from .lists import JOINT, joint_classes, read_sets, write_joint, write_lists
    from .trainings import check_options, check_tasks, plan_tasks, train_tasks

    sources = read_sets(options.sets)
    _check_names(options.train, [*(source.name for source in sources), *([JOINT] if options.joint else [])])
    classes = joint_classes(sources) if options.joint else {}
    check_options(options, overrides, sources[0])
    clear_leftovers(options.output_dir)
    sets = [write_lists(source, options.num_images, options.output_dir.resolve()) for source in sources]
    joint = [write_joint(sets, classes, options.output_dir.resolve())] if options.joint else []
    tasks = plan_tasks(options, overrides, [*sets, *joint])
    if options.train:
        tasks = [task for task in tasks if task.organs.name in options.train]
    check_tasks(tasks)
    runs = train_tasks(tasks, options.seeds)
    return None if options.train else _measure(options, tasks, runs, classes)


def _check_names(wanted: list[str], names: list[str]) -> None:
    unknown = next((name for name in wanted if name not in names), None)
    if unknown:
        raise ValueError(f"--train {unknown} is none of the sets here; they are {', '.join(names)}.")


def _measure(
    options: argparse.Namespace, tasks: list[Task], runs: Mapping[str, Runs], classes: Mapping[str, list[int]]
) -> dict[str, Any]:
    from .lists import JOINT
    from .scores import MARGIN, describe_runs, describe_set, score_sets

    single = [task for task in tasks if task.organs.name != JOINT]
    joint = next((task for task in tasks if task.organs.name == JOINT), None)
    split = "test" if options.test else "validation"
    parts = {JOINT: {**describe_set(joint), "trainings": describe_runs(runs[JOINT])}} if joint else {}
    names = ("epochs", "teacher_epochs", "same_steps", "img_size", "num_images", "seeds")
    return {
        "list": split,
        "margin": MARGIN,
        "sets": score_sets(single, runs, joint, classes, split),
        **parts,
        **{name: getattr(options, name) for name in names},
        "machine": describe_machine(),
        "versions": list_versions(),
        "revision": git_revision(),
        "command": options.command,
    }


if __name__ == "__main__":
    sys.exit(main())
