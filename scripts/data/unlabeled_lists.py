"""The list unlabeled of a datalist: images of a folder, or training cases whose labels are taken away.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .datalist_file import read_datalist
from .folders import MASK_DIRS, list_images
from .look_alikes import look_alikes
from .splits import LISTS, TRAINED_ON, UNLABELED, identical_files

MASK_NAMES = ("_mask", "_masks", "_label", "_seg")  # ends of the names of masks that lie beside their images


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts.make_datalist` that this module serves."""
    group = parser.add_argument_group("images without labels, which a distillation can learn from")
    group.add_argument(
        "--unlabeled",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="folder of images without masks for the list unlabeled, also outside of --dataset_dir; may be repeated",
    )
    group.add_argument(
        "--fewer_labels",
        type=float,
        metavar="SHARE",
        help="with --from: keep the labels of a share of the training patients (from 1 on: of so many images), drawn "
        "by --seed, and move the others to the list unlabeled",
    )
    group.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DATALIST",
        help="that --unlabeled adds to and --fewer_labels takes from, instead of finding and splitting cases",
    )


def images_without_masks(folder: Path, option: str) -> list[Path]:
    """All images of a folder and its subfolders.

    Args:
        folder: to look through.
        option: or config id that names it, for messages.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no image, or masks too.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{option} {folder} is no folder; name a folder of images.")
    images = list_images(folder)
    masks = [path for path in images if path.parent.name in MASK_DIRS or path.stem.lower().endswith(MASK_NAMES)]
    if masks:
        raise ValueError(
            f"{masks[0]} looks like a mask ({len(masks)} of {len(images)} files of {folder} do), and would be learned "
            f"from as an image; pass the folder of the images alone as {option}."
        )
    if not images:
        raise ValueError(f"{option} {folder} holds no image; name a folder of images.")
    return images


def find_unlabeled(
    folders: Sequence[Path], dataset_dir: Path, splits: Mapping[str, Sequence[dict]], patient_regex: str | None = None
) -> tuple[dict[str, list[dict]], list[str]]:
    """The list unlabeled of some folders, under its key, and what the user should know of it; both empty without any.

    Left out are labeled images, copies of them, and what looks like a validation or test image or is of its patient.

    Args:
        folders: of images without masks.
        dataset_dir: that the paths are relative to.
        splits: the lists with labels, their paths relative to `dataset_dir`.
        patient_regex: finds the patient in the names of folders inside of `dataset_dir`; others have other patients.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a folder without images or with masks, a name without a patient, or nothing is left.
    """
    if not folders:
        return {}, []
    cases: dict[str, dict] = {}  # by the real path, so that a file of two folders comes once
    for folder in folders:
        regex = patient_regex if folder.resolve().is_relative_to(dataset_dir.resolve()) else None
        for path in images_without_masks(folder, "--unlabeled"):
            image = Path(os.path.relpath(path.resolve(), dataset_dir.resolve())).as_posix()
            cases.setdefault(os.path.realpath(path), {"image": image, **_patient(path, folder, regex)})
    pairs = [(split, {"image": item} if isinstance(item, str) else item) for split in splits for item in splits[split]]
    lists = {os.path.realpath(dataset_dir / item["image"]): split for split, item in pairs}
    patients = {str(item["patient"]) for split, item in pairs if split not in TRAINED_ON and "patient" in item}
    left_out = spoiled_images(list(cases), lists) | {p for p, case in cases.items() if case.get("patient") in patients}
    kept = sorted((case for path, case in cases.items() if path not in left_out), key=lambda case: case["image"])
    if not kept:
        raise ValueError(
            f"--unlabeled {folders[0]} holds images of the lists alone, or such as look like them; name others."
        )
    told = f"{len(left_out)} of {len(cases)} images without labels are left out: they are, or look like, listed ones"
    return {UNLABELED: kept}, [told] * bool(left_out)


def _patient(path: Path, folder: Path, regex: str | None) -> dict[str, str]:
    if regex is None:
        return {}
    name = path.relative_to(folder).as_posix()
    match = re.search(regex, name)
    if match is None:
        raise ValueError(f"--patient_regex {regex!r} does not match the image name {name!r} of --unlabeled {folder}.")
    return {"patient": match[1] if match.lastindex else match[0]}


def spoiled_images(paths: Sequence[str], lists: Mapping[str, str]) -> set[str]:
    """Which images are labeled ones or byte-identical to one, or look like a validation or test image.

    Args:
        paths: of the images.
        lists: the list of each labeled image, by its path.
    """
    spoiled = {path for path in paths if path in lists}
    for group in identical_files([*lists, *(path for path in paths if path not in lists)]):
        spoiled |= {path for path in group if path not in lists} if any(path in lists for path in group) else set()
    held_out = [path for path, split in lists.items() if split not in TRAINED_ON]
    both = [*held_out, *(path for path in paths if path not in spoiled)]
    for group in look_alikes(both):
        if group[0] < len(held_out):  # groups are in the order of the paths
            spoiled |= {both[index] for index in group if index >= len(held_out)}
    return spoiled


def changed_datalist(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The content of the datalist `--from` with fewer labels, more images without one, or both, and remarks.

    Raises:
        FileNotFoundError: no such datalist or folder.
        ValueError: an option without the other, or see `fewer_labels` and `find_unlabeled`.
    """
    if options.source is None or not (options.unlabeled or options.fewer_labels is not None):
        raise ValueError(
            "--from DATALIST needs --fewer_labels SHARE or --unlabeled DIR, and --fewer_labels needs --from; pass both."
        )
    try:
        content = read_datalist(options.source)
    except (ValueError, FileNotFoundError) as error:  # it names a config id
        raise type(error)(str(error).replace("data::datalist", "--from", 1).partition(";")[0] + ".") from None
    if options.fewer_labels is not None:
        content = fewer_labels(content, options.fewer_labels, options.seed)
    lists = {split: content.get(split, []) for split in LISTS}
    found, remarks = find_unlabeled(options.unlabeled, options.dataset_dir, lists, options.patient_regex)
    unlabeled = [*lists[UNLABELED], *found.get(UNLABELED, [])]
    return {**content, "numUnlabeled": len(unlabeled), UNLABELED: unlabeled}, remarks


