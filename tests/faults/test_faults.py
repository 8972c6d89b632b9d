"""Each fault of the table, met by the program that a user would start: it ends with one line that names the file and
what to do, or goes on and says so; nothing that was there is lost, and nothing is left half written.

    python -m pytest tests/faults            # all of them
    python -m pytest tests/faults --write    # and write docs/reliability.md
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from faults import checkpoints, datasets, images, lists, masks, runs, security, teachers
from faults.place import Materials, Place, Programs
from faults.table import FAULTS, GROUPS, PAGE, Fault, meet, page_with

MODULES = (checkpoints, teachers, images, masks, datasets, lists, runs, security)  # in the order of the page
ROWS: dict[str, str] = {}  # by the fault's id, as the run has found them


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    server = Programs(tmp_path_factory.mktemp("programs"))
    yield server
    server.close()


@pytest.fixture
def place(programs, phantoms, sam_checkpoint, lora_checkpoint, tmp_path) -> Place:
    return Place(tmp_path / "place", programs, Materials(phantoms, sam_checkpoint, lora_checkpoint))


def in_order() -> list[Fault]:
    return sorted(FAULTS, key=lambda fault: list(GROUPS).index(fault.group))


def test_every_group_has_its_faults():
    assert Counter(fault.group for fault in FAULTS) == GROUPS
    assert len({fault.id for fault in FAULTS}) == sum(GROUPS.values()) == 54
    assert {fault.case.__module__ for fault in FAULTS} == {module.__name__ for module in MODULES}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="programs are forked")
@pytest.mark.parametrize("fault", in_order(), ids=lambda fault: fault.id)
def test_fault(fault, place):
    ROWS[fault.id] = meet(fault, place)


def test_page_has_what_this_run_has_found(request):
    if request.config.getoption("--write"):
        assert len(ROWS) == len(FAULTS), "not all faults were met as they should be"
        PAGE.write_text(page_with([ROWS[fault.id] for fault in in_order()]), encoding="utf-8")
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert [row for row in ROWS.values() if row not in lines] == [], "python -m pytest tests/faults --write adds them"
    titles = [f"**{fault.group}**: {fault.title}" for fault in in_order()]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| **")] == titles
