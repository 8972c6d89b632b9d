"""The lists of a datalist, and the checks that keep them apart: no patient and no image in two of them.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..utils.digests import file_digest

SPLITS = ("training", "validation", "test")
THREADS = 8  # at most, for reading files
MAX_PATIENTS_LISTED = 10  # in a message


def check_patients(splits: dict[str, list[dict]]) -> None:
    """Refuse a patient in two splits. An item without "patient" is its own patient.

    Raises:
        ValueError: naming the patients.
    """
    splits_of = defaultdict(set)
    for split, items in splits.items():
        for item in items:
            if item.get("patient") is not None:
                splits_of[str(item["patient"])].add(split)
    shared = sorted(patient for patient, names in splits_of.items() if len(names) > 1)
    if shared:
        names = " and ".join(split for split in splits if split in splits_of[shared[0]])
        raise ValueError(
            f"{len(shared)} patients are in two splits ({names}): {_first_names(shared)}; expected each patient in one "
            "split: build the datalist with python -m scripts.make_datalist."
        )


def check_identical_files(splits: dict[str, list[dict]]) -> None:
    """Refuse an image that is in two splits, under one name or as a byte-identical copy.

    Raises:
        ValueError: naming the first two files.
    """
    split_of = {str(item["image"]): split for split, items in splits.items() for item in items}
    for split, items in splits.items():
        for item in items:
            if split_of[str(item["image"])] != split:
                raise ValueError(_same_file(item["image"], split, item["image"], split_of[str(item["image"])]))
    for group in identical_files(split_of):
        other = next((path for path in group if split_of[path] != split_of[group[0]]), None)
        if other is not None:
            raise ValueError(_same_file(group[0], split_of[group[0]], other, split_of[other]))


def identical_files(paths: Iterable[str]) -> list[list[str]]:
    """Groups of two or more byte-identical files. Only files of equal size are read."""
    by_size = _grouped(paths, os.path.getsize)
    same_size = [path for group in by_size if len(group) > 1 for path in group]
    digests = dict(zip(same_size, map_in_threads(file_digest, same_size)))
    return [group for group in _grouped(same_size, digests.get) if len(group) > 1]


def map_in_threads(function: Callable, items: Sequence) -> list:
    """Results in the order of the items. The first failure stops what has not begun."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        try:
            return list(pool.map(function, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _grouped(paths: Iterable[str], key: Callable[[str], Any]) -> list[list[str]]:
    groups = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return list(groups.values())


def _same_file(first: str, split: str, second: str, other_split: str) -> str:
    return (
        f"image {first} ({split}) and image {second} ({other_split}) are the same file in two splits; expected each "
        "image in one split: build the datalist with python -m scripts.make_datalist (of studies in MONAI Label remove "
        "one)."
    )


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_PATIENTS_LISTED} more" if len(names) > MAX_PATIENTS_LISTED else ""
    return ", ".join(names[:MAX_PATIENTS_LISTED]) + more
