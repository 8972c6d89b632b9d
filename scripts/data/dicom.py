"""Ultrasound from DICOM: stills and loops, gray and color, with the size of their pixels.

pydicom decodes, with the extra `dicom`. MONAI's own DICOM readers are for volumes: they keep YBR colors and know
nothing of the calibration of an ultrasound image, which stands in its regions (DICOM PS3.3, C.8.5.5).

Legend: W columns, H rows, N frames. Arrays are (W, H, N), colors (W, H, N, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.utils import MetaKeys, SpaceKeys

from .readers import Refused

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".dcm", ".dicom")
MODALITIES = ("US",)
SAME_SCALE = 1e-3  # relative: what scanners round may differ between regions of one scale
SPACING, FRAME_TIME = "spacing_mm", "frame_time_ms"  # in the metadata, where they are known
_TWO_DIMENSIONAL, _CENTIMETERS = 1, 3  # codes of RegionSpatialFormat and PhysicalUnits


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its name, or by the letters DICM after 128 bytes."""
    path = Path(path)
    if path.name.lower().endswith(SUFFIXES):
        return True
    if path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dataset(path: str | Path) -> Dataset:
    """The data set of a DICOM file.

    Raises:
        Refused: pydicom is not installed.
    """
    try:
        from pydicom import dcmread
        from pydicom.pixels import pixel_array  # noqa: F401  not in pydicom 2
    except ImportError as error:
        raise Refused(f"is DICOM, which needs the extra dicom ({error}); run pip install .[dicom]") from None
    return dcmread(path)


def decode_dicom(path: str | Path, modalities: Sequence[str] = MODALITIES) -> tuple[np.ndarray, dict]:
    """Pixels (W, H, N), or (W, H, N, 3) in RGB, and their metadata.

    8-bit pixels come as they are, others in [0, 1] by their stored bits; MONOCHROME1 is inverted, so that 0 is always
    black.

    Args:
        path: of the file.
        modalities: those that are taken; the message for another names `--modalities`, an id of configs/inference.json.

    Raises:
        Refused: no pixel data, another modality, or a transfer syntax that nothing here decodes.
    """
    dataset = read_dataset(path)
    if "PixelData" not in dataset:
        kind = dataset.SOPClassUID.name if "SOPClassUID" in dataset else "unknown kind"
        raise Refused(f"is DICOM without pixel data ({kind}); take it out of the folder.")
    modality = dataset.get("Modality") or "none"
    if modality not in modalities:
        raise Refused(
            f"has the modality {modality}, expected {' or '.join(modalities)}: the student has seen ultrasound alone; "
            f'take it out, or pass --modalities "{[*modalities, modality]}".'
        )
    return _pixels(dataset), _meta(dataset)


def _pixels(dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import apply_color_lut, pixel_array

    _check_decoder(dataset)
    pixels = pixel_array(dataset)  # YBR becomes RGB
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = _by_bits(apply_color_lut(pixels, dataset), 16)
    else:
        pixels = _by_bits(pixels, dataset.BitsStored)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = _inverted(pixels)
    frames = int(dataset.get("NumberOfFrames") or 1)
    # (N, H, W, C) -> (W, H, N, C)
    pixels = pixels.reshape(frames, dataset.Rows, dataset.Columns, -1).transpose(2, 1, 0, 3)
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]


def _by_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned pixels in [0, 1], but for those of 8 bits, which stay; signed ones stay too."""
    if pixels.dtype.kind != "u" or (pixels.dtype == np.uint8 and bits >= 8):
        return pixels
    return pixels / np.float32(2**bits - 1)


def _inverted(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind == "i":
        return -pixels.astype(np.int32)
    return (255 if pixels.dtype == np.uint8 else 1) - pixels


def _check_decoder(dataset: Dataset) -> None:
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Refused(
            f"has the transfer syntax {syntax.name}, which pydicom does not decode; save it uncompressed."
        ) from None
    if not decoder.is_available:
        raise Refused(
            f"has the transfer syntax {syntax.name}, whose decoder is missing: "
            f"{'; '.join(decoder.missing_dependencies)}; install one of them, or save it uncompressed."
        )


def _meta(dataset: Dataset) -> dict[str, Any]:
    """As ITK places an image without orientation: columns to the left, rows to the back."""
    shape = (dataset.Columns, dataset.Rows)
    frames = int(dataset.get("NumberOfFrames") or 1)
    spacing, time = pixel_spacing(dataset), _frame_time(dataset)
    width, height = spacing or (1.0, 1.0)
    affine = np.diag([-width, -height, 1.0, 1.0])
    details = {SPACING: None if spacing is None else np.asarray(spacing), FRAME_TIME: time}
    return {
        MetaKeys.AFFINE: affine.copy(),
        MetaKeys.ORIGINAL_AFFINE: affine,
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.asarray((*shape, frames)),
        "original_shape": np.asarray(shape if frames == 1 else (*shape, frames)),
        **{key: value for key, value in details.items() if value is not None},
    }


def pixel_spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Width and height of a pixel in mm; None where the file does not say, or says different things of its regions.

    The calibrated two-dimensional regions go before PixelSpacing, which ultrasound images seldom have.
    """
    regions = [_region_spacing(region) for region in dataset.get("SequenceOfUltrasoundRegions") or []]
    spacings = [spacing for spacing in regions if spacing]
    if spacings:
        return spacings[0] if np.allclose(spacings, spacings[0], rtol=SAME_SCALE, atol=0) else None
    spacing = dataset.get("PixelSpacing")
    return (float(spacing[1]), float(spacing[0])) if spacing and min(spacing) > 0 else None


def _region_spacing(region: Dataset) -> tuple[float, float] | None:
    units = {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")}
    deltas = abs(region.get("PhysicalDeltaX") or 0), abs(region.get("PhysicalDeltaY") or 0)
    if (
        region.get("RegionSpatialFormat", _TWO_DIMENSIONAL) != _TWO_DIMENSIONAL
        or units != {_CENTIMETERS}
        or 0 in deltas
    ):
        return None
    return round(10 * deltas[0], 6), round(10 * deltas[1], 6)


def _frame_time(dataset: Dataset) -> float | None:
    """Milliseconds a frame of a loop."""
    if dataset.get("FrameTime"):
        return float(dataset.FrameTime)
    rate = dataset.get("RecommendedDisplayFrameRate") or dataset.get("CineRate")
    return 1000 / float(rate) if rate else None
