"""A federation on one machine: clients train the student on their own images and exchange nothing but its weights.

    python -m eval.federated --dataset_dirs data/site_1 data/site_2 --output_dir logs/federated --rounds 10 \\
        --teacher::model_name lite_medsam --teacher::module mask_decoder --teacher::lora_checkpoint PATH

Federated averaging, McMahan et al. 2017, arXiv:1602.05629, Algorithm 1. Each client is monai.fl's MonaiAlgo on
configs/train.json and configs/federated.json, as NVFlare drives it; its images, teacher, cache and run folder stay its
own. Writes after each round global_model.pt, the student with the averaged weights, and federated.json: the validation
Dice of every client before and after each round, and what was sent.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scripts.run.errors import NOTHING_KEPT, this_command
from scripts.utils.screen import tell

from ..command_line import parse_overrides, run_program
from .options import GLOBAL_MODEL, check_options, federation_parser


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options, rest = federation_parser("eval.federated", __doc__).parse_known_args(arguments)
    return run_program("federated", lambda: _run(options, rest), advice=lambda: _advice(options.output_dir))


def _advice(output_dir: Path) -> str:
    """What a federation keeps that is stopped; it cannot go on in the middle, but start from the last average."""
    model = output_dir / GLOBAL_MODEL
    if not model.is_file():
        return f"{NOTHING_KEPT}; start again with: {this_command()}"
    command = this_command(student__checkpoint=str(model))
    return f"the average of the last whole round is kept in {model}; start a federation from it with: {command}"


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    overrides = parse_overrides(rest)
    check_options(options, overrides)
    from .averaging import make_client, run_rounds  # after --help: it imports torch

    # the length of the learning rate's schedule
    overrides = {"training::num_epochs": options.rounds * options.local_epochs, **overrides}
    clients = [
        make_client(f"client_{i}", folder, options.output_dir, options.local_epochs, overrides, options.config_file)
        for i, folder in enumerate(options.dataset_dirs, 1)
    ]
    tell(json.dumps(run_rounds(clients, options.rounds, options.output_dir), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
