"""Federated averaging on one machine: clients train the student on their own images and exchange nothing but its
weights.

McMahan et al. 2017, arXiv:1602.05629, Algorithm 1; `python -m eval.federated` is the program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from scripts.handlers import save_atomically
from scripts.run.workflow import build_workflow
from scripts.utils.files import BUNDLE_ROOT, atomic_path, clear_leftovers

from .options import GLOBAL_MODEL, KEY_METRIC, TRAINING

Weights = dict[str, torch.Tensor]


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
    settings = {
        "bundle_root": str(BUNDLE_ROOT),
        "data::dataset_dir": str(dataset_dir),
        "run_folder::root": str(folder),
        "model_file": str(folder / "model.pt"),
        "teacher::cache_dir": str(folder / "cache"),
        **(overrides or {}),
    }
    more = [str(Path(file).resolve()) for file in config_files]
    build_workflow([*(BUNDLE_ROOT / name for name in TRAINING), *more], settings)  # refuses a mistyped section
    client = MonaiAlgo(
        bundle_root=str(BUNDLE_ROOT),
        local_epochs=local_epochs,
        send_weight_diff=False,
        config_train_filename=[*TRAINING, *more],
        config_evaluate_filename=[*TRAINING, *more],
        train_kwargs=dict(settings),
        eval_kwargs=dict(settings),
        best_model_filepath=settings["model_file"],
    )
    client.initialize({ExtraItems.CLIENT_NAME: name})
    return client


def run_rounds(clients: Sequence[MonaiAlgo], rounds: int, output_dir: Path) -> dict[str, Any]:
    """Federated averaging; see `python -m eval.federated --help` for what is written.

    Args:
        clients: with the same student.
        rounds: of local training and averaging.
        output_dir: of the results.

    Returns:
        `dice`: of each client by round, from before the first on; `sent_bytes` and `sent_tensors` of one client in one
        round.
    """
    clear_leftovers(output_dir)
    counts = [len(client.train_workflow.train_dataset_data) for client in clients]
    weights = _sent(clients[0])
    history: dict[str, Any] = {"dice": {client.client_name: [] for client in clients}, "images": counts}
    _evaluate(clients, weights, history)
    for _ in range(rounds):
        received = []
        for client in clients:
            client.train(ExchangeObject(weights=weights))
            received.append(_sent(client))
        weights = average(received, counts)
        _evaluate(clients, weights, history)
        history["sent_tensors"], history["sent_bytes"] = (
            len(received[0]),
            sum(value.nbytes for value in received[0].values()),
        )
        save_atomically(weights, Path(output_dir) / GLOBAL_MODEL)
        with atomic_path(Path(output_dir) / "federated.json") as partial:
            partial.write_text(json.dumps(history, indent=1) + "\n")
    return history


def _sent(client: MonaiAlgo) -> Weights:
    """What a client sends, copied: on the CPU it is the network's own memory, which the next round changes."""
    return {key: value.clone() for key, value in client.get_weights().weights.items()}


def _evaluate(clients: Sequence[MonaiAlgo], weights: Weights, history: dict[str, Any]) -> None:
    for client in clients:
        metrics = client.evaluate(ExchangeObject(weights=weights)).metrics
        history["dice"][client.client_name].append(float(metrics[KEY_METRIC]))


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
    averaged = {}
    for key, first in received[0].items():
        mean = sum(weights[key].double() * count for weights, count in zip(received, counts)) / total
        averaged[key] = (mean if first.is_floating_point() else mean.round()).to(first)
    return averaged
