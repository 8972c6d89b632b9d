"""The page's sections, one for each part of the report.

Parts whose data are missing are named together at the end. The report of a run that went half wrong still shows the
rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..evaluation.lesion_free import left_empty_rows
from ..metrics import metric_title
from ..utils.screen import plural
from .album import Album
from .detection import NO_DETECTION, render_detection
from .gallery import render_cases, render_failures, render_picked
from .head import pair_name
from .page import (
    arm_legend,
    arm_name,
    as_interval,
    as_number,
    as_percent,
    as_plot,
    as_plots,
    as_table,
    as_text,
    decimals_of,
    metric_name,
)
from .plots import (
    area_limits,
    arm_style,
    bland_altman_plot,
    curve_plot,
    curve_points,
    interval_plot,
    reliability_plot,
    unit_name,
)
from .robustness import NO_PROBES, render_probes, render_subgroups

COUNT_NAMES = {
    "empty_label": "Ground truth empty",
    "empty_prediction": "Prediction empty",
    "both_empty": "Both empty",
    "one_empty": "Exactly one empty",
}
PLOTTED = ("dice", "hd95", "hd95_mm", "nsd", "nsd_mm")  # metrics that get a plot
CURVES = {
    "task": "Task term",
    "distill": "Distillation term",
    "feature": "Feature term",
    "loss": "Total loss",
    "val_mean_dice": "Validation Dice",
}


class Section(NamedTuple):
    """A part of the page.

    Args:
        key: of the part of the report.
        title: above it.
        render: the part of the report, and of a section with pictures the album -> HTML; "" when there is nothing to
            show.
        missing: the sentence that is shown then.
        pictured: whether it has pictures.
    """

    key: str
    title: str
    render: Callable[..., str]
    missing: str
    pictured: bool = False


def render_sections(report: Mapping[str, Any], album: Album) -> tuple[str, str]:
    """HTML of the links to the sections, and of the sections that have data, with the missing ones at the end."""
    links, sections, missing = "", "", []
    for section in SECTIONS:
        data = report.get(section.key)
        body = section.render(data, *([album] if section.pictured else [])) if data else ""
        if body:
            links += f'<a href="#{section.key}">{section.title}</a>'
            sections += framed(section.key, section.title, body)
        else:
            missing.append(f"<li><b>{section.title}</b>: {section.missing}</li>")
    if missing:
        sections += framed("missing", "Not in this report", f'<ul class="missing">{"".join(missing)}</ul>')
    return links, sections


def framed(key: str, title: str, body: str) -> str:
    """A section with its heading."""
    heading = f'<h2 id="{key}-title">{title}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-title">{heading}{body}</section>\n'


# The sections.


def _render_arms(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """A plot for the metrics of PLOTTED, and the table of all metrics and counts."""
    metrics = list(dict.fromkeys(name for arm in arms.values() for name in arm.get("metrics") or {}))
    sizes = {arm: ", ".join(_arm_sizes(summary)) for arm, summary in arms.items()}
    alike = len({*sizes.values()}) == 1  # then they are told once
    columns = [
        "Metric",
        *(f"{arm_name(arm)}{'' if alike else f'<small>{size}</small>'}" for arm, size in sizes.items()),
    ]
    caption = f"Metrics and empty masks{f' of {next(iter(sizes.values()))}' if alike else ''}"
    counts = [name for name in COUNT_NAMES if any(name in (arm.get("counts") or {}) for arm in arms.values())]
    groups = {
        "Mean over cases [95 % interval over patients]": [_metric_row(name, arms) for name in metrics],
        "Empty masks, summed over cases and seeds": [
            [COUNT_NAMES[name], *(as_text((arm.get("counts") or {}).get(name)) for arm in arms.values())]
            for name in counts
        ],
        "Images without a lesion, over seeds": [
            [title.capitalize(), *cells] for title, *cells in left_empty_rows(arms)
        ],
    }
    notes = "" if counts else '<p class="missing">Empty masks were not counted.</p>'
    return _interval_plots(arms) + as_table(caption, columns, groups) + notes + ARMS_NOTE


def _arm_sizes(summary: Mapping[str, Any]) -> list[str]:
    sizes = (("num_cases", "case"), ("num_patients", "patient"), ("num_seeds", "seed"))
    return [as_text(plural(summary[key], noun)) for key, noun in sizes if key in summary] or ["nothing measured"]


def _metric_row(metric: str, arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    summaries = [(arm.get("metrics") or {}).get(metric) for arm in arms.values()]
    cells = (_metric_cell(summary, decimals_of(metric)) if summary else "–" for summary in summaries)
    return [metric_name(metric), *cells]


def _metric_cell(summary: Mapping[str, Any], decimals: int) -> str:
    seeds = [value for value in (summary.get("seed_means") or {}).values() if value is not None]
    if len(seeds) < 2:
        return as_interval(summary, decimals)
    ends = f"{as_number(min(seeds), decimals)} to {as_number(max(seeds), decimals)}"
    return f"{as_interval(summary, decimals)}<small>seeds {ends}</small>"


def _interval_plots(arms: Mapping[str, Mapping[str, Any]]) -> str:
    plots = []
    for metric in PLOTTED:
        summaries = {name: (arm.get("metrics") or {}).get(metric) or {} for name, arm in arms.items()}
        summaries = {name: summary for name, summary in summaries.items() if summary.get("mean") is not None}
        if summaries:
            decimals = decimals_of(metric)
            values = ", ".join(
                f"{arm_style(name).name} {as_number(summary['mean'], decimals)}" for name, summary in summaries.items()
            )
            plots.append(as_plot(metric_name(metric), interval_plot(summaries, f"{metric_title(metric)}: {values}")))
    return as_plots(plots) + '<p class="note">Marker: mean. Line: 95 % interval. Circles: seeds.</p>' if plots else ""


def _render_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    columns = [
        "Comparison",
        "Metric",
        "Difference [95 % interval]",
        "p",
        "Patients",
        "Spread of seeds",
        "Margin",
        "Non-inferior",
    ]
    rows = [_comparison_row(comparison) for comparison in comparisons]
    tests = sorted({str(comparison["test"]) for comparison in comparisons if comparison.get("test")})
    note = "The difference is the first arm less the second, so that above 0 the first has the larger value."
    note += f" p: {as_text('; '.join(tests))}, two-sided." if tests else ""
    return as_table("Arms compared, paired on cases", columns, {"": rows}) + f'<p class="note">{note}</p>'


def _comparison_row(comparison: Mapping[str, Any]) -> list[str]:
    decimals, p_value = decimals_of(comparison.get("metric")), comparison.get("p_value")
    spread, passed = comparison.get("seed_spread"), comparison.get("non_inferior")
    return [
        pair_name(comparison),
        metric_name(comparison.get("metric", "")),
        as_interval(comparison, decimals, "difference"),
        "&lt; 0.001" if p_value is not None and p_value < 0.001 else as_number(p_value),
        as_text(comparison.get("num_patients")),
        "unknown" if spread is None else as_number(spread, decimals),
        as_number(comparison.get("margin"), decimals),
        "not asked" if passed is None else "yes" if passed else "not shown",
    ]


def _render_curves(curves: Mapping[str, Mapping[str, Mapping[str, Sequence]]]) -> str:
    """A plot for each of CURVES and of the loss's further terms, and a sentence on those that are missing or 0."""
    plots, absent, zero = [], [], []
    histories = [columns for seeds in curves.values() for columns in seeds.values()]
    further = dict.fromkeys(name for columns in histories for name in columns if name not in ("epoch", *CURVES))
    for column, title in {**CURVES, **{name: f"{name} term" for name in further}}.items():
        values = [value for columns in histories for _, value in curve_points(columns, column)]
        if not values:
            absent.append(title.lower())
        elif not any(values):
            zero.append(title.lower())
        else:
            arms = ", ".join(arm_style(arm).name for arm in curves)
            plots.append(as_plot(title, curve_plot(curves, column, f"{title} over epochs: {arms}")))
    if not plots and not zero:
        return ""
    notes = ["A line a seed."] if plots else []
    notes += [f"Not recorded: {', '.join(absent)}."] if absent else []
    notes += [f"0 in all epochs, so not drawn: {', '.join(zero)}."] if zero else []
    return arm_legend(curves) + as_plots(plots) + f'<p class="note">{" ".join(notes)}</p>'


