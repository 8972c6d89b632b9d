"""A run of the benchmark: every contender in a process of its own, the report, and what is printed of it."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.utils.files import BUNDLE_ROOT
from scripts.utils.machine import describe_machine, git_revision, list_versions, without_folders

from .cases import write_datalists
from .contenders import GPU, Contender, list_contenders, run_contender, select
from .fits import fit_all
from .settings import Settings, quick_settings
from .targets import compare_kept, derive, judge

TIMEOUT = 900  # seconds a contender
SHOWN = {
    "epoch_seconds": "s/epoch",
    "fill_seconds": "s to fill",
    "step_seconds": "s/step",
    "batch_seconds": "s/batch",
    "look_seconds": "s to look",
    "images_per_second": "images/s",
    "peak_mb": "MB peak",
    "data_wait": "waiting",
    "roof_share": "of roof",
    "dice_change": "Dice change",
    "mask_dice": "mask Dice",
}
QUICK_NOTE = "This run was at test size, in one process: its figures mean nothing."
NOTES = (
    "SAM's weights are random: the teachers' masks are cut at each image's median, and differences are also in logit "
    "deviations.",
    "The bundle keeps freed memory (scripts/utils/hardware.py), as every run of the bundle does; the reference loop, "
    "stock and eager fp32 do not, but where the names end in kept_memory.",
    "Formats of the student are compared on the validation list; int8 is calibrated on training images.",
    "Trainings draw a panel and end with the final evaluation: both are in the peak memory, neither is in the seconds.",
    "Filling a cache includes the loading of the teacher's weights, and what panel and final evaluation ask of it.",
    "Cached batches are read from the system's page cache, in the sizes of SAM at 256 pixels.",
    "The reference loop's epoch is its median step times the steps of an epoch.",
)
Figures = dict[str, Any]


def run_one(options: argparse.Namespace) -> int:
    """Run one contender in this process, and print its figures as a line of JSON."""
    print(json.dumps(run_here(options.contender, Settings.from_json(options.settings))))
    return 0


def run_benchmark(options: argparse.Namespace) -> int:
    """Run the contenders, and write and print the report; of an interrupted run what was measured."""
    logging.basicConfig(level=logging.WARNING)
    with TemporaryDirectory(prefix="benchmark-") as work:
        make = quick_settings if options.quick else Settings
        settings = make(work, options.threads, checkpoint=options.student and str(options.student.resolve()))
        write_datalists(settings, options.dataset_dir)
        contenders = select(list_contenders(settings), options.only)
        figures, stopped = {}, None
        try:
            run_all(contenders, settings, run_here if options.quick else run_apart, figures)
        except (KeyboardInterrupt, SystemExit) as signalled:
            stopped = signalled
        missing = [contender.name for contender in contenders if contender.name not in figures]
        report = {**make_report(figures, settings, options), "missing": missing}
    print_report(report)
    if options.output:
        _write(report, options.output if stopped is None else options.output.with_suffix(".partial.json"))
    if stopped is not None:
        raise stopped
    return 0


def _write(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {path}")


def run_all(
    contenders: list[Contender],
    settings: Settings,
    run: Callable[[str, Settings], Figures],
    figures: dict[str, Figures],
) -> None:
    """Put each contender's figures into `figures`, by name; one that fails, or needs one that failed, has its `error`
    instead.

    Args:
        contenders: in their order.
        settings: of the run.
        run: gives the figures of a contender by its name.
        figures: what an interrupted run leaves.
    """
    for number, contender in enumerate(contenders, 1):
        failed = [need for need in contender.needs if "error" in figures[need]]
        start = time.perf_counter()
        measured = {"error": f"needs {failed[0]}, which failed"} if failed else run(contender.name, settings)
        figures[contender.name] = {**measured, "process_seconds": time.perf_counter() - start}
        print(
            f"[{number}/{len(contenders)}] {_line(contender.name, figures[contender.name])}",
            file=sys.stderr,
            flush=True,
        )


def run_here(name: str, settings: Settings) -> Figures:
    """Figures of a contender in this process, or its `error`; what it prints goes to stderr."""
    contender = select(list_contenders(settings), [name])[-1]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return run_contender(contender, settings)
    except Exception as error:
        traceback.print_exc()
        while error.__cause__ or error.__context__:  # MONAI's chain starts with what went wrong
            error = error.__cause__ or error.__context__
        return {"error": without_folders(f"{type(error).__name__}: {error}")}


def run_apart(name: str, settings: Settings) -> Figures:
    """Figures of a contender in a process of its own, on as many cores as it has threads, or its `error`."""
    command = [sys.executable, "-m", "eval.benchmark.__main__", "--contender", name, "--settings", settings.to_json()]
    threads = str(settings.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    try:
        done = subprocess.run(
            command,
            cwd=BUNDLE_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            preexec_fn=None if name.startswith(GPU) else lambda: _pin(settings.threads),
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {TIMEOUT} s"}
    try:
        figures = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        figures = {"error": f"the process ended with {done.returncode} and without figures"}
    if "error" in figures:
        print(done.stderr[-3000:], file=sys.stderr)
    return figures


def _pin(threads: int) -> None:
    """Keep this process to its first cores, so that a larger machine gives the same ratios."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def make_report(figures: dict[str, Figures], settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """What is printed and written: ratios first."""
    gpu = any(name.startswith(GPU) for name in figures)
    return {
        "targets": judge(figures),
        **({"gpu_targets": judge(figures, GPU)} if gpu else {}),
        "same_allocator": compare_kept(figures),
        "notes": (QUICK_NOTE, *NOTES) if options.quick else NOTES,
        "fits": fit_all(settings, figures),
        "derived": derive(figures),
        "figures": figures,
        "settings": _describe(settings, options),
        "machine": describe_machine(settings.threads),
        "versions": list_versions(),
        "revision": git_revision(),
        "seed": settings.seed,
        "command": without_folders(options.command),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def _describe(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """The settings without paths."""
    described = {key: value for key, value in vars(settings).items() if key not in ("work", "device")}
    described["checkpoint"] = Path(settings.checkpoint).name if settings.checkpoint else None
    return {**described, "data": Path(options.dataset_dir or "phantoms").name}


def print_report(report: dict[str, Any]) -> None:
    """The targets, the ratios with one allocator, the fits, then each contender's figures."""
    for key, title in (("targets", "ratios"), ("gpu_targets", "ratios on the GPU")):
        if key in report:
            print(f"\n{title:<74}{'value':>10}  {'target':<9} met")
            for row in report[key]:
                met = {None: "failed", True: "yes", False: "NO"}[row["met"]]
                print(f"{row['name']:<74}{_shown(row['value']):>10}  {row['target']:<9} {met}")
    print("\nwith our allocator on both sides")
    for row in report["same_allocator"]:
        print(f"{row['name']:<74}{_shown(row['value']):>10}")
    print("", *report["notes"], sep="\n")
    print(f"\n{'growth':<54}law")
    for fit in report["fits"]:
        print(f"{fit['name']:<54}{_law(fit)}")
    print("\nfigures")
    for name, figures in report["figures"].items():
        print(_line(name, figures))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _law(fit: dict[str, Any]) -> str:
    if "exponent" in fit:
        return f"{fit['factor']:.3g} x^{fit['exponent']:.2f}"
    return f"{fit['intercept']:.4g} + {fit['slope']:.4g} x" if "slope" in fit else "-"


def _line(name: str, figures: Figures) -> str:
    if "error" in figures:
        return f"{name:<37} failed: {figures['error'].splitlines()[0][:150]}"
    shown = [f"{figures[key]:.4g} {unit}" for key, unit in SHOWN.items() if key in figures]
    return f"{name:<37} " + ", ".join(shown or [f"{figures['process_seconds']:.1f} s"])
