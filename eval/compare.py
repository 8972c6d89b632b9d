"""Does distillation help? Teacher, student without teacher and distilled student, each with several seeds, on patients
not seen.

    python -m eval.compare --output_dir logs/comparison --dataset_dir data/BUSBRA --seeds 0 1 2 [--ID VALUE ...]
    python -m eval.compare --output_dir logs/comparison --config_file configs/train.json configs/quickstart.json

Trains what is not trained yet, arm by arm, with one schedule for both students; a comparison that was stopped goes on
where it was. Checkpoints are selected on the validation list. When all are trained, the test list is read, once:
metrics.csv (a row a case, arm and seed), report.html and report.json. The margin of non-inferiority is fixed by the
first call. `--checkpoint ARM[:SEED]=PATH` evaluates weights that exist, and `--tables` makes the report from the
metrics.csv of earlier evaluations. `--continue_from DIR` trains the students of another comparison further, each arm
and seed from its own best checkpoint there. To share the work, processes with one --output_dir and `--train ARM[:SEED]`
train that alone (an arm without SEED with every one of --seeds) and stop; the call without it evaluates.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from monai.utils import set_determinism

from scripts.evaluation.evaluate import Arm, CaseDrawer, Evaluation, evaluate, write_report_with_cases
from scripts.evaluation.results import TABLE, read_rows, table
from scripts.report.findings import compile_report, read_curves
from scripts.report.sections import write_report
from scripts.run.config_check import find_user_error
from scripts.utils.files import atomic_path
from scripts.utils.machine import describe_machine, git_revision, without_folders

from .arms import (
    CONTROL,
    STUDENT,
    TEACHER,
    WHERE,
    Plan,
    build_arm,
    check_plan,
    describe_file,
    digest,
    is_reference,
    parse_run,
    report_error,
    teacher_file,
    train_arm,
)

STATE = "comparison.json"
ORDER = (TEACHER, CONTROL, STUDENT)
STUDENTS = (CONTROL, STUDENT)
MARGIN = 0.02  # mean Dice
PROGRESS = {"epochs": "epochs", "seconds": "s", "val_dice": "validation Dice"}
State = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    try:
        options, plan = _parse(sys.argv[1:] if arguments is None else arguments)
        problems = report_tables(options) if options.tables else compare(options, plan)
    except Exception as error:
        return report_error("compare", error)
    for problem in problems:
        print(f"compare: {problem}", file=sys.stderr)
    if not options.train:
        print(f"report: {options.output_dir / 'report.html'}")
    return 1 if problems else 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, Plan]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="of the runs and results; the same again to go on"
    )
    parser.add_argument("--teacher_config", nargs="*", default=[], help="overlays for the teacher's fine-tuning alone")
    parser.add_argument("--student_config", nargs="*", default=[], help="overlays for the distilled student alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--margin", type=float, default=MARGIN, help="Dice the student may lose against its teacher")
    parser.add_argument(
        "--checkpoint", nargs="+", default=[], metavar="ARM[:SEED]=PATH", help="weights instead of a training"
    )
    parser.add_argument(
        "--continue_from", type=Path, help="output_dir of a comparison whose students are trained further"
    )
    parser.add_argument(
        "--train", nargs="+", default=[], metavar="ARM[:SEED]", help="train these alone, beside other processes"
    )
    parser.add_argument("--tables", nargs="+", type=Path, default=[], help="metrics.csv of evaluations to report on")
    options, overrides = parse_run(parser, arguments)
    if len(set(options.seeds)) != len(options.seeds):
        raise ValueError(f"--seeds holds one twice: {options.seeds}; each seed is one training.")
    if not options.margin > 0:
        raise ValueError(f"--margin must be positive, got {options.margin}: it is the Dice that may be lost.")
    if options.train and (options.checkpoint or options.tables):
        raise ValueError("--train goes with neither --checkpoint nor --tables: it trains, and evaluates nothing.")
    if options.continue_from and (options.checkpoint or options.tables):
        raise ValueError("--continue_from goes with neither --checkpoint nor --tables: it says where trainings start.")
    options.train = [key for text in options.train for key in _wanted(text, options.seeds)]
    options.command = without_folders(" ".join(["python -m eval.compare", *arguments]))
    own = tuple(options.teacher_config), tuple(options.student_config)
    return options, Plan(options.config_file, overrides, options.output_dir.resolve(), *own)


def earlier_comparison(folder: Path, seeds: Sequence[int]) -> State:
    """What another comparison's folder says of it, if its students can be trained further.

    Args:
        folder: output_dir of that comparison.
        seeds: of the students wanted.

    Raises:
        FileNotFoundError: no comparison, or a checkpoint is gone.
        ValueError: it has not trained a control and a student of each seed.
    """
    path = folder / STATE
    if not path.is_file():
        raise FileNotFoundError(f"--continue_from {folder} holds no {STATE}; pass the --output_dir of a comparison.")
    state = json.loads(path.read_text(encoding="utf-8"))
    for arm in STUDENTS:
        for seed in map(str, seeds):
            known = state["arms"].get(arm, {}).get(seed)
            if known is None:
                raise ValueError(
                    f"--continue_from {folder} has not trained {arm}, seed {seed}: all go on from there, or none."
                )
            if not Path(known["checkpoint"]).is_file():
                raise FileNotFoundError(
                    f"the checkpoint {known['checkpoint']} of --continue_from does not exist any more."
                )
    return state


def compare(options: argparse.Namespace, plan: Plan) -> list[str]:
    """Train the arms, evaluate them once and report; what went wrong with an arm.

    Raises:
        ValueError: a list that cannot be compared on, another plan than the folder's, or no arm to evaluate.
    """
    options.earlier = earlier_comparison(options.continue_from, options.seeds) if options.continue_from else {}
    plan = replace(plan, starts=_starts(options.earlier.get("arms", {}), options.seeds))
    check_plan(plan)
    data = plan.workflow(STUDENT, 0).parser.get_parsed_content("data")  # a missing test list is refused here
    print(f"{data.name}: {len(data.training)} training, {len(data.validation)} validation, {len(data.test)} test cases")
    problems = open_comparison(options, plan, data.digest)
    if (plan.output_dir / TABLE).is_file():
        if options.train:
            raise ValueError(
                f"{plan.output_dir} has read the test list already, and trains no more; pass another --output_dir."
            )
        print("the test list was read already; its results are kept. Pass another --output_dir for another comparison.")
        return problems
    if options.train:
        train_some(options.train, options.seeds, plan)
        return []
    given = [_given(text) for text in options.checkpoint]
    if len(dict(given)) < len(given):
        raise ValueError(f"--checkpoint names an arm and seed twice: {' '.join(options.checkpoint)}.")
    found = {key: describe_file(path) for key, path in given} if given else train_all(options.seeds, plan)
    problems = _evaluate_all(found, options, plan)
    with open_state(plan) as state:
        state["problems"] = problems
    return problems


def _starts(arms: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]) -> dict[tuple[str, int], dict[str, Any]]:
    """By arm and seed what an earlier comparison has of it; one teacher of all seeds is each seed's."""
    starts = {(arm, seed): arms[arm][str(seed)] for arm in STUDENTS if arm in arms for seed in seeds}
    teachers = arms.get(TEACHER, {})
    one = next(iter(teachers.values())) if len(teachers) == 1 else None
    found = {(TEACHER, seed): teachers.get(str(seed), one) for seed in seeds}
    return starts | {key: known for key, known in found.items() if known}


