"""The images that inference reads, and every check before anything is computed.

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir PATH --output_dir OUT

`configs/inference.json` lists its images with `list_images`. docs/inference.md is the page for users.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from monai.utils import CommonKeys as Keys

from ..data.dicom import is_dicom
from ..data.splits import map_in_threads
from .dicom_seg import check_source
from .outputs import (
    AUTO_FORMAT,
    DICOM_SEG,
    LESIONS_FILE,
    PICTURES,
    VOLUMES,
    check_output_format,
    is_image,
    possible_outputs,
    refuse_existing,
)

MIN_GRAYS = 9  # different values in an image; a mask has fewer
BLUR = 8 / 255  # how far from black and white the compression of a mask moves its values
SUPPORTED = ", ".join((*PICTURES, *VOLUMES, ".dcm"))


def list_images(
    path: str | Path,
    output_dir: str | Path | None = None,
    output_postfix: str = "mask",
    output_format: str = AUTO_FORMAT,
    overwrite: bool = False,
    read: Callable | None = None,
    accept_masks: bool = False,
) -> list[dict[str, str]]:
    """Items {"image": path} of one image file, or of the images right in a folder, sorted by name.

    Args:
        path: the image, or a folder of images. [path]
        output_dir: where masks, overlays and lesions.csv go. Outputs that are already there are refused before anything
            runs. [path]
        output_postfix: as SaveMaskd's.
        output_format: of the masks: auto follows the image, dicom_seg writes DICOM SEG for DICOM images.
            [auto, dicom_seg]
        overwrite: replace outputs that are already there. [true, false]
        read: decodes the image file at a path to gray values in [0, 1] and metadata, or raises. With an output_dir it
            reads every image once, so that a bad file ends the run before the first mask is written; None reads
            nothing.
        accept_masks: segment files that look like masks too, instead of refusing them. [true, false]

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: the file is no supported image, the folder holds none, two images would give the same file, an
            output would replace an image, or an image is refused by `read`, looks like a mask, or does not go with the
            `output_format`; a path is a number.
        FileExistsError: an output is already there, or a file where a folder for the outputs is wanted.
    """
    check_output_format(output_format)
    _check_path("dataset_dir", path)
    if output_dir is not None:
        _check_output_dir(output_dir)
    images = _images(Path(path))
    if output_format == DICOM_SEG:
        _check_dicom(images)
    outputs = _outputs(images, output_dir or ".", output_postfix, output_format)
    if output_dir is not None:
        if not overwrite:
            for output in (*outputs, Path(output_dir) / LESIONS_FILE):
                refuse_existing(output)
        if read is not None:
            check = partial(_check_image, read=read, accept_masks=accept_masks, output_format=output_format)
            map_in_threads(check, images)
    return [{Keys.IMAGE: str(image)} for image in images]


def _check_path(name: str, path: str | Path) -> None:
    """Refuse a number: monai.bundle makes one of a folder's name that looks like it."""
    if not isinstance(path, (str, Path)):
        raise ValueError(f"{name} must be a path, got the {type(path).__name__} {path!r}; write ./ before the name.")


def _check_output_dir(output_dir: str | Path) -> None:
    _check_path("output_dir", output_dir)
    for path in (Path(output_dir), *Path(output_dir).parents):
        if path.exists() and not path.is_dir():
            raise FileExistsError(
                f"output_dir {output_dir} is no folder, since {path} is a file; give a folder for the outputs."
            )


def _images(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"image path {path} does not exist; give an image file or a folder of images.")
    if path.is_file():
        if not is_image(path):
            raise ValueError(f"image path {path} is no supported image; expected {SUPPORTED}.")
        return [path]
    images = sorted(file for file in path.iterdir() if file.is_file() and is_image(file))
    if not images:
        raise ValueError(
            f"folder {path} holds no image; expected files right in it, not in its folders, that end in {SUPPORTED}."
        )
    return images


def _check_dicom(images: list[Path]) -> None:
    for image in images:
        if image.name.lower().endswith(PICTURES + VOLUMES) or not is_dicom(image):
            raise ValueError(
                f"output_format {DICOM_SEG} is for DICOM images, but {image} is none; take it out, or pass "
                f"{AUTO_FORMAT}."
            )


def _outputs(images: list[Path], output_dir: str | Path, output_postfix: str, output_format: str) -> list[Path]:
    """Every file that may be written, in the order of the images."""
    image_of: dict[Path, Path] = {}  # by output
    inputs = {image.resolve() for image in images}
    for image in images:
        for output in possible_outputs(image, output_dir, output_postfix, output_format):
            if output in image_of:
                raise ValueError(
                    f"images {image_of[output]} and {image} would both give {output.name}; rename one of them."
                )
            if output.resolve() in inputs:
                raise ValueError(
                    f"the output {output.name} of {image} would replace an image; choose another output_dir."
                )
            image_of[output] = image
    return list(image_of)


def _check_image(image: Path, read: Callable, accept_masks: bool, output_format: str) -> None:
    pixels, _ = read(image)
    if output_format == DICOM_SEG:
        check_source(image)
    if not accept_masks and looks_like_mask(pixels):
        raise ValueError(
            f"file {image} looks like a mask, not like an ultrasound image: it has {len(np.unique(pixels))} gray "
            "values, nearly all black or white; give the folder of the images, or pass --accept_masks True."
        )


def looks_like_mask(pixels: np.ndarray) -> bool:
    """Whether gray values in [0, 1] are those of a label image.

    A label image has fewer than MIN_GRAYS values. One that a compression has blurred has more, but 99 % of its pixels
    are near black or white, and some are near white.
    """
    if len(np.unique(pixels)) < MIN_GRAYS:
        return True
    white = float((pixels > 1 - BLUR).mean())
    return white > 0.002 and white + float((pixels < BLUR).mean()) > 0.99
