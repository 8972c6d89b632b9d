"""Lists from which nothing could be learned, or a figure would be wrong: images without a lesion or without a label."""

from __future__ import annotations

from faults.table import fault
from PIL import Image


def make_black(place, items):
    """Masks that show no lesion."""
    for item in items:
        path = place / "phantoms" / item["label"]
        Image.new("L", Image.open(path).size).save(path)


@fault("dataset", "a training list without any lesion", "training", r"none of the 6 training masks shows a lesion")
def no_lesion_at_all(place):
    make_black(place, place.dataset()["training"])
    yield place.training()


@fault("dataset", "an image without a label that stands in the test list too", "training", r"unlabeled")
def unlabeled_leak(place):
    content = place.dataset()
    content["unlabeled"] = [{"image": content["test"][0]["image"]}]
    place.write_list(content)
    yield place.training("--data::unlabeled_share", "0.5")


@fault(
    "dataset",
    "images without labels, and no term of a teacher",
    "training",
    r"data::unlabeled_share is 0\.5, but no term of the loss reads a teacher",
)
def unlabeled_without_teacher(place):
    content = place.dataset()
    content["unlabeled"] = [{"image": content["training"].pop()["image"]}]
    place.write_list(content)
    yield place.training("--data::unlabeled_share", "0.5", overlay="configs/train_student.json")


@fault("dataset", "an augmentation that pushes the lesions out of the image", "training", r"augmentation::")
def lesions_pushed_out(place):
    yield place.training("--augmentation::shift_fraction", "1.0", "--augmentation::prob", "1.0")


@fault("dataset", "probes on a list without a lesion", "robustness", r"no case of the list has a lesion")
def probes_without_lesion(place):
    make_black(place, place.dataset()["validation"])
    yield place.robustness()
