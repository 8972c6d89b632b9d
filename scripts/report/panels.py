"""Panels: a row a case with input, ground truth, teacher, student, overlay and difference map, as PNG.

The figure has a fixed size per row, whatever the image, and is drawn without pyplot: no display and no global state.

Legend: H rows, W columns. Masks are class indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..metrics import case_metrics
from ..utils.colors import CLASS_COLORS, SOURCE_COLORS
from ..utils.files import atomic_path
from ..utils.options import ARMS, CONTROL, STUDENT, TEACHER

AGREE_COLOR, OTHER_CLASS_COLOR, NOTHING_COLOR = "#B8BEC6", "#B565F2", "#14171A"
TEXT_COLOR = "#202124"
NAMES = {"label": "Ground truth", TEACHER: "Teacher", CONTROL: "Control", STUDENT: "Student"}
CELL, GAP, TITLE, LEGEND = 2.1, 0.08, 0.34, 0.42  # inches
DPI = 130


def draw_panels(
    cases: Sequence[Mapping[str, Any]],
    path: str | Path,
    num_classes: int | None = None,
    class_names: Sequence[str] = (),
) -> Path:
    """Draw cases, a row each, and write the figure in one step; returns its path.

    Args:
        cases: see `panel_figure`, and the other arguments too.
        path: of the PNG.
    """
    figure = panel_figure(cases, num_classes, class_names)
    FigureCanvasAgg(figure)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=DPI, format="png", facecolor="white")
    return Path(path)


def panel_figure(
    cases: Sequence[Mapping[str, Any]], num_classes: int | None = None, class_names: Sequence[str] = ()
) -> Figure:
    """A figure with a row a case, and legends below.

    The difference map is teacher against student, or the one prediction against the ground truth. Dice in the titles is
    that of `scripts.metrics.case_metrics`.

    Args:
        cases: dicts of arrays (H, W): "image" in [0, 1], "label" and one or two of teacher, control and student, class
            indices; "title" (str) optional. All cases have the same predictions.
        num_classes: with the background; None takes the largest class drawn.
        class_names: of the foreground classes, for the legend of more than two classes.

    Raises:
        ValueError: there are no cases, or a case has no prediction.
    """
    if not cases:
        raise ValueError("there are no cases to draw, expected at least one.")
    sources = [name for name in ARMS if name in cases[0]]
    if not 1 <= len(sources) <= 2:
        raise ValueError(
            f"a case has the items {sorted(cases[0])}, expected one or two masks of {', '.join(ARMS)} to draw."
        )
    rows = [{key: value if key == "title" else np.asarray(value) for key, value in case.items()} for case in cases]
    num_classes = num_classes or max(2, 1 + max(int(row[name].max()) for row in rows for name in ("label", *sources)))
    figure, grid = _layout(len(rows), len(sources) + 4)
    for axes, row in zip(grid, rows):
        _draw_row(axes, row, sources, num_classes)
    _draw_legends(figure, sources, num_classes, class_names)
    return figure


def _layout(num_rows: int, num_columns: int) -> tuple[Figure, list[list[Axes]]]:
    """A figure with square cells, a title strip above each row and a legend strip at the bottom."""
    width = num_columns * (CELL + GAP) + GAP
    height = num_rows * (CELL + TITLE) + LEGEND
    figure = Figure(figsize=(width, height))
    grid = []
    for i in range(num_rows):
        bottom = height - (i + 1) * (CELL + TITLE)
        corners = [(GAP + j * (CELL + GAP), bottom) for j in range(num_columns)]
        grid.append([figure.add_axes((x / width, y / height, CELL / width, CELL / height)) for x, y in corners])
    return figure, grid


def _draw_row(axes: Sequence[Axes], row: Mapping[str, Any], sources: Sequence[str], num_classes: int) -> None:
    image, masks = row["image"], {name: row[name] for name in ("label", *sources)}
    _show(axes[0], _gray(image), row.get("title") or "Input")
    for ax, (name, mask) in zip(axes[1:], masks.items()):
        dice = "" if name == "label" else f"  Dice {case_metrics(mask, row['label'], num_classes)['dice']:.3f}"
        _show(ax, _filled(image, mask, name, num_classes), NAMES[name] + dice)
    _show(axes[-2], _gray(image), "Overlay")
    for name, mask in masks.items():
        _contour(axes[-2], mask, SOURCE_COLORS[name], width=1.9 if name == "label" else 1.1)
    first, second = sources if len(sources) == 2 else ("label", sources[0])
    differences = difference_map(masks[first], masks[second], first, second)
    _show(axes[-1], differences, f"{NAMES[first]} vs. {NAMES[second].lower()}")


def _show(ax: Axes, pixels: np.ndarray, title: str) -> None:
    """Pixels (H, W, 3) in the middle of a light square."""
    (height, width), half = pixels.shape[:2], max(pixels.shape[:2]) / 2
    ax.imshow(pixels, interpolation="antialiased")
    ax.set(
        xlim=(width / 2 - 0.5 - half, width / 2 - 0.5 + half), ylim=(height / 2 - 0.5 + half, height / 2 - 0.5 - half)
    )
    ax.set(xticks=[], yticks=[], facecolor="#EFF1F3")
    ax.spines[:].set_visible(False)
    ax.set_title(_shortened(title), fontsize=9.5, pad=4, color=TEXT_COLOR)


def _shortened(title: str, length: int = 32) -> str:
    return title if len(title) <= length else f"{title[: length // 2 - 1]}…{title[-length // 2 :]}"


def _gray(image: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] -> (H, W, 3)."""
    return np.repeat(np.clip(image.astype(np.float32), 0, 1)[..., None], 3, axis=2)


