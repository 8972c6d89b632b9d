"""For tests of exports: `pytest_plugins = "tiny_exports"`."""

from functools import partial

import pytest
from conftest import TINY

from scripts.export import formats
from scripts.networks.tinyusfm import TinyUSFMSeg


@pytest.fixture(scope="module")
def tiny_networks():
    """Checkpoints are of the test size, and so must the networks be that read them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "TinyUSFMSeg", partial(TinyUSFMSeg, **TINY))
        yield
