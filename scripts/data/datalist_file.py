"""The file of a datalist: its JSON, whichever system wrote it, and what its paths mean.

A datalist is the JSON of the Medical Segmentation Decathlon: "labels" names the classes by index, and the lists hold
items with the paths "image" and "label", relative to the dataset folder, and metadata. The list "unlabeled" has images
without labels.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..utils.files import read_text
from .classes import default_names
from .splits import LISTS, SPLITS, UNLABELED


def read_datalist(path: Path) -> dict[str, Any]:
    """The content of a datalist.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON with lists.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"data::datalist {path} does not exist; build one with python -m scripts.make_datalist or pass "
            "--data::datalist NAME."
        )
    try:
        content = json.loads(read_text(path))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"data::datalist {path} is not readable JSON: {error}; correct it or build a new one."
        ) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(split, []), list) for split in LISTS):
        raise ValueError(f"data::datalist {path} must be an object with the lists {', '.join(SPLITS)}.")
    return content


def load_list(content: dict[str, Any], split: str, datalist: Path, dataset_dir: Path) -> list[dict]:
    """One list of a datalist, with absolute paths. A missing list is empty."""
    items = enumerate(content.get(split, []))
    return [load_item(item, f"item {number} of {split} in {datalist}", split, dataset_dir) for number, item in items]


def load_item(item: Any, place: str, split: str, dataset_dir: Path) -> dict:
    """An item of a list, with absolute paths.

    Args:
        item: as the datalist has it.
        place: where it stands, for messages.
        split: name of its list.
        dataset_dir: that its paths are relative to.

    Raises:
        ValueError: it lacks a path, or has one too many.
    """
    _check_item(item, place, label_required=split not in ("test", UNLABELED))
    if split == UNLABELED and "label" in item and not isinstance(item, str):
        raise ValueError(f"{place} has a label, got {item!r}; take the label out, or move the item to training.")
    return _with_paths({"image": item} if isinstance(item, str) else item, dataset_dir)


def _check_item(item: Any, place: str, label_required: bool) -> None:
    if isinstance(item, str) and not label_required:  # the decathlon's test lists are bare paths
        return
    if not isinstance(item, dict) or not isinstance(item.get("image"), str):
        raise ValueError(f"{place} must be an object with an 'image' path, got {item!r}; correct data::datalist.")
    if not isinstance(item.get("label", "" if not label_required else None), str):
        raise ValueError(f"{place} must have a 'label' path, got {item!r}; correct data::datalist.")
    if any("\0" in item[key] for key in ("image", "label") if key in item):
        raise ValueError(f"{place} has a path with a null character, got {item!r}; correct data::datalist.")
    if any(not _is_utf8(item[key]) for key in ("image", "label") if key in item):
        raise ValueError(f"{place} has a path with bytes that are no UTF-8, got {item!r}; rename the file.")


def _is_utf8(path: str) -> bool:
    """Whether tables and pages can hold a path: Python keeps other bytes of a file's name as lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _with_paths(item: dict, dataset_dir: Path) -> dict:
    return {key: locate(value, dataset_dir) if key in ("image", "label") else value for key, value in item.items()}


def locate(path: str, dataset_dir: Path) -> str:
    """The file that a path of a datalist means. A backslash parts folders, as on Windows, where no name has it."""
    absolute = os.path.normpath(os.path.join(dataset_dir, path))
    if "\\" in path and not os.path.lexists(absolute):
        return os.path.normpath(os.path.join(dataset_dir, path.replace("\\", "/")))
    return absolute


def check_inside(splits: dict[str, list[dict]], folder: Path, datalist: Path) -> None:
    """Refuse a path that leads out of the dataset's folder, by itself or through a link."""
    paths = [item[key] for items in splits.values() for item in items for key in ("image", "label") if key in item]
    outside = [path for path in paths if not Path(os.path.realpath(path)).is_relative_to(folder)]
    if outside:
        raise ValueError(
            f"path {outside[0]} in datalist {datalist} leads out of data::dataset_dir {folder} ({len(outside)} of "
            f"{len(paths)} paths do); move the files there, or pass --data::allow_outside true if you trust the list."
        )


def class_names(labels: dict[str, str] | None, num_classes: int, datalist: Path | None = None) -> list[str]:
    """Names by class index, from {"0": "background", "1": "lesion"}; "class 1" where the datalist names none."""
    if not labels:
        return default_names(num_classes)
    if not isinstance(labels, dict) or not all(str(key).isdecimal() for key in labels):
        raise ValueError(
            f'labels in {datalist} must map class index to name, as {{"0": "background"}}, got {labels!r}.'
        )
    names = {0: "background", **{int(key): str(name) for key, name in labels.items()}}
    if set(names) != set(range(num_classes)):
        raise ValueError(
            f"data::num_classes is {num_classes}, but {datalist} names {max(names) + 1} classes "
            f"({', '.join(names[index] for index in sorted(names))}); pass --data::num_classes {max(names) + 1}."
        )
    return [names[index] for index in range(num_classes)]
