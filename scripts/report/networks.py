"""What the networks of a report are: name, size and speed, as far as they are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..evaluation.evaluate import Arm, Evaluation
from ..utils.machine import describe_machine


def describe_networks(arms: Sequence[Arm], measured: Evaluation, device: torch.device | str) -> dict[str, Any]:
    """The part `networks` of a report.

    Args:
        arms: that were evaluated; of several seeds the first is described.
        measured: of `evaluate`.
        device: that they ran on.

    Returns:
        device (its name), and arms: by name network, img_size, parameters and seconds. Of a teacher whose outputs came
        from its cache the weights are not in memory, and nothing was timed: parameters and seconds are None.
    """
    found = {}
    for arm in reversed(arms):
        found[arm.name] = {
            "network": network_name(arm.network),
            "img_size": arm.img_size,
            "parameters": sum(one.numel() for one in arm.network.parameters()) or None,
            "seconds": measured.seconds[arm.name, arm.seed],
        }
    return {"device": device_name(device), "arms": {arm.name: found[arm.name] for arm in arms}}


def network_name(network: nn.Module) -> str:
    """A teacher's model_name, such as vit_b, or else the class's name."""
    teacher = getattr(network, "teacher", network)  # of a cache
    return getattr(teacher, "options", {}).get("model_name") or type(teacher).__name__


def device_name(device: torch.device | str) -> str:
    """Of the processor with the threads in use, or of the GPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    machine = describe_machine()
    threads = machine["threads"]
    return f"{machine['cpu'] or device.type}, {threads} thread{'s' if threads > 1 else ''}"