@contextmanager
def open_state(plan: Plan) -> Iterator[State]:
    """What the folder's file holds, to this process alone; changes are written in one step when the block ends."""
    path = plan.output_dir / STATE
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        before = path.read_text() if path.is_file() else "{}"
        state = json.loads(before)
        yield state
        after = json.dumps(state, indent=1) + "\n"
        if after != before:
            with atomic_path(path) as partial:
                partial.write_text(after)


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
    configs = [
        {key: value for key, value in plan.workflow(arm, 0).parser.config.items() if key not in WHERE} for arm in ORDER
    ]
    found = {"config": digest(configs), "lists": lists, "margin": options.margin}
    starts = {f"{arm} {seed}": start["checkpoint"] for (arm, seed), start in plan.starts.items() if arm in STUDENTS}
    with open_state(plan) as state:
        changed = [key for key in found if state and state.get(key) != found[key]]
        former = state.get("continue_from", {})
        if state and (
            bool(former) != bool(starts) or any(former.get(key, path) != path for key, path in starts.items())
        ):
            changed.append("continue_from")
        if changed:
            raise ValueError(
                f"{plan.output_dir / STATE} was begun with another {' and '.join(changed)}; arms of different settings "
                "cannot be "
                "compared, and the margin is fixed beforehand: pass another --output_dir."
            )
        state.update(found, continue_from={**former, **starts})
        state.setdefault("arms", {})
        return state.get("problems", [])


