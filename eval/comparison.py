"""The state of a comparison, its trainings, and its one evaluation; `python -m eval.compare` is the program.

comparison.json in the folder says what was begun and what is trained. Several processes may work on one folder: the
file is read and written under a lock, and an arm that one of them trains is refused to the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from monai.utils import set_determinism

from scripts.evaluation.evaluate import Arm, Evaluation, evaluate
from scripts.evaluation.results import METRICS_FILE, read_named_rows, table
from scripts.report.findings import compile_report
from scripts.report.run_evaluation import add_cases
from scripts.report.summary import summary_text
from scripts.report.write import write_report
from scripts.run.errors import find_user_error
from scripts.run.history import read_curves
from scripts.utils.digests import json_digest
from scripts.utils.files import atomic_path, clear_leftovers, naming_path
from scripts.utils.machine import describe_machine, git_revision
from scripts.utils.options import ARMS, CONTROL, STUDENT, TEACHER
from scripts.utils.screen import tell

from .arms import PLACES, Plan, build_arm, check_plan, describe_file, is_reference, teacher_file, train_arm

STATE_FILE = "comparison.json"
STUDENTS = (CONTROL, STUDENT)
PROGRESS = {"epochs": "epochs", "seconds": "s", "val_dice": "validation Dice"}
State = dict[str, Any]


def make_plan(options: argparse.Namespace, overrides: Mapping[str, Any]) -> Plan:
    """What all arms have in common, from the command line."""
    overlays = tuple(options.teacher_config), tuple(options.student_config)
    return Plan(options.config_file, overrides, options.output_dir.resolve(), *overlays)


def compare(options: argparse.Namespace, plan: Plan) -> list[str]:
    """Train the arms, evaluate them once and report; what went wrong with an arm.

    Raises:
        ValueError: a list that cannot be compared on, another plan than the folder's, or no arm to evaluate.
    """
    options.earlier = earlier_comparison(options.continue_from, options.seeds) if options.continue_from else {}
    plan = replace(plan, starts=_starts(options.earlier.get("arms", {}), options.seeds))
    check_plan(plan)
    data = plan.workflow(STUDENT, 0).parser.get_parsed_content("data")  # a missing test list is refused here
    sizes = {**data.sizes, "test": len(data.test)}
    tell(f"{data.name}: {', '.join(f'{size} {split}' for split, size in sizes.items())} cases")
    problems = open_comparison(options, plan, data.digest)
    if (plan.output_dir / METRICS_FILE).is_file():
        if options.train:
            raise ValueError(
                f"{plan.output_dir} has read the test list already, and trains no more; pass another folder."
            )
        tell("the test list was read already: its results are kept; another comparison needs another --output_dir")
        tell(f"report: {plan.output_dir / 'report.html'}")
        return problems
    if options.train:
        train_some(options.train, options.seeds, plan)
        return []
    given = {key: describe_file(path) for key, path in options.checkpoint.items()}
    return _evaluate_all(given or train_all(options.seeds, plan), options, plan)


def earlier_comparison(folder: Path, seeds: Sequence[int]) -> State:
    """What another comparison's folder says of it, if its students can be trained further.

    Args:
        folder: output_dir of that comparison.
        seeds: of the students wanted.

    Raises:
        FileNotFoundError: no comparison, or a checkpoint is gone.
        ValueError: it has not trained a control and a student of each seed.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise FileNotFoundError(f"--continue_from {folder} holds no {STATE_FILE}; pass a comparison's --output_dir.")
    state = read_state(path)
    for arm in STUDENTS:
        for seed in map(str, seeds):
            run = state["arms"].get(arm, {}).get(seed)
            if run is None:
                raise ValueError(f"--continue_from {folder} has not trained {arm}, seed {seed}: all or none go on.")
            if not Path(run["checkpoint"]).is_file():
                raise FileNotFoundError(
                    f"the checkpoint {run['checkpoint']} of --continue_from does not exist any more."
                )
    return state


