"""The lists of a datalist as a raw data set of nnU-Net: PNG images and labels, dataset.json, and the split.

nnU-Net splits what it is given by chance, and images of one patient would stand on both sides. Its split file says
here that fold 0 trains on the list training and validates on the list validation. The test list is no part of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from scripts.evaluation.evaluate import read_case
from scripts.utils.files import atomic_path, naming_path, own_folder
from scripts.utils.screen import track

SUFFIX = ".png"  # of nnU-Net's reader NaturalImage2DIO
CHANNEL = "_0000"  # ends the name of an image's first channel
WHOLE = 1e-3  # of a gray value: how far a pixel may lie from one of 8 bits


def dataset_name(name: str) -> str:
    """The folder of a data set in nnU-Net's form, such as Dataset001_BUSBRA."""
    return f"Dataset001_{re.sub('[^A-Za-z0-9]', '', name) or 'images'}"


def case_id(split: str, index: int) -> str:
    """What a case is called for nnU-Net.

    Args:
        split: its list.
        index: in the list.
    """
    return f"{split}_{index:05d}"


def write_raw(folder: Path, training: Dataset, validation: Dataset, class_names: Sequence[str]) -> None:
    """Write a raw data set of both lists, whole or not at all.

    Args:
        folder: of nnU-Net's raw data set; not there yet.
        training: gives image (1, H, W) in [0, 1] and label (1, H, W) class indices at their original size.
        validation: likewise.
        class_names: the background first.

    Raises:
        ValueError: a case without a label.
        WriteError: the disk is full, and so on.
    """
    labels = {"background": 0, **{f"{number} {name}": number for number, name in enumerate(class_names) if number}}
    about = {
        "channel_names": {"0": "ultrasound"},
        "labels": labels,
        "numTraining": len(training) + len(validation),
        "file_ending": SUFFIX,
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }

    def fill(partial: Path) -> None:
        for split, dataset in (("training", training), ("validation", validation)):
            write_cases(partial / "imagesTr", dataset, split, partial / "labelsTr")
        (partial / "dataset.json").write_text(json.dumps(about, indent=1), encoding="utf-8")

    _write_folder(folder, fill)


def write_images(folder: Path, dataset: Dataset, split: str) -> None:
    """Write a list's images alone, for nnU-Net to segment, all or none.

    Args:
        folder: not there yet.
        dataset: see `write_raw`.
        split: its list.
    """
    _write_folder(folder, lambda partial: write_cases(partial, dataset, split))


def write_cases(images: Path, dataset: Dataset, split: str, labels: Path | None = None) -> None:
    """Write the images of a list, and their labels where a folder for them is given."""
    for path in (images, labels) if labels else (images,):
        path.mkdir(parents=True, exist_ok=True)
    for index in track(range(len(dataset)), f"Writing {split}", len(dataset)):
        case = read_case(dataset, index)
        _picture(case["image"]).save(images / f"{case_id(split, index)}{CHANNEL}{SUFFIX}")
        if labels:
            classes = case["label"][0].numpy().astype(np.uint8)
            Image.fromarray(classes).save(labels / f"{case_id(split, index)}{SUFFIX}")


def write_split(path: Path, num_training: int, num_validation: int) -> None:
    """Write nnU-Net's splits_final.json with its one fold.

    Args:
        path: of the file.
        num_training: cases of the list training.
        num_validation: cases of the list validation.
    """
    fold = {
        "train": [case_id("training", index) for index in range(num_training)],
        "val": [case_id("validation", index) for index in range(num_validation)],
    }
    with atomic_path(path) as partial:
        partial.write_text(json.dumps([fold], indent=1), encoding="utf-8")


def _picture(image: torch.Tensor) -> Image.Image:
    """An image (1, H, W) in [0, 1] in 8 bits, where it has no more, else in 16."""
    pixels = image[0].numpy().astype(np.float64)
    grays = np.rint(pixels * 255)
    if np.abs(pixels * 255 - grays).max() < WHOLE:
        return Image.fromarray(grays.astype(np.uint8))
    return Image.fromarray(np.rint(pixels * 65535).astype(np.uint16))


def _write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """A folder that is whole or not there."""
    with naming_path(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with own_folder(folder) as partial:
            fill(partial / folder.name)
            os.replace(partial / folder.name, folder)
