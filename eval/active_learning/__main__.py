"""Simulated labeling: is labeling the images that the student is least sure of better than random order?

    python -m eval.active_learning --output_dir logs/active_learning --dataset_dir data/busbra \\
        --config_file configs/train.json configs/from_scratch.json [--ID VALUE ...]

It starts with --first images of the training list, drawn at random, trains the student on them, and labels --batch more
images a round: those that the student is least sure of or, in the other arm, the next ones of a random order. The arms
have the same first images, numbers, steps and seeds. The validation list is read, after the last epoch of each round.

A run that was stopped goes on where it was. `--show FILE` prints the table of a results file. `--write PAGE` puts it
between the two markers of a page, and the picture beside it. docs/active_learning.md says more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.utils.files import BUNDLE_ROOT, atomic_path, clear_leftovers
from scripts.utils.machine import describe_machine, git_revision, list_versions, without_folders
from scripts.utils.options import CONTROL, STUDENT
from scripts.utils.screen import tell

from ..command_line import parse_run, read_results, run_program
from ..organs.page import write_block
from .page import BEGIN, block

RESULTS = "eval/results/active_learning.json"
# config ids that the program sets itself, and what to do instead
OWN = {
    "data::datalist": "it is made of the data set's dataset.json; leave it out",
    "data::num_classes": "it follows from the data set's labels; leave it out",
    "data::img_size": "pass --img_size",
    "training::num_epochs": "pass --epochs",
    "training::seed": "pass --seeds",
}
NUMBERS = {"first": 1, "batch": 1, "rounds": 1, "epochs": 1, "num_images": 2, "img_size": 16}  # the smallest


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("active_learning", lambda: _run(arguments), kept="what is trained is kept")


def _run(arguments: list[str]) -> int:
    options, overrides = _parse(arguments)
    if options.show:
        results = read_results(options.show, ("rounds", "overall", "left", "one_a_patient"), "eval.active_learning")
    else:
        results = run_all(options, overrides)
        with atomic_path(options.results) as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    tell(block(results))
    if options.write:
        write_page(results, options.write)
    return 0


def write_page(results: Mapping[str, Any], page: Path) -> None:
    """Put the table between the markers of a page, and the picture beside it, under the page's name.

    Raises:
        FileNotFoundError: there is no such page.
        ValueError: it has no markers.
    """
    from .plot import draw

    picture = page.with_suffix(".png")
    write_block(block(results, picture.name), page, BEGIN)
    draw(results, picture)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.active_learning", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, help="of the runs; the same again to go on")
    parser.add_argument(
        "--num_images", type=int, default=200, help="of the training list, spread over it (default: %(default)s)"
    )
    parser.add_argument("--first", type=int, default=20, help="images that are labeled first (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=20, help="images that a round adds (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="trainings of an arm (default: %(default)s)")
    parser.add_argument(
        "--epochs", type=int, default=30, help="of the last round; the others take as many steps (default: %(default)s)"
    )
    parser.add_argument("--img_size", type=int, default=128, help="side in pixels (default: %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="(default: 0 1)")
    parser.add_argument(
        "--arm",
        choices=(CONTROL, STUDENT),
        default=CONTROL,
        help="trained without or with a teacher (default: %(default)s)",
    )
    parser.add_argument(
        "--several_a_patient", action="store_true", help="a batch may hold several images of a patient, in both arms"
    )
    parser.add_argument("--results", type=Path, help=f"file to write (default: {RESULTS})")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only print the table of this results file")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put table and picture into this page")
    options, overrides = parse_run(parser, arguments)
    _check(options, overrides)
    options.results = options.results or BUNDLE_ROOT / RESULTS
    options.command = without_folders(" ".join(["python -m eval.active_learning", *arguments]))
    return options, overrides


def _check(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    if options.show:
        return
    dataset_dir = overrides.pop("data::dataset_dir", None)
    if not options.output_dir or not dataset_dir:
        raise ValueError("--output_dir and --dataset_dir are required; pass a folder, and that of dataset.json.")
    options.dataset_dir = Path(dataset_dir)
    for name, smallest in NUMBERS.items():
        if getattr(options, name) < smallest:
            raise ValueError(f"--{name} must be at least {smallest}, got {getattr(options, name)}.")
    if len(set(options.seeds)) != len(options.seeds):
        raise ValueError(f"--seeds holds one twice: {options.seeds}; each seed is one simulation.")
    own = next((key for key in OWN if key in overrides), None)
    if own:
        raise ValueError(f"--{own} cannot be given here: {OWN[own]}.")


def run_all(options: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Train what is not trained yet, and measure it: what the results file holds."""
    from .figures import describe  # these import torch, which --help and --show can do without
    from .pool import make_pool, read_set
    from .rounds import check, simulate, sizes

    source = read_set(options.dataset_dir)
    _check_sizes(sizes(options)[-1], min(options.num_images, len(source.lists["training"])))
    check(options, overrides, source)
    clear_leftovers(options.output_dir)
    pool = make_pool(source, options.num_images, options.output_dir.resolve(), not options.several_a_patient)
    _check_sizes(sizes(options)[-1], len(pool.images))
    rounds = simulate(options, overrides, pool)
    names = ("arm", "img_size", "epochs", "first", "batch", "seeds")
    return {
        "name": pool.source.name,
        "sizes": {"training": len(pool.images), "validation": pool.source.sizes["validation"]},
        "one_a_patient": pool.one_a_patient,
        **describe(rounds),
        **{name: getattr(options, name) for name in names},
        "machine": describe_machine(),
        "versions": list_versions(),
        "revision": git_revision(),
        "command": options.command,
    }


def _check_sizes(labeled: int, images: int) -> None:
    if labeled >= images:
        raise ValueError(
            f"{labeled} images are labeled in the last round, of a pool of {images}: both arms would end with the same "
            "ones; pass a smaller --first, --batch or --rounds, or a larger --num_images."
        )


if __name__ == "__main__":
    sys.exit(main())
