"""Lists of cases with which figures would be wrong, or that lead out of their folder."""

from __future__ import annotations

import shutil

from faults.images import read
from faults.table import fault
from PIL import Image


@fault("dataset", "a case that a list names twice", "evaluation", r"image phantoms/\S+.*(twice|two times)")
def case_twice(place):
    content = place.dataset()
    content["test"].append(content["test"][0])
    place.write_list(content)
    yield place.evaluation()


@fault("dataset", "a patient in two lists", "comparison", r"patient is in two splits.*P7.*make_datalist")
def patient_in_two_lists(place):
    content = place.dataset()
    content["training"][0]["patient"] = content["test"][0]["patient"] = "P7"
    place.write_list(content)
    yield place.comparison()


@fault(
    "dataset",
    "a picture in two lists, encoded anew",
    "training",
    r"phantoms/images/\S+.*phantoms/images/copy\.bmp|copy\.bmp.*phantoms/images/\S+",
)
def encoded_anew(place):
    content = place.dataset()
    source = place / "phantoms" / content["training"][0]["image"]
    Image.fromarray(read(source)).save(place / "phantoms" / "images" / "copy.bmp")
    content["test"][0]["image"] = "images/copy.bmp"
    place.write_list(content)
    yield place.training()


@fault("dataset", "an image that is not there", "preflight", r"image file phantoms/\S+ does not exist \(1 of 10")
def missing_image(place):
    (place / "phantoms" / place.dataset()["training"][1]["image"]).unlink()
    yield place.preflight()


@fault("dataset", "a path that leaves the folder of the data set", "training", r"\.\./secret/a\.png|secret/a\.png")
def leaves_its_folder(place):
    content = place.dataset()
    (place / "secret").mkdir()
    shutil.move(place / "phantoms" / content["training"][0]["image"], place / "secret" / "a.png")
    content["training"][0]["image"] = "../secret/a.png"
    place.write_list(content)
    yield place.training()
