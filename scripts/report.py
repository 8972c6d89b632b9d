"""The report of an evaluation: report.html, one file that opens from disk without a network, and report.json beside it.

The page has no script and a policy that forbids the browser to fetch anything; plots are inline SVG, panels data URIs. It follows
the reader's light or dark setting, prints, and fits a phone, where tables scroll. A part whose data are missing says so in a
sentence, so that a report of a run that went half wrong still tells what it can.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from PIL import Image

from .files import atomic_path
from .metrics import LOWER_IS_BETTER, NSD_TOLERANCE, NSD_TOLERANCE_MM
from .report_plots import (
    area_limits,
    arm_style,
    bland_altman_plot,
    curve_plot,
    curve_points,
    interval_plot,
    reliability_plot,
    unit_name,
)

MAX_BYTES = 4_900_000  # of report.html
MAX_FAILURES = 200  # rows; report.json has them all
MIN_PANEL_BYTES = 4_000
# tried in turn until a panel fits: side relative to the original, JPEG quality
RECOMPRESSIONS = [(scale, quality) for scale in (1, 0.8, 0.6, 0.45, 0.3, 0.2) for quality in (90, 80, 65)]
DECIMALS = {"hd95": 2, "hd95_mm": 2}
METRIC_NAMES = {
    "dice": "Dice", "iou": "IoU", "hd95": "HD95, pixels", "hd95_mm": "HD95, mm", "nsd": f"NSD, tolerance {NSD_TOLERANCE:g} pixels",
    "nsd_mm": f"NSD, tolerance {NSD_TOLERANCE_MM:g} mm", "sensitivity": "Sensitivity", "specificity": "Specificity",
    "pixel_accuracy": "Pixel accuracy", "ece": "ECE",
}  # fmt: skip
COUNT_NAMES = {
    "empty_label": "Ground truth empty", "empty_prediction": "Prediction empty", "both_empty": "Both empty",
    "one_empty": "Exactly one empty",
}  # fmt: skip
GLANCE = ("dice", "hd95", "hd95_mm", "nsd", "nsd_mm")  # metrics that get a plot
CURVES = {
    "task": "Task term", "distill": "Distillation term", "feature": "Feature term", "loss": "Total loss",
    "val_mean_dice": "Validation Dice",
}  # fmt: skip
PANEL_GROUPS = ("best", "median", "worst")


class Section(NamedTuple):
    """A part of the page: of what in the report, how it is rendered ("" when there is nothing to show), and what it says then."""

    key: str
    title: str
    render: Callable[[Any], str]
    missing: str


def write_report(report: Mapping[str, Any], panels: Sequence[Mapping[str, Any]], output_dir: str | Path) -> Path:
    """Write report.json and report.html, each in one step; returns the path of the page.

    Args:
        report: all parts are optional. title, created: str. about: settings by name; its item "description" is printed below the
            title. warnings: list of str. arms, comparisons, subgroups, areas: as scripts.statistics gives them. calibration: by arm
            `calibration.Reliability.summary`. failures: dicts of case, arm, seed, reason, image (its path). curves: by arm and seed
            the columns of history.csv, None where an epoch has no value.
        panels: dicts of group ("best", "median", "worst"), title, and png, a path; one that cannot be read is told.
        output_dir: made when it is not there.

    Raises:
        ValueError: a number of the report is not finite, or a value is none of JSON's.
    """
    report, output_dir = _plain(report), Path(output_dir)
    text = json.dumps(report, allow_nan=False, ensure_ascii=False, indent=1)
    page = render_page(report, panels)
    for name, content in (("report.json", text + "\n"), ("report.html", page)):
        with atomic_path(output_dir / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return output_dir / "report.html"


def _plain(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report as JSON reads it back: arrays are lists, numbers of numpy numbers, paths and keys texts."""
    plain = json.loads(json.dumps(report, default=_plain_value))
    for name, value in _numbers(plain, "report"):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}, expected a finite number, or None where there is none.")
    return plain


def _plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"the report holds {value!r} of type {type(value).__name__}, expected what JSON knows.")


def _numbers(value: Any, name: str) -> Iterable[tuple[str, float]]:
    """Floats below a value with their ids."""
    if isinstance(value, float):
        yield name, value
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _numbers(item, f"{name}::{key}")


