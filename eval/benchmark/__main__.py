"""The proof of speed: the reference implementation's way of distilling against this bundle's, every contender in one
run.

    python -m eval.benchmark [--only NAME ...] [--dataset_dir DIR] [--student PATH] [--output
    eval/results/benchmark.json]

One process a contender, one after the other, so that none disturbs another's threads or memory; about 25 minutes on two
free cores. It prints the targets as ratios, then the absolute figures, and writes all of it as JSON; an interrupted run
writes what it has as `.partial.json`. `--quick` runs everything at test size within this process, to try the program:
its figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.utils.files import BUNDLE_ROOT

from ..command_line import run_program

RESULTS = "eval/results/benchmark.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("benchmark", lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    options = _parse(arguments)
    from .program import run_benchmark, run_one  # after --help: it imports torch

    return run_one(options) if options.contender else run_benchmark(options)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="everything at test size, in seconds; the figures mean nothing"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="contenders, * and ? allowed; what they need runs too"
    )
    parser.add_argument("--output", type=Path, help=f"the JSON report; {RESULTS} for a full run, none for the others")
    parser.add_argument("--threads", type=int, default=2, help="cores and threads of a process")
    parser.add_argument(
        "--dataset_dir", help="a folder with dataset.json whose first cases are used; phantoms otherwise"
    )
    parser.add_argument(
        "--student", type=Path, metavar="PATH", help="a trained checkpoint to export; the control's otherwise"
    )
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.output is None and not (options.quick or options.only):
        options.output = BUNDLE_ROOT / RESULTS
    options.command = " ".join(["python -m eval.benchmark", *arguments])
    return options


if __name__ == "__main__":
    sys.exit(main())