def _render_areas(areas: Mapping[str, Mapping[str, Any]]) -> str:
    """A plot an arm, arms of one unit on the same axes."""
    plots = []
    for arm, area in areas.items():
        if not area.get("points"):
            plots.append(f'<p class="missing">{arm_name(arm)}: no areas were recorded.</p>')
            continue
        limits = area_limits([other for other in areas.values() if other.get("unit") == area.get("unit")])
        unit, (bias, low, high) = unit_name(area.get("unit")), (_area(area.get(key)) for key in ("bias", "low", "high"))
        without = area.get("without_lesion")
        note = f"Bias {bias} {unit}, limits of agreement {low} to {high} {unit}.{_farthest(area, unit)}"
        note += f" {plural(without, 'image')} without a lesion left out." if without else ""
        alt = f"Bland-Altman plot of {arm_style(arm).name}: bias {bias}, limits of agreement {low} to {high} {unit}"
        plots.append(as_plot(arm_name(arm), bland_altman_plot(area, arm, limits, alt), note))
    return as_plots(plots) + AREAS_NOTE


def _area(value: float | None) -> str:
    return as_number(value, 0 if value is not None and abs(value) >= 100 else 1)


def _farthest(area: Mapping[str, Any], unit: str) -> str:
    """The case with the largest difference, where the cases are named."""
    points, cases = area["points"], area.get("cases") or []
    if len(cases) != len(points):
        return ""
    index = max(range(len(points)), key=lambda i: abs(points[i][1]))
    return f" Largest difference: {_area(points[index][1])} {unit} in {cases[index]}."


