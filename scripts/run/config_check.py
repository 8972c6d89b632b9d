"""Catches what MONAI's configuration ignores: unknown ids, dotted overrides, unknown arguments, values of another type.

MONAI sets whatever `--id value` it is given, and an id that nothing reads changes nothing. Every config names
`checked_config` in its `initialize`, which runs before anything is built.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import lru_cache
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser

from ..utils.files import CONFIGS
from ..utils.options import chosen_probes
from .errors import is_command_line, prepare_command_line
from .monai_label import labeling_overrides
from .references import REFERENCE, RESERVED
from .signatures import target_parameters

# ids that `monai.bundle run --tracking` adds
TRACKING_IDS = {
    *("experiment_name", "run_name", "tracking_uri", "output_dir", "save_execute_config", "is_not_rank0"),
    *("tracking", "mlflow_off", "handlers_id"),
}
PLAIN_SECTIONS = ("preprocessing", "train", "validate", "test")
LOSS = "@distillation"
VIEW_KEYS = (["mode"], ["views"])  # of the distillation; the views of the images follow them, whatever the loss
POINTERS = {"dataset_dir": ("@data::dataset_dir", "data::dataset_dir")}
# ids with a path
PATHS = (
    *("dataset_dir", "output_dir", "checkpoint", "data::dataset_dir", "training::resume", "student::checkpoint"),
    *(f"teacher::{key}" for key in ("sam_checkpoint", "lora_checkpoint", "cache_dir")),
)
TYPES = {"bool": bool, "int": int, "float": (int, float)}


def checked_config() -> dict:
    """The configuration that is being run, with all overrides, after checking it.

    Raises:
        ValueError: an id, argument or value that would be ignored or misread; the message has the nearest right one.
        RuntimeError: called outside a monai.bundle configuration.
    """
    parser = _running_parser(inspect.currentframe())
    prepare_command_line()
    if is_command_line():
        refuse_none(sys.argv[1:])
        refuse_unread(sys.argv[1:], parser.config)
    check_config(parser.config)
    for id, value in labeling_overrides(parser.config).items():
        parser[id] = value
    if not parser.ref_resolver.items:  # emptied by the lines before
        parser.parse(reset=True)
    return {key: deepcopy(value) for key, value in parser.config.items() if key != ConfigParser.meta_key}


def refuse_none(arguments: list[str]) -> None:
    """Refuse `--id None`, which monai.bundle.run leaves out without a word.

    Args:
        arguments: of the command line.
    """
    pairs = [word.split("=", 1) for word in arguments if "=" in word] + list(zip(arguments, arguments[1:]))
    for name, value in pairs:
        if name.startswith("--") and value == "None":
            raise ValueError(
                f"{name} None is left out by monai.bundle, so that it would change nothing; write "
                f'{{"{name.lstrip("-")}": null}} to a file and add it to --config_file.'
            )


def refuse_unread(arguments: list[str], config: dict) -> None:
    """Refuse options of the distillation in a run whose loss is another, such as the control's.

    Args:
        arguments: of the command line.
        config: that is being run.
    """
    if config.get("loss", LOSS) == LOSS:
        return
    names = [re.split("::|#", word.lstrip("-").partition("=")[0]) for word in arguments if word.startswith("--")]
    for section, *keys in names:
        if section == LOSS[1:] and keys[:1] not in VIEW_KEYS:
            raise ValueError(
                f"--{'::'.join([section, *keys])} changes nothing here: this run learns from the labels alone, its "
                "loss is not the section distillation; leave the option out."
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
                f"unknown id {name!r} in the configuration or on the command line; {suggest_id(name, config)}."
            )
    for id, component in _components(config):
        _check_component(id, component)
    _check_plain_sections(config)
    _check_pointers(config)
    _check_classes(config)
    _check_path_texts(config)
    _check_probes(config)


@lru_cache
def known_ids(inference: bool = False) -> frozenset[str]:
    """Top-level ids of inference.json, or of train.json and its overlays."""
    names = set()
    for path in sorted(CONFIGS.glob("*.json")):
        if path.name != "metadata.json" and (path.name == "inference.json") == inference:
            names.update(re.split("::|#", key.lstrip("+"))[0] for key in json.loads(path.read_text()))
    return frozenset(names)


def suggest_id(name: str, config: dict) -> str:
    """The end of a message about an unknown id: the nearest known one, or all of them.

    Args:
        name: that nothing knows.
        config: whose sections and keys are meant.
    """
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
        _check_type(f"{id}::{key}", value, parameters[key].annotation)


def _check_plain_sections(config: dict) -> None:
    """They only group components: a key that the shipped config lacks is read by nothing."""
    shipped = json.loads((CONFIGS / "train.json").read_text())
    for section in PLAIN_SECTIONS if "training" in config else ():
        content = config.get(section)
        for key in content if isinstance(content, dict) and "_target_" not in content else ():
            if key not in shipped[section] and f"@{section}::{key}" not in json.dumps(config, default=str):
                hint = f"; did you mean training::{key}" if key in shipped["training"] else ""
                raise ValueError(f"unknown key {section}::{key}{hint}; its keys are {', '.join(shipped[section])}.")


def _check_pointers(config: dict) -> None:
    """Ids that only point into a section: setting them would leave the section's value in force."""
    if "training" not in config:
        return
    for name, (value, right) in POINTERS.items():
        if config.get(name) != value:
            raise ValueError(f"{name} only points to {right} here, got {config.get(name)!r}; pass --{right} instead.")


def _check_classes(config: dict) -> None:
    """Teacher, loss and student segment the classes of the data."""
    data = config.get("data")
    wanted = data.get("num_classes") if isinstance(data, dict) else None
    for section in ("teacher", "distillation", "loss", "network_def"):
        component = config.get(section)
        number = component.get("num_classes") if isinstance(component, dict) else None
        if isinstance(number, int) and isinstance(wanted, int) and number != wanted:
            raise ValueError(
                f"{section}::num_classes is {number}, but data::num_classes is {wanted}; "
                "pass --data::num_classes alone, which teacher, student and loss follow."
            )


def _check_path_texts(config: dict) -> None:
    """A folder may be called $RECYCLE.BIN: MONAI would run its name as Python."""
    for name in PATHS:
        section, _, key = name.rpartition("::")
        value = (config.get(section) or {}).get(key) if section else config.get(key)
        if isinstance(value, str) and value[:1] == "$" and not _is_expression(value[1:], config):
            raise ValueError(
                f"{name} is {value!r}, which MONAI's configuration would run as Python; write ./ before the name."
            )


def _is_expression(text: str, config: dict) -> bool:
    """Whether a text is Python that is made of values, or refers to other ids of the configuration."""
    try:
        tree = ast.parse(REFERENCE.sub("reference", text), mode="eval")
    except (SyntaxError, ValueError):
        return False
    sections = [id.split("::")[0].split("#")[0] for id in REFERENCE.findall(text)]
    if sections:
        return all(section in config for section in sections)
    return not any(isinstance(node, ast.Name) for node in ast.walk(tree))


def _check_probes(config: dict) -> None:
    """Probes of the final evaluation, which runs when the training is over, are known."""
    evaluation = config.get("final_evaluation")
    if isinstance(evaluation, dict):
        chosen_probes("final_evaluation::probes", evaluation.get("probes", ()))


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


def _running_parser(frame: FrameType | None) -> ConfigParser:
    """The parser that is resolving the component which called us."""
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return parser
        frame = frame.f_back
    raise RuntimeError("checked_config works only inside a monai.bundle configuration.")
