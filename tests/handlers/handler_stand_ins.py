"""Engines in the place of a trainer and an evaluator, for the tests of handlers."""

from types import SimpleNamespace

import torch
from ignite.engine import Engine
from torch import nn

TERMS = {"task": 1.0, "distill": 2.0, "feature": 3.0}


def make_evaluator(metric: float = -1, epoch: int = -1) -> SimpleNamespace:
    """What the handlers read of an evaluator."""
    metrics = {"val_mean_dice": metric}
    return SimpleNamespace(
        state=SimpleNamespace(best_metric=metric, best_metric_epoch=epoch, epoch=epoch, metrics=metrics)
    )


def make_trainer(losses=((1.0, 1), (4.0, 2))) -> Engine:
    """An engine with an optimizer that goes through (loss, batch size) pairs, as SupervisedTrainer reports them."""

    def step(engine: Engine, batch: tuple[float, int]) -> list[dict]:
        engine.state.loss_terms = {name: batch[0] * factor for name, factor in TERMS.items()}
        return [{"loss": torch.tensor(batch[0])}] * batch[1]

    engine = Engine(step)
    engine.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    engine.losses = list(losses)
    return engine


def at_epoch(epoch: int, max_epochs: int = 10) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(epoch=epoch, max_epochs=max_epochs, iteration=0, epoch_length=3))
