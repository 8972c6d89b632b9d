"""Catches what MONAI's configuration ignores: unknown ids, dotted overrides, unknown arguments and values of another
type.

MONAI sets whatever `--id value` it is given, and an id that nothing reads changes nothing. Every training and
evaluation config names `checked_config` in its `initialize`, which runs before anything is built.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import logging
import re
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from monai.bundle import ConfigParser

from ..utils.files import BUNDLE_ROOT

logger = logging.getLogger(__name__)

# ids that `monai.bundle run --tracking` adds
TRACKING_IDS = {
    "experiment_name",
    "run_name",
    "tracking_uri",
    "output_dir",
    "save_execute_config",
    "is_not_rank0",
    "tracking",
    "mlflow_off",
    "handlers_id",
}
RESERVED = {"_target_", "_requires_", "_disabled_", "_desc_", "_mode_"}
PLAIN_SECTIONS = ("train", "validate", "test")
POINTERS = {"dataset_dir": ("@data::dataset_dir", "data::dataset_dir")}
REFERENCE = re.compile(r"\$?@(\w+(?:(?:::|#)\w+)*)")
TYPES = {"bool": bool, "int": int, "float": (int, float)}


def checked_config() -> dict:
    """The configuration that is being run, with all overrides, after checking it.

    Raises:
        ValueError: an id, argument or value that would be ignored or misread; the message has the nearest right one.
        RuntimeError: called outside a monai.bundle configuration.
    """
    config = _running_config(inspect.currentframe())
    show_errors_briefly()
    if _is_command_line():
        refuse_none(sys.argv[1:])
    check_config(config)
    return {key: deepcopy(value) for key, value in config.items() if key != ConfigParser.meta_key}


def section_texts(config: dict, **ids: str) -> dict[str, str]:
    """Sections of a configuration as JSON text, every reference replaced by what it refers to: what they do, in words.

    Args:
        config: as `checked_config` returns it.
        ids: the id of a section, by the name that it shall have.

    Raises:
        ValueError: a section holds an expression, whose text does not say what it gives.
    """
    return {
        name: json.dumps(_without_references(f"@{id}", config, id), sort_keys=True, default=str)
        for name, id in ids.items()
    }


def _without_references(value: Any, config: dict, id: str) -> Any:
    if isinstance(value, dict):
        parts = {key: part for key, part in value.items() if key not in ("_desc_", "_requires_")}
        return {key: _without_references(part, config, f"{id}::{key}") for key, part in parts.items()}
    if isinstance(value, list):
        return [_without_references(part, config, f"{id}::{number}") for number, part in enumerate(value)]
    if not isinstance(value, str) or value[:1] not in ("@", "$"):
        return value
    reference = REFERENCE.fullmatch(value)
    if reference is None:
        raise ValueError(
            f"{id} is the expression {value!r}, whose text does not say what it gives, so that a cache or a resumed "
            "run could not "
            "tell one value from another; write the value, or a reference to it (@id)."
        )
    found = config
    for key in re.split("::|#", reference[1]):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return _without_references(found, config, reference[1])


def refuse_none(arguments: list[str]) -> None:
    """Refuse `--id None`, which monai.bundle.run leaves out without a word.

    Args:
        arguments: of the command line.
    """
    pairs = [argument.split("=", 1) for argument in arguments if "=" in argument] + list(zip(arguments, arguments[1:]))
    for name, value in pairs:
        if name.startswith("--") and value == "None":
            raise ValueError(
                f"{name} None is left out by monai.bundle, so that it would change nothing; write "
                f'{{"{name.lstrip("-")}": null}} to a file and add it to --config_file.'
            )


def check_config(config: dict) -> None:
    """Refuse top-level ids that no shipped config knows and nothing refers to, and arguments that no signature has.

    Args:
        config: a parsed configuration before its references are resolved.

    Raises:
        ValueError: see `checked_config`.
    """
    known = known_ids("training" not in config) | TRACKING_IDS | {ConfigParser.meta_key}
    referred = set(re.findall(r"[@%](\w+)", json.dumps(config, default=str)))
    for name in config:
        if name not in known and name not in referred:
            raise ValueError(
                f"unknown id {name!r} in the configuration or on the command line; {_suggest_id(name, config)}."
            )
    for id, component in _components(config):
        _check_component(id, component)
    _check_plain_sections(config)
    _check_fixed(config)
    _check_classes(config)


@lru_cache
def known_ids(inference: bool = False) -> frozenset[str]:
    """Top-level ids of inference.json, or of train.json and its overlays."""
    names = set()
    for path in sorted((BUNDLE_ROOT / "configs").glob("*.json")):
        if path.name != "metadata.json" and (path.name == "inference.json") == inference:
            names.update(re.split("::|#", key.lstrip("+"))[0] for key in json.loads(path.read_text()))
    return frozenset(names)


def _suggest_id(name: str, config: dict) -> str:
    dotted = name.replace(".", "::")
    if dotted != name and _has(config, dotted.split("::")):
        return f"write --{dotted}, with two colons"
    known = known_ids("training" not in config)
    paths = {path: path for path in known}
    for section, content in config.items():
        if isinstance(content, dict) and "_target_" in content:
            paths.update({f"{section}::{key}": f"{section}::{key}" for key in content if key not in RESERVED})
            paths.update({key: f"{section}::{key}" for key in content if key not in RESERVED and key not in paths})
    near = difflib.get_close_matches(dotted, paths, n=1, cutoff=0.6)
    return f"did you mean --{paths[near[0]]}" if near else f"ids are {', '.join(sorted(known - RESERVED))}"


def _has(config: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(config, dict) or key not in config:
            return False
        config = config[key]
    return True


def _components(config: Any, id: str = "") -> Iterator[tuple[str, dict]]:
    """All dicts that name a `_target_` of this bundle, with their ids."""
    if isinstance(config, dict):
        if str(config.get("_target_", "")).startswith("scripts."):
            yield id, config
        for key, value in config.items():
            yield from _components(value, f"{id}::{key}" if id else str(key))
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from _components(value, f"{id}::{index}")


def _check_component(id: str, component: dict) -> None:
    parameters = target_parameters(component["_target_"])
    if parameters is None:
        return
    for key, value in component.items():
        if key in RESERVED:
            continue
        if key not in parameters:
            near = difflib.get_close_matches(key, parameters, n=1, cutoff=0.5)
            hint = f"did you mean {id}::{near[0]}" if near else f"its keys are {', '.join(parameters)}"
            raise ValueError(f"unknown key {id}::{key}; {hint}.")
        _check_type(f"{id}::{key}", value, parameters[key])


def _check_plain_sections(config: dict) -> None:
    """`train`, `validate` and `test` only group components: a key that the shipped config lacks is read by nothing."""
    shipped = json.loads((BUNDLE_ROOT / "configs" / "train.json").read_text())
    for section in PLAIN_SECTIONS:
        for key in config.get(section) or {}:
            if key not in shipped[section] and f"@{section}::{key}" not in json.dumps(config, default=str):
                hint = f"; did you mean training::{key}" if key in shipped["training"] else ""
                raise ValueError(f"unknown key {section}::{key}{hint}; its keys are {', '.join(shipped[section])}.")


def _check_fixed(config: dict) -> None:
    """Ids that only point into a section in a training config: setting them would leave the section's value in
    force.
    """
    if "training" not in config:
        return
    for name, (value, right) in POINTERS.items():
        if config.get(name) != value:
            raise ValueError(f"{name} only points to {right} here, got {config.get(name)!r}; pass --{right} instead.")


def _check_classes(config: dict) -> None:
    """Teacher, loss and student segment the classes of the data."""
    data = config.get("data")
    wanted = data.get("num_classes") if isinstance(data, dict) else None
    for section in ("teacher", "distillation", "network_def"):
        component = config.get(section)
        found = component.get("num_classes") if isinstance(component, dict) else None
        if isinstance(found, int) and isinstance(wanted, int) and found != wanted:
            raise ValueError(
                f"{section}::num_classes is {found}, but data::num_classes is {wanted}; "
                "pass --data::num_classes alone, which teacher, student and loss follow."
            )


def _check_type(id: str, value: Any, annotation: str) -> None:
    names = [part.strip() for part in annotation.split("|")]
    if names[0] == "int" and (isinstance(value, bool) or (isinstance(value, float) and not value.is_integer())):
        raise ValueError(f"{id} must be a whole number, got {value!r}.")
    if not isinstance(value, str) or value[:1] in ("@", "$", "%") or "str" in names:
        return
    expected = next((name for name in names if name in TYPES), None)
    if expected == "bool":
        raise ValueError(
            f"{id} must be True or False with a capital letter on the command line, got the text {value!r}."
        )
    if expected:
        raise ValueError(f"{id} must be of type {expected}, got the text {value!r}.")


@lru_cache
def target_parameters(target: str) -> dict[str, str] | None:
    """Argument names and annotations of `scripts.module.Name`, read from its source without importing it (heavy
    libraries stay unloaded); None when it takes any keyword.

    Raises:
        ValueError: there is no such module or name.
    """
    module, _, name = target.rpartition(".")
    path = BUNDLE_ROOT / Path(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        raise ValueError(f"_target_ {target}: there is no module {module} in this bundle.")
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            return target_parameters(f"{package}.{node.module}.{name}")
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return _parameters(node)
    raise ValueError(f"_target_ {target}: there is no {name} in {module}.")


def _parameters(node: ast.FunctionDef | ast.ClassDef) -> dict[str, str] | None:
    if isinstance(node, ast.ClassDef):
        fields = {n.target.id: ast.unparse(n.annotation) for n in node.body if isinstance(n, ast.AnnAssign)}
        node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if node is None:
            return fields or None
    if node.args.kwarg or node.args.vararg:
        return None
    arguments = [a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
    return {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in arguments}


def _running_config(frame: FrameType | None) -> dict:
    """The config of the parser that is resolving the component which called us."""
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return parser.config
        frame = frame.f_back
    raise RuntimeError("checked_config works only inside a monai.bundle configuration.")


def show_errors_briefly() -> None:
    """On the command line, end a run that a user can mend with its message alone, without MONAI's chain of
    tracebacks.
    """
    if _is_command_line() and sys.excepthook is sys.__excepthook__:
        sys.excepthook = _brief_excepthook


def _is_command_line() -> bool:
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def _brief_excepthook(kind: type, error: BaseException, traceback: TracebackType | None) -> None:
    found = find_user_error(error)
    if found is None:
        sys.__excepthook__(kind, error, traceback)
        return
    logger.debug("the run ended", exc_info=(kind, error, traceback))
    print(f"error: {found}", file=sys.stderr)


def find_user_error(error: BaseException | None) -> BaseException | None:
    """The first in MONAI's chain of an error's causes that a user can mend, see `is_user_error`; None where there is
    none.
    """
    while error is not None and not is_user_error(error):
        error = error.__cause__ or error.__context__
    return error


def is_user_error(error: BaseException) -> bool:
    """Whether this bundle's own code raised it about something that a user can change."""
    if not isinstance(error, (ValueError, OSError, FloatingPointError)):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    parents = Path(traceback.tb_frame.f_code.co_filename).resolve().parents
    return BUNDLE_ROOT / "scripts" in parents or BUNDLE_ROOT / "eval" in parents
