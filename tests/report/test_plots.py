"""Plots of a report are small, repeatable, and take the color of the page."""

import numpy as np

from scripts.report import sections
from scripts.report.plots import ARM_STYLES, MANY_POINTS, area_limits, bland_altman_plot, curve_points, interval_plot


def test_many_points_are_drawn_as_one_picture():
    points = np.random.default_rng(0).random((20 * MANY_POINTS, 2)).tolist()
    area = {"unit": "mm2", "bias": 0.5, "low": 0.0, "high": 1.0, "points": points}
    svg = bland_altman_plot(area, "student", area_limits([area]), "areas")
    assert len(svg) < 300_000
    assert "data:image/png" in svg
    assert "mm²" in svg


def test_plots_take_the_color_of_the_page_and_are_repeatable():
    summary = {"mean": 0.8, "low": 0.78, "high": 0.82, "seed_means": {"0": 0.79, "1": 0.81}}
    first, second = (interval_plot({"student": summary}, "Dice: <0.8>") for _ in range(2))
    assert first == second
    assert first.startswith("<svg ")
    assert 'aria-label="Dice: &lt;0.8&gt;"' in first
    assert "currentColor" in first
    assert ARM_STYLES["student"].color.lower() in first.lower()
    assert "#010203" not in first


def test_epochs_without_a_value_are_gaps_in_the_curve():
    assert curve_points({"epoch": [2, 4, 6], "task": [0.5, None, ""]}, "task") == [(2.0, 0.5)]
    assert curve_points({"task": [0.5, 0.25]}, "task") == [(1.0, 0.5), (2.0, 0.25)]
    assert curve_points({"epoch": [1]}, "task") == []


def test_area_limits_hold_all_arms():
    first = {"points": [[0.0, -10.0], [100.0, 10.0]], "low": -50.0, "high": 30.0}
    limits = area_limits([first, {"points": [[50.0, 0.0]], "low": None}])
    assert limits == ((-5.0, 105.0), (-54.0, 34.0))
    assert area_limits([{"points": []}]) == ((-1.0, 1.0), (-1.0, 1.0))


def test_axes_of_the_areas_section_hold_the_limits_of_agreement(monkeypatch):
    area = {"unit": "pixels", "points": [[10.0, 1.0], [12.0, -1.0]], "bias": 0.0, "low": -2.8, "high": 2.8, "cases": []}
    drawn = {}
    monkeypatch.setattr(sections, "bland_altman_plot", lambda area, arm, limits, alt: drawn.setdefault(arm, limits)[2:])
    monkeypatch.setattr(sections, "as_plot", lambda *parts: "")
    sections._render_areas({"student": area, "teacher": area})
    for low, high in (limits[1] for limits in drawn.values()):
        assert low < -2.8
        assert high > 2.8
