"""Reports of libraries are off in every program, before the libraries are imported, unless the user asks for them.

That nothing is sent is shown with real programs in test_network.py.
"""

import ast
import json
import os
import subprocess
import sys
import types

import pytest
from conftest import ROOT

from scripts.utils.telemetry import OPENVINO, VARIABLES, switch_reports_off

CALL = "switch_reports_off"
OWN = ("scripts", "eval")
# modules that open connections; what the bundle sends when asked for goes through huggingface_hub, mlflow and wandb
CONNECTING = {"http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "socket"}


@pytest.fixture
def untouched(monkeypatch, tmp_path):
    """A process of a user who has set nothing; HOME is empty."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, OPENVINO, raising=False)
    monkeypatch.delitem(sys.modules, "mlflow.telemetry", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_report_is_off(untouched):
    switch_reports_off()
    assert {name: os.environ[name] for name in VARIABLES} == VARIABLES
    with pytest.raises(ImportError):
        __import__(OPENVINO)


@pytest.mark.parametrize("name", VARIABLES)
def test_value_of_the_user_stays(name, untouched, monkeypatch):
    monkeypatch.setenv(name, "of the user")
    switch_reports_off()
    assert os.environ[name] == "of the user"


@pytest.mark.parametrize(("consent", "is_off"), [("1\n", False), ("0", True), ("", True)])
def test_consent_to_openvino_stays(consent, is_off, untouched, monkeypatch):
    (untouched / "intel").mkdir()
    (untouched / "intel" / OPENVINO).write_text(consent)
    switch_reports_off()
    assert (OPENVINO in sys.modules) == is_off


@pytest.mark.parametrize(("asked", "calls"), [(None, 1), ("false", 0)])
def test_mlflow_that_is_imported_already_is_told(asked, calls, untouched, monkeypatch):
    seen = []
    told = types.SimpleNamespace(set_telemetry_client=lambda: seen.append(os.environ["MLFLOW_DISABLE_TELEMETRY"]))
    monkeypatch.setitem(sys.modules, "mlflow.telemetry", told)
    if asked:
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", asked)
    switch_reports_off()
    assert seen == ["true"] * calls


@pytest.mark.parametrize("name", OWN)
def test_reports_are_off_before_any_library_is_imported(name):
    """A program of the bundle imports its package first."""
    tree = ast.parse((ROOT / name / "__init__.py").read_text())
    found = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert len(found) == 1
    code = f"import sys; before = set(sys.modules); import {name}; print(*(set(sys.modules) - before))"
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    code += "; import os, json; print(json.dumps(dict(os.environ)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    modules, variables = done.stdout.splitlines()
    top = {module.split(".")[0] for module in modules.split()} - {*OWN, OPENVINO}
    assert top <= set(sys.stdlib_module_names)
    assert VARIABLES.items() <= json.loads(variables).items()


def test_bundle_opens_no_connection_itself():
    found = {}
    for path in (path for top in OWN for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                if name.split(".")[0] in CONNECTING and name != "urllib.parse":
                    found.setdefault(path.relative_to(ROOT), []).append(name)
    assert found == {}
