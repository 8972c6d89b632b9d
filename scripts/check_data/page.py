"""The page of a check: what was found, the settings and why, the figures of each list, and pictures. No script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from ..data.prior import NARROW
from ..data.splits import SPLITS
from ..report.page import as_number, as_percent, as_plot, as_plots, as_table, as_text
from ..report.plots import heat_map, histogram_plot
from ..report.style import PAGE, STYLE
from ..utils.screen import plural
from .commands import next_commands
from .findings import ERROR, NOTE, PATCH, WARNING, Finding, columns, diameters, list_figures
from .pictures import contact_sheet
from .suggest import Plan
from .survey import Survey

TITLES = {ERROR: "Errors", WARNING: "Warnings", NOTE: "Notes"}
MAX_NAMED, MAX_GROUPS = 20, 50  # names of a finding, and groups of look-alikes, on the page; check.json has all
FOOTER = (
    "Pictures of your data are in this page: share it only where you may share them. All figures are in check.json "
    "beside this file."
)
OWN_STYLE = """
.finding { border-left: 4px solid var(--line); background: var(--card); border-radius: 6px; padding: .6rem 1rem;
  margin: .5rem 0; overflow-wrap: anywhere; }
.finding.error { border-color: #d1242f; }
.finding.warning { border-color: var(--warn-line); }
.finding b { margin-right: .4em; }
.finding details { margin-top: .3rem; font-size: .84rem; color: var(--soft); }
.reasons td:nth-child(2) { min-width: 22rem; }
.reasons td:nth-child(3) { min-width: 16rem; }
.reasons code { display: block; }
pre { background: var(--card); border-radius: 6px; padding: .7rem 1rem; margin: .2rem 0 1rem; font-size: .84rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .8rem; }
.sheet img { display: block; width: 100%; height: 9.5rem; object-fit: contain; background: #000; border-radius: 4px; }
.sheet figcaption { font-size: .78rem; overflow-wrap: anywhere; margin-top: .2rem; }
"""


def render_page(survey: Survey, findings: Sequence[Finding], plan: Plan, settings: Path) -> str:
    """The page as HTML.

    Args:
        survey: of the data set.
        findings: on it.
        plan: what to do with it.
        settings: the overlay's file.
    """
    img_size = plan.settings.get("data::img_size", 0)
    parts = {
        "findings": ("Findings", _findings(findings)),
        "settings": ("Suggested settings", _settings(plan, survey, settings)),
        "lists": ("Lists", _lists(survey)),
        "images": ("Size and brightness", _images(survey)),
        "lesions": ("Lesions", _lesions(survey, img_size) if img_size else ""),
        "columns": ("Columns of the datalist", _columns(survey)),
        "alike": ("Images that look alike", _alike(survey)),
        "pictures": ("Pictures", contact_sheet(survey)),
    }
    shown = {key: (title, body) for key, (title, body) in parts.items() if body}
    title = as_text(f"Check of {survey.folder.name}")
    return Template(PAGE).substitute(
        title=title,
        style=STYLE + OWN_STYLE,
        lead=_lead(survey, findings),
        facts="",
        verdicts="",
        warnings="",
        links="".join(f'<a href="#{key}">{name}</a>' for key, (name, _) in shown.items()),
        sections="".join(_section(key, name, body) for key, (name, body) in shown.items()),
        footer=FOOTER,
        store="",
        cards="",
        script="",
        script_source="'none'",
    )


def _section(key: str, title: str, body: str) -> str:
    heading = f'<h2 id="{key}-title">{title}</h2>'
    return f'<section id="{key}" aria-labelledby="{key}-title">{heading}{body}</section>\n'


def _lead(survey: Survey, findings: Sequence[Finding]) -> str:
    numbers = {level: sum(one.level == level for one in findings) for level in TITLES}
    told = "A training would refuse this data set, or its figures would be too good." if numbers[ERROR] else ""
    lead = told or "A training can start with this data set."
    counts = ", ".join(plural(number, level) for level, number in numbers.items())
    images = " · ".join(f"{split} {number}" for split, number in survey.num_images.items() if number)
    return f'<p class="lead">{lead}</p><p class="about">{counts} · images: {images or "none"}</p>'


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>Nothing stands out.</p>"
    return "".join(
        f'<div class="finding {one.level}"><b>{TITLES[one.level][:-1]}.</b>{as_text(one.text)}{_cases(one.cases)}</div>'
        for one in findings
    )


def _cases(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MAX_NAMED} more in check.json" if len(names) > MAX_NAMED else ""
    listed = ", ".join(map(as_text, names[:MAX_NAMED]))
    return f"<details><summary>{plural(len(names), 'image')}</summary>{listed}{more}</details>"


def _settings(plan: Plan, survey: Survey, settings: Path) -> str:
    rows = [
        [as_text(one.title), "".join(map(_setting, one.settings.items())) or "as it is", as_text(one.reason)]
        for one in plan.suggestions
    ]
    columns = ["", f"In {as_text(settings.name)}", "Why"]
    table = as_table("An overlay of configs/train.json", columns, {"": rows}, "texts reasons")
    commands = next_commands(plan.kind, survey, settings)
    steps = "".join(f"<p>{as_text(what)}:</p><pre>{as_text(command)}</pre>" for what, command in commands)
    return f"{table}<h3>Next</h3>{steps}"


def _setting(pair: tuple[str, Any]) -> str:
    key, value = pair
    text = value if isinstance(value, str) else json.dumps(value)  # as the file has it: true, not True
    return f"<code>{as_text(key)}: {as_text(text)}</code>"


def _lists(survey: Survey) -> str:
    figures = list_figures(survey)
    rows = {
        "Images": lambda one: as_number(one["images"], 0),
        "that cannot be used": lambda one: as_number(one["refused"], 0),
        "Patients": lambda one: "unknown" if one["patients"] is None else as_number(one["patients"], 0),
        "With a lesion": lambda one: as_number(one["with_lesion"], 0),
        "Without a lesion": lambda one: as_number(one["without_lesion"], 0),
        "With the size of a pixel": lambda one: as_number(one["with_pixel_mm"], 0),
        "Width": lambda one: _span(one["width"], 0),
        "Height": lambda one: _span(one["height"], 0),
        "Brightness": lambda one: _span(one["brightness"], 2),
        "Lesion, % of the image": lambda one: _span(one["lesion_share"], 1, 100),
        "Pixels": lambda one: as_text(", ".join(f"{kind} ({number})" for kind, number in one["kinds"].items())),
    }
    lines = [[title, *(cell(one) for one in figures.values())] for title, cell in rows.items()]
    classes = [
        [as_text(name), *(_class_cell(one["classes"].get(name)) for one in figures.values())]
        for name in survey.labels[1:]
    ]
    groups = {"": lines, "Images that show a class, and its median share of them": classes}
    return as_table("Median (smallest to largest)", ["", *figures], groups) if figures else ""


def _span(values: Mapping[str, float] | None, decimals: int, scale: float = 1) -> str:
    if values is None:
        return "–"
    low, middle, high = (as_number(scale * values[key], decimals) for key in ("min", "median", "max"))
    return f'{middle} <span class="ci">({low} to {high})</span>'


def _class_cell(one: Mapping[str, Any] | None) -> str:
    return f"{one['images']}, {as_percent(one['share']['median'])}" if one and one["images"] else "–"


def _images(survey: Survey) -> str:
    splits = [split for split in survey.num_images if survey.of(split)]
    if not splits:
        return ""
    longer = {split: [max(one.size) for one in survey.of(split)] for split in splits}
    differ = len({side for sides in longer.values() for side in sides}) > 1  # the table tells the size that all have
    brightness = {split: [one.brightness for one in survey.of(split)] for split in splits}
    named = ", ".join(splits)
    plots = [as_plot("Brightness", histogram_plot(brightness, "mean gray value", f"Histogram of brightness: {named}"))]
    if differ:
        alt = f"Histogram of the longer side: {named}"
        plots.append(as_plot("Longer side", histogram_plot(longer, "pixels", alt)))
    return as_plots(plots)


def _lesions(survey: Survey, img_size: int) -> str:
    shown = {split: survey.with_lesion(split) for split in SPLITS if survey.with_lesion(split)}
    if not shown:
        return ""
    sizes = {split: [size for one in ones for size in diameters(one, img_size)] for split, ones in shown.items()}
    alt = f"Histogram of lesion diameters: {', '.join(sizes)}"
    note = f"Of a circle of each class's area, at {img_size} pixels a side. Dashed: a patch of the student."
    plots = [as_plot("Diameter of lesions", histogram_plot(sizes, "pixels", alt, PATCH), note)]
    for split, ones in shown.items():
        shares = np.mean([one.lesions.coverage for one in ones], axis=0)
        alt = f"Where the lesions of {split} lie; the most covered place is covered in {shares.max():.0%} of the images"
        note = f"{len(ones)} images. Between the dashed lines: {NARROW:g} of the width on both sides of the middle."
        plots.append(as_plot(f"Where lesions lie, {split}", heat_map(shares, alt, (0.5 - NARROW, 0.5 + NARROW)), note))
    return as_plots(plots)


def _columns(survey: Survey) -> str:
    tables = columns(survey)
    splits = [split for split, number in survey.num_images.items() if number]
    groups = {
        name: [
            [
                as_text(value),
                *(as_number(row["images"].get(split, 0), 0) for split in splits),
                as_number(row["brightness"], 2),
            ]
            for value, row in values.items()
        ]
        for name, values in tables.items()
    }
    return as_table("Images by list", ["Value", *splits, "Median brightness"], groups) if groups else ""


def _alike(survey: Survey) -> str:
    rows = [
        [str(number), "<br>".join(f"{as_text(survey.name(image))} ({split})" for image, split in group)]
        for number, group in enumerate(survey.alike[:MAX_GROUPS], 1)
    ]
    more = len(survey.alike) - len(rows)
    note = f'<p class="note">{more} more groups are in check.json.</p>' if more > 0 else ""
    caption = "The same picture in another format or size, or neighboring frames of a recording"
    return as_table(caption, ["Group", "Images"], {"": rows}, "texts") + note if rows else ""
