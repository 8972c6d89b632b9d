"""Plots whose points lead to cases: an arm against another, and how often each Dice comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator

from .album import Album
from .cases import judged_arm, short_name
from .page import as_number, as_text
from .plots import INK, STYLE, arm_style, new_figure, to_svg

BINS = 20  # of the Dice from 0 to 1
SIZE = (4.2, 5.4)  # inches, height and width


@rc_context(STYLE)
def scatter_plot(album: Album, arm: str, reference: str) -> str:
    """SVG: the Dice of an arm over that of another, a point a case; points below the line are cases that got worse.

    Points can be clicked, and are passed over by the keyboard, which has the table of the same cases.

    Args:
        album: its cases have a Dice of both.
        arm: on the vertical axis.
        reference: on the horizontal one.
    """
    figure, ax = new_figure(*SIZE)
    style = arm_style(arm)
    dice = [(case["dice"][reference], case["dice"][arm]) for case in album.cases]
    low = min(0.95, *(min(pair) for pair in dice))
    ax.plot([low, 1], [low, 1], color=INK, linewidth=0.8, linestyle="dashed")
    points = ax.scatter(
        *zip(*dice), s=14, marker=style.marker, facecolors="none", edgecolors=style.color, linewidths=0.9
    )
    points.set_urls([str(i) for i in range(len(dice))])
    margin = 0.03 * (1 - low)
    ax.set(xlim=(low - margin, 1 + margin), ylim=(low - margin, 1 + margin), aspect="equal")
    ax.set(xlabel=f"Dice of the {arm_style(reference).name.lower()}", ylabel=f"Dice of the {style.name.lower()}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    links = {str(i): _point(album, case, (arm, reference)) for i, case in enumerate(album.cases)}
    worse = sum(y < x for x, y in dice)
    alt = f"Dice of {arm} over {reference}, a point a case: {worse} of {len(dice)} cases are worse than the {reference}"
    return to_svg(figure, alt, links)


def _point(album: Album, case: Mapping[str, Any], arms: Sequence[str]) -> str:
    dice = ", ".join(f"{arm_style(arm).name} {as_number(case['dice'][arm])}" for arm in arms)
    label = as_text(f"{short_name(case['case'])}: {dice}")
    return f'href="{album.target(case["case"])}" tabindex="-1" aria-label="{label}"'


@rc_context(STYLE)
def dice_histogram(album: Album) -> str:
    """SVG: the number of cases by Dice, bars of `judged_arm` and steps of the others; a bar leads to its first row.

    Args:
        album: of cases, from the worst to the best.
    """
    arms = list(album.cases[0]["dice"])
    judged, edges = judged_arm(arms), np.linspace(0, 1, BINS + 1)
    figure, ax = new_figure(*SIZE)
    values = {arm: np.array([case["dice"][arm] for case in album.cases]) for arm in arms}
    counts = {arm: np.histogram(values[arm], edges)[0] for arm in arms}
    links = {}
    bars = ax.bar(edges[:-1], counts[judged], 0.94 / BINS, align="edge", color=arm_style(judged).color)
    for i, (bar, count) in enumerate(zip(bars, counts[judged])):
        if count:
            bar.set_url(str(i))
            links[str(i)] = _bar(album, values[judged], edges[i : i + 2], int(count))
    for arm in arms:
        if arm != judged:
            ax.stairs(counts[arm], edges, color=arm_style(arm).color, linewidth=1.4, linestyle=arm_style(arm).line)
    filled = np.flatnonzero(sum(counts.values()))
    ax.set(xlim=(edges[filled[0]], 1), xlabel="Dice", ylabel="cases")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    alt = f"Number of cases by Dice; the {judged} has a median of {as_number(float(np.median(values[judged])))}"
    return to_svg(figure, alt, links)


def _bar(album: Album, dice: np.ndarray, ends: np.ndarray, count: int) -> str:
    first = album.cases[int(np.searchsorted(dice, ends[0]))]
    low, high = (f"{end:.2f}" for end in ends)
    row = album.numbers[first["case"]]
    return (
        f'href="#row-{row}" data-low="{low}" data-high="{high}" '
        f'aria-label="Dice {low} to {high}: {count} case{"s" if count > 1 else ""}"'
    )
