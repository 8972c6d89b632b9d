"""What the tests of a comparison share."""

from __future__ import annotations

import json
from pathlib import Path

from eval.arms import Plan

NUM_TEST = 2  # of conftest's phantoms


def settings_of(overrides: dict) -> dict:
    """The overrides of a run without its run folder, which a comparison chooses."""
    return {key: value for key, value in overrides.items() if not key.startswith("run_folder")}


def without(arguments: list[str], option: str, values: int = 1) -> list[str]:
    """A command line that leaves an option and its values out."""
    at = arguments.index(option)
    return [*arguments[:at], *arguments[at + 1 + values :]]


def read_state(folder: Path) -> dict:
    """What a comparison's folder says of it."""
    return json.loads((folder / "comparison.json").read_text())


def read_report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def no_training(monkeypatch) -> None:
    """From now on a training that begins fails."""
    workflow = Plan.workflow

    def build(*args):
        flow = workflow(*args)
        flow.run = None
        return flow

    monkeypatch.setattr(Plan, "workflow", build)
