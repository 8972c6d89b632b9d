"""What is killed: trainings, the filling of a cache, a comparison and an inference, on tiny networks and phantoms.

Each kind starts in a folder of its own, and the same call goes on where a killed one was, as the messages of the bundle
say. `outcome` is what must be equal: the content of weights, tables without times and dates, masks, and the names of
all files, so that nothing may be missing or left over.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from scripts.cache.entry_store import read_cache
from scripts.cache.shards import CHECKED
from scripts.data.phantoms import write_phantom_dataset
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.sam import build_sam
from scripts.networks.student import STUDENT_SIZES, TEST_SIZE
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.networks.tuning import tunable_teacher
from scripts.run.history import read_history
from scripts.run.run_folder import LAST_CHECKPOINT, MODELS, RESULTS
from scripts.run.workflow import build_workflow
from scripts.utils.digests import array_digest, file_digest, json_digest, weights_digest
from scripts.utils.files import BUNDLE_ROOT, CONFIGS

from ..compare import main as compare
from .processes import Forked, Torchrun

SIDE, MODEL = 64, "vit_test"
TIMES = ("seconds", "data_wait")  # of a history, what differs from run to run
UNEQUAL = (".log", ".lock", ".json", ".html")  # files with times, paths and dates, which count by their names
SHARD = re.compile("shard-[0-9a-f]+")
Outcome = dict[str, str]


def make_materials(folder: Path) -> int:
    """Write the phantoms, the teacher's files and a student."""
    write_phantom_dataset(folder / "phantoms", num_training=6, num_validation=2, num_test=2, size=SIDE)
    torch.manual_seed(0)
    torch.save(build_sam(MODEL, SIDE, 4).state_dict(), folder / "sam.pth")
    teacher = FrozenTeacher(MODEL, img_size=SIDE, sam_checkpoint=str(folder / "sam.pth"))
    torch.save(tunable_teacher(teacher).best_state(), folder / "lora.pth")
    student = TinyUSFMSeg(img_size=SIDE, **STUDENT_SIZES[TEST_SIZE]._asdict()).eval()
    with torch.no_grad():  # masks of about half of an image, so that their Dice rises and falls with the weights
        student.decode_head.conv_seg.weight.mul_(50)
        student.decode_head.conv_seg.bias -= student(torch.rand(4, 1, SIDE, SIDE)).median()
    torch.save(student.state_dict(), folder / "student.pt")
    return 0


def import_all() -> None:
    """What the runs import, once, before the first of them is forked."""
    for module in ("torch.utils.tensorboard", "matplotlib.backends.backend_agg", "scripts.handlers"):
        import_module(module)
    for module in ("trainer", "optimization", "cache.cached_teacher", "report.run_evaluation", "inference.masks"):
        import_module(f"scripts.{module}")
    import_module("eval.comparison")


class Kind(ABC):
    """Something that is run and killed.

    Args:
        materials: folder of `make_materials`.
    """

    name: str
    idle = 0.0  # share of a whole run in which it only imports, and is not killed

    def __init__(self, materials: Path) -> None:
        self.materials = materials

    def refusal(self) -> str:
        """Why the kind cannot be run here; "" where it can."""
        return ""

    def start(self, folder: Path, log: Path) -> Forked | Torchrun:
        """Begin in a folder, or go on there."""
        return Forked(lambda: self.work(folder), log)

    def work(self, folder: Path) -> int:
        """What a forked process does; its exit code."""
        raise NotImplementedError

    @abstractmethod
    def is_done(self, folder: Path) -> bool:
        """Whether nothing is left to do."""

    @abstractmethod
    def outcome(self, folder: Path) -> Outcome:
        """What a run has ended with, by name."""

    def common(self, folder: Path) -> dict[str, Any]:
        """Overrides of all trainings."""
        return {
            "data::dataset_dir": str(self.materials / "phantoms"),
            "data::img_size": SIDE,
            "teacher::model_name": MODEL,
            "teacher::img_size": SIDE,
            "teacher::sam_checkpoint": str(self.materials / "sam.pth"),
            "teacher::lora_checkpoint": str(self.materials / "lora.pth"),
            "teacher::cache_dir": str(folder / "cache"),
            "student::model_name": TEST_SIZE,
            "student::checkpoint": str(self.materials / "student.pt"),
            "training::warmup_epochs": 0,
            "training::batch_size": 3,
            "training::num_workers": 0,
            "hardware::gpu_ids": [],
            "hardware::precision": "fp32",
            "distillation::gamma": 0.1,
            "distillation::student_channels": 6,
        }


