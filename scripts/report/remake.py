"""Reports that are there: read again, made anew, and with probes added."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils.files import atomic_path, read_text
from .robustness import render_probes
from .sections import framed
from .write import PAGE_FILE, REPORT, write_report


def read_report(path: Path) -> dict[str, Any]:
    """The contents of a report.json, also of an earlier version.

    Args:
        path: of the file, or of the folder that it lies in.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no report.
    """
    path = path / REPORT if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected the {REPORT} of an evaluation.")
    try:
        report = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is no {REPORT} of an evaluation: {error}") from None
    if not isinstance(report, dict) or not {"title", "arms"} & {*report}:
        raise ValueError(f"{path} is no {REPORT} of an evaluation: it has neither title nor arms.")
    return report


def merge_probes(probes: Mapping[str, Any], folder: Path) -> Path:
    """Add probes to the report of a folder, or replace those that it has; returns the path of its page.

    Args:
        probes: of `measure_probes`.
        folder: with the report.json and report.html of an evaluation.

    Raises:
        FileNotFoundError: there is no report.
    """
    check_report(folder)
    report = read_report(folder) | {"probes": probes}
    return write_report(report, folder) if "cases" in report else _patch(report, folder)


def _patch(report: Mapping[str, Any], folder: Path) -> Path:
    """As `merge_probes` of a report of an earlier version, whose pictures its page alone has."""
    data, page = folder / REPORT, folder / PAGE_FILE
    section, text = framed("probes", "Probes", render_probes(report["probes"])), page.read_text(encoding="utf-8")
    text, count = re.subn(r'<section id="probes".*?</section>\n', lambda _: section, text, flags=re.DOTALL)
    if not count:
        text = text.replace("</main>", f"{section}</main>", 1)
    for path, content in ((data, json.dumps(report, ensure_ascii=False, indent=1) + "\n"), (page, text)):
        with atomic_path(path) as partial:
            partial.write_text(content, encoding="utf-8")
    return page


def check_report(folder: Path) -> None:
    """Refuse a folder without a report.

    Raises:
        FileNotFoundError: naming the file.
    """
    for name in (REPORT, PAGE_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; expected the folder of an evaluation.")
