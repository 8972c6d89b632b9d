"""Outlines of masks: along the edges of pixels, closed, with few corners."""

import numpy as np
from PIL import Image, ImageDraw

from scripts.data.phantoms import make_phantom
from scripts.evaluation.outlines import trace_outlines


def corners(line):
    """Of each closed line (N, 2)."""
    return [np.array(part.removesuffix("Z").split(), dtype=float).reshape(-1, 2) for part in line.split("M")[1:]]


def test_rectangle_is_its_four_corners():
    mask = np.zeros((8, 9), dtype=int)
    mask[2:5, 3:7] = 1
    assert trace_outlines(mask, 2) == ["M3 2 7 2 7 5 3 5Z"]


def test_single_pixels_rows_and_whole_images_keep_their_corners():
    mask = np.zeros((8, 8), dtype=int)
    mask[2, 3] = 1
    assert trace_outlines(mask, 2) == ["M3 2 4 2 4 3 3 3Z"]
    assert trace_outlines(np.ones((4, 6), dtype=int), 2) == ["M0 0 6 0 6 4 0 4Z"]
    mask[2, :] = 1
    assert trace_outlines(mask, 2) == ["M0 2 8 2 8 3 0 3Z"]


def test_each_class_has_its_line_and_one_that_is_not_there_none():
    mask = np.zeros((6, 6), dtype=int)
    mask[:2, :2] = 3
    assert trace_outlines(mask, 4) == ["", "", "M0 0 2 0 2 2 0 2Z"]


def test_holes_and_parts_are_lines_of_their_own():
    mask = np.zeros((20, 20), dtype=int)
    mask[2:15, 3:16] = 1
    mask[6:9, 6:9] = 0
    mask[17:19, 17:19] = 1
    assert len(corners(trace_outlines(mask, 2)[0])) == 3


def test_mask_may_have_more_teeth_than_python_has_calls():
    mask = np.zeros((40, 8 * 600), dtype=int)
    mask[30:] = 1
    for left in range(0, mask.shape[1], 8):
        mask[:30, left : left + 4] = 1
    (line,) = corners(trace_outlines(mask, 2)[0])
    assert len(line) > 600


def test_filled_outline_is_nearly_the_mask_with_a_tenth_of_its_corners():
    label = make_phantom(1, size=200)[1]
    (line,) = corners(trace_outlines(label, 2)[0])
    picture = Image.new("1", (200, 200))
    ImageDraw.Draw(picture).polygon([(x - 0.5, y - 0.5) for x, y in line], fill=1)
    filled, inside = np.asarray(picture), label > 0
    assert 2 * (filled & inside).sum() / (filled.sum() + inside.sum()) > 0.97
    assert len(line) < 0.1 * 4 * np.sqrt(inside.sum())