def fewer_labels(content: Mapping[str, Any], wanted: float, seed: int) -> dict[str, Any]:
    """A datalist with fewer training labels: some patients keep theirs, the images of the others are unlabeled.

    With the same seed a smaller share is a part of a larger one.

    Args:
        content: of the datalist.
        wanted: a share of the training patients, or from 1 on so many images, of whole patients.
        seed: of the draw.

    Raises:
        ValueError: no number above 0, or the training list has no more than that.
    """
    cases = content.get("training", [])
    of_patient: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        of_patient.setdefault(str(case.get("patient", case["image"])), []).append(index)
    names = sorted(of_patient)
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    totals = np.cumsum([len(of_patient[name]) for name in order])
    count = round(wanted * len(order)) if wanted < 1 else int(np.searchsorted(totals, wanted)) + 1
    if not 0 < count < len(order):
        raise ValueError(
            f"--fewer_labels {wanted:g} of {len(cases)} training images of {len(order)} patients keeps "
            f"{max(0, min(count, len(order)))} patients, expected from 1 to {len(order) - 1}; pass a share below 1, or "
            "a number of images."
        )
    kept = {index for name in order[:count] for index in of_patient[name]}
    rest = [
        {key: value for key, value in case.items() if key != "label"}
        for index, case in enumerate(cases)
        if index not in kept
    ]
    training = [case for index, case in enumerate(cases) if index in kept]
    unlabeled = [*content.get(UNLABELED, []), *rest]
    numbers = {"numTraining": len(training), "numUnlabeled": len(unlabeled)}
    return {**content, **numbers, "training": training, UNLABELED: unlabeled}