def render_page(report: Mapping[str, Any], panels: Sequence[Mapping[str, Any]]) -> str:
    """The page as HTML; see `write_report`. Panels share the bytes that the rest leaves of MAX_BYTES."""
    parts = {section.key: _section(section, report.get(section.key)) for section in SECTIONS if section.key != "panels"}
    head = {
        "title": _text(report.get("title") or "Evaluation"),
        "style": STYLE,
        "lead": _lead(report),
        "warnings": _warnings(report.get("warnings")),
        "verdicts": _verdicts(report.get("comparisons") or []),
        "links": "".join(f'<a href="#{section.key}">{section.title}</a>' for section in SECTIONS),
    }
    used = len("".join([*head.values(), *parts.values()]).encode()) + len(PAGE)
    pictures = _embed_panels(panels, MAX_BYTES - used)
    ordered = [_section(section, pictures) if section.key == "panels" else parts[section.key] for section in SECTIONS]
    return Template(PAGE).substitute(head, sections="".join(ordered))


def _section(section: Section, data: Any) -> str:
    body = (section.render(data) if data else "") or f'<p class="missing">{section.missing}</p>'
    heading = f'<h2 id="{section.key}-title">{section.title}</h2>'
    return f'<section id="{section.key}" aria-labelledby="{section.key}-title">{heading}{body}</section>\n'


# Pieces of HTML. Cells and notes are HTML already, everything else is text and escaped here.


def _text(value: Any) -> str:
    """Escaped; a dash where there is nothing."""
    return "–" if value is None or value == "" else escape(str(value))


def _number(value: float | None, decimals: int = 3) -> str:
    """With a minus sign, and thousands apart; a dash for None."""
    return "–" if value is None else f"{value:,.{decimals}f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _interval(summary: Mapping[str, Any], decimals: int = 3, key: str = "mean") -> str:
    """0.850 [0.840, 0.860]; without an interval the number alone."""
    low, high = summary.get("low"), summary.get("high")
    ends = "" if low is None or high is None else f' <span class="ci">[{_number(low, decimals)}, {_number(high, decimals)}]</span>'
    return f"<b>{_number(summary.get(key), decimals)}</b>{ends}"


def _table(caption: str, columns: Sequence[str], groups: Mapping[str, Sequence[Sequence[str]]], kind: str = "numbers") -> str:
    """A table that scrolls in itself.

    Args:
        caption: text, also the name of the scrolling region.
        columns: cells of the head.
        groups: rows by the title of their group; "" has no title. The first cell of a row is its heading.
        kind: numbers (to the right) or texts (to the left).
    """
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(_table_group(title, rows, len(columns)) for title, rows in groups.items() if rows)
    table = f'<table class="{kind}"><caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead>{body}</table>'
    return _scrolling(table, caption)


def _table_group(title: str, rows: Sequence[Sequence[str]], width: int) -> str:
    heading = f'<tr class="group"><th scope="rowgroup" colspan="{width}">{_text(title)}</th></tr>' if title else ""
    lines = (f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for first, *cells in rows)
    return f"<tbody>{heading}{''.join(lines)}</tbody>"


def _scrolling(content: str, name: str) -> str:
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(name)}">{content}</div>'


def _plot(title: str, svg: str, note: str = "") -> str:
    """A plot under its title (HTML), with a note (text)."""
    below = f"<p>{_text(note)}</p>" if note else ""
    return f'<figure class="plot"><figcaption><b>{title}</b></figcaption>{svg}{below}</figure>'


def _plots(plots: Sequence[str]) -> str:
    """Plots in rows of three, or four where that fills the row."""
    return f'<div class="plots{" four" if len(plots) == 4 else ""}">{"".join(plots)}</div>'


def _arm(arm: Any) -> str:
    """The arm's name with its color."""
    style = arm_style(str(arm))
    return f'<span class="arm"><i style="border-top:3px {style.line} {style.color}"></i>{_text(style.name)}</span>'


def _legend(arms: Iterable[str]) -> str:
    return f'<p class="legend">{" ".join(map(_arm, arms))}</p>'


