"""Images without a lesion: items whose mask is all background, which any tool understands.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import ImageOps

from .folders import folder_images, patient_finder, stem_of
from .mask_files import Examined, check_places
from .nifti import is_nifti, read_values
from .pictures import open_picture
from .refusals import errors_of

FLAG = "lesion_free"  # an item's key, for people who read the list
MASK_DIR = "lesion_free"  # in the folder of the written masks
NOTHING = Examined(False, frozenset(), None)  # what a black mask shows


def black_mask(image: Path) -> np.ndarray:
    """A mask (H, W), uint8, without foreground, of an image's size.

    Raises:
        ValueError: the image cannot be read.
    """
    with errors_of(image):
        if is_nifti(image):
            return np.zeros(read_values(image).shape[::-1], np.uint8)
        with open_picture(image) as picture:
            return np.zeros(ImageOps.exif_transpose(picture).size[::-1], np.uint8)


def mask_paths(images: Sequence[Path], clean_dir: Path) -> list[Path]:
    """Where the masks of lesion-free images are written: below MASK_DIR, by the image's folder and name."""
    folders: dict[Path, str] = {}
    for image in images:
        name = image.parent.parent.name if image.parent.name.lower() == "images" else image.parent.name
        taken = [folder for folder, other in folders.items() if other.partition("__")[0] == name]
        if image.parent not in folders:
            folders[image.parent] = f"{name}__{len(taken) + 1}" if taken else name
    return [clean_dir / MASK_DIR / folders[image.parent] / f"{stem_of(image.name)}.png" for image in images]


def lesion_free_cases(
    folders: Sequence[str], dataset_dir: Path, patient_regex: str | None, others: Collection[Path]
) -> list[dict]:
    """Cases of folders, without labels: "image", FLAG and, with an expression, "patient".

    Args:
        folders: in the dataset folder, or anywhere.
        dataset_dir: the dataset folder.
        patient_regex: finds the patient in an image's name.
        others: images that have masks.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: one has no image, an image has a mask already or no patient, or is a NIfTI that a PNG cannot follow.
    """
    find, cases = patient_finder(patient_regex), []
    for given in folders:
        for image in folder_images(place_of_folder(given, dataset_dir)):
            check_places(image, (), ready=False)
            cases.append({"image": image, FLAG: True, **find(stem_of(image.name))})
    known = {os.path.realpath(path) for path in others}
    for case in cases:
        path = os.path.realpath(case["image"])
        if path in known:
            raise ValueError(f"image {case['image']} of --lesion_free is read twice, or has a mask; name it once.")
        known.add(path)
    return cases


def place_of_folder(given: str, dataset_dir: Path) -> Path:
    """A folder in the dataset folder, or else from the working directory on.

    Raises:
        FileNotFoundError: there is none.
    """
    inner = Path(os.path.relpath(dataset_dir / given, dataset_dir))
    if os.pardir not in inner.parts and (dataset_dir / inner).is_dir():
        return dataset_dir / inner
    if not Path(given).expanduser().is_dir():
        raise FileNotFoundError(f"--lesion_free {given} is no folder, neither in --dataset_dir {dataset_dir} nor here.")
    return Path(given).expanduser().resolve()


def relative_path(path: Path, dataset_dir: Path) -> str:
    """A path as a datalist has it, from the dataset folder on; "../" leads out of it."""
    if path.is_relative_to(dataset_dir):
        return path.relative_to(dataset_dir).as_posix()
    return Path(os.path.relpath(path.resolve(), dataset_dir.resolve())).as_posix()


def check_some_lesion(shown: Sequence[frozenset[int]], what: str) -> None:
    """Refuse images that show no lesion at all.

    Raises:
        ValueError: naming the remedy.
    """
    if shown and not any(shown):
        raise ValueError(
            f"{what}: none of {len(shown)} images shows a lesion, so that a network would learn to find nothing; add "
            "images with a lesion."
        )


def lesion_free_notes(shown: Sequence[frozenset[int]]) -> list[str]:
    """How many images have an empty mask."""
    number = sum(not classes for classes in shown)
    return [f"{number} images show no lesion" if number > 1 else "1 image shows no lesion"] * bool(number)
