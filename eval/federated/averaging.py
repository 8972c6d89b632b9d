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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from scripts.handlers import save_atomically
from scripts.utils.files import BUNDLE_ROOT, atomic_path

from ..arms import parse_overrides, report_error

TRAINING = ["configs/train.json", "configs/federated.json"]
EVALUATION = ["configs/train.json", "configs/evaluate.json", "configs/federated.json"]
KEY_METRIC = "val_mean_dice"

Weights = dict[str, torch.Tensor]


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 1 after a message on stderr."""
    try:
        options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
        check_options(options, overrides)
        # of the learning rate's schedule
        overrides = {"training::num_epochs": options.rounds * options.local_epochs, **overrides}
        clients = [
            make_client(f"client_{i}", folder, options.output_dir, options.local_epochs, overrides, options.config_file)
            for i, folder in enumerate(options.dataset_dirs, 1)
        ]
        found = run_rounds(clients, options.rounds, options.output_dir)
    except Exception as error:
        return report_error("federated", error)
    print(json.dumps(found, indent=1))
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    options, rest = federation_parser("eval.federated.averaging", __doc__).parse_known_args(arguments)
    return options, parse_overrides(rest)


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


def make_client(
    name: str,
    dataset_dir: str | Path,
    output_dir: Path,
    local_epochs: int = 1,
    overrides: Mapping[str, Any] | None = None,
    config_files: Sequence[str] = (),
) -> MonaiAlgo:
    """A client that is ready to train.

    Args:
        name: of the client, and of its folder in `output_dir`.
        dataset_dir: its images.
        output_dir: of all clients.
        local_epochs: in a round.
        overrides: further ones, by config id.
        config_files: overlays after the bundle's own.
    """
    folder = Path(output_dir).resolve() / name
    own = {
        "bundle_root": str(BUNDLE_ROOT),
        "data::dataset_dir": str(dataset_dir),
        "run_folder::root": str(folder),
        "model_file": str(folder / "model.pt"),
        "teacher::cache_dir": str(folder / "cache"),
        **(overrides or {}),
    }
    more = [str(Path(file).resolve()) for file in config_files]
    client = MonaiAlgo(
        bundle_root=str(BUNDLE_ROOT),
        local_epochs=local_epochs,
        send_weight_diff=False,
        config_train_filename=[*TRAINING, *more],
        config_evaluate_filename=[*EVALUATION, *more],
        train_kwargs=dict(own),
        eval_kwargs=dict(own),
        best_model_filepath=own["model_file"],
    )
    client.initialize({ExtraItems.CLIENT_NAME: name})
    return client


def run_rounds(clients: Sequence[MonaiAlgo], rounds: int, output_dir: Path) -> dict[str, Any]:
    """Federated averaging; see the top of this file for what is written.

    Args:
        clients: with the same student.
        rounds: of local training and averaging.
        output_dir: of the results.

    Returns:
        `dice`: of each client by round, from before the first on; `sent_bytes` and `sent_tensors` of one client in one
        round.
    """
    counts = [len(client.train_workflow.train_dataset_data) for client in clients]
    weights = _sent(clients[0])
    found: dict[str, Any] = {"dice": {client.client_name: [] for client in clients}, "images": counts}
    _evaluate(clients, weights, found)
    for _ in range(rounds):
        received = []
        for client in clients:
            client.train(ExchangeObject(weights=weights))
            received.append(_sent(client))
        weights = average(received, counts)
        _evaluate(clients, weights, found)
        found["sent_tensors"], found["sent_bytes"] = (
            len(received[0]),
            sum(value.nbytes for value in received[0].values()),
        )
        save_atomically(weights, Path(output_dir) / "global_model.pt")
        with atomic_path(Path(output_dir) / "federated.json") as partial:
            partial.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _sent(client: MonaiAlgo) -> Weights:
    """What a client sends, copied: on the CPU it is the network's own memory, which the next round changes."""
    return {key: value.clone() for key, value in client.get_weights().weights.items()}


def _evaluate(clients: Sequence[MonaiAlgo], weights: Weights, found: dict[str, Any]) -> None:
    for client in clients:
        metrics = client.evaluate(ExchangeObject(weights=weights)).metrics
        found["dice"][client.client_name].append(float(metrics[KEY_METRIC]))


def average(received: Sequence[Weights], counts: Sequence[int]) -> Weights:
    """The mean of the clients' weights, weighted by their numbers of training images; counters, which are whole
    numbers, rounded.

    Raises:
        ValueError: clients with different networks.
    """
    for weights in received[1:]:
        if weights.keys() != received[0].keys():
            different = sorted(weights.keys() ^ received[0].keys())[:5]
            raise ValueError(f"the clients have different networks: {different} is not in all.")
    total = sum(counts)
    found = {}
    for key, own in received[0].items():
        mean = sum(weights[key].double() * count for weights, count in zip(received, counts)) / total
        found[key] = (mean if own.is_floating_point() else mean.round()).to(own)
    return found


if __name__ == "__main__":
    sys.exit(main())
