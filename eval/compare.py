"""Does distillation help? Teacher, student without teacher and distilled student, each with several seeds, on patients
not seen.

    python -m eval.compare --output_dir logs/comparison --dataset_dir data/BUSBRA --seeds 0 1 2 [--ID VALUE ...]
    python -m eval.compare --output_dir logs/comparison --config_file configs/train.json configs/quickstart.json

Trains what is not trained yet, arm by arm, with one schedule for both students; a comparison that was stopped goes on
where it was. Checkpoints are selected on the validation list. When all are trained, the test list is read, once:
metrics.csv (a row a case, arm and seed), report.html and report.json. The margin of non-inferiority is fixed by the
first call. `--checkpoint ARM[:SEED]=PATH` evaluates weights that exist, and `--tables` makes the report from the
metrics.csv of earlier evaluations; `--tables A.csv NAME=B.csv` compares the students of A with those of B, which are
called NAME. `--continue_from DIR` trains the students of another comparison further, each arm and seed from its own
best checkpoint there. To share the work, processes with one --output_dir and `--train ARM[:SEED]` train that alone (an
arm without SEED with every one of --seeds) and stop; the call without it evaluates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.utils.machine import without_folders
from scripts.utils.options import ARMS

from .command_line import parse_checkpoints, parse_run, run_program

MARGIN = 0.02  # mean Dice


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("compare", lambda: _run(arguments), kept="what is trained is kept")


def _run(arguments: list[str]) -> int:
    options, overrides = _parse(arguments)
    from .comparison import compare, make_plan, report_tables  # after --help: it imports torch

    problems = report_tables(options) if options.tables else compare(options, make_plan(options, overrides))
    for problem in problems:
        print(f"compare: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="of the runs and results; the same again to go on"
    )
    parser.add_argument("--teacher_config", nargs="*", default=[], help="overlays for the teacher's fine-tuning alone")
    parser.add_argument("--student_config", nargs="*", default=[], help="overlays for the distilled student alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--margin", type=float, default=MARGIN, help="Dice the student may lose against its teacher")
    parser.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="ARM[:SEED]=PATH", help="weights instead of a training"
    )
    parser.add_argument(
        "--continue_from", type=Path, help="output_dir of a comparison whose students are trained further"
    )
    parser.add_argument(
        "--train", nargs="+", default=[], metavar="ARM[:SEED]", help="train these alone, beside other processes"
    )
    parser.add_argument(
        "--tables",
        nargs="+",
        default=[],
        metavar="[NAME=]PATH",
        help="metrics.csv of evaluations to report on; of one with a NAME the students, called so",
    )
    options, overrides = parse_run(parser, arguments)
    if len(set(options.seeds)) != len(options.seeds):
        raise ValueError(f"--seeds holds one twice: {options.seeds}; each seed is one training.")
    if not options.margin > 0:
        raise ValueError(f"--margin must be positive, got {options.margin}: it is the Dice that may be lost.")
    if options.train and (options.checkpoint or options.tables):
        raise ValueError("--train goes with neither --checkpoint nor --tables: it trains, and evaluates nothing.")
    if options.continue_from and (options.checkpoint or options.tables):
        raise ValueError("--continue_from goes with neither --checkpoint nor --tables: it says where trainings start.")
    options.train = [key for text in options.train for key in _wanted(text, options.seeds)]
    options.tables = [_named_table(text) for text in options.tables]
    options.command = without_folders(" ".join(["python -m eval.compare", *arguments]))
    options.checkpoint = parse_checkpoints(options.checkpoint)
    return options, overrides


def _named_table(text: str) -> tuple[str, Path]:
    """The name and the file of [NAME=]PATH; the name is "" where there is none."""
    name, _, path = text.rpartition("=")
    if not name or Path(text).is_file():
        return "", Path(text)
    if name in ARMS:
        raise ValueError(f"--tables {text} would call other students the {name}; pass another NAME, or the path alone.")
    return name, Path(path)


def _wanted(text: str, seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Arms and seeds of ARM[:SEED]."""
    arm, _, seed = text.partition(":")
    if arm not in ARMS or seed and not seed.isdecimal():
        raise ValueError(f"--train {text} must be ARM[:SEED] with an arm of {', '.join(ARMS)}.")
    if seed and int(seed) not in seeds:
        raise ValueError(f"--train {text} is no part of the comparison of --seeds {' '.join(map(str, seeds))}.")
    return [(arm, int(seed))] if seed else [(arm, each) for each in seeds]


if __name__ == "__main__":
    sys.exit(main())
