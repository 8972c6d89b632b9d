"""Trainings through the bundle itself, as `python -m monai.bundle run training` does them, and what their records say.

A panel and the final evaluation are part of each, so that peak memory is what a user has; neither is in an epoch's
seconds.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from scripts.cache.entry_store import read_cache
from scripts.run.history import KEY_METRIC, read_history
from scripts.run.run_folder import find_best
from scripts.utils.files import CONFIGS

from .cases import workflow
from .measure import peak_memory
from .settings import Settings

CONTROL = "train_student.json"
PANEL_WRITER = "scripts.handlers.PanelWriter"


def train(
    settings: Settings, name: str, mode: str | None = None, model: str = "vit_b", epochs: int | None = None
) -> dict[str, float]:
    """Seconds an epoch (median without the first), of the first epoch and before it, share of waiting for data, peak
    memory, and whether the teacher's weights were ever loaded.

    Args:
        settings: of the run.
        name: of the run folder.
        mode: distillation::mode; None trains the control.
        model: of the teacher.
        epochs: of the training; those of the run when None.
    """
    overrides = _overrides(settings, name, epochs or settings.epochs)
    if mode is None:
        flow = workflow(settings, overrides, CONTROL)
    else:
        flow = workflow(settings, {**overrides, **_distillation(settings, mode, model, settings.num_images)})
    start = _run(flow)
    history = summarize_history(_folder(settings, name))
    return {**history, "start_seconds": start, "teacher_loaded": _teacher_loaded(flow), **peak_memory(settings.device)}


def fill(settings: Settings, name: str, mode: str, model: str, num_images: int) -> dict[str, float]:
    """The price of a cache: seconds until the first epoch of a run starts, the weights' loading included, and bytes.

    Args:
        settings: of the run.
        name: of the run folder.
        mode: `replay` or `warp`.
        model: of the teacher.
        num_images: of the training list.
    """
    overrides = {**_overrides(settings, name, settings.epochs), **_distillation(settings, mode, model, num_images)}
    seconds = _run(workflow(settings, {**overrides, "data::datalist": f"{num_images}.json"}), start_only=True)
    folder = cache_folder(settings, mode, model, num_images)
    size, views = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), len(read_cache(folder))
    return {
        "fill_seconds": seconds,
        "view_seconds": seconds / views,
        "images": num_images,
        "views": views,
        "cache_bytes": size,
        "view_bytes": size / views,
        **peak_memory(settings.device),
    }


def cache_folder(settings: Settings, mode: str, model: str, num_images: int) -> Path:
    """Of one cache; those that are compared do not share entries."""
    return settings.folder / "cache" / f"{settings.device}_{mode}_{model}_{num_images}"


def best_model(settings: Settings, name: str) -> Path:
    """The weights that a run ended with.

    Raises:
        FileNotFoundError: there is no such run.
    """
    best = find_best(_folder(settings, name) / "models")
    if best is None:
        raise FileNotFoundError(f"the run {name} has left no weights; it must run first.")
    return best


def summarize_history(folder: Path) -> dict[str, float]:
    """Figures from a run's history."""
    rows = read_history(folder)
    seconds, waits = ([row[key] for row in rows] for key in ("seconds", "data_wait"))
    later = seconds[1:] or seconds
    median = statistics.median(later)
    return {
        "epoch_seconds": median,
        "first_epoch_seconds": seconds[0],
        "spread": (max(later) - min(later)) / median,
        "data_wait": statistics.median(waits[1:] or waits),
        "epochs": len(rows),
        "val_dice": rows[-1][KEY_METRIC],
    }


def _run(flow: ConfigWorkflow, start_only: bool = False) -> float:
    """Run it to its end, or to the start of its first epoch.

    Returns:
        Seconds to build the teacher, and from when the rest is built too to the start of the first epoch.
    """
    flow.initialize()
    began = time.perf_counter()
    flow.parser.get_parsed_content("cached_teacher")  # loads the weights where they are needed
    teacher_seconds = time.perf_counter() - began
    trainer, starts = flow.parser.get_parsed_content("train::trainer"), []

    def start_epoch() -> None:
        starts.append(time.perf_counter())
        if start_only:
            trainer.terminate()

    trainer.add_event_handler(Events.EPOCH_STARTED(once=1), start_epoch)
    built = time.perf_counter()
    # the trainer alone fills the cache and stops: there are no weights that the run's final evaluation could load
    trainer.run() if start_only else flow.run()
    return teacher_seconds + starts[0] - built


def _teacher_loaded(flow: ConfigWorkflow) -> bool:
    """Whether the weights are in memory after a run; never those of a control, which has no teacher."""
    teacher = flow.parser.get_parsed_content("cached_teacher")
    return teacher is not None and getattr(teacher, "teacher", teacher).is_loaded


def _overrides(settings: Settings, name: str, epochs: int) -> dict[str, Any]:
    overrides = {
        "run_folder::root": str(settings.folder / "logs"),
        "run_folder::timestamp": f"{settings.device}_{name}",
        "model_file": None,
        # once, between epochs: what it leaves in memory lies beside later steps
        f"{_panel_writer()}::interval": epochs // 2 + 1,
        "val_interval": epochs,
        "student::pretrained": False,
        "training::num_epochs": epochs,
        "training::warmup_epochs": 0,
        "training::batch_size": settings.batch_size,
        "training::lr": settings.lr,
    }
    return {**overrides, "student::model_name": settings.student}


def _panel_writer() -> str:
    """The config id of the handler that draws panels."""
    handlers = json.loads((CONFIGS / "train.json").read_text())["train"]["handlers"]
    return f"train::handlers::{[handler['_target_'] for handler in handlers].index(PANEL_WRITER)}"


def _distillation(settings: Settings, mode: str, model: str, num_images: int) -> dict[str, Any]:
    overrides = {f"teacher::{key}": value for key, value in settings.teacher(model).items()}
    overrides["distillation::mode"] = mode
    if mode != "online":
        overrides["teacher::cache_dir"] = str(cache_folder(settings, mode, model, num_images))
    if mode == "replay":
        overrides["distillation::views"] = settings.views
    return overrides


def _folder(settings: Settings, name: str) -> Path:
    return settings.folder / "logs" / "cases" / f"{settings.device}_{name}"
