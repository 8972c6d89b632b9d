"""The lists of a datalist, how cases are dealt out to them, and the checks that keep them apart.

No image is in two lists, and no case twice in one. No patient is both trained on and scored.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..utils.digests import file_digest

SPLITS = ("training", "validation", "test")
UNLABELED = "unlabeled"  # a fourth list: images that teach without labels
LISTS = (*SPLITS, UNLABELED)
TRAINED_ON = {"training", UNLABELED}
THREADS = 8  # at most, for reading files
MAX_PATIENTS_LISTED = 10  # in a message


def check_patients(splits: dict[str, list[dict]]) -> None:
    """Refuse a patient in two splits. An item without "patient" is its own patient.

    A patient may be in both lists that are trained on: of some patients only a few images have labels.

    Raises:
        ValueError: naming the patients.
    """
    splits_of = defaultdict(set)
    for split, items in splits.items():
        for item in items:
            if item.get("patient") is not None:
                splits_of[str(item["patient"])].add(split)
    shared = sorted(patient for patient, names in splits_of.items() if len(names) > 1 and names != TRAINED_ON)
    if shared:
        names = " and ".join(split for split in splits if split in splits_of[shared[0]])
        count = "1 patient is" if len(shared) == 1 else f"{len(shared)} patients are"
        raise ValueError(
            f"{count} in two splits ({names}): {_first_names(shared)}; expected each patient in one "
            "split: build the datalist with python -m scripts.make_datalist."
        )


def check_listed_once(splits: dict[str, list[dict]]) -> None:
    """Refuse a list that names an image twice: it would count twice.

    Raises:
        ValueError: naming the image and its places in the list, from 0 on.
    """
    for split, items in splits.items():
        first: dict[str, int] = {}
        for number, item in enumerate(items):
            path = os.path.realpath(item["image"])
            if first.setdefault(path, number) != number:
                raise ValueError(
                    f"image {item['image']} is twice in the list {split} (items {first[path]} and {number}), expected "
                    "each image once; take one of the two out."
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


def check_same_pixels(splits: dict[str, list[dict]], digests: Sequence[str]) -> None:
    """Refuse a picture that is in two splits in two encodings: the pixels are the same, the files are not.

    Args:
        splits: lists of cases.
        digests: of the pixels of each image, list by list.

    Raises:
        ValueError: naming the first two files.
    """
    first: dict[str, tuple[str, str]] = {}
    places = [(split, str(item["image"])) for split, items in splits.items() for item in items]
    for (split, path), digest in zip(places, digests):
        other_split, other = first.setdefault(digest, (split, path))
        if other_split != split:
            raise ValueError(_same_file(other, other_split, path, split, "show the same pixels"))


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


def _same_file(first: str, split: str, second: str, other_split: str, what: str = "are the same file") -> str:
    return (
        f"image {first} ({split}) and image {second} ({other_split}) {what} in two splits; expected each "
        "image in one split: build the datalist with python -m scripts.make_datalist (of studies in MONAI Label remove "
        "one)."
    )


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_PATIENTS_LISTED} more" if len(names) > MAX_PATIENTS_LISTED else ""
    return ", ".join(names[:MAX_PATIENTS_LISTED]) + more


def split_by_patient(
    cases: list[dict], alike: Iterable[Sequence[int]], val: float, test: float, seed: int
) -> dict[str, list[dict]]:
    """The three splits. Every patient is in one of them, and so are patients whose images are alike.

    Patients are shuffled and dealt out pathology by pathology, each to the split that lacks most of its share; those
    without a lesion ("lesion_free") come last, so that the others lie as they would without them.

    Args:
        cases: with "image" and, optionally, "patient" (else each is its own) and "pathology".
        alike: groups of indices of cases that must stay together.
        val: fraction of the patients for validation.
        test: fraction of the patients for the test.
        seed: of the shuffling.

    Raises:
        ValueError: when the fractions leave no training or a split that was asked for is empty.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(f"--val must be above 0, --test at least 0 and their sum below 1, got {val} and {test}.")
    alike = list(alike)
    groups = _groups(cases, alike)
    rng = np.random.default_rng(seed)
    free = [all(case.get("lesion_free") for case in group) for group in groups]
    parts = [[index for index, is_free in enumerate(free) if is_free is kind] for kind in (False, True)]
    parts = [[part[place] for place in rng.permutation(len(part))] for part in parts]
    order = [
        index for part in parts for index in sorted(part, key=lambda index: str(groups[index][0].get("pathology")))
    ]
    splits: dict[str, list[dict]] = {split: [] for split in SPLITS}
    shares, counts = np.array([1 - val - test, val, test]), np.zeros(3)
    for dealt, index in enumerate(order, start=1):
        needy = int(np.argmax(shares * dealt - counts))
        counts[needy] += 1
        splits[SPLITS[needy]] += groups[index]
    empty = [split for split in SPLITS if not splits[split] and (split != "test" or test > 0)]
    if empty:
        joined = len(groups) < len(_groups(cases, []))
        kept = f" ({len(alike)} groups of images look alike, and each stays together)" if joined else ""
        remedy = ", or pass --ignore_look_alikes to split them all the same" if joined else ""
        raise ValueError(
            f"{len(cases)} images of {len(groups)} separate patients leave the split {empty[0]} empty{kept}; "
            f"expected at least one patient in each: add cases or change --val and --test{remedy}."
        )
    return {split: sorted(items, key=lambda item: item["image"]) for split, items in splits.items()}


def _groups(cases: list[dict], alike: Iterable[Sequence[int]]) -> list[list[dict]]:
    """Cases that belong together: of one patient, or of patients whose images are alike."""
    patients = [str(case.get("patient", case["image"])) for case in cases]
    root = {patient: patient for patient in patients}

    def find(patient: str) -> str:
        while root[patient] != patient:
            patient = root[patient]
        return patient

    for first, *others in alike:
        for other in others:
            root[find(patients[other])] = find(patients[first])
    groups = defaultdict(list)
    for case, patient in zip(cases, patients):
        groups[find(patient)].append(case)
    return list(groups.values())
