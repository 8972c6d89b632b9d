"""The images of a run: the first cases of a data set, or generated phantoms, as datalists that the bundle reads.

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from scripts.data.datalist_file import locate, read_datalist
from scripts.data.dataset import ViewDataset
from scripts.data.phantoms import write_phantom_dataset
from scripts.run.workflow import build_workflow
from scripts.utils.files import CONFIGS

from .settings import Settings


def write_datalists(settings: Settings, dataset_dir: str | None = None) -> None:
    """Datalists of the first cases with absolute paths, one for each count of training images: work/cases/8.json and so
    on.

    Args:
        settings: of the run.
        dataset_dir: a folder with dataset.json; None generates phantoms of the teacher's size.

    Raises:
        ValueError: the data set has fewer cases than the run needs.
    """
    if dataset_dir is None:
        phantoms, counts = (
            settings.folder / "phantoms",
            (settings.num_images, settings.num_validation, settings.num_test),
        )
        dataset_dir = write_phantom_dataset(phantoms, *counts, seed=settings.seed, size=settings.teacher_size)
    source = Path(dataset_dir).expanduser().resolve()
    content = read_datalist(source / "dataset.json")
    target = settings.folder / "cases"
    target.mkdir()
    for count in settings.image_counts:
        counts = {"training": count, "validation": settings.num_validation, "test": settings.num_test}
        lists = {split: _first(content, split, source, number) for split, number in counts.items()}
        (target / f"{count}.json").write_text(json.dumps({"labels": content.get("labels"), **lists}))


def _first(content: dict, split: str, source: Path, count: int) -> list[dict]:
    cases = content.get(split, [])
    count = count if split == "training" else min(count, len(cases))
    if not 0 < count <= len(cases):
        raise ValueError(f"dataset_dir {source} has {len(cases)} {split} cases, expected at least {max(count, 1)}.")
    paths = ("image", "label")
    return [{**case, **{key: locate(case[key], source) for key in paths}} for case in cases[:count]]


def workflow(settings: Settings, overrides: dict[str, Any], *overlays: str) -> ConfigWorkflow:
    """A run of configs/train.json on the run's cases, not started.

    Args:
        settings: of the run.
        overrides: config ids and values beyond the data's.
        overlays: files in configs/.
    """
    data = {
        "data::dataset_dir": str(settings.folder / "cases"),
        "data::datalist": f"{settings.num_images}.json",
        "data::allow_outside": True,
        "data::img_size": settings.img_size,
        "hardware::gpu_ids": [0] if settings.device == "cuda" else [],
        "training::seed": settings.seed,
    }
    return build_workflow([CONFIGS / name for name in ("train.json", *overlays)], {**data, **overrides})


def list_views(
    settings: Settings, augmented: bool, img_size: int | None = None, split: str = "training"
) -> ViewDataset:
    """A list through the bundle's own preprocessing, kept in memory.

    Args:
        settings: of the run.
        augmented: with the bundle's random views, else the images as they are.
        img_size: in pixels; the student's when None.
        split: `training` or `validation`.
    """
    parser = workflow(settings, {"data::img_size": img_size or settings.img_size}).parser
    augmentation = parser.get_parsed_content("augmentation") if augmented else None
    data, transform = (
        getattr(parser.get_parsed_content("data"), split),
        parser.get_parsed_content("train::preprocessing"),
    )
    return ViewDataset(data, transform, augmentation, settings.seed)


def load_cases(
    settings: Settings, img_size: int, count: int | None = None, split: str = "training"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images in [0, 1] and labels, class indices, (count, 1, H, W) each, of a list: all of it, or repeated where it
    is shorter.
    """
    views = list_views(settings, augmented=False, img_size=img_size, split=split)
    items = [views[i % len(views)] for i in range(count or len(views))]
    return torch.stack([item["image"] for item in items]), torch.stack([item["label"] for item in items])