def train_all(seeds: Sequence[int], plan: Plan) -> dict[tuple[str, int], dict[str, Any]]:
    """By arm and seed what `train_arm` returns; what the folder's state has is not trained again."""
    teachers, found = teacher_seeds(seeds, plan), {}
    for seed in seeds:
        for arm in ORDER:
            key = (arm, teachers[seed] if arm == TEACHER else seed)
            found[key] = _train_once(plan, *key, teachers[seed])
    return found


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
        if arm == STUDENT and made and teacher not in wanted and not _known(plan, *teacher):
            raise ValueError(
                f"--train {arm}:{seed} needs its teacher; train that first, with --train {TEACHER}:{teachers[seed]}."
            )
    for arm, seed in sorted(wanted, key=lambda key: ORDER.index(key[0])):
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
    known = _known(plan, arm, seed)
    if not known:
        print(f"training: {arm}, seed {seed}", flush=True)
        teacher = _known(plan, TEACHER, teacher_seed).get("checkpoint")
        known = teacher_file(plan, seed) if arm == TEACHER else train_arm(plan, arm, seed, teacher)
        with open_state(plan) as state:
            state.setdefault("arms", {}).setdefault(arm, {})[str(seed)] = known
    return known


def _known(plan: Plan, arm: str, seed: int) -> dict[str, Any]:
    """What the folder's state has of an arm; empty where it is not trained."""
    with open_state(plan) as state:
        return state.get("arms", {}).get(arm, {}).get(str(seed), {})


def _given(text: str) -> tuple[tuple[str, int], str]:
    """(arm, seed), path of ARM[:SEED]=PATH."""
    name, separator, path = text.partition("=")
    arm, _, seed = name.partition(":")
    if not separator or arm not in ORDER or not (seed or "0").isdecimal():
        raise ValueError(f"--checkpoint {text} must be ARM[:SEED]=PATH with an arm of {', '.join(ORDER)}.")
    return (arm, int(seed or 0)), path


