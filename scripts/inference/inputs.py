"""The images that inference reads, and what can be told of them before anything is computed.

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir PATH --output_dir OUT

`configs/inference.json` lists its images with `list_images` and reads them with `ImageFiles`. A file that cannot be
segmented is an item too: it has a reason in place of an image. docs/inference.md is the page for users.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import Dataset
from monai.utils import CommonKeys as Keys

from ..data.brightness import looks_like_mask
from ..data.dicom import is_dicom
from ..utils.screen import printable, tell
from .failures import FAILURE, FILE, reason_of
from .folders import Listing, describe, list_folder
from .outputs import (
    AUTO_FORMAT,
    DICOM_SEG,
    PICTURES,
    VOLUMES,
    check_output_format,
    is_image,
    possible_outputs,
    relative_path,
)

MAX_NAME_BYTES = 255  # of one name, in every common file system
SUPPORTED = ", ".join((*PICTURES, *VOLUMES, ".dcm"))


def list_images(
    path: str | Path, output_dir: str | Path | None = None, output_format: str = AUTO_FORMAT, recursive: bool = False
) -> list[dict[str, str]]:
    """Items {"image": path} of one image file, or of the images in a folder, sorted by name.

    An image that cannot be segmented for its name has its reason as "failure". What is no image is counted and told.

    Args:
        path: the image, or a folder of images. [path]
        output_dir: where masks, overlays and lesions.csv go. [path]
        output_format: of the masks: auto follows the image, dicom_seg writes DICOM SEG for DICOM images.
            [auto, dicom_seg]
        recursive: read the images in subfolders too; their outputs go into the same subfolders of output_dir.
            [true, false]

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: the file is no supported image, the folder holds none, output_dir is the folder of the images, or a
            path is a number.
        FileExistsError: a file is where a folder for the outputs is wanted.
    """
    check_output_format(output_format)
    check_path("dataset_dir", path)
    path = Path(path)
    if output_dir is not None:
        _check_output_dir(output_dir, path, recursive)
    listing = _list(path, recursive, output_dir and Path(output_dir))
    reasons = dict(listing.failures)
    for image in listing.images:
        if reason := _name_problem(image, path, output_format):
            reasons[image] = reason
    for image, reason in _collisions(listing.images, path, output_dir or ".", output_format).items():
        reasons.setdefault(image, reason)
    files = sorted({*listing.images, *reasons})
    return [{Keys.IMAGE: str(file), **({FAILURE: reasons[file]} if file in reasons else {})} for file in files]


def check_path(name: str, path: Any) -> None:
    """Refuse a number: monai.bundle makes one of a folder's name that looks like it."""
    if not isinstance(path, (str, Path)):
        raise ValueError(f"{name} must be a path, got the {type(path).__name__} {path!r}; write ./ before the name.")


def _check_output_dir(output_dir: str | Path, dataset_dir: Path, recursive: bool) -> None:
    check_path("output_dir", output_dir)
    for path in (Path(output_dir), *Path(output_dir).parents):
        if path.exists() and not path.is_dir():
            raise FileExistsError(
                f"output_dir {output_dir} is no folder, since {path} is a file; give a folder for the outputs."
            )
    images = (dataset_dir.parent if dataset_dir.is_file() else dataset_dir).resolve()
    folder, inside = Path(output_dir).resolve(), recursive and dataset_dir.is_dir()
    if dataset_dir.exists() and (folder == images or (inside and images in folder.parents)):
        place = "is" if folder == images else "lies in"
        raise ValueError(
            f"output_dir {output_dir} {place} the folder of the images, so that the next run would read masks as "
            "images; choose another output_dir."
        )


def _list(path: Path, recursive: bool, output_dir: Path | None) -> Listing:
    if not path.exists():
        raise FileNotFoundError(f"image path {path} does not exist; give an image file or a folder of images.")
    if path.is_file():
        if not is_image(path):
            raise ValueError(f"image path {path} is no supported image; expected {SUPPORTED}.")
        return Listing([path], {}, {}, [])
    listing = list_folder(path, recursive, output_dir)
    passed_over = describe(listing)
    if not listing.images and not listing.failures:
        more = f" ({passed_over})" if passed_over else ""
        raise ValueError(f"folder {path} holds no image{more}; expected files that end in {SUPPORTED}.")
    if passed_over:
        tell(passed_over)
    return listing


