"""Averaged weights: what is validated and kept is the moving average of the weights, not those of the latest step."""

from __future__ import annotations

from numbers import Real
from typing import Any

from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import nn


class WeightAverage:
    """Exponential moving average of a network's weights and running statistics, by ignite's EMAHandler after every
    iteration.

    The average of the last 1 / (1 - decay) iterations or so generalizes better than the latest weights while the
    learning rate is high, and its validation metric jumps less, so that the best epoch is less of a lucky one. Give
    that span a few epochs. Izmailov et al. 2018, arXiv:1803.05407; Tarvainen and Valpola 2017, arXiv:1703.01780.

    Args:
        network: that is trained.
        decay: what is left of the average after an iteration, in [0, 1); 0 averages nothing, and `network` below is the
            network itself.

    Raises:
        ValueError: another decay.
    """

    def __init__(self, network: nn.Module, decay: float = 0.0) -> None:
        if isinstance(decay, bool) or not isinstance(decay, Real) or not 0 <= decay < 1:
            raise ValueError(f"training::ema_decay must be a number from 0 (off) to below 1, got {decay!r}.")
        self.decay = decay
        self.handler = EMAHandler(network, momentum=1 - decay, handle_buffers="update") if decay else None
        self.network = self.handler.ema_model.requires_grad_(False) if self.handler else network

    @property
    def state(self) -> nn.Module | None:
        """What a resumed run needs beside the network; None where nothing is averaged."""
        return self.network if self.decay else None

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed run has in common with the earlier one, by config key; nothing where nothing is averaged."""
        return {"ema_decay": self.decay} if self.decay else {}


class AverageUpdate:
    """Keeps a WeightAverage up to date. The average itself is made outside of the list of handlers: validation and
    checkpoints read it.

    Args:
        average: of the weights.
    """

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        if self.average.handler:
            self.average.handler.attach(engine)
