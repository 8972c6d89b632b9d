"""Check a data set before a training, and suggest settings for it.

    python -m scripts.check_data --dataset_dir data/BUSBRA [--datalist dataset.json] [--output_dir logs/check/mine]

It reads every file of the datalist and writes three files: check.html (one page, with pictures), check.json (all
findings and figures) and settings.json, an overlay of configs/train.json. Exit code 1 says that a training would refuse
the data set, or that its figures would be too good.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..run.errors import run_program
from ..utils.files import atomic_path
from ..utils.screen import tell

if TYPE_CHECKING:  # the rest is imported where it is used, so that --help answers at once
    from .findings import Finding
    from .suggest import Plan
    from .survey import Survey

PAGE, DETAILS, SETTINGS = "check.html", "check.json", "settings.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 where a training would refuse the data set, or after a message on stderr."""
    options = _parser().parse_args(arguments)
    return run_program("check_data", lambda: _check(options))


def _check(options: argparse.Namespace) -> int:
    folder, datalist = _places(options)
    output = options.output_dir or Path("logs") / "check" / folder.name / f"{datetime.now():%Y%m%d_%H%M%S}"
    if output.exists() and not (output.is_dir() and not any(output.iterdir())) and not options.overwrite:
        raise FileExistsError(f"--output_dir {output} exists; choose another one, or pass --overwrite.")
    from ..utils.machine import total_memory
    from .commands import next_commands
    from .findings import ERROR, find_all
    from .page import render_page
    from .suggest import default, make_plan, write_settings
    from .survey import take_survey

    survey = take_survey(folder, datalist)
    plan = make_plan(survey, total_memory())
    findings = find_all(survey, plan.settings.get("data::img_size", default("data::img_size")))
    page = render_page(survey, findings, plan, output / SETTINGS)
    _write(output / DETAILS, _json(details(survey, findings, plan)))
    _write(output / SETTINGS, _json(write_settings(plan, survey)))
    _write(output / PAGE, page)
    tell("\n".join(f"{one.level}: {one.text}" for one in findings) or "nothing stands out")
    tell(f"wrote {output / PAGE}, {DETAILS} and {SETTINGS}; go on with")
    for what, command in next_commands(plan.kind, survey, output / SETTINGS):
        tell(f"  # {what}\n  {command}")
    return int(any(one.level == ERROR for one in findings))


def _places(options: argparse.Namespace) -> tuple[Path, Path]:
    """The dataset folder and the datalist, which may lie elsewhere."""
    folder = options.dataset_dir.expanduser().resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"--dataset_dir {options.dataset_dir} is no folder.")
    datalist = folder / options.datalist.expanduser()
    if not datalist.is_file():
        raise FileNotFoundError(
            f"--datalist {datalist} does not exist; build it with python -m scripts.make_datalist --dataset_dir "
            f"{options.dataset_dir} --output {datalist}, or name yours with --datalist."
        )
    return folder, datalist


def details(survey: Survey, findings: list[Finding], plan: Plan) -> dict[str, Any]:
    """The content of check.json."""
    from .findings import columns, list_figures

    return {
        "dataset_dir": str(survey.folder),
        "datalist": str(survey.datalist),
        "labels": survey.labels,
        "findings": [one._asdict() for one in findings],
        "lists": list_figures(survey),
        "columns": columns(survey),
        "look_alikes": [[{"image": survey.name(image), "list": split} for image, split in g] for g in survey.alike],
        "refused": [
            {"image": survey.name(one.item["image"]), "list": one.split, "reason": one.reason} for one in survey.refused
        ],
        "plan": plan.kind,
        "suggestions": [one._asdict() for one in plan.suggestions],
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # names may hold bytes that are no UTF-8


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.check_data", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--datalist", type=Path, default=Path("dataset.json"), help="in it, or an absolute path (default: %(default)s)"
    )
    parser.add_argument("--output_dir", type=Path, help="a new folder (default: logs/check/NAME/TIME)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    return parser


if __name__ == "__main__":
    sys.exit(main())