class Training(Kind):
    """A distillation with its final evaluation.

    Args:
        materials: see `Kind`.
        name: of the kind.
        changes: overrides.
    """

    def __init__(self, materials: Path, name: str, changes: Mapping[str, Any]) -> None:
        super().__init__(materials)
        self.name, self.changes = name, changes

    def overrides(self, folder: Path) -> dict[str, Any]:
        """Of a run that goes on from the last epoch there is, or begins in a folder that is not there yet."""
        runs = sorted((folder / "logs" / "phantoms").glob("*"))
        last = next((run for run in runs if (run / MODELS / LAST_CHECKPOINT).is_file()), None)
        return {
            **self.common(folder),
            "bundle_root": str(BUNDLE_ROOT),
            "run_folder::root": str(folder / "logs"),
            "run_folder::timestamp": f"run{len(runs):03d}",
            "model_file": str(folder / "model.pt"),
            checkpoint_interval(): 2,
            "final_evaluation::num_panels": 1,
            **self.changes,
            "training::resume": str(last) if last else None,
        }

    def work(self, folder: Path) -> int:
        run(build_workflow(["train.json"], self.overrides(folder)))
        return 0

    def is_done(self, folder: Path) -> bool:
        return any((run / RESULTS[-1]).is_file() for run in (folder / "logs" / "phantoms").glob("*"))

    def outcome(self, folder: Path) -> Outcome:
        (run_folder,) = (path.parent for path in (folder / "logs" / "phantoms").glob(f"*/{RESULTS[-1]}"))
        model = {"model.pt": checkpoint_digest(folder / "model.pt")}
        return {**run_outcome(run_folder), **model, **cache_outcome(folder)}


class TorchrunTraining(Training):
    """The same by two ranks."""

    idle = 0.4

    def start(self, folder: Path, log: Path) -> Torchrun:
        overrides = {name: value for name, value in self.overrides(folder).items() if value is not None}
        (folder / "overrides.json").write_text(json.dumps({**overrides, "hardware::gpu_ids": []}))
        files = [str(CONFIGS / "train.json"), str(CONFIGS / "multi_gpu_train.json"), str(folder / "overrides.json")]
        words = ["-m", "monai.bundle", "run", "training", "--config_file", str(files)]
        return Torchrun(words, log, BUNDLE_ROOT)


class CacheFill(Kind):
    """The teacher's outputs for all views of a replay."""

    name = "cache fill"

    def work(self, folder: Path) -> int:
        changes = {"distillation::mode": "replay", "distillation::views": 16, "training::num_epochs": 16}
        flow = build_workflow(["train.json"], {**self.common(folder), **changes})
        flow.initialize()
        flow.parser.get_parsed_content("cached_teacher").fill()
        (folder / "filled").touch()
        return 0

    def is_done(self, folder: Path) -> bool:
        return (folder / "filled").is_file()

    def outcome(self, folder: Path) -> Outcome:
        return cache_outcome(folder)


class Comparison(Kind):
    """Control and student, their one evaluation and its report."""

    name = "comparison"

    def work(self, folder: Path) -> int:
        overrides = {**self.common(folder), "training::num_epochs": 3, checkpoint_interval(): 2}
        words = [word for name, value in overrides.items() for word in (f"--{name}", repr(value))]
        return compare(["--output_dir", str(folder / "out"), "--seeds", "0", *words])

    def is_done(self, folder: Path) -> bool:
        return (folder / "out" / "metrics.csv").is_file()

    def outcome(self, folder: Path) -> Outcome:
        found = {"metrics.csv": file_digest(folder / "out" / "metrics.csv"), "names": names(folder / "out", deep=False)}
        report = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
        parts = ("arms", "comparisons", "subgroups", "calibration", "failures", "areas", "curves", "warnings")
        found["report.json"] = json_digest({part: report.get(part) for part in parts})
        for path in sorted((folder / "out" / "runs" / "phantoms").iterdir()):
            found |= {f"{path.name}/{name}": value for name, value in run_outcome(path).items()}
        return {**found, **cache_outcome(folder)}


