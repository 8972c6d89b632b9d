"""The report as files: report.html, one page that opens from disk without a network, and report.json beside it.

The page has no script and a policy that forbids the browser to fetch anything. Plots are inline SVG, panels data URIs.
It follows the reader's light or dark setting, prints, and fits a phone, where tables scroll.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from ..utils.files import atomic_path
from .page import PAGE, STYLE, as_text
from .pictures import embed_panels
from .sections import SECTIONS, render_lead, render_section, render_verdicts, render_warnings

MAX_BYTES = 4_900_000  # of report.html


def write_report(report: Mapping[str, Any], panels: Sequence[Mapping[str, Any]], output_dir: str | Path) -> Path:
    """Write report.json and report.html, each in one step; returns the path of the page.

    Args:
        report: all parts are optional. title and created are texts. about holds settings by name; its item
            "description" is printed below the title. warnings is a list of texts. arms, comparisons, subgroups and
            areas are as evaluation/statistics.py and evaluation/subgroups.py give them. calibration holds
            `Reliability.summary` by arm. failures are dicts of case, arm, seed and reason. curves holds the columns of
            history.csv by arm and seed, None where an epoch has no value.
        panels: dicts of group ("best", "median", "worst"), title, and png, a path. The page says which cannot be read.
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
    parts = {section.key: render_section(section, report.get(section.key)) for section in SECTIONS}
    head = {
        "title": as_text(report.get("title") or "Evaluation"),
        "style": STYLE,
        "lead": render_lead(report),
        "warnings": render_warnings(report.get("warnings")),
        "verdicts": render_verdicts(report.get("comparisons") or []),
        "links": "".join(f'<a href="#{section.key}">{section.title}</a>' for section in SECTIONS),
    }
    used = len("".join([*head.values(), *parts.values()]).encode()) + len(PAGE)
    pictures = embed_panels(panels, MAX_BYTES - used)
    panels_section = next(section for section in SECTIONS if section.key == "panels")
    parts["panels"] = render_section(panels_section, pictures)
    return Template(PAGE).substitute(head, sections="".join(parts.values()))
