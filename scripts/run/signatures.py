"""Signatures and docstrings of this bundle's code, read from its source without importing it: heavy libraries stay
unloaded.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..utils.files import BUNDLE_ROOT

ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")
RANGE = re.compile(r"\s*\[([^\[\]]*)\]$")


class Parameter(NamedTuple):
    """An argument: its annotation and default as they are written ("" where there is none), its meaning and its range.

    The range stands in brackets at the end of the argument's docstring: `lr: of the last layer. [above 0]`.
    """

    annotation: str
    default: str
    meaning: str
    range: str


@lru_cache
def target_parameters(target: str) -> dict[str, Parameter] | None:
    """Arguments of `scripts.module.Name` by name; None when it takes any keyword.

    Raises:
        ValueError: there is no such module or name.
    """
    node = find_definition(target)
    doc = ast.get_docstring(node) or ""
    function = node
    if isinstance(node, ast.ClassDef):
        function = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if function is None:
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            return {n.target.id: _parameter(n.annotation, n.value, doc, n.target.id) for n in fields} or None
    arguments = function.args
    if arguments.kwarg or arguments.vararg:
        return None
    names = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(names) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(names, defaults), *zip(arguments.kwonlyargs, arguments.kw_defaults)]
    return {a.arg: _parameter(a.annotation, value, doc, a.arg) for a, value in pairs if a.arg not in ("self", "cls")}


@lru_cache
def find_definition(target: str) -> ast.FunctionDef | ast.ClassDef:
    """The function or class `scripts.module.Name`, through the `__init__` of a package that imports it.

    Raises:
        ValueError: there is no such module or name.
    """
    module, _, name = target.rpartition(".")
    path = BUNDLE_ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        raise ValueError(f"_target_ {target}: there is no module {module} in this bundle.")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            return find_definition(f"{package}.{node.module}.{name}")
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node
    raise ValueError(f"_target_ {target}: there is no {name} in {module}.")


def _parameter(annotation: ast.expr | None, default: ast.expr | None, doc: str, name: str) -> Parameter:
    text = _describe(doc, name)
    limits = RANGE.search(text)
    return Parameter(
        annotation=ast.unparse(annotation) if annotation else "",
        default=ast.unparse(default) if default else "",
        meaning=text[: limits.start()].rstrip() if limits else text,
        range=limits[1] if limits else "",
    )


def _describe(doc: str, name: str) -> str:
    """What the part Args of a Google-style docstring says of an argument, on one line."""
    _, _, part = doc.partition("Args:\n")
    entries: dict[str, str] = {}
    current: list[str] = []
    for line in part.split("\n"):
        if not line.strip() or not line.startswith(" "):
            break
        indent, entry = len(line) - len(line.lstrip()), ENTRY.fullmatch(line.strip())
        if indent == 4 and entry:
            current = entry[1].split(", ")
            entries.update(dict.fromkeys(current, entry[2]))
        else:
            entries.update({key: f"{entries[key]} {line.strip()}" for key in current})
    return entries.get(name, "")