def _metric(metric: Any) -> str:
    """The metric's name with its unit and an arrow to where it is better."""
    base, _, number = str(metric).partition("_class")
    name = METRIC_NAMES.get(base, base.replace("_", " ")) + (f", class {number}" if number else "")
    arrow, word = ("↓", "lower") if base in LOWER_IS_BETTER else ("↑", "higher")
    label = f'title="{word} is better" role="img" aria-label="{word} is better"'
    return f'{_text(name)}&nbsp;<span class="arrow" {label}>{arrow}</span>'


def _metric_text(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def _decimals(metric: Any) -> int:
    return DECIMALS.get(str(metric).partition("_class")[0], 3)


def _count(number: Any, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# The top of the page.


def _lead(report: Mapping[str, Any]) -> str:
    """What the report is about, in a sentence and a line."""
    about, arms = report.get("about") or {}, report.get("arms") or {}
    description = about.get("description") or DESCRIPTION
    facts = [*_sizes(arms), f"created {report['created']}" if report.get("created") else ""]
    line = " · ".join(_text(fact) for fact in facts if fact)
    return f'<p class="lead">{_text(description)}</p>' + (f'<p class="facts">{line}</p>' if line else "")


def _sizes(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Cases and patients, as many as the arms agree on, and the arms."""
    found = []
    for key, noun in (("num_cases", "case"), ("num_patients", "patient")):
        numbers = {arm.get(key) for arm in arms.values()} - {None}
        found += [_count(number, noun) for number in numbers] if len(numbers) == 1 else []
    return [*found, ", ".join(arm_style(arm).name.lower() for arm in arms)]


def _warnings(warnings: Sequence[str] | None) -> str:
    if not warnings:
        return '<p class="missing">No warnings.</p>'
    items = "".join(f"<li>{_text(warning)}</li>" for warning in warnings)
    return f'<aside class="warnings" aria-label="Warnings"><h2>⚠ {_count(len(warnings), "warning")}</h2><ul>{items}</ul></aside>'


def _verdicts(comparisons: Sequence[Mapping[str, Any]]) -> str:
    if not comparisons:
        return '<p class="missing">No two arms were compared, so there is no verdict.</p>'
    pairs: dict[str, list[str]] = {}
    for comparison in comparisons:
        pairs.setdefault(_pair(comparison), []).append(_verdict(comparison))
    cards = (f"<div><dt>{pair}</dt>{''.join(verdicts)}</div>" for pair, verdicts in pairs.items())
    return f'<dl class="verdicts">{"".join(cards)}</dl>'


def _verdict(comparison: Mapping[str, Any]) -> str:
    """The metric, and the verdict as a sentence."""
    sentence = str(comparison.get("verdict") or "no verdict").strip()
    sentence = sentence[0].upper() + sentence[1:] + ("" if sentence.endswith(".") else ".")
    return f"<dd><span>{_metric(comparison.get('metric', ''))}</span> {_text(sentence)}</dd>"


def _pair(comparison: Mapping[str, Any]) -> str:
    return f"{_arm(comparison.get('arm', ''))} against {_arm(comparison.get('reference', ''))}"


# The sections.


def _render_arms(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """A plot for the metrics of GLANCE, and the table of all metrics and counts."""
    metrics = list(dict.fromkeys(name for arm in arms.values() for name in arm.get("metrics") or {}))
    columns = ["Metric", *(f"{_arm(arm)}<small>{', '.join(_arm_sizes(summary))}</small>" for arm, summary in arms.items())]
    counts = [name for name in COUNT_NAMES if any(name in (arm.get("counts") or {}) for arm in arms.values())]
    groups = {
        "Mean over cases [95 % interval over patients]": [_metric_row(name, arms) for name in metrics],
        "Empty masks, summed over cases and seeds": [
            [COUNT_NAMES[name], *(_text((arm.get("counts") or {}).get(name)) for arm in arms.values())] for name in counts
        ],
    }
    notes = "" if counts else '<p class="missing">Empty masks were not counted.</p>'
    return _glance(arms) + _table("Metrics and empty masks of each arm", columns, groups) + notes + ARMS_NOTE


def _arm_sizes(summary: Mapping[str, Any]) -> list[str]:
    sizes = (("num_cases", "case"), ("num_patients", "patient"), ("num_seeds", "seed"))
    return [_text(_count(summary[key], noun)) for key, noun in sizes if key in summary] or ["nothing measured"]


def _metric_row(metric: str, arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = [(arm.get("metrics") or {}).get(metric) for arm in arms.values()]
    return [_metric(metric), *(_metric_cell(summary, _decimals(metric)) if summary else "–" for summary in found)]


def _metric_cell(summary: Mapping[str, Any], decimals: int) -> str:
    seeds = [value for value in (summary.get("seed_means") or {}).values() if value is not None]
    spread = f"seeds {_number(min(seeds), decimals)} to {_number(max(seeds), decimals)}" if len(seeds) > 1 else "one seed"
    return f"{_interval(summary, decimals)}<small>{spread}</small>"


def _glance(arms: Mapping[str, Mapping[str, Any]]) -> str:
    plots = []
    for metric in GLANCE:
        found = {name: (arm.get("metrics") or {}).get(metric) for name, arm in arms.items()}
        found = {name: summary for name, summary in found.items() if summary and summary.get("mean") is not None}
        if found:
            decimals = _decimals(metric)
            values = ", ".join(f"{arm_style(name).name} {_number(summary['mean'], decimals)}" for name, summary in found.items())
            plots.append(_plot(_metric(metric), interval_plot(found, f"{_metric_text(metric)}: {values}")))
    return _plots(plots) + '<p class="note">Marker: mean. Line: 95 % interval. Circles: seeds.</p>' if plots else ""


def _render_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    columns = ["Comparison", "Metric", "Difference [95 % interval]", "p", "Patients", "Spread of seeds", "Margin", "Non-inferior"]
    rows = [_comparison_row(comparison) for comparison in comparisons]
    tests = sorted({str(comparison["test"]) for comparison in comparisons if comparison.get("test")})
    note = "The difference is the first arm less the second, so that above 0 the first has the larger value."
    note += f" p: {_text('; '.join(tests))}, two-sided." if tests else ""
    return _table("Arms compared, paired on cases", columns, {"": rows}) + f'<p class="note">{note}</p>'


def _comparison_row(comparison: Mapping[str, Any]) -> list[str]:
    decimals, p_value = _decimals(comparison.get("metric")), comparison.get("p_value")
    spread, passed = comparison.get("seed_spread"), comparison.get("non_inferior")
    return [
        _pair(comparison),
        _metric(comparison.get("metric", "")),
        _interval(comparison, decimals, "difference"),
        "&lt; 0.001" if p_value is not None and p_value < 0.001 else _number(p_value),
        _text(comparison.get("num_patients")),
        "unknown" if spread is None else _number(spread, decimals),
        _number(comparison.get("margin"), decimals),
        "not asked" if passed is None else "yes" if passed else "not shown",
    ]


def _render_curves(curves: Mapping[str, Mapping[str, Mapping[str, Sequence]]]) -> str:
    """A plot for each of CURVES that some seed has, and a sentence on those that none has or that are 0."""
    plots, absent, zero = [], [], []
    for column, title in CURVES.items():
        values = [value for seeds in curves.values() for columns in seeds.values() for _, value in curve_points(columns, column)]
        if not values:
            absent.append(title.lower())
        elif not any(values):
            zero.append(title.lower())
        else:
            arms = ", ".join(arm_style(arm).name for arm in curves)
            plots.append(_plot(title, curve_plot(curves, column, f"{title} over epochs: {arms}")))
    if not plots and not zero:
        return ""
    notes = ["A line a seed."] if plots else []
    notes += [f"Not recorded: {', '.join(absent)}."] if absent else []
    notes += [f"0 in all epochs, so not drawn: {', '.join(zero)}."] if zero else []
    return _legend(curves) + _plots(plots) + f'<p class="note">{" ".join(notes)}</p>'


def _render_panels(pictures: Sequence[Mapping[str, str]]) -> str:
    groups = [*PANEL_GROUPS, *dict.fromkeys(one["group"] for one in pictures if one["group"] not in PANEL_GROUPS)]
    found = {group: "".join(one["html"] for one in pictures if one["group"] == group) for group in groups}
    return "".join(f"<h3>{_text(group.capitalize())}</h3>{html}" for group, html in found.items() if html)


def _render_areas(areas: Mapping[str, Mapping[str, Any]]) -> str:
    """A plot an arm, arms of one unit on the same axes."""
    plots = []
    for arm, area in areas.items():
        if not area.get("points"):
            plots.append(f'<p class="missing">{_arm(arm)}: no areas were recorded.</p>')
            continue
        limits = area_limits(other for other in areas.values() if other.get("unit") == area.get("unit"))
        unit, (bias, low, high) = unit_name(area.get("unit")), (_area(area.get(key)) for key in ("bias", "low", "high"))
        note = f"Bias {bias} {unit}, limits of agreement {low} to {high} {unit}.{_farthest(area, unit)}"
        alt = f"Bland-Altman plot of {arm_style(arm).name}: bias {bias}, limits of agreement {low} to {high} {unit}"
        plots.append(_plot(_arm(arm), bland_altman_plot(area, arm, limits, alt), note))
    return _plots(plots) + AREAS_NOTE


def _area(value: float | None) -> str:
    return _number(value, 0 if value is not None and abs(value) >= 100 else 1)


def _farthest(area: Mapping[str, Any], unit: str) -> str:
    """The case with the largest difference, where the cases are named."""
    points, cases = area["points"], area.get("cases") or []
    if len(cases) != len(points):
        return ""
    index = max(range(len(points)), key=lambda i: abs(points[i][1]))
    return f" Largest difference: {_area(points[index][1])} {unit} in {cases[index]}."


def _render_calibration(calibration: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ["Arm", "ECE", "Accuracy", "Mean confidence", "Wrong pixels with confidence above 0.9"]
    rows = [[_arm(arm), *_calibration_cells(summary)] for arm, summary in calibration.items()]
    drawn = {arm: summary for arm, summary in calibration.items() if any(one["count"] for one in summary.get("bins") or [])}
    plots = [_plot(_arm(arm), reliability_plot(summary, arm, _reliability_alt(arm, summary))) for arm, summary in drawn.items()]
    return _table("Calibration over all pixels of the test cases", columns, {"": rows}) + _plots(plots) + CALIBRATION_NOTE


def _calibration_cells(summary: Mapping[str, Any]) -> list[str]:
    figures = [_number(summary.get(key)) for key in ("ece", "accuracy", "mean_confidence")]
    return [*figures, _percent(summary.get("confident_errors"))]


def _reliability_alt(arm: str, summary: Mapping[str, Any]) -> str:
    figures = f"accuracy {_number(summary.get('accuracy'))}, mean confidence {_number(summary.get('mean_confidence'))}"
    return f"Reliability diagram of {arm_style(arm).name}: ECE {_number(summary.get('ece'))}, {figures}"


def _render_subgroups(subgroups: Sequence[Mapping[str, Any]]) -> str:
    arms = list(dict.fromkeys(arm for row in subgroups for arm in row.get("arms") or {}))
    groups: dict[str, list[list[str]]] = {}
    for row in subgroups:
        means = [_interval(row["arms"][arm]) if arm in (row.get("arms") or {}) else "–" for arm in arms]
        groups.setdefault(str(row.get("column")), []).append([_text(row.get("group")), _text(row.get("num_cases")), *means])
    return _table("Dice by subgroup, mean [95 % interval]", ["Group", "Cases", *map(_arm, arms)], groups) + SUBGROUPS_NOTE


def _render_failures(failures: Sequence[Mapping[str, Any]]) -> str:
    rows = [_failure_row(failure) for failure in failures[:MAX_FAILURES]]
    left = len(failures) - len(rows)
    note = f'<p class="note">{left} more are in report.json.</p>' if left else ""
    return _table(f"{_count(len(failures), 'failure')}", ["Case", "Arm", "Seed", "Reason", "Image"], {"": rows}, "texts") + note


def _failure_row(failure: Mapping[str, Any]) -> list[str]:
    seed, reason, image = (_text(failure.get(key)) for key in ("seed", "reason", "image"))
    return [_text(failure.get("case")), _arm(failure.get("arm", "")), seed, reason, f"<code>{image}</code>"]


def _render_settings(about: Mapping[str, Any]) -> str:
    rows = [[_text(name), _text(value)] for name, value in about.items() if name != "description"]
    return _table("What was run, and on what", ["Setting", "Value"], {"": rows}, "texts")


# Panels.


def _embed_panels(panels: Sequence[Mapping[str, Any]], budget: int) -> list[dict[str, str]]:
    """Group and HTML of each panel; together they take at most `budget` bytes."""
    pictures = []
    for i, panel in enumerate(panels):
        share = (budget - sum(len(one["html"].encode()) for one in pictures)) // (len(panels) - i)
        pictures.append({"group": str(panel.get("group") or "other"), "html": _panel(panel, share)})
    return pictures


def _panel(panel: Mapping[str, Any], budget: int) -> str:
    """A panel as a figure of at most `budget` bytes, or a sentence on why it is not there."""
    path = Path(panel["png"])
    group, title = str(panel.get("group") or ""), str(panel.get("title") or path.stem)
    head = f'<figure class="panel"><figcaption>{_text(title)}'
    alt = _text(f"{group} case {title}: input, ground truth, predictions, overlay and differences".strip())
    try:
        data, kind, (width, height) = fit_picture(path, 3 * (budget - len((head + alt + title).encode()) - 600) // 4)
    except (OSError, ValueError) as error:
        return f'<p class="missing">{_text(title)} is not shown: {_text(error)}</p>'
    note = "" if kind == "png" else f' <span class="note">{RECOMPRESSED}</span>'
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image = f'<img src="{source}" alt="{alt}" width="{width}" height="{height}">'
    return f"{head}{note}</figcaption>{_scrolling(image, f'Panel of {title}')}</figure>"


def fit_picture(path: Path, budget: int) -> tuple[bytes, str, tuple[int, int]]:
    """Bytes of a PNG, "png" and its size (W, H); above the budget as a JPEG, smaller in quality and then in size until it fits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no PNG that can be read, or does not fit at any size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; draw it again.")
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture = picture.convert("RGBA")
    except (OSError, SyntaxError):
        raise ValueError(f"{path.name} is no PNG that can be read; draw it again.") from None
    if len(data) <= budget:
        return data, "png", picture.size
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    for scale, quality in RECOMPRESSIONS if budget >= MIN_PANEL_BYTES else ():
        small = flat.resize([max(1, round(scale * side)) for side in flat.size], Image.Resampling.LANCZOS) if scale < 1 else flat
        file = io.BytesIO()
        small.save(file, "JPEG", quality=quality, subsampling=0)  # as many colors as pixels, for thin outlines
        if file.tell() <= budget:
            return file.getvalue(), "jpeg", small.size
    raise ValueError(f"{path.name} of {len(data):,} bytes does not fit into the {max(budget, 0):,} bytes left; pass fewer panels.")


DESCRIPTION = "How well each network segments the test cases, and what the difference between them is worth."
RECOMPRESSED = "Recompressed to keep the report below 5 MB."
ARMS_NOTE = """<p class="note">Every case counts. Exactly one mask empty: Dice, IoU and NSD 0, HD95 the diagonal of the image.
Both empty: Dice, IoU and NSD 1, HD95 0. A case's value is its mean over the seeds.</p>"""
AREAS_NOTE = """<p class="note">A point a case: the difference of predicted and true lesion area over the mean of both. Thick line:
bias, the mean difference. Dashed: limits of agreement, bias ± 1.96 standard deviations.</p>"""
CALIBRATION_NOTE = """<p class="note">A bar a bin of confidence; below the dashed line the network is surer than it is right. The
lower plot is each bin's share of the pixels, on a logarithmic axis. ECE here is over all pixels together, in the table of the arms
the mean over cases.</p>"""
SUBGROUPS_NOTE = """<p class="note">Groups were not fixed beforehand and are not corrected for their number: they raise questions
and are no verdicts.</p>"""

SECTIONS = (
    Section("arms", "Arms side by side", _render_arms, "No arm was measured."),
    Section("comparisons", "Comparisons", _render_comparisons, "No two arms were compared."),
    Section("curves", "Learning curves", _render_curves, "The trainings of these networks left no learning curves here."),
    Section("panels", "Best, median and worst cases", _render_panels, "No cases were drawn."),
    Section("areas", "Lesion area", _render_areas, "Lesion areas were not recorded."),
    Section("calibration", "Calibration", _render_calibration, "Confidences were not recorded."),
    Section("subgroups", "Subgroups", _render_subgroups, "The datalist has no columns to tell subgroups by."),
    Section("failures", "Failures", _render_failures, "No failures are listed."),
    Section("about", "Settings", _render_settings, "No settings were recorded."),
)

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #5b6570; --line: #d9dee4; --card: #f5f7f9;
  --accent: #0b63b5; --warn: #fff4d6; --warn-line: #d99a00; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --ink: #e6e9ed; --soft: #a3adb8; --line: #343b43; --card: #1c2126;
  --accent: #7cb8f2; --warn: #33290f; --warn-line: #c8920f; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 74rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
section { padding: 1.6rem 0; border-top: 1px solid var(--line); }
.lead { font-size: 1.1rem; margin: 0; }
.facts, .note, .missing, small, .plot p { color: var(--soft); }
.facts { margin: .3rem 0 1rem; }
.note, .plot p, small { font-size: .84rem; }
.missing { font-style: italic; }
small { display: block; font-weight: normal; }
thead small { white-space: normal; min-width: 8.5rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: .9rem 0; font-size: .92rem; }
.warnings { background: var(--warn); border: 1px solid var(--warn-line); border-left-width: 6px; border-radius: 6px;
  padding: .8rem 1.1rem; margin: 1rem 0; }
.warnings h2 { font-size: 1rem; margin: 0 0 .3rem; }
.warnings ul { margin: 0; padding-left: 1.2rem; }
.verdicts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .8rem;
  margin: 1rem 0; }
.verdicts div { background: var(--card); border-radius: 6px; border-left: 4px solid var(--accent); padding: .7rem 1rem; }
.verdicts dt { font-weight: 600; margin-bottom: .2rem; }
.verdicts dd { margin: .25rem 0 0; font-size: .9rem; }
.verdicts dd:first-of-type { font-size: 1rem; font-weight: 600; }
.verdicts dd span:first-child { color: var(--soft); font-weight: 400; margin-right: .2em; }
.arm { white-space: nowrap; }
.arm i { display: inline-block; width: 1.3em; margin: 0 .4em 0 .15em; vertical-align: .25em; }
.arrow { color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin: 0 0 .6rem; font-size: .92rem; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .84rem; padding-bottom: .4rem; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 8.5rem; }
th[scope="row"], thead th:first-child { position: sticky; left: 0; background: var(--page); }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; white-space: nowrap; }
.group th { background: var(--card); font-size: .84rem; font-weight: 600; color: var(--soft); }
.ci { color: var(--soft); }
code { font-size: .86em; overflow-wrap: anywhere; }
figure { margin: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
  gap: 1rem 1.6rem; margin: .4rem 0 .8rem; }
.plots.four { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.plot figcaption { font-size: .92rem; margin-bottom: .2rem; }
.plot p { margin: .2rem 0 0; }
.plot svg { display: block; width: 100%; max-width: 27rem; height: auto; font-family: inherit; }
.plot svg * { stroke-linejoin: round; }
.panel { margin: 0 0 1.2rem; }
.panel figcaption { font-size: .92rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
.panel img { display: block; width: 100%; min-width: 52rem; height: auto; background: #fff; border-radius: 4px; }
footer { padding-top: 1.4rem; padding-bottom: 2.5rem; border-top: 1px solid var(--line); color: var(--soft); }
footer strong { color: var(--ink); }
@media print { :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --card: #f3f3f3;
  --warn: #fff4d6; }
  body { font-size: 10pt; } nav { display: none; } .scroll { overflow: visible; } .panel img { min-width: 0; }
  figure, tr, .warnings, .verdicts div { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
$verdicts
$warnings
<nav aria-label="Sections">$links</nav>
</header>
<main>
$sections</main>
<footer><p><strong>Not for clinical use.</strong> Figures of a research evaluation on the cases named above; all of them are in
report.json beside this file.</p></footer>
</body>
</html>
"""