def _starts(arms: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> dict[tuple[str, int], dict[str, Any]]:
    """By arm and seed what an earlier comparison has of it; one teacher of all seeds is each seed's."""
    starts = {(arm, seed): arms[arm][str(seed)] for arm in STUDENTS if arm in arms for seed in seeds}
    teachers = arms.get(TEACHER, {})
    one = next(iter(teachers.values())) if len(teachers) == 1 else None
    by_seed = {(TEACHER, seed): teachers.get(str(seed), one) for seed in seeds}
    return starts | {key: run for key, run in by_seed.items() if run}


@contextmanager
def open_state(plan: Plan) -> Iterator[State]:
    """What the folder's file holds, to this process alone; changes are written in one step when the block ends."""
    path = plan.output_dir / STATE_FILE
    with naming_path(plan.output_dir):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock")).acquire()
    with lock:
        state = read_state(path) if path.is_file() else {}
        before = json.dumps(state)
        yield state
        if json.dumps(state) != before:
            with atomic_path(path) as partial:
                partial.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def read_state(path: Path) -> State:
    """What a comparison.json says.

    Raises:
        ValueError: it is damaged.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        whole = all("checkpoint" in run for runs in state["arms"].values() for run in runs.values())
        if not whole or "lists" not in state:
            raise KeyError("lists or a checkpoint")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = f"move it away and give its command again: what {path.parent / 'runs'} holds is not trained again"
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); {remedy}.") from error
    return state


def open_comparison(options: argparse.Namespace, plan: Plan, lists: str) -> list[str]:
    """Begin the comparison of a folder, or go on with it; the problems that its evaluation had, if there was one.

    Args:
        options: of the command line.
        plan: of the comparison.
        lists: the digest of the cases.

    Raises:
        ValueError: the folder belongs to a comparison with other settings or lists, or goes on from one with other
            lists.
    """
    if options.earlier and options.earlier["lists"] != lists:
        raise ValueError(
            f"--continue_from {options.continue_from} has other lists: its students may have seen this test's cases."
        )
    configs = [plan.workflow(arm, 0).parser.config for arm in ARMS]
    configs = [{key: value for key, value in config.items() if key not in PLACES} for config in configs]
    identity = {"config": json_digest(configs), "lists": lists, "margin": options.margin}
    starts = {f"{arm} {seed}": start["checkpoint"] for (arm, seed), start in plan.starts.items() if arm in STUDENTS}
    clear_leftovers(plan.output_dir)
    with open_state(plan) as state:
        changed = [key for key in identity if state and state.get(key) != identity[key]]
        former = state.get("continue_from", {})
        if state and (
            bool(former) != bool(starts) or any(former.get(key, start) != start for key, start in starts.items())
        ):
            changed.append("continue_from")
        if changed:
            raise ValueError(
                f"{plan.output_dir / STATE_FILE} was begun with another {' and '.join(changed)}; arms of different "
                "settings cannot be compared, and the margin is fixed beforehand: pass another --output_dir."
            )
        state.update(identity, continue_from={**former, **starts})
        state.setdefault("arms", {})
        return state.get("problems", [])


def train_all(seeds: Sequence[int], plan: Plan) -> dict[tuple[str, int], dict[str, Any]]:
    """By arm and seed what `train_arm` returns; what the folder's state has is not trained again."""
    teachers, runs = teacher_seeds(seeds, plan), {}
    for seed in seeds:
        for arm in ARMS:
            key = (arm, teachers[seed] if arm == TEACHER else seed)
            runs[key] = _train_once(plan, *key, teachers[seed])
    return runs


def train_some(wanted: Sequence[tuple[str, int]], seeds: Sequence[int], plan: Plan) -> None:
    """Train some arms of a comparison whose others belong to other processes.

    Args:
        wanted: arms and seeds; of one teacher for all seeds, any seed is its.
        seeds: of the comparison.
        plan: of the comparison.

    Raises:
        ValueError: a student whose teacher is not trained yet, or an arm that another process is training.
    """
    teachers = teacher_seeds(seeds, plan)
    wanted = list(dict.fromkeys((arm, teachers[seed] if arm == TEACHER else seed) for arm, seed in wanted))
    for arm, seed in wanted:
        given, teacher = plan.given_teacher(seed), (TEACHER, teachers[seed])
        # by a training, which may be another process's
        made = given is None and teacher not in plan.starts or is_reference(given)
        if arm == STUDENT and made and teacher not in wanted and not _trained(plan, *teacher):
            raise ValueError(
                f"--train {arm}:{seed} needs its teacher; train that first, with --train {TEACHER}:{teachers[seed]}."
            )
    for arm, seed in sorted(wanted, key=lambda key: ARMS.index(key[0])):
        if arm == STUDENT:
            _train_once(plan, TEACHER, teachers[seed], teachers[seed])
        _train_once(plan, arm, seed, teachers[seed])


def teacher_seeds(seeds: Sequence[int], plan: Plan) -> dict[int, int]:
    """By seed of a student that of its teacher; a given file is one teacher for all, the first's."""
    given = [plan.given_teacher(seed) for seed in seeds]
    one = given[0] is not None and not is_reference(given[0]) and all(path == given[0] for path in given)
    return {seed: seeds[0] if one else seed for seed in seeds}


def _train_once(plan: Plan, arm: str, seed: int, teacher_seed: int) -> dict[str, Any]:
    """What the folder's state has of an arm, or what its training gives, which is noted there."""
    run = _trained(plan, arm, seed)
    if not run:
        tell(f"training: {arm}, seed {seed}")
        teacher = _trained(plan, TEACHER, teacher_seed).get("checkpoint")
        run = teacher_file(plan, seed) if arm == TEACHER else train_arm(plan, arm, seed, teacher)
        with open_state(plan) as state:
            state.setdefault("arms", {}).setdefault(arm, {})[str(seed)] = run
    return run


def _trained(plan: Plan, arm: str, seed: int) -> dict[str, Any]:
    """What the folder's state has of an arm; empty where it is not trained."""
    with open_state(plan) as state:
        return state.get("arms", {}).get(arm, {}).get(str(seed), {})


def _evaluate_all(runs: Mapping[tuple[str, int], dict[str, Any]], options: argparse.Namespace, plan: Plan) -> list[str]:
    """One pass over the test list with every arm that can be loaded, and the report; what kept the others out.

    Args:
        runs: by arm and seed what `train_arm` or `describe_file` returned.
        options: of the command line.
        plan: of the comparison.
    """
    arms, problems = _build_all(runs, plan)
    parser = plan.workflow(STUDENT, 0).parser
    dataset, num_classes = parser.get_parsed_content("test::dataset"), parser.get_parsed_content("data::num_classes")
    device, autocast = parser.get_parsed_content("device"), parser.get_parsed_content("hardware").autocast()
    data = parser.get_parsed_content("data")
    set_determinism(0)
    evaluation = evaluate(dataset, arms, num_classes, device, autocast, with_outlines=True)
    curves: dict[str, dict[str, dict]] = {}
    for (arm, seed), run in runs.items():
        if run.get("run"):
            curves.setdefault(arm, {})[str(seed)] = read_curves(run["run"])
    report = compile_report(
        evaluation.rows,
        evaluation.reliability,
        f"Comparison on {data.name}",
        curves,
        options.margin,
        _about(runs, options),
        [*_former_reading(options.continue_from), *_left_out(runs, plan), *data.notes, *problems],
    )
    report = add_cases(report, evaluation, arms, dataset, num_classes, device, data.name, data.labels[1:])
    page = write_report(report, plan.output_dir)
    with open_state(plan) as state:  # before the table, after which nothing is evaluated again
        state["problems"] = problems
    _write_table(evaluation, plan.output_dir)
    _print_report(report, page)
    return problems


def _build_all(runs: Mapping[tuple[str, int], dict[str, Any]], plan: Plan) -> tuple[list[Arm], list[str]]:
    arms, problems = [], []
    for (arm, seed), run in runs.items():
        try:
            arms.append(build_arm(plan, arm, seed, run["checkpoint"]))
        except Exception as error:
            cause = find_user_error(error)
            if cause is None:
                raise
            problems.append(f"arm {arm}, seed {seed} is left out: {cause}")
    if not arms:
        raise ValueError("no arm can be evaluated: " + " ".join(problems))
    return arms, problems


def _left_out(runs: Mapping[tuple[str, int], Any], plan: Plan) -> list[str]:
    """A warning where students of this comparison were trained and are not evaluated."""
    with open_state(plan) as state:
        trained = {(arm, int(seed)) for arm in STUDENTS for seed in state["arms"].get(arm, {})}
    left = [f"{arm}, seed {seed}" for arm, seed in sorted(trained - runs.keys())]
    note = f"Trained here and not evaluated: {'; '.join(left)}. Seeds chosen after their training are no fair sample."
    return [note] if left else []


def _former_reading(earlier: Path | None) -> list[str]:
    """A warning where the comparison that this one goes on from has read the test list."""
    if earlier is None or not (earlier / METRICS_FILE).is_file():
        return []
    return [
        "The test list was read before, for the comparison that this one goes on from: whether to go on may have been "
        "decided by what was seen there."
    ]


def _about(runs: Mapping[tuple[str, int], dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """What was run, for the report's table of settings."""
    revision, processor = git_revision() or "unknown", describe_machine()["cpu"]
    about = {"command": options.command, "revision": revision, "processor": processor}
    for (arm, seed), run in runs.items():
        files = run["checkpoint"] if isinstance(run["checkpoint"], list) else [run["checkpoint"]]
        facts = [f"{run[key]:.4g} {unit}" for key, unit in PROGRESS.items() if run.get(key)]
        start = run.get("started_from", {})
        if run["checkpoint"] == start.get("checkpoint"):
            facts.append("no epoch better than the start, which is kept")
        while start.get("epochs"):
            facts.append(f"from {Path(start['checkpoint']).name} after {start['epochs']} epochs")
            start = start.get("started_from", {})
        about[f"{arm}, seed {seed}"] = ", ".join([*(Path(str(file)).name for file in files), *facts])
    return about


def _write_table(evaluation: Evaluation, output_dir: Path) -> None:
    """Last, since its presence says that the test list was read."""
    with atomic_path(output_dir / METRICS_FILE) as partial:
        partial.write_text(table(evaluation.rows), encoding="utf-8", newline="")


def _print_report(report: Mapping[str, Any], page: Path) -> None:
    for warning in report["warnings"]:
        tell(f"warning: {warning}")
    tell(summary_text(report, page))


def report_tables(options: argparse.Namespace) -> list[str]:
    """The report of tables that earlier evaluations wrote; what of it could not be told."""
    rows = [row for name, path in options.tables for row in read_named_rows(path, name)]
    report = compile_report(rows, {}, "Comparison of tables", margin=options.margin, about={"command": options.command})
    _print_report(report, write_report(report, options.output_dir))
    return [] if report["comparisons"] or len(report["arms"]) == 1 else report["warnings"]
