"""A client of an NVFlare federation: MonaiAlgo trains what NVFlare sends, and it is sent back.

NVFlare starts it, see nvflare_job.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(1, str(Path(sys.argv[sys.argv.index("--bundle_root") + 1])))  # NVFlare runs a copy of this file

import nvflare.client as flare
import torch
from monai.fl.utils.constants import FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject

from eval.command_line import parse_overrides
from eval.federated.averaging import make_client
from eval.federated.options import KEY_METRIC


def main(arguments: list[str]) -> None:
    """Train in every round on this site's images."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--bundle_root", required=True)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--local_epochs", type=int, default=1)
    parser.add_argument("--config_file", nargs="*", default=[])
    options, rest = parser.parse_known_args(arguments)
    flare.init()
    client = make_client(
        flare.get_site_name(),
        options.dataset_dir,
        options.output_dir,
        options.local_epochs,
        parse_overrides(rest),
        options.config_file,
    )
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        weights = ExchangeObject(weights={key: torch.as_tensor(value) for key, value in received.params.items()})
        metrics = client.evaluate(weights).metrics
        client.train(weights)
        sent = client.get_weights()
        steps = sent.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS]
        flare.send(
            flare.FLModel(
                params={key: value.clone() for key, value in sent.weights.items()},  # arrays would be left out
                metrics={KEY_METRIC: float(metrics[KEY_METRIC])},  # of the received weights
                meta={"NUM_STEPS_CURRENT_ROUND": steps},  # its weight in the mean
            )
        )
    client.finalize()


if __name__ == "__main__":
    main(sys.argv[1:])
