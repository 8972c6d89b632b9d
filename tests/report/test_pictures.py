"""Panels are made to fit into the report, or refused."""

import numpy as np
import pytest
from PIL import Image

from scripts.report.pictures import fit_picture


def noise(path, channels):
    """A picture that compresses badly."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, channels), dtype=np.uint8)
    pixels[..., 3:] = 0
    Image.fromarray(pixels).save(path)
    return path


def test_panels_that_do_not_fit_at_all_are_named(tmp_path):
    path = noise(tmp_path / "noise.png", 3)
    with pytest.raises(
        ValueError, match=r"noise.png of [\d,]+ bytes does not fit into the 100 bytes left; pass fewer panels"
    ):
        fit_picture(path, 100)


def test_transparent_panels_become_white_in_jpeg(tmp_path):
    data, kind, size = fit_picture(noise(tmp_path / "clear.png", 4), 20_000)
    (tmp_path / "flat.jpg").write_bytes(data)
    assert (kind, size) == ("jpeg", (200, 200))
    assert np.asarray(Image.open(tmp_path / "flat.jpg")).min() == 255
