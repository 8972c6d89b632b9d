"""The ends of inference: which images come in, and the masks that go out.

`configs/inference.json` lists its images with `list_images` and ends its postprocessing with `SaveMaskd`. A mask keeps the
size and geometry of its image: pictures give PNG, NIfTI gives NIfTI with the header of the image. A picture with an EXIF
rotation is read upright, and so is its mask.

Arrays are in MONAI's layout: W columns first, then H rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, SaveImaged
from monai.utils import CommonKeys as Keys
from monai.utils import ImageMetaKey
from PIL import Image

from .files import atomic_path

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUMES = (".nii", ".nii.gz")


def list_images(
    path: str | Path,
    output_dir: str | Path | None = None,
    output_postfix: str = "mask",
    overwrite: bool = False,
    read: Callable | None = None,
) -> list[dict[str, str]]:
    """Items {"image": path} of one image file, or of the images right in a folder, sorted by name.

    Args:
        path: image file or folder.
        output_dir: where SaveMaskd will write; masks that are already there are refused before anything runs. None looks at
            nothing.
        output_postfix: as SaveMaskd's.
        overwrite: as SaveMaskd's.
        read: decodes the image file at a path, or raises. With an output_dir it reads every image once, so that a bad file ends
            the run before the first mask is written; None reads nothing.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: the file is no supported image, the folder holds none, two images would give the same mask file, or `read`
            refuses one.
        FileExistsError: a mask is already there.
    """
    images = _images(Path(path))
    masks: dict[Path, Path] = {}
    for image in images:
        mask = mask_path(image, output_dir or ".", output_postfix)
        if mask in masks:
            raise ValueError(f"images {masks[mask]} and {image} would both give {mask.name}; rename one of them.")
        masks[mask] = image
        if output_dir is not None and not overwrite:
            _refuse_existing(mask)
    if output_dir is not None and read is not None:
        _read_all(images, read)
    return [{Keys.IMAGE: str(image)} for image in images]


def _images(path: Path) -> list[Path]:
    supported = ", ".join(PICTURES + VOLUMES)
    if not path.exists():
        raise FileNotFoundError(f"image path {path} does not exist; give an image file or a folder of images.")
    if path.is_file():
        if not _is_image(path):
            raise ValueError(f"image path {path} is no supported image; expected {supported}.")
        return [path]
    images = sorted(file for file in path.iterdir() if file.is_file() and _is_image(file))
    if not images:
        raise ValueError(f"folder {path} holds no image; expected files that end in {supported}.")
    return images


def _read_all(images: list[Path], read: Callable) -> None:
    """Reads in threads, in order; the first failure ends the rest."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(read, images):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.name.lower().endswith(PICTURES + VOLUMES)


def mask_path(image: str | Path, output_dir: str | Path, output_postfix: str = "mask") -> Path:
    """output_dir/NAME_mask.png, or NAME_mask.nii.gz where the image is NIfTI."""
    name = Path(image).name
    volume = name.lower().endswith(VOLUMES)
    suffix = next((s for s in VOLUMES[::-1] + PICTURES if name.lower().endswith(s)), Path(name).suffix)
    stem = name[: len(name) - len(suffix)]
    return Path(output_dir) / f"{stem}_{output_postfix}{'.nii.gz' if volume else '.png'}"


def stored_mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Class indices as uint8 in the shape of the stored image, (W, H) or (W, H, 1), from (1, W, H), (W, H) or (W, H, 1).

    Raises:
        ValueError: the mask has not the size of the image.
    """
    mask = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if [n for n in mask.shape if n > 1] != [n for n in shape if n > 1]:
        raise ValueError(
            f"mask {mask.shape} has not the size of its image {shape}; undo the preprocessing with Invertd before SaveMaskd."
        )
    return mask.reshape(shape).astype(np.uint8)


class ToStoredShaped(MapTransform):
    """Class indices (1, W, H) -> uint8 (W, H), or (W, H, 1) for a NIfTI image of that shape: what MONAI Label writes as it is.

    Reads the image's `original_shape` from the metadata of the mask.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            mask = stored_mask(d[key], _original_shape(d[key]))
            d[key] = d[key].reshape(mask.shape).to(torch.uint8)
        return d


class SaveMaskd(SaveImaged):
    """Writes class indices as a uint8 mask of the size and geometry of their image, in one step, and keeps its path.

    Takes (1, W, H) after Invertd, or what ToStoredShaped gives; adds the item "pred_path" for the key "pred". Pictures give a
    PNG. NIfTI gives .nii.gz with the image's shape, affine, qform, sform and pixel sizes.

    It is a SaveImaged so that MONAI Label, which writes masks itself, leaves it out.

    Args:
        keys: masks with the metadata of their image (`filename_or_obj`, `original_shape`).
        output_dir: made when the first mask is written.
        output_postfix: masks are named IMAGE_postfix.png or .nii.gz.
        scale_binary: write 255 for the foreground, to look at; two classes only.
        overwrite: replace a mask that is already there.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        FileExistsError: a mask is already there and overwrite is false.
        ValueError: the mask has not the size of its image, or scale_binary meets a third class.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "mask",
        scale_binary: bool = False,
        overwrite: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.output_postfix = output_postfix
        self.scale_binary = scale_binary
        self.overwrite = overwrite

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[f"{key}_path"] = str(self._save(d[key]))
        return d

    def _save(self, mask: torch.Tensor) -> Path:
        image = Path(mask.meta[ImageMetaKey.FILENAME_OR_OBJ])
        path = mask_path(image, self.output_dir, self.output_postfix)
        if not self.overwrite:
            _refuse_existing(path)
        pixels = stored_mask(mask, _original_shape(mask))
        if self.scale_binary:
            pixels = _scaled(pixels, image)
        with atomic_path(path) as partial:
            if path.suffix == ".png":
                Image.fromarray(pixels.reshape(pixels.shape[:2]).T.copy()).save(partial)  # (W, H) -> (H, W)
            else:
                nibabel.save(_like(nibabel.load(image), pixels), partial)
        return path


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"mask {path} already exists; remove it, choose another output_dir, or pass overwrite true.")


def _scaled(pixels: np.ndarray, image: Path) -> np.ndarray:
    if pixels.max() > 1:
        raise ValueError(f"scale_binary is for two classes, but the mask of {image} holds the class {pixels.max()}; pass false.")
    return pixels * np.uint8(255)


def _like(source: nibabel.Nifti1Image, pixels: np.ndarray) -> nibabel.Nifti1Image:
    """A volume of `pixels` with the geometry of `source`; the display range and scaling of its gray values go."""
    header = source.header.copy()
    header["cal_min"] = header["cal_max"] = 0
    header.set_slope_inter(1, 0)
    header.set_data_dtype(np.uint8)
    return type(source)(pixels, source.affine, header)


def _original_shape(mask: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(n) for n in mask.meta["original_shape"])
