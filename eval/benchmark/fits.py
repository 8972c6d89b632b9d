"""How time and memory grow: power laws and lines through the figures of a run (numpy.polyfit)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .settings import Settings


class Fit(NamedTuple):
    """What is fitted: figure `y` over `x` of these contenders; x is a figure too, or the number given with the
    contender.
    """

    name: str
    law: str
    x: str
    y: str
    points: dict[str, float | None]


def list_fits(settings: Settings) -> list[Fit]:
    """The fits of a run."""
    student = {_sized("student_step_ours", size, settings.img_size): float(size) for size in settings.student_sizes}
    teacher = {
        _sized("teacher_vit_b_fast_fp32", size, settings.teacher_size): float(size) for size in settings.teacher_sizes
    }
    sizes: dict[str, float | None] = {f"teacher_{model}_fast_fp32": None for model in settings.models}
    fills = {_sized("fill_replay_vit_b", count, settings.num_images): float(count) for count in settings.image_counts}
    looks = {f"cache_look_{count}": float(count) for count in settings.data_counts}
    return [
        Fit("student step, seconds over image size", "power", "pixels a side", "step_seconds", student),
        Fit("student step, peak MB over image size", "power", "pixels a side", "peak_mb", student),
        Fit("teacher vit_b, seconds an image over image size", "power", "pixels a side", "image_seconds", teacher),
        Fit("teacher vit_b, GFLOP an image over image size", "power", "pixels a side", "gflop", teacher),
        Fit("teachers, seconds an image over GFLOP", "power", "gflop", "image_seconds", sizes),
        Fit("teachers, peak MB over parameters", "line", "parameters", "peak_mb", sizes),
        Fit("cache vit_b, seconds to fill over images", "line", "images", "fill_seconds", fills),
        Fit("cache vit_b, bytes over images", "line", "images", "cache_bytes", fills),
        Fit("complete cache, seconds to look at it over images", "line", "images", "look_seconds", looks),
    ]


def _sized(name: str, size: int, own: int) -> str:
    return name if size == own else f"{name}_{size}"


def fit_all(settings: Settings, figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The fits of a run as rows: name, axes, points, and exponent and factor or slope and intercept, absent with fewer
    than two points.

    Args:
        settings: of the run.
        figures: of each contender, by name.
    """
    rows = []
    for fit in list_fits(settings):
        values = {name: figures.get(name, {}) for name in fit.points}
        pairs = [
            (values[name].get(fit.x) if x is None else x, values[name].get(fit.y)) for name, x in fit.points.items()
        ]
        pairs = [pair for pair in pairs if None not in pair]
        row = {"name": fit.name, "law": fit.law, "x": fit.x, "y": fit.y, "points": pairs}
        if len({x for x, _ in pairs}) > 1:
            row.update(fit_power(*zip(*pairs)) if fit.law == "power" else fit_line(*zip(*pairs)))
        rows.append(row)
    return rows


def fit_power(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """exponent and factor of y = factor * x ** exponent, least squares of the logarithms."""
    exponent, offset = np.polyfit(np.log(x), np.log(y), 1)
    return {"exponent": float(exponent), "factor": float(np.exp(offset))}


def fit_line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """slope and intercept of y = intercept + slope * x."""
    slope, intercept = np.polyfit(x, y, 1)
    return {"slope": float(slope), "intercept": float(intercept)}
