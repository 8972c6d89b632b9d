"""The beginning of inference: which images come in, and every refusal before anything is computed.

    python -m monai.bundle run --config_file configs/inference.json --dataset_dir PATH --output_dir OUT

`configs/inference.json` lists its images with `list_images`; docs/inference.md describes the whole for its users.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from monai.utils import CommonKeys as Keys

from ..data.dicom import is_dicom
from .dicom_seg import check_source
from .outputs import (
    AUTO,
    DICOM_SEG,
    PICTURES,
    TABLE,
    VOLUMES,
    check_output_format,
    is_image,
    possible_outputs,
    refuse_existing,
)

FEWEST_GRAYS = 9  # of an image: a mask has fewer values
NEAR = 8 / 255  # of black and white: compression blurs a mask by as much
SUPPORTED = ", ".join((*PICTURES, *VOLUMES, ".dcm"))


def list_images(
    path: str | Path,
    output_dir: str | Path | None = None,
    output_postfix: str = "mask",
    output_format: str = AUTO,
    overwrite: bool = False,
    read: Callable | None = None,
    accept_masks: bool = False,
) -> list[dict[str, str]]:
    """Items {"image": path} of one image file, or of the images right in a folder, sorted by name.

    Args:
        path: image file or folder.
        output_dir: where the outputs will go; those that are already there are refused before anything runs. None looks
            at nothing.
        output_postfix: as SaveMaskd's.
        output_format: as SaveMaskd's.
        overwrite: as SaveMaskd's.
        read: decodes the image file at a path to gray values in [0, 1] and metadata, or raises. With an output_dir it
            reads every image once, so that a bad file ends the run before the first mask is written; None reads
            nothing.
        accept_masks: take images that look like masks.

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
        _refuse_others(images)
    outputs = _outputs(images, output_dir or ".", output_postfix, output_format)
    if output_dir is not None:
        if not overwrite:
            for output in (*outputs, Path(output_dir) / TABLE):
                refuse_existing(output)
        if read is not None:
            _check_all(images, partial(_check, read=read, accept_masks=accept_masks, output_format=output_format))
    return [{Keys.IMAGE: str(image)} for image in images]


def _check_path(name: str, path: str | Path) -> None:
    """Of a name that looks like a number monai.bundle makes one."""
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


def _refuse_others(images: list[Path]) -> None:
    for image in images:
        if image.name.lower().endswith(PICTURES + VOLUMES) or not is_dicom(image):
            raise ValueError(
                f"output_format {DICOM_SEG} is for DICOM images, but {image} is none; take it out, or pass {AUTO}."
            )


def _outputs(images: list[Path], output_dir: str | Path, output_postfix: str, output_format: str) -> list[Path]:
    """Every file that may be written, in the order of the images."""
    found: dict[Path, Path] = {}
    inputs = {image.resolve() for image in images}
    for image in images:
        for output in possible_outputs(image, output_dir, output_postfix, output_format):
            if output in found:
                raise ValueError(
                    f"images {found[output]} and {image} would both give {output.name}; rename one of them."
                )
            if output.resolve() in inputs:
                raise ValueError(
                    f"the output {output.name} of {image} would replace an image; choose another output_dir."
                )
            found[output] = image
    return list(found)


def _check_all(images: list[Path], check: Callable[[Path], None]) -> None:
    """Checks in threads, in order; the first failure ends the rest."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(check, images):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _check(image: Path, read: Callable, accept_masks: bool, output_format: str) -> None:
    pixels, _ = read(image)
    if output_format == DICOM_SEG:
        check_source(image)
    if not accept_masks and looks_like_mask(pixels):
        raise ValueError(
            f"file {image} looks like a mask, not like an ultrasound image: it has {len(np.unique(pixels))} gray "
            "values, nearly "
            "all black or white; give the folder of the images, or pass --accept_masks True."
        )


def looks_like_mask(pixels: np.ndarray) -> bool:
    """Whether gray values in [0, 1] are those of a label image.

    They are where there are fewer than FEWEST_GRAYS or where, blurred by a compression, 99 % are near black or white,
    some white.
    """
    if len(np.unique(pixels)) < FEWEST_GRAYS:
        return True
    white = float((pixels > 1 - NEAR).mean())
    return white > 0.002 and white + float((pixels < NEAR).mean()) > 0.99
