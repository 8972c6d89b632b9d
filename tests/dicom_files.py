"""DICOM files of the tests, written with pydicom."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

STILL, LOOP = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"  # ultrasound, ultrasound multi-frame


def dicom_dataset(
    pixels: np.ndarray, photometric: str = "MONOCHROME2", modality: str = "US", bits: int | None = None, **tags
):
    """A data set of pixels (H, W) or (N, H, W), with a last axis of 3 where `photometric` is a color."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    color = photometric in ("RGB", "YBR_FULL")
    loop = pixels.ndim - color > 2
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = LOOP if loop else STILL
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "1", "Phantom^Test", "", ""
    dataset.StudyID, dataset.AccessionNumber, dataset.StudyDate, dataset.StudyTime = "1", "", "20260101", "120000"
    dataset.ReferringPhysicianName, dataset.SeriesNumber, dataset.InstanceNumber = "", 1, 1
    dataset.Modality, dataset.Manufacturer = modality, "none"
    dataset.Rows, dataset.Columns = pixels.shape[loop : loop + 2]
    if loop:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3 if color else 1, photometric
    if color:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(dataset, name, value)
    for item in dataset.get("SequenceOfUltrasoundRegions") or []:
        if "RegionLocationMinX0" not in item:
            place(item, (0, 0, dataset.Columns - 1, dataset.Rows - 1))
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    return dataset


def region(
    delta_x: float,
    delta_y: float,
    units: int = 3,
    spatial_format: int = 1,
    box: tuple[int, int, int, int] | None = None,
    data_type: int = 1,
):
    """A calibrated region of an ultrasound image; units 3 is cm, data_type 1 tissue.

    box: first column and row, last column and row; `dicom_dataset` takes the whole image for None.
    """
    from pydicom.dataset import Dataset

    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType = spatial_format, data_type
    if box is not None:
        place(item, box)
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta_x, delta_y
    return item


def place(item, box: tuple[int, int, int, int]) -> None:
    """Set the place of a region: first column and row, last column and row."""
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    for name, number in zip(names, box):
        setattr(item, name, number)


def write_dicom(path: Path, pixels: np.ndarray, *args, **kwargs) -> Path:
    """A file of `dicom_dataset`."""
    dicom_dataset(pixels, *args, **kwargs).save_as(path, enforce_file_format=True)
    return path


def write_jpeg_dicom(path: Path, pixels: np.ndarray, quality: int = 95) -> Path:
    """A file of gray (H, W) or RGB (H, W, 3) pixels in JPEG, as scanners send them."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    color = pixels.ndim == 3
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    dataset = dicom_dataset(pixels, "RGB" if color else "MONOCHROME2")
    if color:
        dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path
