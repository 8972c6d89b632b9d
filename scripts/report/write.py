"""The report as files: report.html, one page that opens from disk without a network, and report.json beside it.

A policy forbids the browser to fetch anything, and to run any script but the page's own, without which the page is
whole. Plots are inline SVG, images data URIs. It follows the reader's light or dark setting, prints, and fits a phone,
where tables scroll.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from ..utils.files import atomic_path
from .album import Album
from .head import render_facts, render_lead, render_verdicts, render_warnings
from .page import as_text
from .script import SCRIPT
from .sections import render_sections
from .style import PAGE, STYLE

REPORT, PAGE_FILE = "report.json", "report.html"
FOOTER = """<strong>Not for clinical use.</strong> These are results of a research evaluation on the cases named above.
All numbers are in report.json beside this file."""
MAX_BYTES = 4_900_000  # of report.html


def write_report(report: Mapping[str, Any], output_dir: str | Path) -> Path:
    """Write report.json and report.html, each in one step; returns the path of the page.

    Args:
        report: all parts are optional; the page says once which it has not. title and created are texts. about holds
            settings by name; its item "description" is printed below the title. warnings is a list of texts. data has
            name and classes, networks is of `describe_networks`, pictures of `draw_pictures`. arms, comparisons,
            subgroups and areas are as evaluation/statistics.py and evaluation/subgroups.py give them. calibration holds
            `Reliability.summary` by arm. cases are of `list_cases`, picked dicts of group and case. failures are dicts
            of case, arm, seed and reason. curves holds the columns of history.csv by arm and seed, None where an epoch
            has no value.
        output_dir: made when it is not there.

    Raises:
        ValueError: a number of the report is not finite, or a value is none of JSON's.
    """
    report, output_dir = _plain(report), Path(output_dir)
    text = json.dumps(report, allow_nan=False, ensure_ascii=False, indent=1)
    page = render_page(report)
    for name, content in ((REPORT, text + "\n"), (PAGE_FILE, page)):
        with atomic_path(output_dir / name) as partial:
            partial.write_text(content, encoding="utf-8")
    return output_dir / PAGE_FILE


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


def render_page(report: Mapping[str, Any]) -> str:
    """The page as HTML; see `write_report`. Of pictures that do not fit into MAX_BYTES the last are left out."""
    album = Album(report)
    page = _render(report, album)
    while (excess := len(page.encode()) - MAX_BYTES) > 0 and album.pictures:
        album = Album(report, album.num_left(excess))
        page = _render(report, album)
    return page


def _render(report: Mapping[str, Any], album: Album) -> str:
    links, sections = render_sections(report, album)
    return Template(PAGE).substitute(
        title=as_text(report.get("title") or "Evaluation"),
        style=STYLE,
        lead=render_lead(report),
        facts=render_facts(report),
        warnings=render_warnings(report.get("warnings")),
        verdicts=render_verdicts(report.get("comparisons") or []),
        links=links,
        sections=sections,
        store=album.store(),
        cards=album.cards(),
        script=SCRIPT,
        script_source=f"'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'",
        footer=FOOTER,
    )
