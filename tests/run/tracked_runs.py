"""Runs that experiment trackers record, for the tests of the records.

A test file makes fixtures of the functions `make_...`: `store = pytest.fixture(scope="module")(make_store)`, and so on;
the names of their arguments are those of fixtures.
"""

import importlib.util
import json
import re
import shlex
from functools import lru_cache
from pathlib import Path

import pytest
from conftest import CONFIGS, ROOT, run

from scripts.networks.student import TEST_SIZE

EXTRAS = ("mlflow", "wandb")
INSTALLED = [name for name in EXTRAS if importlib.util.find_spec(name) is not None]


def needs(extra: str):
    """The mark of a test that needs an optional package."""
    return pytest.mark.skipif(extra not in INSTALLED, reason=f"{extra} is an optional extra that is not installed")


class Folder:
    """As RunFolder, of files that are there."""

    def __init__(self, path: Path) -> None:
        self.path, self.visualizations = path, path / "visualizations"


def record_run(overrides: dict, *overlays: str, run_id: str = "training"):
    """A run to its end, as monai.bundle.run does it."""
    flow = run(overrides, *overlays, run_id=run_id)
    flow.finalize()
    return flow


def make_store(tmp_path_factory) -> Path:
    """Of all records of a session; to make MLflow's tables costs seconds."""
    store = tmp_path_factory.getbasetemp() / "records"
    store.mkdir(exist_ok=True)
    return store


def make_tracked(overrides, store) -> dict:
    """Overrides of runs whose records go to `store`."""
    own = {"mlflow_record::store": str(store), "mlflow_record::log_model": False, "wandb_record::store": str(store)}
    return {**overrides, **{key: value for key, value in own.items() if key.partition("_")[0] in INSTALLED}}


def only(overrides: dict, extra: str) -> dict:
    """The overrides without those of other records."""
    others = tuple(f"{name}_" for name in EXTRAS if name != extra)
    return {key: value for key, value in overrides.items() if not key.startswith(others)}


def make_distilled(phantoms, sam_checkpoint, lora_checkpoint, store):
    """One distillation that all installed trackers have recorded: its run folder, its student, and its overrides."""
    if not INSTALLED:
        pytest.skip("neither mlflow nor wandb is installed")
    return _distil(phantoms, sam_checkpoint, lora_checkpoint, store)


@lru_cache
def _distil(phantoms: Path, sam: Path, lora: Path, store: Path):
    path = store.parent / "tracked"
    targets = [handler["_target_"] for handler in json.loads((CONFIGS / "train.json").read_text())["train"]["handlers"]]
    overrides = {
        "bundle_root": str(ROOT),
        "run_folder::root": str(path / "distillation"),
        "run_folder::timestamp": "run",
        "model_file": str(path / "model.pt"),
        "data::dataset_dir": str(phantoms),
        "data::img_size": 64,
        "teacher::model_name": "vit_test",
        "teacher::img_size": 64,
        "teacher::sam_checkpoint": str(sam),
        "teacher::lora_checkpoint": str(lora),
        "teacher::cache_dir": str(path / "cache"),
        "student::model_name": TEST_SIZE,
        "training::num_epochs": 4,
        "training::warmup_epochs": 0,
        "training::batch_size": 3,
        "training::num_workers": 0,
        "training::lr": 5e-3,
        "hardware::gpu_ids": [],
        "hardware::precision": "fp32",
        "val_interval": 2,
        f"train::handlers::{targets.index('scripts.handlers.PanelWriter')}::interval": 4,
    }
    records = {f"{name}_record::store": str(store) for name in INSTALLED}
    flow = record_run({**overrides, **records}, *(f"{name}.json" for name in INSTALLED))
    return path / "distillation" / "phantoms" / "run", flow.parser.get_parsed_content("network"), overrides


def commands(program: str) -> list[list[str]]:
    """Words of every command of a program in docs/tracking.md, from its name on."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "tracking.md").read_text(), re.S):
        lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
        found += [words[words.index(program) :] for words in lines if program in words]
    return found
