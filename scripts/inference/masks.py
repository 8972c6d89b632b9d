"""The masks that inference writes: of the size and geometry of their image.

Pictures give PNG. NIfTI gives NIfTI with the header of the image. DICOM gives PNG, NIfTI for a loop, or DICOM SEG. A
picture with an EXIF rotation is read upright, and its mask is upright too.

Arrays are in MONAI's layout: W columns first, then H rows, then N frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, SaveImaged
from monai.utils import ImageMetaKey, MetaKeys
from PIL import Image

from ..data.dicom import read_dataset
from ..data.geometry import AXES, CROP, SPACING, STORED_AXES, as_shown, as_stored, is_turned
from ..data.nifti import frame_axes
from .certainty import CERTAINTY
from .confidence import Certainty
from .dicom_seg import need_highdicom, segmentation_of
from .outputs import AUTO_FORMAT, DICOM_SEG, VOLUMES, check_output_format, mask_path, refuse_existing
from .writer import OutputWriter


def stored_mask(mask: Any, shape: Sequence[int]) -> np.ndarray:
    """Class indices as uint8 in the shape of the stored image.

    Args:
        mask: (1, W, H[, N]) or (W, H[, N]).
        shape: of the stored image, (W, H), (W, H, 1) or (W, H, N).

    Raises:
        ValueError: the mask has not the size of the image.
    """
    mask = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if [n for n in mask.shape if n > 1] != [n for n in shape if n > 1]:
        raise ValueError(
            f"mask {mask.shape} has not the size of its image {tuple(shape)}; undo the preprocessing with Invertd "
            "before SaveImageMaskd."
        )
    return mask.reshape(shape).astype(np.uint8)


def original_shape(mask: torch.Tensor) -> tuple[int, ...]:
    """Shape of the stored image, from the metadata of its mask. MONAI's readers call it `spatial_shape`."""
    meta = mask.meta
    return tuple(int(n) for n in meta.get("original_shape", meta.get(MetaKeys.SPATIAL_SHAPE)))


def image_path(mask: torch.Tensor) -> Path:
    """The image that a mask is of, from its metadata."""
    return Path(mask.meta[ImageMetaKey.FILENAME_OR_OBJ])


def shown_mask(mask: torch.Tensor) -> np.ndarray:
    """What ToStoredShaped gives, as (W, H, N), as its image is looked at."""
    stored = mask[0].detach().cpu().numpy()
    return as_shown(stored.reshape(stored.shape[:4]), mask.meta)  # NIfTI may have further axes of length 1


def laid_as_stored(mask: torch.Tensor) -> torch.Tensor:
    """A mask (1, W, H[, N]) of an image that was turned or cropped when it was read, as the file lies: in its shape and
    with its affine. Other masks come back as they are.
    """
    meta = dict(getattr(mask, "meta", {}))
    if not is_turned(meta):
        return mask
    stored = torch.as_tensor(as_stored(mask[0].detach().cpu().numpy(), meta))
    meta.pop(CROP, None)
    meta[STORED_AXES] = meta.pop(AXES, None)
    return MetaTensor(stored, affine=meta[MetaKeys.ORIGINAL_AFFINE], meta=meta)


