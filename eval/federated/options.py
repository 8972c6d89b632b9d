"""The options of a federation, however it is run. Nothing here needs torch, so that --help answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRAINING = ["configs/train.json", "configs/federated.json"]
GLOBAL_MODEL = "global_model.pt"
KEY_METRIC = "val_mean_dice"


def federation_parser(program: str, doc: str) -> argparse.ArgumentParser:
    """The options of a federation, however it is run.

    Args:
        program: its module.
        doc: its docstring, whose first line the help shows.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=doc.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset_dirs", nargs="+", required=True, help="a folder with dataset.json for each client")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--local_epochs", type=int, default=1, help="of a client in a round")
    parser.add_argument(
        "--config_file", nargs="*", default=[], help="further overlays for all clients, by their paths there"
    )
    return parser


def check_options(options: argparse.Namespace, overrides: Mapping[str, Any]) -> None:
    """Refuse what makes no federation, before anything is read.

    Raises:
        ValueError: fewer than two clients, a count that is not positive, or clients that are to go on from a
            checkpoint.
    """
    if len(options.dataset_dirs) < 2:
        raise ValueError(
            f"a federation needs at least two clients, got --dataset_dirs {' '.join(options.dataset_dirs)}."
        )
    for name in ("rounds", "local_epochs"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    if overrides.get("training::resume"):  # it would be loaded in every round, in the place of the averaged weights
        raise ValueError(
            "a client cannot go on from a checkpoint; pass --student::checkpoint with the averaged global_model.pt."
        )
