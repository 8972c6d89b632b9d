"""The faults: what is wrong, which program meets it, what must be said and what may be written; and their page."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from typing import NamedTuple

from conftest import ROOT
from faults.place import Command, Outcome, Place, matching

PAGE = ROOT / "docs" / "reliability.md"
GROUPS = {"checkpoint": 9, "teacher": 4, "image": 12, "mask": 5, "dataset": 10, "run": 8, "security": 6}
FAULTS: list[Fault] = []
SPEAKS = re.compile(r"([a-z_]+|.* error): ")  # a line with which a program ends
# what a line says that tells what to do
VERBS = (
    "add allow build check choose close convert copy correct download end export fine-tune free get give go install "
    "leave lower make move name pass put remove rename replace resume run save start take train use wait write"
)
REMEDY = re.compile(rf"\b({VERBS.replace(' ', '|')})\b|it is for|did you mean|must have", re.IGNORECASE)
# in a message: the interpreter, epochs that were done when a signal came, checksums, names as long as a name can be
VARYING = (
    (r"\S*/python[\d.]*(?= )", "python"),
    (r"(?i)the first (epoch is|\d+ epochs are)", "the first N epochs are"),
    (r"\b[0-9a-f]{12,64}\b", "..."),
    (r"(\w)\1{40,}", r"\1\1\1..."),
)
BEGIN, END = "<!-- written by the run -->", "<!-- end -->"

Case = Callable[[Place], Generator[Command | list[str], Outcome, None]]


class Fault(NamedTuple):
    """A fault.

    group: one of GROUPS. title: what is wrong, for the table. program: which meets it. case: prepares the place, yields
    the command, and may look at what has become of it. says: pattern of the one line. code: the exit code; 0 where the
    right outcome is not to stop. writes: patterns of the files that must be there afterwards, and of no others that
    may; changes: of the files that may change.
    """

    group: str
    title: str
    program: str
    case: Case
    says: str
    code: int
    writes: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.group}-{self.case.__name__}"


def fault(
    group: str,
    title: str,
    program: str,
    says: str = "",
    code: int = 1,
    writes: tuple[str, ...] = (),
    changes: tuple[str, ...] = (),
) -> Callable[[Case], Case]:
    """Take a case up into FAULTS."""

    def keep(case: Case) -> Case:
        FAULTS.append(Fault(group, title, program, case, says, code, writes, changes))
        return case

    return keep


def meet(fault: Fault, place: Place) -> str:
    """Run the program into the fault, check all that is asked for, and return the row of the table."""
    with closing(fault.case(place)) as case:
        return _meet(fault, place, case)


def _meet(fault: Fault, place: Place, case: Generator[Command | list[str], Outcome, None]) -> str:
    outcome = place.run(next(case))
    about = f"\ncode {outcome.code}\n{outcome.stdout}\n{outcome.stderr}"
    assert "Traceback" not in outcome.stdout + outcome.stderr, about
    assert outcome.code == fault.code, about
    lines = spoken_lines(fault, outcome)
    assert matching(outcome.lost, fault.changes) == outcome.lost, f"lost: {outcome.lost}{about}"
    assert matching(outcome.written, fault.writes) == outcome.written, f"written: {outcome.written}{about}"
    for pattern in fault.writes:
        assert matching(outcome.written, (pattern,)), f"no {pattern} in {outcome.written}{about}"
    with suppress(StopIteration):
        case.send(outcome)
    return row(fault, lines, outcome)


def spoken_lines(fault: Fault, outcome: Outcome) -> list[str]:
    """The line that names the file, and the last one, with which a program ends that fails; one line may be both."""
    about = f"\ncode {outcome.code}\n{outcome.stdout}\n{outcome.stderr}"
    errors = outcome.stderr.splitlines()
    last = [line for line in errors if SPEAKS.match(line) and not line.startswith("warning: ")]
    assert len(last) == bool(fault.code), f"one line is asked for{about}"
    named = [line for line in dict.fromkeys(outcome.lines) if fault.says and re.search(fault.says, line)]
    assert len(named) == bool(fault.says), f"expected {fault.says}{about}"
    if last:
        rest = errors[errors.index(last[0]) + 1 :]
        assert [line for line in rest if not line.startswith("  ")] == [], f"the line is not the last one{about}"
        assert REMEDY.search(" ".join([*named, *last])), f"no remedy in {named}, {last}"
    return list(dict.fromkeys([*named, *last]))


def row(fault: Fault, lines: list[str], outcome: Outcome) -> str:
    """A row of the table, the same on every machine."""
    said = "<br>".join(f"`{cell(line)}`" for line in lines) or "nothing; it is read as it should be"
    cells = (f"**{fault.group}**: {fault.title}", fault.program, str(outcome.code), said, kept(fault))
    return f"| {' | '.join(cells)} |"


def kept(fault: Fault) -> str:
    """What has become of the files, as `meet` has checked it."""
    new, changed = (listed(patterns) for patterns in (fault.writes, fault.changes))
    before = f"all but {changed} as it was" if changed else "all as it was"
    return f"{before}; {f'new: {new}' if new else 'nothing written'}"


def listed(patterns: tuple[str, ...]) -> str:
    return ", ".join(f"`{cell(name)}`" for name in patterns if not name.endswith("/"))


def cell(text: str) -> str:
    """In a table: what differs from machine to machine, and what Markdown or a terminal would read otherwise, is
    written in another way.
    """
    for pattern, shown in VARYING:
        text = re.sub(pattern, shown, text)
    plain = text if text.isprintable() else text.encode("unicode_escape").decode()
    return plain.replace("|", "\\|").replace("`", "'")


def page_with(rows: list[str]) -> str:
    """The page with these rows in its table."""
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    table = ["| fault | program | exit code | what is said | what is kept |", "| --- | --- | --- | --- | --- |", *rows]
    return f"{head}{BEGIN}\n{chr(10).join(table)}\n{END}{rest.split(END)[1]}"
