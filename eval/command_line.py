"""The command line of the programs of eval/. Nothing here needs torch, so that --help answers at once."""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.run.errors import run_program
from scripts.utils.files import CONFIGS, read_text
from scripts.utils.options import ARMS

__all__ = ["CONFIGS", "parse_checkpoints", "parse_overrides", "parse_run", "read_results", "run_program"]


def parse_run(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """A program's options, and the overrides after them.

    Args:
        parser: with the program's own options; gets `config_file` and `dataset_dir`, which the overrides hold too.
        arguments: of the command line.

    Raises:
        ValueError: see `parse_overrides`.
    """
    parser.add_argument("--config_file", nargs="+", default=[str(CONFIGS / "train.json")], help="train.json, overlays")
    parser.add_argument("--dataset_dir", help="short for --data::dataset_dir")
    options, rest = parser.parse_known_args(arguments)
    overrides = parse_overrides(rest)
    if options.dataset_dir:
        overrides["data::dataset_dir"] = options.dataset_dir
    options.config_file = tuple(str(Path(path)) for path in options.config_file)
    return options, overrides


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """`--id value` pairs, as monai.bundle reads them: Python literals where they are ones, else texts.

    Raises:
        ValueError: an argument without its value, or one that is no override.
    """
    if len(arguments) % 2:
        raise ValueError(f"an override is --ID VALUE, and one of {' '.join(arguments)} has no partner.")
    overrides = {}
    for name, text in zip(arguments[::2], arguments[1::2]):
        if not name.startswith("--"):
            raise ValueError(f"unknown argument {name}; an override is --ID VALUE, such as --training::lr 1e-3.")
        try:
            overrides[name.removeprefix("--")] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            overrides[name.removeprefix("--")] = text
    return overrides


def read_results(path: Path, keys: Sequence[str], program: str) -> dict[str, Any]:
    """What a program has written into its results file, for its --show.

    Args:
        path: of the file.
        keys: that it must have.
        program: name of the program, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    try:
        results = json.loads(read_text(path))
        missing = [key for key in keys if key not in results] if isinstance(results, dict) else keys
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
    except FileNotFoundError:
        raise FileNotFoundError(f"--show {path} does not exist; run python -m {program} first.") from None
    except ValueError as error:
        raise ValueError(f"--show {path} holds no results of {program} ({error}); name another.") from None
    return results


def parse_checkpoints(texts: Sequence[str]) -> dict[tuple[str, int], str]:
    """Path by arm and seed of each ARM[:SEED]=PATH.

    Raises:
        ValueError: another form, or an arm and seed twice.
    """
    paths: dict[tuple[str, int], str] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        arm, _, seed = name.partition(":")
        if not separator or arm not in ARMS or not (seed or "0").isdecimal():
            raise ValueError(f"--checkpoint {text} must be ARM[:SEED]=PATH with an arm of {', '.join(ARMS)}.")
        if (arm, int(seed or 0)) in paths:
            raise ValueError(f"--checkpoint names an arm and seed twice: {' '.join(texts)}.")
        paths[arm, int(seed or 0)] = path
    return paths
