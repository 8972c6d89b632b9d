"""The settings that are explained: those of the configs, with what the code says of them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import CONFIGS, ROOT

from scripts.settings import MARKER, OVERVIEW, SECTIONS, list_settings, main, markdown

TRAIN = json.loads((CONFIGS / "train.json").read_text())


def test_page_of_settings_is_what_the_code_says():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page.partition(MARKER)[2] == markdown(), "run: python -m scripts.settings --write docs/configuration.md"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_has_meaning_and_range(section):
    settings = list_settings(section)
    assert settings
    assert [setting.id for setting in settings if not setting.meaning or not setting.range] == []


@pytest.mark.parametrize("section", OVERVIEW)
def test_every_choice_of_a_section_is_listed_with_its_default(section):
    choices = {
        k: v for k, v in TRAIN[section].items() if k[0] != "_" and str(v)[:1] not in "@$" and k != "on_completion"
    }
    listed = {setting.id: setting.default for setting in list_settings(section)}
    for key, value in choices.items():
        assert listed[f"{section}::{key}"] == (value if isinstance(value, str) else json.dumps(value))


def test_any_component_of_the_config_can_be_asked_for(capsys):
    assert main(["optimizer"]) == 0
    shown = capsys.readouterr().out
    assert "--optimizer::layer_decay 0.8" in shown
    assert "--optimizer::network" not in shown


@pytest.mark.parametrize("section", ["distilation", "train::handlers", "imports", "data::nothing"])
def test_unknown_section_is_one_line(section, capsys):
    assert main([section]) == 1
    message = capsys.readouterr().err.strip()
    assert section in message
    assert "distillation" in message
    assert "\n" not in message


def test_page_without_a_marker_is_refused(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("mine\n")
    assert main(["--write", str(page)]) == 1
    assert MARKER.strip() in capsys.readouterr().err
    assert page.read_text() == "mine\n"


def test_program_does_without_torch():
    code = "import sys; sys.modules['torch'] = None; from scripts.settings import main; sys.exit(main([]))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--distillation::temperature 4.0   [above 0" in shown
