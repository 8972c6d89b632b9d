"""Plots of a report as inline SVG: intervals, learning curves, lesion areas, reliability.

They are drawn without pyplot and under a style of their own, so that no display is needed and no setting is left
behind. Text and axes take the color of the page (currentColor): one drawing is right in light and in dark. The SVG
names no address, not even its namespace, which HTML does not need.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..utils.options import CONTROL, STUDENT, TEACHER


class ArmStyle(NamedTuple):
    """How an arm is drawn: told apart by color, in gray by lightness, and by line and marker."""

    name: str
    color: str
    line: str
    marker: str


ARM_STYLES = {
    TEACHER: ArmStyle("Teacher", "#2E86C8", "solid", "s"),
    CONTROL: ArmStyle("Control", "#B5529F", "dashed", "D"),
    STUDENT: ArmStyle("Student", "#C77700", "solid", "o"),
}  # those of utils/colors.py, as dark as a contrast of 3:1 to the white and to the dark page asks for
OTHER_COLOR = "#7A8594"
INK = "#010203"  # stands for the color of the page's text until the SVG is written
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "figure.constrained_layout.use": True,
}
WIDTH = 3.6  # inches
GROUP_COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA4499")  # as in utils/colors.py, at 3:1 on white and on dark
HEAT_COLORS = "viridis"  # told apart by color-blind readers, and in gray
MAX_BINS = 30
MANY_POINTS = 2000  # above it points are drawn as one picture, else as shapes

Limits = tuple[tuple[float, float], tuple[float, float]]


def arm_style(arm: str) -> ArmStyle:
    """The style of an arm; one that is none of ARM_STYLES is gray and dotted."""
    return ARM_STYLES.get(arm, ArmStyle(arm, OTHER_COLOR, "dotted", "^"))


@rc_context(STYLE)
def interval_plot(arms: Mapping[str, Mapping[str, Any]], alt: str) -> str:
    """SVG: a row an arm with the mean, its interval, and below it a circle a seed.

    Args:
        arms: by arm mean, low and high (or None) and seed_means.
        alt: what is seen, for those who do not see it.
    """
    figure, ax = new_figure(0.45 + 0.42 * len(arms))
    for y, (arm, summary) in enumerate(arms.items()):
        style = arm_style(arm)
        interval = [summary.get("low"), summary.get("high")]
        if None not in interval:
            ax.plot(interval, [y, y], color=style.color, linewidth=2.6, solid_capstyle="round")
        ax.plot([summary["mean"]], [y], style.marker, color=style.color, markersize=7)
        seeds = list((summary.get("seed_means") or {}).values())
        ax.plot(seeds, [y + 0.33] * len(seeds), "o", color=style.color, markersize=3.2, fillstyle="none")
    ax.set_yticks(range(len(arms)), [arm_style(arm).name for arm in arms])
    ax.set_ylim(len(arms) - 0.4, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False, axis="y")
    return to_svg(figure, alt)


@rc_context(STYLE)
def curve_plot(curves: Mapping[str, Mapping[str, Mapping[str, Sequence]]], column: str, alt: str) -> str:
    """SVG: a column over the epochs, a line a seed in the color of its arm.

    Args:
        curves: by arm and seed the columns of a training's history; epochs count from 1 where the column epoch misses.
        column: to draw; None or "" is an epoch without a value.
        alt: as in `interval_plot`.
    """
    figure, ax = new_figure(2.3)
    for arm, seeds in curves.items():
        style = arm_style(arm)
        for columns in seeds.values():
            points = curve_points(columns, column)
            if points:
                marker = style.marker if len(points) <= 20 else None
                ax.plot(
                    *zip(*points), color=style.color, linestyle=style.line, linewidth=1.4, marker=marker, markersize=3
                )
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("epoch")
    return to_svg(figure, alt)


@rc_context(STYLE)
def risk_plot(risks: Mapping[str, Mapping[str, Sequence[float]]], alt: str) -> str:
    """SVG: risk over coverage, a line an arm.

    Args:
        risks: by arm coverage and risk.
        alt: as in `interval_plot`.
    """
    figure, ax = new_figure(2.5)
    for arm, one in risks.items():
        style = arm_style(arm)
        ax.plot(one["coverage"], one["risk"], color=style.color, linestyle=style.line, linewidth=1.4)
    ax.set(xlim=(0, 1), xlabel="coverage", ylabel="mean of 1 - Dice")
    ax.set_ylim(bottom=0)
    return to_svg(figure, alt)


@rc_context(STYLE)
def histogram_plot(groups: Mapping[str, Sequence[float]], label: str, alt: str, line: float | None = None) -> str:
    """SVG: how often values occur, in percent of their group, a stepped line a group.

    Args:
        groups: values by name; the names are in the legend.
        label: of the values, below the axis.
        alt: as in `interval_plot`.
        line: a value to mark.
    """
    figure, ax = new_figure(2.4)
    known = {name: np.asarray(values, dtype=float) for name, values in groups.items() if len(values)}
    edges = np.histogram_bin_edges(np.concatenate([*known.values()]) if known else [0.0], bins=MAX_BINS)
    for (name, values), color in zip(known.items(), cycle(GROUP_COLORS)):
        share = 100 * np.histogram(values, edges)[0] / len(values)
        ax.stairs(share, edges, color=color, linewidth=1.6, label=name)
    if line is not None:
        ax.axvline(line, color=INK, linewidth=1, linestyle="dashed")
    ax.set(xlabel=label, ylabel="% of the images")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    if len(known) > 1:
        ax.legend(frameon=False, fontsize=8)
    return to_svg(figure, alt)


@rc_context(STYLE)
def heat_map(shares: np.ndarray, alt: str, strip: tuple[float, float] | None = None) -> str:
    """SVG: how often each place of an image is covered, with a scale in percent.

    Args:
        shares: (rows, columns), of the images, 0 to 1.
        alt: as in `interval_plot`.
        strip: two shares of the width to mark, left and right.
    """
    figure, ax = new_figure(2.7)
    drawn = ax.imshow(100 * shares, cmap=HEAT_COLORS, vmin=0, extent=(0, 1, 1, 0), interpolation="bilinear")
    for x in strip or ():
        ax.axvline(x, color="white", linewidth=1, linestyle="dashed")
    ax.set(xlabel="width", ylabel="depth", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    ax.grid(visible=False)
    figure.colorbar(drawn, ax=ax, shrink=0.8, label="% of the images", ticks=MaxNLocator(4)).outline.set_visible(False)
    return to_svg(figure, alt)


def curve_points(columns: Mapping[str, Sequence], column: str) -> list[tuple[float, float]]:
    """(epoch, value) where there is a value."""
    values = columns.get(column) or []
    epochs = columns.get("epoch") or range(1, len(values) + 1)
    return [(float(epoch), float(value)) for epoch, value in zip(epochs, values) if value not in (None, "")]


def area_limits(areas: Collection[Mapping[str, Any]]) -> Limits:
    """Limits of both axes that hold the points of all arms, with a margin of 5 %, so that their plots compare."""
    points = [point for area in areas for point in area.get("points") or []]
    lines = [value for area in areas for value in (area.get("low"), area.get("high")) if value is not None]
    x, y = [point[0] for point in points] or [0.0], [point[1] for point in points] + lines + [0.0]
    return _widened(min(x), max(x)), _widened(min(y), max(y))


def _widened(low: float, high: float) -> tuple[float, float]:
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


@rc_context(STYLE)
def bland_altman_plot(area: Mapping[str, Any], arm: str, limits: Limits, alt: str) -> str:
    """SVG: difference of predicted and true area over their mean, a point a case, with bias and limits of agreement.

    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.

    Args:
        area: unit, points, and bias, low and high (or None).
        arm: gives color and marker.
        limits: of both axes; see `area_limits`.
        alt: as in `interval_plot`.
    """
    figure, ax = new_figure(2.7)
    style, points = arm_style(arm), area["points"]
    many = len(points) > MANY_POINTS
    ax.plot(
        *zip(*points),
        style.marker,
        color=style.color,
        markersize=3.4,
        fillstyle="none",
        markeredgewidth=0.8,
        rasterized=many,
    )
    ax.axhline(0, color=INK, linewidth=0.8, alpha=0.35)
    for name, line in (("bias", "solid"), ("low", "dashed"), ("high", "dashed")):
        if area.get(name) is not None:
            ax.axhline(area[name], color=INK, linewidth=1.2, linestyle=line)
    unit = unit_name(area.get("unit"))
    ax.set(xlim=limits[0], ylim=limits[1], xlabel=f"mean of both areas, {unit}", ylabel=f"predicted less true, {unit}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "−")))
    return to_svg(figure, alt)


def unit_name(unit: str | None) -> str:
    """The unit as it is printed: mm² of mm2, pixels where there is none."""
    return (unit or "pixels").replace("mm2", "mm²")


@rc_context(STYLE)
def reliability_plot(summary: Mapping[str, Any], arm: str, alt: str) -> str:
    """SVG: accuracy over confidence, a bar a bin, against the diagonal; below it the share of pixels in each bin.

    Args:
        summary: bins with low, high, count, confidence and accuracy; empty ones are left out.
        arm: gives the color.
        alt: as in `interval_plot`.
    """
    figure = Figure(figsize=(WIDTH, 3.2))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    bins = [one for one in summary["bins"] if one["count"]]
    left = min((one["low"] for one in bins), default=0.0)
    _draw_accuracy(top, bins, left, arm_style(arm))
    total = sum(one["count"] for one in bins)
    shares = [one["count"] / total for one in bins]
    _bars(bottom, bins, shares, arm_style(arm).color)
    bottom.set_yscale("log")
    bottom.set_ylim(min(shares, default=0.1) / 3, 2)
    bottom.yaxis.set_major_locator(LogLocator(numticks=3))
    bottom.yaxis.set_minor_locator(NullLocator())
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    bottom.set(xlim=(left, 1), xlabel="confidence of the predicted class", ylabel="pixels")
    figure.align_ylabels()
    return to_svg(figure, alt)


def _draw_accuracy(ax: Axes, bins: Sequence[Mapping[str, Any]], left: float, style: ArmStyle) -> None:
    _bars(ax, bins, [one["accuracy"] for one in bins], style.color)
    ax.plot([left, 1], [left, 1], color=INK, linewidth=1, linestyle="dashed")
    ax.plot([one["confidence"] for one in bins], [one["accuracy"] for one in bins], "o", color=INK, markersize=2.6)
    lowest = min((one["accuracy"] for one in bins), default=0.0)
    ax.set(ylim=(max(0.0, min(left, lowest) - 0.05), 1.01), ylabel="accuracy")


def _bars(ax: Axes, bins: Sequence[Mapping[str, Any]], heights: Sequence[float], color: str) -> None:
    ax.bar(
        [one["low"] for one in bins],
        heights,
        [0.94 * (one["high"] - one["low"]) for one in bins],
        align="edge",
        color=color,
    )


def new_figure(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure with one plot, in inches."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots()


def to_svg(figure: Figure, alt: str, links: Mapping[str, str] | None = None) -> str:
    """The figure as an element of an HTML page.

    Args:
        figure: to draw.
        alt: as in `interval_plot`.
        links: HTML attributes by the url of a part of the figure, which becomes a link with them; parts without any
            are none.
    """
    file = io.StringIO()
    with rc_context({"svg.hashsalt": alt}):  # ids within the SVG, which may not meet those of another plot
        figure.savefig(file, format="svg", transparent=True, dpi=150)
    svg = file.getvalue()
    width, height = (math.ceil(72 * inches) for inches in figure.get_size_inches())
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="[a-z][\w.]*"', "<g", body)  # names such as axes_1, the same in every plot
    body = re.sub(r"font-family: [^;\"]*;?", "", body).replace(INK, "currentColor")
    if links:
        body = re.sub(r'<a xlink:href="([^"]*)"[^>]*>', lambda match: f"<a {links[match[1]]}>", body)
    role = "group" if links else "img"
    return f'<svg viewBox="0 0 {width} {height}" role="{role}" aria-label="{escape(alt)}">{body}'