class Inference(Kind):
    """Masks and overlays of a folder of images."""

    name = "inference"

    def refusal(self) -> str:
        known = "resume" in json.loads((CONFIGS / "inference.json").read_text())
        return "" if known else "configs/inference.json has no `resume` to go on with"

    def work(self, folder: Path) -> int:
        network = {"_target_": "scripts.networks.tinyusfm.TinyUSFMSeg", "img_size": SIDE}
        overrides = {
            "bundle_root": str(BUNDLE_ROOT),
            "dataset_dir": str(self.materials / "phantoms" / "images"),
            "output_dir": str(folder / "masks"),
            "checkpoint": str(self.materials / "student.pt"),
            "img_size": SIDE,
            "network_def": {**network, **STUDENT_SIZES[TEST_SIZE]._asdict()},
            "hardware::gpu_ids": [],
            "hardware::precision": "fp32",
            "resume": (folder / "masks").is_dir(),
        }
        run(build_workflow(["inference.json"], overrides, "run", "infer"))
        (folder / "segmented").touch()
        return 0

    def is_done(self, folder: Path) -> bool:
        return (folder / "segmented").is_file()

    def outcome(self, folder: Path) -> Outcome:
        files = [path for path in (folder / "masks").rglob("*") if path.is_file() and path.suffix not in UNEQUAL]
        found = {str(path.relative_to(folder)): file_digest(path) for path in files if path.suffix}
        return {**found, "names": names(folder / "masks")}


def all_kinds(materials: Path) -> list[Kind]:
    """Every kind, in the order in which they are run."""
    warp = {"training::num_epochs": 8, "training::ema_decay": 0.9, "training::patience": 2, "training::lr": 1e-3}
    replay = {"distillation::mode": "replay", "distillation::views": 2, "training::num_epochs": 4}
    workers = {"train::dataloader::num_workers": 1}
    return [
        Training(materials, "training, warp, ema, patience", warp),
        Training(materials, "training, replay, loader worker", {**replay, **workers}),
        TorchrunTraining(materials, "training, torchrun", {**replay, "training::patience": 2}),
        CacheFill(materials),
        Comparison(materials),
        Inference(materials),
    ]


def checkpoint_interval() -> str:
    """Config id of the epochs between the checkpoints that are kept."""
    handlers = json.loads((CONFIGS / "train.json").read_text())["train"]["handlers"]
    index = next(i for i, handler in enumerate(handlers) if handler["_target_"].endswith(".Checkpoints"))
    return f"train::handlers::{index}::interval"


def run(flow: ConfigWorkflow) -> None:
    """A workflow from its start to its end."""
    flow.initialize()
    flow.run()
    flow.finalize()


def run_outcome(folder: Path) -> Outcome:
    """Of a run folder: weights and states by content, history without times, tables, and the names of all files."""
    found = {path.name: checkpoint_digest(path) for path in sorted((folder / MODELS).iterdir()) if path.is_file()}
    history = [{key: row[key] for key in row if key not in TIMES} for row in read_history(folder)]
    tables = [path for name in ("metrics.csv", "test_results.txt") if (path := folder / name).is_file()]
    found |= {path.name: file_digest(path) for path in tables}
    return {**found, "history.csv": json_digest(history), "names": names(folder)}


def cache_outcome(folder: Path) -> Outcome:
    """Of a cache: every entry, and no other file than shards, of which each start may begin one."""
    entries = {name: weights_digest(entry) for name, entry in read_cache(folder / "cache").items()}
    kinds = {SHARD.sub("shard", name) for name in names(folder / "cache").split()}
    kinds -= {name for name in kinds if name.endswith(CHECKED)}  # what a further start has looked at
    return {"cache entries": json_digest(entries), "cache names": " ".join(sorted(kinds))}


def names(folder: Path, deep: bool = True) -> str:
    """Of all files, hidden ones too; TensorBoard has one for each start."""
    paths: Iterable[Path] = folder.rglob("*") if deep else folder.iterdir()
    found = {path.relative_to(folder).as_posix() for path in paths if "tensorboard" not in path.parts}
    return " ".join(sorted(found))


def checkpoint_digest(path: Path) -> str:
    """Hash of a checkpoint's content; its settings hold the paths of this folder and count by their names."""
    content = torch.load(path, weights_only=True, map_location="cpu")
    if "progress" in content:
        content["progress"]["settings"] = sorted(content["progress"]["settings"])
    return json_digest(_plain(content))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return array_digest(value.numpy(), f"{value.dtype} {tuple(value.shape)}")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else repr(value)
