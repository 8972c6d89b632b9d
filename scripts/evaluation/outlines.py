"""Outlines of masks as the path data of an SVG: small enough that a report can keep them for every case.

Lines run along the edges of pixels. Corners that lie nearly on a line are left out (Douglas and Peucker 1973,
doi:10.3138/FM57-6770-U75U-7727), which takes away the steps of slanted edges.

Legend: H rows, W columns. A pixel (row, column) covers the square from (column, row) to (column + 1, row + 1).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TOLERANCE = 1 / 300  # of the longer side, by which a line may be off
LEAST_TOLERANCE = 1.0  # pixels, the height of a step

Point = tuple[int, int]


def trace_outlines(mask: np.ndarray, num_classes: int) -> list[str]:
    """By class 1, 2, ... the closed lines around its pixels, such as "M3 4 8 4 8 9Z"; "" where it has none.

    Args:
        mask: class indices (H, W).
        num_classes: with the background.
    """
    mask = np.asarray(mask)
    tolerance = max(LEAST_TOLERANCE, TOLERANCE * max(mask.shape))
    return ["".join(_path_data(loop, tolerance) for loop in _loops(mask == c)) for c in range(1, num_classes)]


def _loops(inside: np.ndarray) -> Iterator[list[Point]]:
    """The borders of a mask as closed lines of corners (x, y), the first of which is not repeated."""
    padded = np.pad(inside, 1)
    ends: dict[Point, list[Point]] = {}
    # of each side of a pixel that borders on the outside: where it begins and ends, clockwise around the pixel
    for axis, shift, begin, end in (
        (0, 1, (0, 0), (1, 0)),
        (1, -1, (1, 0), (1, 1)),
        (0, -1, (1, 1), (0, 1)),
        (1, 1, (0, 1), (0, 0)),
    ):
        rows, columns = np.nonzero((padded & ~np.roll(padded, shift, axis))[1:-1, 1:-1])
        for x, y in zip(columns.tolist(), rows.tolist()):
            ends.setdefault((x + begin[0], y + begin[1]), []).append((x + end[0], y + end[1]))
    while ends:
        start = point = next(iter(ends))
        loop = []
        while True:
            loop.append(point)
            following = ends[point].pop()
            if not ends[point]:
                del ends[point]
            point = following
            if point == start:
                break
        yield loop


def _path_data(loop: list[Point], tolerance: float) -> str:
    points = np.array(loop)
    corners = _corners(points, tolerance)
    if len(corners) < 3:  # of a mask as thin as a pixel
        corners = _corners(points, 0.0)
    return f"M{' '.join(f'{x} {y}' for x, y in corners)}Z"


def _corners(points: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """Of a closed line (N, 2): its first point and the one farthest from it, and on both ways between them."""
    far = int(((points - points[0]) ** 2).sum(1).argmax())
    ways = points[: far + 1], np.r_[points[far:], points[:1]]
    return [corner for way in ways for corner in _simplified(way, tolerance)[:-1]]


def _simplified(points: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """Those of points (N, 2) from which no other is farther than the tolerance.

    Without recursion: a mask with as many teeth as Python has calls would end the evaluation.
    """
    kept, ways = {0, len(points) - 1}, [(0, len(points) - 1)]
    while ways:
        first, last = ways.pop()
        chord, offsets = points[last] - points[first], points[first : last + 1] - points[first]
        distances = np.abs(chord[0] * offsets[:, 1] - chord[1] * offsets[:, 0]) / max(1e-9, np.hypot(*chord))
        middle = first + int(distances.argmax())
        if distances[middle - first] > tolerance:
            kept.add(middle)
            ways += [(first, middle), (middle, last)]
    return [points[index] for index in sorted(kept)]