def _name_problem(image: Path, dataset_dir: Path, output_format: str) -> str | None:
    """Why no output can have the name of an image, or None."""
    name = str(relative_path(image, dataset_dir))
    if printable(name) != name:
        return f"file {image} has control characters in its name, or bytes that are no UTF-8; rename it."
    if output_format == DICOM_SEG and (name.lower().endswith(PICTURES + VOLUMES) or not is_dicom(image)):
        return (
            f"output_format {DICOM_SEG} is for DICOM images, but {image} is none; take it out, or pass {AUTO_FORMAT}."
        )
    outputs = possible_outputs(image, ".", output_format=output_format)
    longest = max((output.name for output in outputs), key=lambda text: len(os.fsencode(text)))
    if len(os.fsencode(longest)) > MAX_NAME_BYTES:
        return (
            f"file {image} has a name so long that {longest} would have {len(os.fsencode(longest))} bytes, expected at "
            f"most {MAX_NAME_BYTES}; rename it."
        )
    return None


def _collisions(images: list[Path], dataset_dir: Path, output_dir: str | Path, output_format: str) -> dict[Path, str]:
    """Images whose outputs would have the place of another's, or of an image; none of them is segmented."""
    images_of: dict[Path, list[Path]] = defaultdict(list)  # by output
    for image in images:
        for output in possible_outputs(image, output_dir, output_format=output_format, dataset_dir=dataset_dir):
            images_of[output].append(image)
    inputs, reasons = {image.resolve() for image in images}, {}
    for output, (image, *others) in images_of.items():
        if output.resolve() in inputs:
            reasons[image] = f"the output {output.name} of {image} would replace an image; choose another output_dir."
        for one in (image, *others) if others else ():
            names = " and ".join(map(str, (image, *others)))
            reasons.setdefault(one, f"images {names} would both give {output.name}; rename one of them.")
    return reasons


class ImageFiles(Dataset):
    """Transformed images with their path as "file". One that fails has a "failure" in place of its pixels.

    Args:
        data: what `list_images` gives.
        transform: of an item.
        read: decodes the image file at a path to gray values in [0, 1] and metadata, to look whether it is a mask, such
            as `FrameReader.hold`, which keeps them for the transforms; None does not look.
        accept_masks: segment files that look like masks too, instead of naming them as bad files. [true, false]
    """

    def __init__(
        self,
        data: Sequence[dict[str, str]],
        transform: Callable,
        read: Callable | None = None,
        accept_masks: bool = False,
    ) -> None:
        super().__init__(data, transform)
        self.read, self.accept_masks = read, accept_masks

    def _transform(self, index: int) -> dict[str, Any]:
        item = self.data[index]
        file = item[Keys.IMAGE]
        if FAILURE in item:
            return {FILE: file, FAILURE: item[FAILURE]}
        try:
            if self.read is not None:
                pixels, _ = self.read(file)
                if not self.accept_masks:
                    refuse_mask(file, pixels)
                del pixels  # a loop's are large
            return {FILE: file, **super()._transform(index)}
        except Exception as error:  # whatever it is, the other files can be read
            return {FILE: file, FAILURE: reason_of(error, file)}


def refuse_mask(file: str, pixels: np.ndarray) -> None:
    """Refuse what looks like a mask.

    Args:
        file: for the message.
        pixels: of all frames.

    Raises:
        ValueError: it has next to no gray value but black and white.
    """
    if looks_like_mask(pixels):
        raise ValueError(
            f"file {file} looks like a mask, not like an ultrasound image: it has {len(np.unique(pixels))} gray "
            "values, nearly all black or white; give the folder of the images, or pass --accept_masks True."
        )
