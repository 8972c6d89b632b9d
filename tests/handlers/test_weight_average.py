"""Averaged weights: the moving average itself, what it leaves alone, and wrong decays."""

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from scripts.handlers import AverageUpdate, WeightAverage


def trained(network, decay, steps=3):
    """An average after some steps, and the weights and running means that the network had in each."""
    average, seen = WeightAverage(network, decay), []

    def step(engine, batch):
        with torch.no_grad():
            network[0].weight.add_(1.0)
            network[1].running_mean.add_(2.0)
        seen.append((network[0].weight.detach().clone(), network[1].running_mean.clone()))

    engine = Engine(step)
    AverageUpdate(average).attach(engine)
    engine.run(range(steps))
    return average, seen


def test_average_moves_towards_weights_and_running_statistics_after_every_iteration():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    weight, mean = network[0].weight.detach().clone(), network[1].running_mean.clone()
    average, seen = trained(network, 0.75)
    for latest_weight, latest_mean in seen:
        weight, mean = 0.75 * weight + 0.25 * latest_weight, 0.75 * mean + 0.25 * latest_mean
    torch.testing.assert_close(average.network[0].weight, weight)
    torch.testing.assert_close(average.network[1].running_mean, mean)
    assert average.network is not network
    assert average.state is average.network
    assert average.settings == {"ema_decay": 0.75}


def test_network_goes_on_with_its_own_weights_and_gradients():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    average, seen = trained(network, 0.75)
    assert torch.equal(network[0].weight, seen[-1][0])
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in average.network.parameters())


def test_decay_0_is_the_network_itself_and_no_handler():
    network, engine = nn.Conv2d(1, 2, 3), Engine(lambda engine, batch: None)
    average = WeightAverage(network)
    AverageUpdate(average).attach(engine)
    assert average.network is network
    assert average.state is None
    assert average.settings == {}
    assert not engine.has_event_handler(Events.ITERATION_COMPLETED)


@pytest.mark.parametrize("decay", [1, 1.5, -0.1, True, "0.9", None])
def test_wrong_decay_is_named_by_its_config_id(decay):
    with pytest.raises(ValueError, match="training::ema_decay must be a number from 0"):
        WeightAverage(nn.Conv2d(1, 2, 3), decay)
