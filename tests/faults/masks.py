"""Masks that do not fit their images or the classes."""

from __future__ import annotations

import numpy as np
from faults.images import read, save_nifti
from faults.table import fault
from PIL import Image

from scripts.data.phantoms import make_phantom


def label_of(place, split: str = "training"):
    """The label file of the first case of a list of phantoms/."""
    return place / "phantoms" / place.dataset()[split][0]["label"]


@fault("mask", "a mask in colors", "make_datalist", r"masks/case_0000\.png.*--clean_masks")
def colors(place):
    for folder in ("images", "masks"):
        (place / "mine" / folder).mkdir(parents=True)
    for number in range(6):
        image, mask = make_phantom((7, number), 64)
        mask = mask if number else np.stack([mask * 200, mask * 30, 90 - mask * 60], -1)
        Image.fromarray(image).save(place / "mine" / "images" / f"case_{number:04d}.png")
        Image.fromarray(mask).save(place / "mine" / "masks" / f"case_{number:04d}.png")
    options = ["--format", "folders", "--val", "0.2", "--output", "mine/dataset.json"]
    yield ["-m", "scripts.make_datalist", "--dataset_dir", "mine", *options]


@fault("mask", "a mask that JPEG has blurred", "training", r"label phantoms/labels/\S+\.jpg holds the values 0, 1, 2")
def jpeg(place):
    content = place.dataset()
    item = content["training"][0]
    path = place / "phantoms" / item["label"]
    item["label"] = str(path.with_suffix(".jpg").relative_to(place / "phantoms"))
    Image.fromarray(read(path)).save(path.with_suffix(".jpg"), quality=70)
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
    for key, x in (("image", 0), ("label", 20)):  # mm
        affine = np.diag([0.5, 0.5, 1, 1])
        affine[0, 3] = x
        save_nifti(place / "phantoms" / f"{key}.nii", read(place / "phantoms" / item[key]).T, affine)
        item[key] = f"{key}.nii"
    place.write_list(content)
    yield place.evaluation()