class ToStoredShaped(MapTransform):
    """Class indices (1, W, H, N) -> uint8 in the shape of the stored image, behind the channel.

    That is (1, W, H) of a picture, (1, W, H) or (1, W, H, N) of NIfTI and DICOM. MONAI Deploy takes its mask here, and
    `LabelResultd` hands it to MONAI Label. Reads `original_shape` from the metadata of the mask.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            mask = laid_as_stored(d[key])
            shape = stored_mask(mask, original_shape(mask)).shape
            d[key] = mask.reshape(1, *shape).to(torch.uint8)
        return d


class SaveImageMaskd(SaveImaged):
    """Writes class indices as a uint8 mask of the size and geometry of their image, in one step, and keeps its path.

    Takes (1, W, H[, N]) after Invertd, or what ToStoredShaped gives; adds the item "pred_path" for the key "pred".
    NIfTI has the image's shape, affine, qform, sform and pixel sizes.

    It is a SaveImaged because MONAI Label writes masks itself and leaves out what is one. MONAI Deploy leaves out what
    is called SaveImage.

    Args:
        keys: masks with the metadata of their image (`filename_or_obj`, `original_shape`).
        output_dir: made when the first mask is written.
        output_format: `auto`, or `dicom_seg` for DICOM images.
        class_names: of the foreground, for DICOM SEG.
        scale_binary: write 255 for the foreground, to look at; two classes only.
        overwrite: replace a mask that is already there.
        dataset_dir: folder of the images, whose subfolders the masks keep; None has none.
        allow_missing_keys: pass over keys that are not there.
        writer: writes the masks; None does so at once.

    Raises:
        FileExistsError: a mask is already there and overwrite is false.
        WriteError: the disk or the folder refuses it.
        ValueError: the mask has not the size of its image, scale_binary meets a third class, or highdicom is not
            installed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_format: str = AUTO_FORMAT,
        class_names: Sequence[str] = ("lesion",),
        scale_binary: bool = False,
        overwrite: bool = False,
        dataset_dir: str | Path | None = None,
        allow_missing_keys: bool = False,
        writer: OutputWriter | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.writer = writer or OutputWriter()
        check_output_format(output_format)
        if output_format == DICOM_SEG:
            need_highdicom()
        self.output_dir = Path(output_dir)
        self.output_format = output_format
        self.class_names = tuple(class_names)
        self.scale_binary = scale_binary
        self.overwrite = overwrite
        self.dataset_dir = dataset_dir

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[f"{key}_path"] = str(self._save(d[key], d.get(CERTAINTY)))
        return d

    def _save(self, mask: torch.Tensor, certainty: Certainty | None) -> Path:
        mask = laid_as_stored(mask)
        image, pixels = image_path(mask), stored_mask(mask, original_shape(mask))
        loop = pixels.ndim > 2
        path = mask_path(
            image, self.output_dir, loop=loop, output_format=self.output_format, dataset_dir=self.dataset_dir
        )
        if not self.overwrite:
            refuse_existing(path)
        if self.scale_binary:
            pixels = _scaled(pixels, image)
        note = certainty.summary() if certainty else ""
        self.writer.submit(partial(self._write, path, image, pixels, mask, note), pixels.nbytes)
        return path

    def _write(self, path: Path, image: Path, pixels: np.ndarray, mask: torch.Tensor, note: str) -> None:
        save = self._saver(image, pixels, mask, path.suffix, note)
        with self.writer.draft(path) as draft:
            save(draft)

    def _saver(
        self, image: Path, pixels: np.ndarray, mask: torch.Tensor, suffix: str, note: str
    ) -> Callable[[Path], None]:
        """A function that writes the mask, after what it needs of the image has been read; DICOM SEG gets the note."""
        if suffix == ".png":
            return Image.fromarray(pixels.reshape(pixels.shape[:2]).T.copy()).save  # (W, H) -> (H, W)
        if suffix == ".dcm":
            return segmentation_of(image, pixels, self.class_names, note).save_as
        return partial(nibabel.save, _volume(image, pixels, mask))


def _scaled(pixels: np.ndarray, image: Path) -> np.ndarray:
    if pixels.max() > 1:
        raise ValueError(
            f"scale_binary is for two classes, but the mask of {image} holds the class {pixels.max()}; pass false."
        )
    return pixels * np.uint8(255)


def _volume(image: Path, pixels: np.ndarray, mask: torch.Tensor) -> nibabel.Nifti1Image:
    if image.name.lower().endswith(VOLUMES):
        return _like(nibabel.load(image), pixels)
    volume = nibabel.Nifti1Image(pixels, np.asarray(mask.meta[MetaKeys.ORIGINAL_AFFINE], dtype=np.float64))
    if SPACING in mask.meta:
        volume.header.set_xyzt_units("mm")  # else the affine's 1 would be read as a size
    return volume


def _like(source: nibabel.Nifti1Image, pixels: np.ndarray) -> nibabel.Nifti1Image:
    """A volume of `pixels` with the geometry of `source`, without the display range, scaling and colors of its
    values.
    """
    header = source.header.copy()
    header["cal_min"] = header["cal_max"] = 0
    header.set_slope_inter(1, 0)
    header.set_intent("none")
    header.set_data_dtype(np.uint8)
    return type(source)(pixels, source.affine, header)


def count_frames(path: str | Path, num_classes: int) -> int:
    """Frames of a mask that SaveImageMaskd has written, from its header.

    Args:
        path: of the mask.
        num_classes: of a DICOM SEG, without the background.
    """
    path = Path(path)
    if path.suffix == ".dcm":
        return int(read_dataset(path).NumberOfFrames) // num_classes
    if path.suffix == ".png":
        return 1
    shape = nibabel.load(path).shape
    columns, rows = frame_axes(shape)
    return math.prod(shape) // (shape[columns] * shape[rows])