def _filled(image: np.ndarray, mask: np.ndarray, source: str, num_classes: int) -> np.ndarray:
    """The dimmed image under the mask's color: that of its source with two classes, that of the class with more."""
    pixels = 0.55 * _gray(image)
    for c in range(1, num_classes):
        color = SOURCE_COLORS[source] if num_classes == 2 else _class_color(c)
        inside = mask == c
        pixels[inside] = 0.45 * pixels[inside] + 0.55 * np.asarray(to_rgb(color))
    return pixels


def _class_color(c: int) -> str:
    return CLASS_COLORS[(c - 1) % len(CLASS_COLORS)]


def _contour(ax: Axes, mask: np.ndarray, color: str, width: float) -> None:
    """The outline of each class, closed where it meets the border."""
    padded = np.pad(mask, 1)
    x, y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    limits = ax.get_xlim(), ax.get_ylim()
    for c in np.unique(mask[mask > 0]):
        ax.contour(x, y, padded == c, levels=[0.5], colors=[color], linewidths=width)
    ax.set(xlim=limits[0], ylim=limits[1])


def difference_map(first: np.ndarray, second: np.ndarray, first_source: str, second_source: str) -> np.ndarray:
    """Colors (H, W, 3) of pixels where both masks have the same class, only one has a class, or they have two classes.

    Args:
        first: class indices (H, W).
        second: as `first`.
        first_source: gives the color of what only `first` has, such as teacher.
        second_source: as `first_source`, of `second`.
    """
    pixels = np.full((*first.shape, 3), to_rgb(NOTHING_COLOR))
    pixels[(first == second) & (first > 0)] = to_rgb(AGREE_COLOR)
    pixels[(first > 0) & (second == 0)] = to_rgb(SOURCE_COLORS[first_source])
    pixels[(first == 0) & (second > 0)] = to_rgb(SOURCE_COLORS[second_source])
    pixels[(first > 0) & (second > 0) & (first != second)] = to_rgb(OTHER_CLASS_COLOR)
    return pixels


def _draw_legends(figure: Figure, sources: Sequence[str], num_classes: int, class_names: Sequence[str]) -> None:
    """In the bottom strip: classes (more than two), outlines, differences."""
    columns = len(sources) + 4
    if num_classes > 2:
        names = list(class_names) + [f"class {c}" for c in range(len(class_names) + 1, num_classes)]
        classes = [Patch(color=_class_color(c), label=names[c - 1]) for c in range(1, num_classes)]
        _legend(figure, "left", 1 / columns, classes)
    outlines = [
        Line2D([], [], color=SOURCE_COLORS[name], lw=2, label=NAMES[name].lower()) for name in ("label", *sources)
    ]
    _legend(figure, "right", (columns - (1.9 if num_classes > 2 else 1.5)) / columns, outlines)
    _legend(figure, "right", 1, _difference_handles(sources, num_classes))


def _difference_handles(sources: Sequence[str], num_classes: int) -> list[Patch]:
    first, second = sources if len(sources) == 2 else ("label", sources[0])
    handles = [Patch(color=AGREE_COLOR, label="both")]
    handles += [Patch(color=SOURCE_COLORS[name], label=f"{NAMES[name].lower()} only") for name in (first, second)]
    return handles + ([Patch(color=OTHER_CLASS_COLOR, label="other class")] if num_classes > 2 else [])


def _legend(figure: Figure, side: str, x: float, handles: Sequence[Any]) -> None:
    figure.legend(
        handles=list(handles),
        loc=f"lower {side}",
        bbox_to_anchor=(x, 0),
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        handlelength=1.2,
        columnspacing=1.0,
        handletextpad=0.5,
        labelcolor=TEXT_COLOR,
    )
