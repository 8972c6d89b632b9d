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

from .brightness import unit_range
from .geometry import AFFINE, FRAME_TIME, ORIGINAL_AFFINE, RAS, SHAPE, SPACE, SPACING, SPATIAL_SHAPE
from .refusals import Refused, check_pixel_count
from .regions import REGIONS, TISSUE, calibrated_regions, pixel_spacing, tissue_box

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".dcm", ".dicom")
MODALITIES = ("US",)


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

    8-bit pixels come as they are. Others come in [0, 1]: by the window of the file, else by its stored bits where they
    are fewer than the allocated ones, else as `unit_range` scales them. MONOCHROME1 is inverted, so that 0 is always
    black.

    Args:
        path: of the file.
        modalities: those that are taken; the message for another names `--modalities`, an id of configs/inference.json.

    Raises:
        Refused: no pixel data, another modality, a transfer syntax that nothing here decodes, or a header that claims
            more pixels than the limit.
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
    check_pixel_count(dataset.Rows * dataset.Columns * _frame_count(dataset))
    return _pixels(dataset), _meta(dataset)


def _pixels(dataset: Dataset) -> np.ndarray:
    from pydicom.pixels import apply_color_lut, pixel_array

    _check_decoder(dataset)
    pixels = pixel_array(dataset)  # YBR becomes RGB
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        pixels = pixels if pixels.dtype == np.uint8 else unit_range(pixels)
    else:
        pixels = _scaled(pixels, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = (255 if pixels.dtype == np.uint8 else 1) - pixels
    frames = _frame_count(dataset)
    # (N, H, W, C) -> (W, H, N, C)
    pixels = pixels.reshape(frames, dataset.Rows, dataset.Columns, -1).transpose(2, 1, 0, 3)
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]


def _scaled(pixels: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Pixels in [0, 1], but for those of 8 bits, which stay."""
    bits = dataset.BitsStored
    if pixels.dtype == np.uint8 and bits >= 8:
        return pixels
    if dataset.SamplesPerPixel == 1 and dataset.get("WindowWidth") and "WindowCenter" in dataset:
        return _windowed(pixels, dataset)
    if pixels.dtype.kind == "u" and bits < dataset.BitsAllocated:
        return pixels / np.float32(2**bits - 1)
    return unit_range(pixels)


def _windowed(pixels: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The first window of the file, in [0, 1] (DICOM PS3.3, C.11.2.1.2); without VOILUTFunction it is LINEAR."""
    from pydicom.pixels import apply_rescale

    center, width = (float(np.ravel(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    function = dataset.get("VOILUTFunction") or "LINEAR"
    values = apply_rescale(pixels, dataset).astype(np.float64)
    if function == "LINEAR" and width > 1:
        return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((values - center) / width + 0.5, 0, 1)
    raise Refused(f"has a window of the function {function} and the width {width:g}; save its pixels in 8 bits.")


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
    frames = _frame_count(dataset)
    spacing, regions, time = pixel_spacing(dataset), calibrated_regions(dataset), _frame_time(dataset)
    width, height = spacing or (1.0, 1.0)
    affine = np.diag([-width, -height, 1.0, 1.0])
    details = {
        SPACING: None if spacing is None else np.asarray(spacing),
        REGIONS: regions,
        TISSUE: tissue_box(dataset),
        FRAME_TIME: time,
    }
    return {
        AFFINE: affine.copy(),
        ORIGINAL_AFFINE: affine,
        SPACE: RAS,
        SPATIAL_SHAPE: np.asarray((*shape, frames)),
        SHAPE: np.asarray(shape if frames == 1 else (*shape, frames)),
        **{key: value for key, value in details.items() if value is not None},
    }


def _frame_count(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _frame_time(dataset: Dataset) -> float | None:
    """Milliseconds a frame of a loop."""
    if dataset.get("FrameTime"):
        return float(dataset.FrameTime)
    rate = dataset.get("RecommendedDisplayFrameRate") or dataset.get("CineRate")
    return 1000 / float(rate) if rate else None
