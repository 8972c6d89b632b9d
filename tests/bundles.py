"""Copies of this bundle in git, for tests of what is shared."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from conftest import ROOT

from scripts.share.bundle import bundle_name, read_metadata

FOLDERS = ("configs", "scripts", "docs", "eval", "tests")
FILES = ("LICENSE", "README.md", "CITATION.cff", "pyproject.toml", ".gitignore")
NAME, VERSION = bundle_name(ROOT), read_metadata(ROOT)["version"]
ZIP = f"{NAME}_v{VERSION}.zip"


def make_repository(folder: Path, models: bool = False) -> Path:
    """A copy of this bundle in git, not committed; without its weights unless they are asked for."""
    for name in (*FOLDERS, "models") if models else FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    if not models:
        (folder / "models").mkdir()
        for name in ("model.pt", "model.safetensors"):
            (folder / "models" / name).write_bytes(b"weights")
    git(folder, "init", "-q")
    git(folder, "add", "--intent-to-add", ".")
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)
