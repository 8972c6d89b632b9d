"""The images that exported students are checked on, and those that int8 is calibrated on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged

from ..data.datalist import SegmentationData
from ..data.dataset import ViewDataset
from ..data.phantoms import make_phantom
from ..data.readers import GrayImageReader, MaskReader
from ..data.segment import resize_image
from ..data.transforms import LabelToClassesd, ToRowsFirstd

PHANTOM_SIZE = 256  # pixels, before the resize to img_size
CHECK_SEED, CALIBRATION_SEED = 0, 1  # of the phantoms


class Case(NamedTuple):
    """An image and its label.

    name: of the image. image: (1, 1, img_size, img_size) in [0, 1]. label: (1, H, W) class indices at the image's
    original size. picture: (H, W), the image at this size in 8 bits, uint8.
    """

    name: str
    image: torch.Tensor
    label: torch.Tensor
    picture: torch.Tensor


def read_cases(
    dataset_dir: str | None,
    datalist: str,
    split: str,
    count: int,
    img_size: int,
    num_classes: int,
    allow_outside: bool = False,
) -> tuple[list[Case], list[Case], str]:
    """Cases to check on, cases to calibrate on, and a text that says what the first are.

    Args:
        dataset_dir: folder of the dataset; generated phantoms for None.
        datalist: as in `SegmentationData`.
        split: the list to check on. The calibration is on the training list.
        count: of cases, at most, for each.
        img_size: side of the images, in pixels.
        num_classes: with the background.
        allow_outside: as in `SegmentationData`.

    Raises:
        FileNotFoundError: as `SegmentationData`, with the program's options in the place of config ids.
        ValueError: likewise.
    """
    if dataset_dir is None:
        source = "generated phantoms, since no --dataset_dir is given; they say little about real images"
        return phantom_cases(count, img_size), phantom_cases(count, img_size, CALIBRATION_SEED), source
    try:
        data = SegmentationData(dataset_dir, datalist, num_classes, img_size, allow_outside=allow_outside)
        lists = getattr(data, split), data.training
    except (ValueError, OSError) as error:  # it names config ids
        raise ValueError(
            str(error).replace("--data::", "--").replace("data::", "--").replace("outside true", "outside")
        ) from None
    checked, calibration = (dataset_cases(part, count, img_size, num_classes) for part in lists)
    return checked, calibration, f"list {split} of {data.name}"


def phantom_cases(count: int, img_size: int, seed: int = CHECK_SEED) -> list[Case]:
    """Generated phantoms as cases, the same for the same arguments."""
    phantoms = [make_phantom((seed, number), PHANTOM_SIZE) for number in range(count)]
    return [
        _case(f"phantom {number}", torch.from_numpy(image)[None] / 255, torch.from_numpy(label)[None], img_size)
        for number, (image, label) in enumerate(phantoms)
    ]


def dataset_cases(items: Sequence[Mapping], count: int, img_size: int, num_classes: int) -> list[Case]:
    """`count` cases spread evenly over a list of `SegmentationData`, or all when it has fewer."""
    keys = ["image", "label"]
    transform = Compose(
        [
            LoadImaged("image", reader=GrayImageReader),
            LoadImaged("label", reader=MaskReader),
            EnsureChannelFirstd(keys),
            ToRowsFirstd(keys),
            LabelToClassesd("label", num_classes),
            EnsureTyped(keys, track_meta=False),
        ]
    )
    chosen = [items[int(index)] for index in np.linspace(0, len(items) - 1, min(count, len(items)))]
    dataset = ViewDataset(chosen, transform, cache=False)
    return [_case(item["case"], item["image"], item["label"], img_size) for item in dataset]


def _case(name: str, image: torch.Tensor, label: torch.Tensor, img_size: int) -> Case:
    picture = (255 * image[0]).round().to(torch.uint8)
    return Case(name, resize_image(image, img_size)[None], label, picture)
