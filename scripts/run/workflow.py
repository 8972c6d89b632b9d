"""MONAI's workflow of this bundle's configs, built inside a program instead of on its command line."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from ..utils.files import BUNDLE_ROOT, CONFIGS
from .config_check import suggest_id


def build_workflow(
    config_files: Sequence[str | Path], overrides: Mapping[str, Any], run_id: str = "training", kind: str = "train"
) -> ConfigWorkflow:
    """A run that is not initialized yet.

    Args:
        config_files: train.json or inference.json and overlays. A bare name that is no file here is one of configs/.
        overrides: config ids and values, as on the command line.
        run_id: the id that `run` starts.
        kind: MONAI's workflow type, train or infer.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: an override of a section that no config has.
    """
    files = [_find_config(Path(name)) for name in config_files]
    _check_sections(files, overrides)
    with _without_advice():
        return ConfigWorkflow(
            config_file=files,
            meta_file=str(CONFIGS / "metadata.json"),
            logging_file=False,
            workflow_type=kind,
            run_id=run_id,
            **deepcopy({"bundle_root": str(BUNDLE_ROOT), **overrides}),  # MONAI changes dicts that it is given
        )


def _find_config(path: Path) -> str:
    """A file of the user, or one of configs/."""
    shipped = CONFIGS / path
    if not path.is_file() and not shipped.is_file():
        raise FileNotFoundError(f"config file {path} does not exist, neither here nor in {CONFIGS}.")
    return str(path if path.is_file() else shipped)


def _check_sections(files: list[str], overrides: Mapping[str, Any]) -> None:
    """MONAI ends with a KeyError without a word where the section in front of `::` is mistyped."""
    config = ConfigParser.load_config_files(files)
    for name in overrides:
        section, *keys = re.split("::|#", name)
        if keys and section not in config:
            raise ValueError(f"unknown section {section!r} in --{name}; {suggest_id(name, config)}.")


@contextmanager
def _without_advice():
    """MONAI warns, at each workflow, that no logging file was given: here it is meant so."""
    logger = logging.getLogger("monai.bundle.workflows")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
