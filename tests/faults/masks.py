"""Masks that do not fit their images or the classes."""

from __future__ import annotations

import numpy as np
from faults.images import read, save_nifti
from faults.table import fault
from PIL import Image


def label_of(place, split: str = "training"):
    """The label file of the first case of a list of phantoms/."""
    return place / "phantoms" / place.dataset()[split][0]["label"]


@fault("mask", "a mask in colors", "training", r"label|mask")
def colors(place):
    path = label_of(place)
    gray = read(path)
    Image.fromarray(np.stack([gray * 200, gray * 30, gray * 30], -1)).save(path)
    yield place.training()


@fault("mask", "a mask that JPEG has blurred", "training", r"\.jpg")
def jpeg(place):
    content = place.dataset()
    item = content["training"][0]
    path = place / "phantoms" / item["label"]
    item["label"] = str(path.with_suffix(".jpg").relative_to(place / "phantoms"))
    Image.fromarray(read(path) * 255).save(path.with_suffix(".jpg"), quality=70)
    place.write_list(content)
    yield place.training()


@fault(
    "mask",
    "a mask of another size than its image",
    "evaluation",
    r"label phantoms/\S+ has size \(60, 64\).*image phantoms/\S+",
)
def other_size(place):
    Image.new("L", (60, 64)).save(label_of(place, "test"))
    yield place.evaluation()


@fault(
    "mask", "a mask with a class that does not exist", "comparison", r"label phantoms/\S+ holds the values 0, 5, 255"
)
def other_class(place):
    path = label_of(place)
    mask = read(path).copy()
    mask[:2] = 5
    Image.fromarray(mask).save(path)
    yield place.comparison()


@fault(
    "mask",
    "image and mask in NIfTI that disagree on where they lie",
    "evaluation",
    r"image\.nii.*label\.nii|label\.nii.*image\.nii",
)
def other_affine(place):
    content = place.dataset()
    item = content["test"][0]
    for key, affine in (("image", np.diag([-1.0, -1, 1, 1])), ("label", np.diag([1.0, -1, 1, 1]))):
        save_nifti(place / "phantoms" / f"{key}.nii", read(place / "phantoms" / item[key]).T, affine)
        item[key] = f"{key}.nii"
    place.write_list(content)
    yield place.evaluation()