def _render_calibration(calibration: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ["Arm", "ECE", "Accuracy", "Mean confidence", "Wrong pixels with confidence above 0.9"]
    rows = [[arm_name(arm), *_calibration_cells(summary)] for arm, summary in calibration.items()]
    drawn = {
        arm: summary for arm, summary in calibration.items() if any(one["count"] for one in summary.get("bins") or [])
    }
    plots = [
        as_plot(arm_name(arm), reliability_plot(summary, arm, _reliability_alt(arm, summary)))
        for arm, summary in drawn.items()
    ]
    table = as_table("Calibration over all pixels of the test cases", columns, {"": rows})
    return table + as_plots(plots) + CALIBRATION_NOTE


def _calibration_cells(summary: Mapping[str, Any]) -> list[str]:
    figures = [as_number(summary.get(key)) for key in ("ece", "accuracy", "mean_confidence")]
    return [*figures, as_percent(summary.get("confident_errors"))]


def _reliability_alt(arm: str, summary: Mapping[str, Any]) -> str:
    figures = (
        f"accuracy {as_number(summary.get('accuracy'))}, mean confidence {as_number(summary.get('mean_confidence'))}"
    )
    return f"Reliability diagram of {arm_style(arm).name}: ECE {as_number(summary.get('ece'))}, {figures}"


def _render_settings(about: Mapping[str, Any]) -> str:
    rows = [[as_text(name), as_text(value)] for name, value in about.items() if name != "description"]
    return as_table("What was run, and on what", ["Setting", "Value"], {"": rows}, "texts")


ARMS_NOTE = """<p class="note">Every case counts. Exactly one mask empty: Dice, IoU and NSD 0, HD95 the diagonal of the
image. Both empty: Dice, IoU and NSD 1, HD95 0. NSD is the share of edge pixels within the distance in parentheses of
the other edge. A case's value is its mean over the seeds.</p>"""
AREAS_NOTE = """<p class="note">A point a case: the difference of predicted and true lesion area over the mean of both.
Thick line: bias, the mean difference. Dashed: limits of agreement, bias ± 1.96 standard deviations.</p>"""
CALIBRATION_NOTE = """<p class="note">A bar a bin of confidence. Below the dashed line the network is too confident. The
lower plot is each bin's share of the pixels, on a logarithmic axis. ECE here is over all pixels together, in the table
of the arms the mean over cases.</p>"""

NO_CASES = "The report does not tell its cases apart."
NO_PICTURES = "The report has no pictures."
NO_CURVES = "The trainings of these networks left no learning curves here."
NO_GROUPS = "The datalist has no columns to tell subgroups by."

SECTIONS = (
    Section("arms", "Arms side by side", _render_arms, "No arm was measured."),
    Section("comparisons", "Comparisons", _render_comparisons, "No two arms were compared, so there is no verdict."),
    Section("cases", "All cases", render_cases, NO_CASES, pictured=True),
    Section("picked", "Best, median and worst cases", render_picked, NO_PICTURES, pictured=True),
    Section("failures", "Failures", render_failures, "No failures are listed.", pictured=True),
    Section("subgroups", "Subgroups", render_subgroups, NO_GROUPS),
    Section("areas", "Lesion area", _render_areas, "Lesion areas were not recorded."),
    Section("calibration", "Calibration", _render_calibration, "Confidences were not recorded."),
    Section("detection", "Whole images and confidence", render_detection, NO_DETECTION),
    Section("probes", "Probes", render_probes, NO_PROBES),
    Section("curves", "Learning curves", _render_curves, NO_CURVES),
    Section("about", "Settings", _render_settings, "No settings were recorded."),
)
