"""Fixtures of the tests of a comparison: a plugin of pytest, so that each has one home."""

import pytest
from comparing import settings_of

from eval import comparison


@pytest.fixture
def arguments(overrides, tmp_path) -> list[str]:
    """A comparison of seconds."""
    own = {**settings_of(overrides), "training::num_epochs": 1}
    left_out = ("bundle_root", "model_file")
    pairs = [text for key, value in own.items() if key not in left_out for text in (f"--{key}", repr(value))]
    return ["--output_dir", str(tmp_path / "out"), "--seeds", "0", "1", *pairs]


@pytest.fixture
def trained(monkeypatch):
    """Arms and seeds in the order in which they are trained."""
    seen, train = [], comparison.train_arm

    def note(plan, arm, seed, *more):
        seen.append((arm, seed))
        return train(plan, arm, seed, *more)

    monkeypatch.setattr(comparison, "train_arm", note)
    return seen
