"""Plots of a benchmark's report for docs/performance.md: speed by SAM size, growth with size, and peak memory.

python -m eval.benchmark.plots [--report eval/results/benchmark.json] [--output_dir docs]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.utils.files import BUNDLE_ROOT

from .settings import SAM_NAMES

DPI = 100
# name, contender and figure of numerator and denominator; {} is the SAM size
SPEED_UPS = (
    ("epoch: reference / ours, cache complete", "reference_{}.epoch_seconds", "replay_{}.epoch_seconds"),
    (
        "teacher pass: stock fp32 / fast bf16",
        "teacher_{}_stock_fp32.image_seconds",
        "teacher_{}_fast_bf16.image_seconds",
    ),
    (
        "teacher pass: stock fp32 / fast fp32",
        "teacher_{}_stock_fp32.image_seconds",
        "teacher_{}_fast_fp32.image_seconds",
    ),
)
GROWTH = (
    "student step, seconds over image size",
    "teacher vit_b, seconds an image over image size",
    "teachers, seconds an image over GFLOP",
    "cache vit_b, seconds to fill over images",
)
MEMORY = (
    "control",
    *(f"replay_{name}" for name in SAM_NAMES),
    "online_vit_b",
    *(f"reference_{name}" for name in SAM_NAMES),
)


def main(arguments: list[str] | None = None) -> None:
    """Draw the plots of a report."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark.plots", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--report", type=Path, default=BUNDLE_ROOT / "eval" / "results" / "benchmark.json", help="from eval.benchmark"
    )
    parser.add_argument("--output_dir", type=Path, default=BUNDLE_ROOT / "docs", help="gets performance_*.png")
    options = parser.parse_args(arguments)
    for path in draw_plots(json.loads(options.report.read_text()), options.output_dir):
        print(path)


def draw_plots(report: dict[str, Any], output_dir: Path) -> list[Path]:
    """Paths of performance_speed.png, performance_growth.png and performance_memory.png; what failed in the run is left
    out.

    Args:
        report: of eval.benchmark.__main__.
        output_dir: made when it is not there.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    figures = {
        "speed": _speed(report["figures"]),
        "growth": _growth(report["fits"]),
        "memory": _memory(report["figures"]),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(output_dir / f"performance_{name}.png")
        figure.savefig(paths[-1], dpi=DPI)
    return paths


def _speed(figures: dict[str, dict]) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(SPEED_UPS)
    for i, (label, numerator, denominator) in enumerate(SPEED_UPS):
        ratios = [_ratio(figures, numerator.format(name), denominator.format(name)) for name in SAM_NAMES]
        bars = axes.bar(np.arange(len(SAM_NAMES)) + i * width, ratios, width, label=label)
        axes.bar_label(bars, [f"{ratio:.3g}" if ratio else "" for ratio in ratios], fontsize=8)
    axes.set_xticks(np.arange(len(SAM_NAMES)) + width, SAM_NAMES)
    axes.set_yscale("log")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("times faster")
    figure.legend(loc="outside upper center", ncols=len(SPEED_UPS), frameon=False, fontsize=8)
    return figure


def _growth(fits: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 7), layout="constrained")
    by_name = {fit["name"]: fit for fit in fits}
    for axes, name in zip(figure.subplots(2, 2).flat, GROWTH):
        _draw_fit(axes, by_name[name])
    return figure


def _draw_fit(axes: Axes, fit: dict[str, Any]) -> None:
    points = sorted(fit["points"])
    x, y = np.array(points, dtype=float).reshape(-1, 2).T
    axes.plot(x, y, "o")
    axes.set_title(fit["name"], fontsize=10)
    axes.set_xlabel(fit["x"])
    axes.set_ylabel(fit["y"].replace("_", " "))
    if "exponent" in fit:
        axes.plot(x, fit["factor"] * x ** fit["exponent"], label=f"exponent {fit['exponent']:.2f}")
        axes.loglog()
        axes.minorticks_off()
        axes.set_xticks(x, [f"{value:.3g}" for value in x])
        axes.set_yticks(y, [f"{value:.3g}" for value in y])
        axes.legend(frameon=False)
    elif "slope" in fit:
        axes.plot(x, fit["intercept"] + fit["slope"] * x, label=f"{fit['intercept']:.3g} + {fit['slope']:.3g} x")
        axes.legend(frameon=False)


def _memory(figures: dict[str, dict]) -> Figure:
    peaks = {name: figures[name]["peak_mb"] for name in MEMORY if "peak_mb" in figures.get(name, {})}
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(peaks), list(peaks.values()))
    axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("peak memory, MB")
    return figure


def _ratio(figures: dict[str, dict], numerator: str, denominator: str) -> float:
    """0 where a contender failed."""
    values = [figures.get(path.split(".")[0], {}).get(path.split(".")[1]) for path in (numerator, denominator)]
    return 0.0 if None in values else values[0] / values[1]


if __name__ == "__main__":
    main()
