"""Resuming from a damaged checkpoint: it is refused, and the way out that the message names works."""

import shutil

import pytest
import torch
from handler_stand_ins import at_epoch, make_evaluator
from torch import nn

from scripts.handlers import Checkpoints


def checkpoints(folder, network, resume=None):
    return Checkpoints(folder, network, make_evaluator(), {"network": network}, interval=1, resume=resume)


@pytest.fixture
def damaged(tmp_path):
    """A run's folder whose last.pt has one flipped bit in its weights."""
    folder, network = tmp_path / "run" / "models", nn.Linear(50, 2)
    folder.mkdir(parents=True)
    for epoch in (1, 2):
        checkpoints(folder, network).save(at_epoch(epoch))
    path = folder / "last.pt"
    content = bytearray(path.read_bytes())
    content[content.index(network.weight.detach().numpy().tobytes()) + 3] ^= 1 << 6
    path.write_bytes(content)
    return path


def test_one_flipped_bit_is_refused_before_anything_is_restored(damaged):
    network = nn.Linear(50, 2)
    before = network.weight.detach().clone()
    for resume in (damaged, damaged.with_name("checkpoint_epoch001.pt")):
        with pytest.raises(
            ValueError,
            match=f"training::resume {damaged} is damaged, .*copy a checkpoint_epoch.* to the folder models/",
        ):
            checkpoints(damaged.parent, network, resume).attach(at_epoch(0, max_epochs=4))
    assert torch.equal(network.weight, before)


def test_earlier_checkpoint_goes_on_in_a_new_run(damaged, tmp_path):
    folder, network = tmp_path / "new" / "models", nn.Linear(50, 2)
    folder.mkdir(parents=True)
    copy = shutil.copy(damaged.with_name("checkpoint_epoch001.pt"), folder)
    resumed = checkpoints(folder, network, copy)
    engine = at_epoch(0, max_epochs=4)
    engine.add_event_handler = lambda *event: None
    resumed.attach(engine)
    resumed.restore(engine)
    assert engine.state.epoch == 1
    assert torch.equal(network.weight, torch.load(copy, weights_only=True)["network"]["weight"])


def test_checkpoint_that_is_not_finite_is_refused(tmp_path):
    network = nn.Linear(50, 2)
    with torch.no_grad():
        network.bias[1] = torch.nan
    checkpoints(tmp_path, network).save(at_epoch(1))
    with pytest.raises(ValueError, match="last.pt holds values that are not finite .* first in network.bias"):
        checkpoints(tmp_path, network, tmp_path / "last.pt").attach(at_epoch(0, max_epochs=4))
