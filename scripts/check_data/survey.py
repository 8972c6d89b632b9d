"""Reads a datalist and every file that it names. What cannot be read is kept, with the reason, and not raised."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.classes import default_names
from ..data.datalist_file import check_inside, class_names, load_item, read_datalist
from ..data.lesion_free import relative_path
from ..data.look_alikes import Placed, alike_in_lists
from ..data.splits import LISTS, check_identical_files, check_listed_once, check_patients, map_in_threads
from .cases import Refused, Seen, read_case


@dataclass
class Survey:
    """A data set as it was found.

    Args:
        folder: of the data set.
        datalist: its file.
        labels: names of the classes, the background first.
        lists: the items that are whole, with absolute paths, by list.
        faults: what a training would refuse in the lists themselves, a sentence each.
        seen: the images that can be used, list by list.
        refused: those that cannot.
        alike: groups of images that look alike, with their lists.
        num_images: of the datalist, by list, whole or not.
    """

    folder: Path
    datalist: Path
    labels: list[str]
    lists: dict[str, list[dict]]
    faults: list[str]
    num_images: dict[str, int]
    seen: list[Seen] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    alike: list[list[Placed]] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        """With the background."""
        return len(self.labels)

    def of(self, split: str) -> list[Seen]:
        """The images of a list that can be used."""
        return [one for one in self.seen if one.split == split]

    def with_lesion(self, split: str) -> list[Seen]:
        """The images of a list whose mask shows a lesion."""
        return [one for one in self.of(split) if one.lesions and one.lesions.shares]

    def name(self, path: str) -> str:
        """A file's path from the dataset folder on."""
        return relative_path(Path(path), self.folder)


def take_survey(folder: Path, datalist: Path) -> Survey:
    """Read the datalist and every file in it.

    Raises:
        FileNotFoundError: there is no such datalist.
        ValueError: it is no JSON with lists.
    """
    try:
        content = read_datalist(datalist)
    except (ValueError, FileNotFoundError) as error:  # it names a config id
        raise type(error)(_by_option(error)) from None
    faults: list[str] = []
    lists = {split: _load(content, split, datalist, folder, faults) for split in LISTS}
    labels = _labels(content.get("labels"), datalist, faults)
    survey = Survey(folder, datalist, labels, lists, faults, {split: len(content.get(split, [])) for split in LISTS})
    _check_lists(survey)
    items = [(item, split) for split, items in lists.items() for item in items]
    for found in map_in_threads(lambda pair: read_case(*pair, survey.num_classes), items):
        (survey.seen if isinstance(found, Seen) else survey.refused).append(found)
    survey.alike = alike_in_lists({split: [one.item for one in survey.of(split)] for split in LISTS})
    return survey


def _by_option(error: Exception) -> str:
    """A message that names a config id, with the program's option."""
    return str(error).replace("data::datalist", "--datalist")


def _load(content: dict[str, Any], split: str, datalist: Path, folder: Path, faults: list[str]) -> list[dict]:
    """The items of a list that are whole; the others are faults."""
    items, bad = [], []
    for number, item in enumerate(content.get(split, [])):
        try:
            items.append(load_item(item, f"item {number} of {split} in {datalist}", split, folder))
        except ValueError as error:
            bad.append(_by_option(error))
    faults += [bad[0] + (f" ({len(bad)} items of this list are at fault)" if bad[1:] else "")] if bad else []
    return items


def _labels(labels: Any, datalist: Path, faults: list[str]) -> list[str]:
    """Names of the classes; of two classes where the datalist says nothing that holds."""
    count = max(2, len(labels)) if isinstance(labels, dict) else 2
    try:
        return class_names(labels, count, datalist)
    except ValueError:
        told = f"labels of {datalist} must name two classes or more, the background as 0, got {labels!r}"
        faults.append(f'{told}; write them as {{"0": "background", "1": "lesion"}}.')
        return default_names(count)


def _check_lists(survey: Survey) -> None:
    """The checks of a training on the lists, of files that are there."""
    there = {split: [item for item in items if _exists(item)] for split, items in survey.lists.items()}
    _keep(survey.faults, lambda: check_patients(survey.lists))
    _keep(survey.faults, lambda: check_listed_once(survey.lists))
    _keep(survey.faults, lambda: check_identical_files(there))
    _keep(survey.faults, lambda: check_inside(survey.lists, survey.folder, survey.datalist))


def _exists(item: dict) -> bool:
    return os.path.isfile(item["image"])


def _keep(faults: list[str], check: Callable[[], Any]) -> None:
    """Run a check, and keep what it refuses."""
    try:
        check()
    except ValueError as error:
        faults.append(str(error))
