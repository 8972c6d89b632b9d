"""Explains the settings: python -m scripts.settings [SECTION].

Prints each key of a section with its default, its range and its meaning. The default is that of configs/train.json or
configs/inference.json; range and meaning are read from the docstring of the code that gets the value.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .run.errors import run_program
from .run.references import RESERVED, get_item
from .run.signatures import Parameter, target_parameters
from .utils.files import CONFIGS, atomic_path

OVERVIEW = ("data", "teacher", "student", "distillation", "augmentation", "training", "hardware")
FURTHER = ("optimizer", "final_evaluation")  # sections further down, with settings that a user may need
INFERENCE, OTHER = "inference", "other"
SECTIONS = (*OVERVIEW, *FURTHER, OTHER, INFERENCE)
TITLES = {
    INFERENCE: "of configs/inference.json, without a section in front: --output_dir masks",
    OTHER: "of configs/train.json, without a section in front: --val_interval 5",
}
NO_OVERLAYS = ("metadata.json", "train.json", "inference.json")
MARKER = "<!-- written by python -m scripts.settings -->\n"
ROOT = "$@bundle_root + "


class Setting(NamedTuple):
    """A key of a section, with its id on the command line, its default as text, and what the code says of it."""

    id: str
    default: str
    range: str
    meaning: str


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; 0, or 1 after a message."""
    parser = argparse.ArgumentParser(prog="python -m scripts.settings", description=__doc__.split("\n\n")[1])
    parser.add_argument("section", nargs="?", help=f"of {', '.join(SECTIONS)}; or an id of train.json")
    parser.add_argument("--write", metavar="FILE", help="write the tables to this Markdown file, below its marker")
    options = parser.parse_args(arguments)
    return run_program(parser.prog, lambda: write_page(options.write) if options.write else show(options.section))


def show(section: str | None) -> int:
    """Print one section, or all; 0."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    for name in [section] if section else SECTIONS:
        print(f"{name}: {describe(name)}")
        for setting in list_settings(name):
            limits = f"   [{setting.range}]" if setting.range else ""
            print(f"  --{setting.id} {setting.default}{limits}")
            print(textwrap.fill(setting.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6))
        print()
    return 0


def write_page(path: str) -> int:
    """Write the tables of all sections and the list of overlays below the marker of a Markdown file; 0.

    Raises:
        ValueError: the file has no marker.
    """
    text = Path(path).read_text(encoding="utf-8")
    if MARKER not in text:
        raise ValueError(f"{path} has no line {MARKER.strip()}; add it where the tables belong.")
    with atomic_path(path) as draft:
        draft.write_text(f"{text.partition(MARKER)[0]}{MARKER}{markdown()}", encoding="utf-8")
    return 0


def markdown() -> str:
    """All sections as tables, and the overlays."""
    columns = ["key", "default", "range", "meaning"]
    parts = [
        f"## {name}\n\n{_sentence(describe(name))}\n\n{_table(columns, map(_row, list_settings(name)))}"
        for name in SECTIONS
    ]
    files = [path.name for path in sorted(CONFIGS.glob("*.json")) if path.name not in NO_OVERLAYS]
    overlays = _table(["file", "what it is"], [(f"`{name}`", _sentence(_load(name)["_desc_"])) for name in files])
    return "\n" + "\n".join([*parts, f"## Overlays\n\n{overlays}"])


def describe(section: str) -> str:
    """What a section is, in a few words."""
    if section in TITLES:
        return TITLES[section]
    return _section(section).get("_desc_", f"{section} of configs/train.json")


def list_settings(section: str) -> list[Setting]:
    """The keys of a section that a user may choose; those that follow another id are left out.

    Args:
        section: an id of configs/train.json, `other` for its values without a section, or `inference`.

    Raises:
        ValueError: there is no such section.
    """
    if section in TITLES:
        return list(_values(_load("inference.json" if section == INFERENCE else "train.json")))
    return list(_arguments(section, _section(section)))


def _section(id: str) -> dict[str, Any]:
    config = _load("train.json")
    try:
        content = get_item(id, config)
    except (KeyError, ValueError, TypeError, IndexError):
        content = None
    if not isinstance(content, dict) or not content.get("_target_", "").startswith("scripts."):
        raise ValueError(f"no section {id!r} in configs/train.json; sections are {', '.join(SECTIONS)}.")
    return content


def _arguments(id: str, section: Mapping[str, Any]) -> Iterator[Setting]:
    parameters = target_parameters(section["_target_"]) or {}
    for key, value in section.items():
        if key not in RESERVED and _is_choice(value) and not parameters[key].annotation.startswith("Callable"):
            yield _setting(f"{id}::{key}", value, parameters[key])


def _values(config: Mapping[str, Any]) -> Iterator[Setting]:
    """Top-level ids that an argument of this bundle's code follows: it has their meaning."""
    readers = dict(sorted(_readers(config), key=lambda reader: _fullness(reader[1])))  # the last of a name stays
    for id, value in config.items():
        if id in readers and not isinstance(value, dict) and _is_choice(value):
            yield _setting(id, value, readers[id])
    if "training" not in config:
        yield from _arguments("hardware", config["hardware"])


def _readers(config: Any) -> Iterator[tuple[str, Parameter]]:
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from _readers(value)
    if isinstance(config, dict) and config.get("_target_", "").startswith("scripts."):
        parameters = target_parameters(config["_target_"]) or {}
        yield from (
            (value[1:], parameters[k]) for k, value in config.items() if k in parameters and str(value)[:1] == "@"
        )


def _fullness(parameter: Parameter) -> tuple[bool, int]:
    return bool(parameter.range), len(parameter.meaning)


def _is_choice(value: Any) -> bool:
    if not isinstance(value, str):
        return '"@' not in json.dumps(value)  # nor is a reference inside of it
    return value[:1] not in ("@", "$") or value.startswith(ROOT)


def _setting(id: str, value: Any, parameter: Parameter) -> Setting:
    text = value.removeprefix(ROOT).strip("'/") if isinstance(value, str) else json.dumps(value)
    return Setting(id, text, parameter.range, parameter.meaning)


def _row(setting: Setting) -> tuple[str, ...]:
    return f"`{setting.id}`", f"`{setting.default}`", setting.range, _sentence(setting.meaning)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _table(columns: list[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"


def _load(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
