"""What the bundle needs: pyproject.toml, configs/metadata.json and the imports say the same, with floors for security.

Inference with the packages of metadata.json alone is run where MONAI_BUNDLE_ENV names an environment of them.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONFIGS, ROOT
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
METADATA = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))
# of security advisories; setuptools comes with torch and tensorboard
FLOORS = {
    "torch": "2.10",
    "monai": "1.6.1",
    "mlflow": "3.11",
    "pillow": "12.2",
    "filelock": "3.20.3",
    "setuptools": "78.1.1",
}
DISTRIBUTIONS = {
    "PIL": "pillow",
    "ignite": "pytorch-ignite",
    "segment_anything": "segment-anything",
    "cyclonedx": "cyclonedx-python-lib",
    "packageurl": "packageurl-python",
}
# in environments of their own, see docs/many_machines.md, docs/README.md and docs/monai_label.md
SEPARATE = {"nvflare", "nnunetv2", "monailabel"}
OWN_FIELDS = {"torch": "pytorch_version", "monai": "monai_version", "numpy": "numpy_version"}
PACKAGES_ENV = "MONAI_BUNDLE_ENV"


def requirements(block: str) -> list[Requirement]:
    """The requirements of a list of pyproject.toml, found by its beginning."""
    content = re.search(rf"^{re.escape(block)} = \[(.*?)\]$", PROJECT, re.M | re.S)[1]
    return [Requirement(text) for text in re.findall(r'"([^"]+)"', content)]


DEPENDENCIES = requirements("dependencies")
EXTRAS = [part for name in ("mlflow", "wandb", "dicom", "export", "sign") for part in requirements(name)]


@pytest.mark.parametrize("name", FLOORS)
def test_versions_with_known_faults_are_ruled_out(name):
    declared = [part for part in [*DEPENDENCIES, *EXTRAS] if part.name == name]
    floors = [Version(part.version) for line in declared for part in line.specifier if part.operator == ">="]
    assert min(floors) >= Version(FLOORS[name])


def test_build_uses_no_setuptools_with_known_faults():
    (setuptools,) = requirements("requires")
    assert not setuptools.specifier.contains("78.1.0")


def test_every_import_is_declared():
    declared = {part.name.replace("-", "_") for part in [*DEPENDENCIES, *EXTRAS]}
    missing = {}
    for path in (path for top in ("scripts", "eval") for path in (ROOT / top).rglob("*.py")):
        for name in imported(path) - {"scripts", "eval"} - SEPARATE:
            if DISTRIBUTIONS.get(name, name).replace("-", "_") not in declared:
                missing.setdefault(name, str(path.relative_to(ROOT)))
    assert missing == {}


def imported(path: Path) -> set[str]:
    """Packages outside of the standard library that a file names, by an import or as a text such as
    `hub_library("huggingface_hub")`.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("library") and node.args:
            names.update(part.value for part in node.args[:1] if isinstance(part, ast.Constant))
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)


def test_metadata_names_every_dependency_in_a_version_that_is_allowed():
    required = {name: METADATA[field] for name, field in OWN_FIELDS.items()} | METADATA["required_packages_version"]
    assert set(required) == {part.name for part in DEPENDENCIES}
    assert [str(part) for part in DEPENDENCIES if not part.specifier.contains(required[part.name])] == []


@pytest.mark.slow
@pytest.mark.skipif(PACKAGES_ENV not in os.environ, reason=f"{PACKAGES_ENV} names no environment")
def test_inference_runs_with_the_packages_of_the_metadata_alone(phantoms, tmp_path):
    """The environment: uv venv, then uv pip install of the versions in metadata.json and nothing else."""
    python = Path(os.environ[PACKAGES_ENV]) / "bin" / "python"
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((phantoms / "images").iterdir())[:3]:
        shutil.copy(path, images)
    command = [python, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    options = ["--dataset_dir", str(images), "--output_dir", str(tmp_path / "masks")]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    masks = sorted((tmp_path / "masks").glob("*mask*"))
    assert len(masks) == 3
    assert all(Image.open(path).size == (64, 64) for path in masks)
