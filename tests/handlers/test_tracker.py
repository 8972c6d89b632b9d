"""The handler that tells an experiment tracker of a training."""

from types import SimpleNamespace

from handler_stand_ins import make_trainer
from torch import nn

from scripts.handlers import Tracker


def test_tracker_starts_its_record_with_the_network_and_tells_it_of_every_epoch():
    engine, told = make_trainer(), []
    engine.network = nn.Linear(1, 1)
    record = SimpleNamespace(
        start=lambda network: told.append(network), log_epochs=lambda: told.append(engine.state.epoch)
    )
    Tracker(record).attach(engine)
    engine.run(engine.losses, max_epochs=2)
    assert told == [engine.network, 1, 2]
