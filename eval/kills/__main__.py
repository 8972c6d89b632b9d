"""Kill runs at random moments (SIGKILL), go on with each until it is done, and compare it with one that was left alone.

    python -m eval.kills 100 --work_dir /tmp/kills [--seed 0] [--kinds "cache fill" inference]

The kills are spread over the kinds: trainings (warp with gamma, averaged weights and early stopping; replay with a
loader worker; two ranks under torchrun), the filling of a cache, a comparison and an inference, on tiny networks and
phantoms of 64 pixels. A run may be killed more than once. Weights, histories, tables, masks, cache entries and the
names of all files must be equal. Prints a table and writes it to eval/results/kills.json; the exit code is 1 where any
differs. Times of the kills are drawn from the seed; what a kill meets depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from scripts.utils.files import BUNDLE_ROOT, atomic_path
from scripts.utils.machine import describe_machine, git_revision, list_versions, without_folders
from scripts.utils.screen import tell

from ..command_line import run_program

RESULTS = "eval/results/kills.json"
MOST_SECONDS = 900.0  # of a run that nobody kills
MOST_STARTS = 12  # of one trial
AGAIN = 0.4  # share of the starts after a kill that are killed too


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 1 where a run differs, or after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("kills", lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    options = _parse(arguments)
    import torch

    from .kinds import all_kinds, import_all, make_materials  # after --help, and before the first fork
    from .processes import Forked, wait

    torch.set_num_threads(1)  # OpenMP does not survive a fork
    import_all()
    materials = options.work_dir / "materials"
    materials.mkdir(parents=True)
    if wait(Forked(lambda: make_materials(materials), options.work_dir / "materials.log"), MOST_SECONDS) != 0:
        raise ValueError(f"the phantoms and networks were not made, see {options.work_dir / 'materials.log'}.")
    kinds = [kind for kind in all_kinds(materials) if not options.kinds or kind.name in options.kinds]
    if not kinds:
        raise ValueError(f"--kinds must be of {', '.join(kind.name for kind in all_kinds(materials))}.")
    able = [kind for kind in kinds if not kind.refusal()]
    rows = [{"kind": kind.name, "skipped": kind.refusal()} for kind in kinds if kind.refusal()]
    for row in rows:
        tell(f"{row['kind']} is left out: {row['skipped']}")
    for i, kind in enumerate(able):
        rows.append(try_kind(kind, options.kills * (i + 1) // len(able) - options.kills * i // len(able), options))
    tell(table(rows))
    _write(rows, options)
    return int(any(row.get("differ") for row in rows))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eval.kills", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("kills", type=int, help="in all, spread over the kinds")
    parser.add_argument("--work_dir", type=Path, required=True, help="of the runs; a new folder, which is kept")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    parser.add_argument("--kinds", nargs="+", default=[], help="by name; all where left out")
    parser.add_argument("--results", type=Path, default=BUNDLE_ROOT / RESULTS)
    options = parser.parse_args(arguments)
    options.work_dir = options.work_dir.resolve()
    if options.kills < 1:
        raise ValueError(f"the number of kills must be at least 1, got {options.kills}.")
    if options.work_dir.exists():
        raise ValueError(f"--work_dir {options.work_dir} is there already; pass a new folder.")
    options.command = without_folders(" ".join(["python -m eval.kills", *arguments]))
    return options


def try_kind(kind: Any, kills: int, options: argparse.Namespace) -> dict[str, Any]:
    """Kill runs of a kind until that many kills have met a running process; the row of the table.

    Args:
        kind: see kinds.py.
        kills: of this kind.
        options: of the command line.
    """
    root = options.work_dir / kind.name.replace(", ", "_").replace(" ", "_")
    draw = random.Random(f"{options.seed} {kind.name}")
    seconds, whole = reference(kind, root / "whole")
    row: dict[str, Any] = {"kind": kind.name, "seconds": round(seconds, 1), "kills": 0, "runs": 0, "differ": []}
    while row["kills"] < kills:
        folder = root / f"trial{row['runs']:03d}"
        folder.mkdir(parents=True)
        hits, problem = trial(kind, folder, seconds, kills - row["kills"], draw)
        row["kills"] += hits
        row["runs"] += 1
        found = {} if problem else kind.outcome(folder)
        different = sorted(name for name in whole.keys() | found.keys() if whole.get(name) != found.get(name))
        if problem or different:
            row["differ"].append(problem or f"{folder.name}: {', '.join(different)}")
            tell(f"{kind.name}: {row['differ'][-1]}")
        tell(f"{kind.name}: {row['kills']} of {kills} kills")
    return row


def reference(kind: Any, folder: Path) -> tuple[float, dict[str, str]]:
    """Seconds and outcome of a run that nobody kills.

    Raises:
        ValueError: it fails.
    """
    from .processes import wait

    folder.mkdir(parents=True)
    started = time.monotonic()
    log = folder.parent / f"{folder.name}.log"
    if wait(kind.start(folder, log), MOST_SECONDS) != 0 or not kind.is_done(folder):
        raise ValueError(f"{kind.name} fails without a kill, see {log}.")
    return time.monotonic() - started, kind.outcome(folder)


def trial(kind: Any, folder: Path, seconds: float, most: int, draw: random.Random) -> tuple[int, str]:
    """How many kills have met a run before it was done, and what went wrong; "" where it has ended well.

    Args:
        kind: see kinds.py.
        folder: of the run.
        seconds: of a whole run; a kill comes before they are over.
        most: kills of this run.
        draw: times, and whether a start after a kill is killed too.
    """
    from .processes import wait

    hits, log = 0, folder.parent / f"{folder.name}.log"
    for start in range(MOST_STARTS):
        killing = hits < most and (start == 0 or draw.random() < AGAIN)
        process = kind.start(folder, log)
        if wait(process, draw.uniform(kind.idle * seconds, seconds) if killing else MOST_SECONDS) is None:
            process.kill(draw.random())
            hits += killing and process.poll() != 0  # it may have ended by itself just before
            if not killing:
                return hits, f"{folder.name}: no end in {MOST_SECONDS:.0f} s, see {log.name}"
        elif process.poll() != 0:
            return hits, f"{folder.name}: start {start + 1} ends with code {process.poll()}, see {log.name}"
        if kind.is_done(folder):
            return hits, ""
    return hits, f"{folder.name}: not done after {MOST_STARTS} starts, see {log.name}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a kind."""
    lines = ["| kind | seconds of a whole run | kills | runs | equal to a whole run |", "|---|---|---|---|---|"]
    for row in rows:
        if "skipped" in row:
            lines.append(f"| {row['kind']} | | 0 | 0 | left out: {row['skipped']} |")
        else:
            equal = f"{row['runs'] - len(row['differ'])} of {row['runs']}"
            lines.append(f"| {row['kind']} | {row['seconds']} | {row['kills']} | {row['runs']} | {equal} |")
    return "\n".join(lines)


def _write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    report = {
        "kinds": rows,
        "kills": sum(row.get("kills", 0) for row in rows),
        "differ": sum(len(row.get("differ", [])) for row in rows),
        "seed": options.seed,
        "machine": describe_machine(),
        "versions": list_versions(),
        "revision": git_revision(),
        "command": options.command,
    }
    with atomic_path(options.results) as partial:
        partial.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
