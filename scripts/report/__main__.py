"""Make the page of a report anew, or print its main table.

    python -m scripts.report logs/comparison/report.json
    python -m scripts.report logs/comparison/report.json --table latex > table.tex

The page, report.html, is written beside the report.json or to --output. All of it comes from that one file, pictures
too. Reports of earlier versions have fewer parts, and the page says which it has not. Their pictures are only in their
page, so it is not replaced.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..run.errors import run_program
from ..utils.files import atomic_path

FORMATS = ("latex", "csv")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    parser = argparse.ArgumentParser(prog="python -m scripts.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("report", type=Path, help="report.json of an evaluation, or the folder that it lies in")
    parser.add_argument("--output", type=Path, metavar="FILE", help="of the page (default: report.html beside it)")
    parser.add_argument("--table", choices=FORMATS, help="print the main table instead: metrics with their intervals")
    options = parser.parse_args(arguments)
    return run_program("report", lambda: _run(options, parser))


def _run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from .main_table import main_table  # imported here, so that --help answers at once
    from .remake import read_report
    from .write import PAGE_FILE, render_page

    if options.table and options.output:
        parser.error("--table prints, and --output is of the page: pass one of them")
    report = read_report(options.report)
    if options.table:
        print(main_table(report, options.table), end="")
        return 0
    folder = options.report if options.report.is_dir() else options.report.parent
    path = options.output or folder / PAGE_FILE
    if options.output is None and "cases" not in report and path.exists():
        raise FileExistsError(
            f"{path} may have pictures, which this report.json of an earlier version has not; pass --output FILE."
        )
    page = render_page(report)
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"wrote {path}: {len(page.encode()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