def _wanted(text: str, seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Arms and seeds of ARM[:SEED]."""
    arm, _, seed = text.partition(":")
    if arm not in ORDER or seed and not seed.isdecimal():
        raise ValueError(f"--train {text} must be ARM[:SEED] with an arm of {', '.join(ORDER)}.")
    if seed and int(seed) not in seeds:
        raise ValueError(f"--train {text} is no part of the comparison of --seeds {' '.join(map(str, seeds))}.")
    return [(arm, int(seed))] if seed else [(arm, each) for each in seeds]


def _evaluate_all(found: dict[tuple[str, int], dict[str, Any]], options: argparse.Namespace, plan: Plan) -> list[str]:
    """One pass over the test list with every arm that can be loaded, and the report; what kept the others out."""
    arms, problems = _build_all(found, plan)
    parser = plan.workflow(STUDENT, 0).parser
    dataset, num_classes = parser.get_parsed_content("test::dataset"), parser.get_parsed_content("data::num_classes")
    device, autocast = parser.get_parsed_content("device"), parser.get_parsed_content("hardware").autocast()
    names = parser.get_parsed_content("data").labels[1:]
    set_determinism(0)
    measured = evaluate(dataset, arms, num_classes, device, autocast)
    curves: dict[str, dict[str, dict]] = {}
    for (arm, seed), about in found.items():
        if about.get("run"):
            curves.setdefault(arm, {})[str(seed)] = read_curves(Path(about["run"]) / "history.csv")
    report = compile_report(
        measured.rows,
        measured.reliability,
        f"Comparison on {parser.get_parsed_content('data').name}",
        curves,
        options.margin,
        _about(found, options),
        [*_former_reading(options.continue_from), *_left_out(found, plan), *problems],
    )
    draw = CaseDrawer(dataset, arms, num_classes, device, autocast, names)
    write_report_with_cases(report, measured.rows, draw, plan.output_dir)
    _write_table(measured, plan.output_dir)
    _print_verdicts(report)
    return problems


def _build_all(found: dict[tuple[str, int], dict[str, Any]], plan: Plan) -> tuple[list[Arm], list[str]]:
    arms, problems = [], []
    for (arm, seed), about in found.items():
        try:
            arms.append(build_arm(plan, arm, seed, about["checkpoint"]))
        except Exception as error:
            cause = find_user_error(error)
            if cause is None:
                raise
            problems.append(f"arm {arm}, seed {seed} is left out: {cause}")
    if not arms:
        raise ValueError("no arm can be evaluated: " + " ".join(problems))
    return arms, problems


def _left_out(found: Mapping[tuple[str, int], Any], plan: Plan) -> list[str]:
    """A warning where students of this comparison were trained and are not evaluated."""
    with open_state(plan) as state:
        trained = {(arm, int(seed)) for arm in STUDENTS for seed in state["arms"].get(arm, {})}
    left = [f"{arm}, seed {seed}" for arm, seed in sorted(trained - found.keys())]
    note = f"Trained here and not evaluated: {'; '.join(left)}. Seeds chosen after their training are no fair sample."
    return [note] if left else []


def _former_reading(earlier: Path | None) -> list[str]:
    """A warning where the comparison that this one goes on from has read the test list."""
    if earlier is None or not (earlier / TABLE).is_file():
        return []
    return [
        "The test list was read before, for the comparison that this one goes on from: whether to go on may have been "
        "decided by "
        "what was seen there."
    ]


def _about(found: dict[tuple[str, int], dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    about = {
        "command": options.command,
        "revision": git_revision() or "unknown",
        "processor": describe_machine(0)["cpu"],
    }
    for (arm, seed), run in found.items():
        files = run["checkpoint"] if isinstance(run["checkpoint"], list) else [run["checkpoint"]]
        told = [f"{run[key]:.4g} {unit}" for key, unit in PROGRESS.items() if run.get(key)]
        start = run.get("started_from", {})
        if run["checkpoint"] == start.get("checkpoint"):
            told.append("no epoch better than the start, which is kept")
        while start.get("epochs"):
            told.append(f"from {Path(start['checkpoint']).name} after {start['epochs']} epochs")
            start = start.get("started_from", {})
        about[f"{arm}, seed {seed}"] = ", ".join([*(Path(str(file)).name for file in files), *told])
    return about


def _write_table(measured: Evaluation, output_dir: Path) -> None:
    """Last, since its presence says that the test list was read."""
    with atomic_path(output_dir / TABLE) as partial:
        partial.write_text(table(measured.rows), encoding="utf-8", newline="")


def _print_verdicts(report: dict[str, Any]) -> None:
    for arm, found in report["arms"].items():
        dice = found["metrics"]["dice"]
        print(f"{arm:<8} Dice {dice['mean']:.4f} [{dice['low']:.4f}, {dice['high']:.4f}], {found['num_seeds']} seeds")
    for row in report["comparisons"]:
        interval = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
        print(
            f"{row['arm']} - {row['reference']}, {row['metric']}: {row['difference']:+.4f} {interval} {row['verdict']}"
        )
    for warning in report["warnings"]:
        print(f"warning: {warning}")


def report_tables(options: argparse.Namespace) -> list[str]:
    """The report of tables that earlier evaluations wrote; what of it could not be told."""
    rows = [row for path in options.tables for row in read_rows(path)]
    report = compile_report(rows, {}, "Comparison of tables", margin=options.margin, about={"command": options.command})
    write_report(report, [], options.output_dir)
    _print_verdicts(report)
    return [] if report["comparisons"] or len(report["arms"]) == 1 else report["warnings"]


if __name__ == "__main__":
    sys.exit(main())
