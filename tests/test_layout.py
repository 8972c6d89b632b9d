"""The plan of the bundle, read from its files: which room may import which, and how large the parts are.

Data runs from the lower floors to the upper ones. Rooms of one floor stand side by side and do not know each other.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import CONFIGS, ROOT

from scripts.settings import FURTHER, OVERVIEW

FLOORS = (
    {"utils"},
    {"data", "metrics", "loss_terms"},
    {"cache", "evaluation", "inference", "run", "losses", "optimization"},
    {"networks", "handlers", "report", "trainer"},
    {"export", "share"},
    {"api", "make_datalist", "convert_adapter", "settings", "verify", "check_data", "labeling"},  # programs
)
MOST_MODULES, MOST_LINES, MOST_ARGUMENTS = 9, 350, 12
FILES = sorted(path.relative_to(ROOT) for top in ("scripts", "eval") for path in (ROOT / top).rglob("*.py"))
TREES = {path: ast.parse((ROOT / path).read_text(encoding="utf-8")) for path in FILES}


def room(parts: tuple[str, ...]) -> str:
    """Of a module: its folder in scripts/, its own name right in scripts/, or eval."""
    return parts[0] if parts[0] != "scripts" or len(parts) == 1 else parts[1]


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Modules of the bundle that a file imports, also inside of functions."""
    package = path.parts[:-1]
    for node in ast.walk(TREES[path]):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) - node.level + 1] if node.level else ()
        module = (*base, *(node.module.split(".") if node.module else ()))
        for name in (alias.name for alias in node.names):
            inner = Path(*module, name)
            is_module = (ROOT / inner).is_dir() or (ROOT / inner.with_suffix(".py")).is_file()
            if module[:1] in (("scripts",), ("eval",)):
                yield (*module, name) if is_module else module


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def test_every_room_has_its_floor():
    rooms = {room(path.with_suffix("").parts) for path in FILES if path.name != "__init__.py" or len(path.parts) > 2}
    assert rooms - {"eval"} == set().union(*FLOORS)


def test_house_itself_imports_the_ground_alone():
    assert {room(module) for module in imports(Path("scripts/__init__.py"))} == {"utils"}


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parts[0] == "scripts" and path != Path("scripts/__init__.py")], ids=str
)
def test_imports_lead_to_a_lower_floor(path):
    own = room(path.with_suffix("").parts)
    others = {room(module) for module in imports(path)} - {own}
    assert [other for other in others if other == "eval" or floor(other) >= floor(own)] == []


def test_no_import_circle():
    modules = {path.with_suffix("").parts: path for path in FILES}
    packages = {path.parts[:-1]: path for path in FILES if path.name == "__init__.py"}
    known = {**modules, **packages}
    graph = {path: {known[module] for module in imports(path)} - {path} for path in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(map(str, circle.args[1])))


def test_few_modules_stand_right_in_scripts():
    modules = [path for path in FILES if path.parent == Path("scripts") and path.name != "__init__.py"]
    assert len(modules) <= MOST_MODULES


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=str)
def test_every_folder_says_what_is_in_it(folder):
    assert ast.get_docstring(TREES[folder / "__init__.py"])


def test_no_file_is_long():
    lengths = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: lines for path, lines in lengths.items() if lines > MOST_LINES} == {}


def test_functions_take_few_arguments():
    train = json.loads((CONFIGS / "train.json").read_text())
    # an argument is a key
    allowed = {train[section]["_target_"].rpartition(".")[2] for section in (*OVERVIEW, *FURTHER)}
    many = []
    for path, tree in TREES.items():
        for node in tree.body + [n for outer in tree.body if isinstance(outer, ast.ClassDef) for n in outer.body]:
            if isinstance(node, ast.FunctionDef) and count_arguments(node) > MOST_ARGUMENTS:
                owner = next((o.name for o in tree.body if isinstance(o, ast.ClassDef) and node in o.body), node.name)
                many.append(f"{path}: {owner}")
    assert [name for name in many if name.split(": ")[1] not in allowed] == []


def count_arguments(function: ast.FunctionDef) -> int:
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_trainer_imports_neither_network_nor_loss():
    assert {room(module) for module in imports(Path("scripts/trainer.py"))} <= {"utils", "run"}


def test_checksums_are_checked_without_the_bundle():
    """Its receiver runs it before anything of the bundle is trusted."""
    assert list(imports(Path("scripts/share/manifest.py"))) == []


def test_tests_follow_the_rooms():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    rooms = {path.parts[1] for path in FILES if path.parts[0] == "scripts" and len(path.parts) > 2}
    assert folders <= rooms | {"eval", "faults"}
    assert rooms <= folders


def test_config_reads_from_what_to_how_much_to_with_what():
    train = json.loads((CONFIGS / "train.json").read_text())
    names = [name for name in train if name != "_desc_"]
    assert len(train) <= 30
    assert tuple(names[: len(OVERVIEW)]) == OVERVIEW


def test_walk_over_the_modules_ends():
    """The package sam_tinyusfm holds scripts/, in which it lies itself."""
    walk = "import pkgutil; print(max(m.name.count('.') for m in pkgutil.walk_packages(['scripts'], 'scripts.')))"
    done = subprocess.run([sys.executable, "-c", walk], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 4
