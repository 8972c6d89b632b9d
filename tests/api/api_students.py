"""Tiny students and images for the tests of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from conftest import TINY
from PIL import Image

from scripts.networks.tinyusfm import TinyUSFMSeg


def tiny_student(path: Path, num_classes: int = 2, threshold: float | None = None) -> Path:
    """A file of random weights that finds something; with a threshold it tells presence, about a half."""
    torch.manual_seed(0)
    student = TinyUSFMSeg(num_classes, img_size=64, **TINY).eval()
    with torch.no_grad():
        student.decode_head.conv_seg.weight.mul_(50)
        image = torch.from_numpy(speckle(size=(64, 64)) / np.float32(255))[None, None]
        student.decode_head.conv_seg.bias -= student(image).median()
    if threshold is not None:
        student.add_presence().threshold.fill_(threshold)
    torch.save(student.state_dict(), path)
    return path


def speckle(number: int = 0, size: tuple[int, int] = (60, 50)) -> np.ndarray:
    """A smooth gray image of 8 bits; size is (W, H)."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
