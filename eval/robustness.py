"""What does a network find when one thing of the image changes? Measures probes on student, control and teacher.

    python -m eval.robustness --config_file configs/train.json configs/shared_teacher.json --dataset_dir data/BUSBRA \\
        --student::checkpoint models/model.pt [--output_dir DIR] [--probes left right] [--cases 40] [--ID VALUE ...]

The arms are the student of student::checkpoint and the teacher of teacher::lora_checkpoint, as far as the configuration
names them; or those of `--checkpoint ARM[:SEED]=PATH`; or all that a finished comparison has trained (`--comparison
DIR`, with the settings of that comparison). It prints a table and writes report.html and report.json to output_dir.
`--report DIR` adds the probes to a report that is there. docs/robustness.md explains each probe.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.utils.machine import without_folders
from scripts.utils.options import PROBES, STUDENT, TEACHER, chosen_probes
from scripts.utils.screen import tell

from .command_line import parse_checkpoints, parse_run, run_program

if TYPE_CHECKING:  # what imports torch is imported where it is used, so that --help answers at once
    from .arms import Plan

LISTS = ("validation", "test", "training")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("robustness", lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    options, overrides = _parse(arguments)
    from .arms import Plan

    probe(options, Plan(options.config_file, overrides, (options.output_dir or Path("logs/robustness")).resolve()))
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.robustness", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, help="gets the report; nothing is written there when left out")
    parser.add_argument("--report", type=Path, metavar="DIR", help="with a report that gets the probes too")
    parser.add_argument("--list", choices=LISTS, default=LISTS[0], help="of the datalist (default: %(default)s)")
    parser.add_argument("--probes", nargs="+", default=["all"], metavar="PROBE", help=f"of {', '.join(PROBES)}, or all")
    parser.add_argument("--cases", type=int, help="at most so many, spread evenly over the list")
    parser.add_argument("--checkpoint", nargs="+", default=[], metavar="ARM[:SEED]=PATH", help="weights to probe")
    parser.add_argument("--comparison", type=Path, metavar="DIR", help="output_dir of a comparison, for all its arms")
    options, overrides = parse_run(parser, arguments)
    if options.checkpoint and options.comparison:
        raise ValueError("--checkpoint goes not with --comparison: each says which networks are probed.")
    options.probes = chosen_probes("--probes", "all" if options.probes == ["all"] else options.probes)
    options.checkpoint = parse_checkpoints(options.checkpoint)
    options.command = without_folders(" ".join(["python -m eval.robustness", *arguments]))
    return options, overrides


def probe(options: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """Measure the probes on the arms, print the table and write what was asked for; the part `probes` of the report.

    Args:
        options: of the command line.
        plan: of the configuration.

    Raises:
        FileNotFoundError: a checkpoint, a report or a comparison misses.
        ValueError: no network, a file that does not fit, or a list without a lesion.
    """
    from scripts.evaluation.robustness import measure_probes, spread_cases
    from scripts.report.remake import check_report, merge_probes
    from scripts.report.summary import probe_text

    from .arms import build_arm, check_plan

    check_plan(plan)
    if options.report:
        check_report(options.report)
    parser = plan.workflow(STUDENT, 0, {"test::dataset::data": f"$@data.{options.list}"}).parser
    data, dataset = parser.get_parsed_content("data"), parser.get_parsed_content("test::dataset")
    files = options.checkpoint or _of_comparison(options.comparison, data.digest) or _of_config(plan)
    arms = [build_arm(plan, arm, seed, path) for (arm, seed), path in files.items()]
    settings = (
        *(arms, parser.get_parsed_content("data::num_classes"), parser.get_parsed_content("device")),
        parser.get_parsed_content("hardware").autocast(),
    )
    dataset = spread_cases(dataset, options.cases)
    probes = measure_probes(dataset, *settings, options.probes)
    tell(f"{data.name}, {options.list} list\n\n{probe_text(probes)}")
    if options.output_dir:
        about = {
            "command": options.command,
            "list": options.list,
            **{f"{a}, seed {s}": _name(files[a, s]) for a, s in files},
        }
        tell(f"report: {_write(probes, dataset, settings, data, about, options.output_dir)}")
    if options.report:
        tell(f"report: {merge_probes(probes, options.report)}")
    return probes


def _name(checkpoint: Any) -> str:
    """Of the file or files of a checkpoint, without folders."""
    files = checkpoint if isinstance(checkpoint, list) else [checkpoint]
    return ", ".join(Path(str(file)).name for file in files)


def _of_config(plan: Plan) -> dict[tuple[str, int], Any]:
    """The checkpoints that the configuration names."""
    from .arms import is_reference

    student = plan.workflow(STUDENT, 0).parser.get_parsed_content("student::checkpoint")
    teacher = plan.given_teacher()
    teacher = None if is_reference(teacher) else teacher
    files = {(TEACHER, 0): teacher, (STUDENT, 0): student and str(student)}
    files = {key: path for key, path in files.items() if path}
    if not files:
        raise ValueError(
            "there is no network to probe; pass --student::checkpoint PATH, --teacher::lora_checkpoint PATH, "
            "--checkpoint ARM=PATH or --comparison DIR."
        )
    return files


def _of_comparison(folder: Path | None, lists: str) -> dict[tuple[str, int], Any]:
    """The checkpoints of a comparison by arm and seed; empty without one."""
    if folder is None:
        return {}
    from .comparison import STATE_FILE

    if not (folder / STATE_FILE).is_file():
        raise FileNotFoundError(f"--comparison {folder} holds no {STATE_FILE}; pass the --output_dir of a comparison.")
    state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    files = {
        (arm, int(seed)): run["checkpoint"] for arm, runs in state.get("arms", {}).items() for seed, run in runs.items()
    }
    if not files:
        raise ValueError(f"--comparison {folder} has trained no arm yet.")
    if state["lists"] != lists:
        raise ValueError(f"--comparison {folder} has other lists than this configuration; pass its --dataset_dir.")
    return files


def _write(
    probes: dict[str, Any], dataset: Any, settings: tuple[Any, ...], data: Any, about: dict[str, str], output_dir: Path
) -> Path:
    """The report of the unchanged images, with the probes; returns the path of report.html."""
    from scripts.evaluation.evaluate import evaluate
    from scripts.report.findings import compile_report
    from scripts.report.run_evaluation import add_cases
    from scripts.report.write import write_report

    arms, num_classes, device, autocast = settings
    measured = evaluate(dataset, arms, num_classes, device, autocast, with_outlines=True)
    report = compile_report(measured.rows, measured.reliability, f"Robustness on {data.name}", about=about)
    report = add_cases(report, measured, arms, dataset, num_classes, device, data.name, data.labels[1:])
    return write_report({**report, "probes": probes}, output_dir)


if __name__ == "__main__":
    sys.exit(main())
