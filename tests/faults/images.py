"""Images that are broken, or that are not what they seem to be."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from faults.place import phantom
from faults.table import fault
from PIL import Image

TABLE = ("masks/", "masks/run.json", "masks/lesions.csv")
OTHERS = (*TABLE, "masks/a_*.png")  # a good image beside a bad one is segmented


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def save_nifti(path, pixels: np.ndarray, affine: np.ndarray | None = None) -> None:
    nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4) if affine is None else affine), path)


@fault(
    "image",
    "the gray values 0 to 255 in 16 bits, beside the same picture in 8",
    "inference",
    code=0,
    writes=(*TABLE, "masks/*_mask.png", "masks/*_overlay.png"),
)
def eight_bits_in_sixteen(place):
    place.images("eight.png")
    Image.fromarray(phantom(0).astype(np.uint16)).save(place / "images" / "sixteen.png")
    yield place.inference()
    eight, sixteen = (read(place / "masks" / f"{name}_mask.png") for name in ("eight", "sixteen"))
    assert np.array_equal(eight, sixteen)


@fault("image", "PostScript behind the name .png", "inference", r"b\.png", writes=OTHERS)
def postscript(place):
    place.images("a.png")
    Image.fromarray(phantom(1)).save(place / "images" / "b.png", "EPS")
    yield place.inference()


@fault("image", "a NIfTI header of 1 kB that claims 4 GB", "inference", r"b\.nii", writes=OTHERS)
def claims_memory(place):
    place.images("a.png")
    save_nifti(place / "images" / "b.nii", np.zeros((16, 16), np.float32))
    content = bytearray((place / "images" / "b.nii").read_bytes())
    content[40:48] = np.array([2, 32767, 32767, 1], "<i2").tobytes()  # dim
    (place / "images" / "b.nii").write_bytes(content)
    yield place.inference()


@fault(
    "image",
    "a NIfTI of one slice whose thin axis is the first, (1, W, H)",
    "inference",
    code=0,
    writes=(*TABLE, "masks/a_mask.nii.gz", "masks/a_overlay.png"),
)
def thin_first_axis(place):
    place.images()
    save_nifti(place / "images" / "a.nii", phantom(0).T[None])
    yield place.inference()
    assert nibabel.load(place / "masks" / "a_mask.nii.gz").shape == (1, 64, 64)


@fault("image", "a color picture saved as a NIfTI of (W, H, 3)", "inference", r"b\.nii", writes=OTHERS)
def colors_as_frames(place):
    place.images("a.png")
    save_nifti(place / "images" / "b.nii", np.stack([phantom(0).T] * 3, -1))
    yield place.inference()


@fault(
    "image",
    "a NIfTI whose axes are swapped",
    "inference",
    code=0,
    writes=(*TABLE, "masks/*_mask.nii.gz", "masks/*_overlay.png"),
)
def swapped_axes(place):
    place.images()
    pixels, swapped = phantom(0)[:48].T, np.eye(4)[[1, 0, 2, 3]]
    save_nifti(place / "images" / "plain.nii", pixels)
    save_nifti(place / "images" / "swapped.nii", pixels.T, swapped)
    yield place.inference()
    plain, other = (nibabel.load(place / "masks" / f"{name}_mask.nii.gz") for name in ("plain", "swapped"))
    assert np.array_equal(np.asarray(plain.dataobj), np.asarray(other.dataobj).T)
    assert np.array_equal(other.affine, swapped)


@fault("image", "pixels that are nan", "inference", r"b\.tif", writes=OTHERS)
def not_finite(place):
    place.images("a.png")
    pixels = phantom(1).astype(np.float32) / 255
    pixels[3, 4] = np.nan
    Image.fromarray(pixels).save(place / "images" / "b.tif")
    yield place.inference()


@fault("image", "a PNG that is cut off in the middle", "inference", r"b\.png", writes=OTHERS)
def cut_off(place):
    _, bad = place.images("a.png", "b.png")
    bad.write_bytes(bad.read_bytes()[:1000])
    yield place.inference()


@fault("image", "an empty file", "inference", r"b\.png", writes=OTHERS)
def empty(place):
    place.images("a.png")
    (place / "images" / "b.png").touch()
    yield place.inference()


@fault("image", "a TIFF of three frames", "inference", r"b\.tif.*3 frames", writes=OTHERS)
def several_frames(place):
    place.images("a.png")
    first, *others = [Image.fromarray(phantom(number)) for number in range(3)]
    first.save(place / "images" / "b.tif", save_all=True, append_images=others)
    yield place.inference()


@fault(
    "image",
    "a DICOM report among the images",
    "inference",
    r"passed over.*DICOM|report\.dcm.*passed over",
    code=0,
    writes=OTHERS,
)
def dicom_report(place):
    pytest.importorskip("pydicom", reason="needs the extra dicom")
    from dicom_files import dicom_dataset

    place.images("a.png")
    report = dicom_dataset(phantom(1), modality="SR")
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    del report.PixelData
    report.save_as(place / "images" / "report.dcm", enforce_file_format=True)
    yield place.inference()


@fault("image", "a file name too long for the overlay's", "inference", r"x{240,}\.png.*(name|long)", writes=OTHERS)
def long_name(place):
    place.images("a.png", "x" * 244 + ".png")  # 248 characters
    yield place.inference()
