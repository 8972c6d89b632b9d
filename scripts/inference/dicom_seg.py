"""A mask as DICOM SEG that refers to its ultrasound image, written with highdicom.

Legend: W columns, H rows, N frames, S segments: the classes without the background.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.dicom import read_dataset
from ..data.regions import pixel_spacing
from ..utils.files import bundle_version

if TYPE_CHECKING:
    from pydicom import Dataset

REFERENCED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
COPIED = (  # into the SEG; they may be empty, and an anonymized file may lack them
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
_LESION = ("49755003", "Morphologically Abnormal Structure"), ("52988006", "Lesion")  # category and type in SNOMED CT
_OTHER = ("91723000", "Anatomical Structure"), ("91723000", "Anatomical Structure")


def need_highdicom() -> ModuleType:
    """highdicom, imported only where it is used: it is an optional dependency.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise ValueError(f"output_format dicom_seg needs the extra dicom ({error}); run pip install .[dicom]") from None
    logging.getLogger("highdicom").setLevel(logging.WARNING)  # it logs ten lines for each image
    return highdicom


def check_source(source: str | Path) -> None:
    """Refuse an image that no SEG can refer to.

    Raises:
        ValueError: a DICOM image lacks what its SEG has to refer to.
    """
    dataset = read_dataset(source)
    missing = [name for name in REFERENCED if not dataset.get(name)]
    if missing:
        raise ValueError(
            f"file {source} gives no DICOM SEG, since it has no {', '.join(missing)}; pass --output_format auto."
        )


def segmentation_of(source: str | Path, mask: np.ndarray, class_names: Sequence[str], note: str = "") -> Dataset:
    """The SEG of a still, or of all frames of a loop in their order; `save_as` writes it.

    Args:
        source: the DICOM image.
        mask: class indices (W, H) or (W, H, N).
        class_names: labels of the classes 1, 2, ...
        note: on the masks, such as why they are empty, in at most 64 characters: the Content Description.

    Raises:
        ValueError: the image lacks what its SEG has to refer to, or highdicom refuses it for another reason.
    """
    check_source(source)
    frames = mask.reshape(*mask.shape[:2], -1).transpose(2, 1, 0)  # -> (N, H, W)
    segments = np.stack([frames == c for c in range(1, len(class_names) + 1)], axis=-1).astype(np.uint8)  # (N, H, W, S)
    try:
        segmentation = _segmentation(read_dataset(source), segments[:1], class_names, note)
        if len(segments) > 1:
            _extend(segmentation, segments)
        return segmentation
    # highdicom and pydicom have no error of their own
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"file {source} gives no DICOM SEG ({reason}); pass --output_format auto.") from error


def _segmentation(dataset: Any, segments: np.ndarray, class_names: Sequence[str], note: str) -> Any:
    """A SEG of one frame (1, H, W, S). highdicom takes no loop without a position in the patient."""
    highdicom = need_highdicom()
    for name in COPIED:
        if name not in dataset:
            setattr(dataset, name, None)
    spacing = pixel_spacing(dataset)
    measures = highdicom.PixelMeasuresSequence(pixel_spacing=spacing[::-1], slice_thickness=None) if spacing else None
    if measures:
        measures[0].SliceThickness = None  # there is none, but readers look for it
    _as_one_frame(dataset)
    version = bundle_version()
    segmentation = highdicom.seg.Segmentation(
        source_images=[dataset],
        pixel_array=segments,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(number, name, version) for number, name in enumerate(class_names, start=1)],
        series_instance_uid=highdicom.UID(),
        series_number=int(dataset.get("SeriesNumber") or 0) + 1000,
        series_description="TinyUSFM segmentation",
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="SAM to TinyUSFM distillation",
        manufacturer_model_name="TinyUSFM",
        software_versions=version,
        device_serial_number="0",
        pixel_measures=measures,
        omit_empty_frames=False,
        content_description=note or None,
    )
    if measures is None:
        segmentation.SharedFunctionalGroupsSequence[0].pop("PixelMeasuresSequence", None)
    return segmentation


def _as_one_frame(dataset: Any) -> None:
    """Add to a loop what highdicom looks for in images of several frames and ultrasound lacks."""
    from pydicom.dataset import Dataset

    if "NumberOfFrames" in dataset:
        group = Dataset()
        group.PixelMeasuresSequence = [Dataset()]
        dataset.NumberOfFrames, dataset.SharedFunctionalGroupsSequence = 1, [group]


def _description(number: int, name: str, version: str) -> Any:
    highdicom = need_highdicom()
    category, kind = (
        highdicom.sr.CodedConcept(value=value, scheme_designator="SCT", meaning=meaning)
        for value, meaning in (_LESION if name == "lesion" else _OTHER)
    )
    family = highdicom.sr.CodedConcept(value="123110", scheme_designator="DCM", meaning="Artificial Intelligence")
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="TinyUSFM", family=family, version=version
        ),
    )


def _extend(segmentation: Any, segments: np.ndarray) -> None:
    """Turn a SEG of one frame into one of all frames (N, H, W, S), told apart by TemporalPositionIndex."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.utils import pack_bits
    from pydicom.tag import Tag

    first = list(segmentation.PerFrameFunctionalGroupsSequence)
    groups = [_frame_group(group, number) for number in range(1, len(segments) + 1) for group in first]
    segmentation.PerFrameFunctionalGroupsSequence = groups
    index = Dataset()
    index.DimensionOrganizationUID = segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID
    index.DimensionIndexPointer, index.FunctionalGroupPointer = (
        Tag("TemporalPositionIndex"),
        Tag("FrameContentSequence"),
    )
    index.DimensionDescriptionLabel = "Temporal Position Index"
    segmentation.DimensionIndexSequence.append(index)
    segmentation.NumberOfFrames = len(groups)
    segmentation.PixelData = pack_bits(np.moveaxis(segments, -1, 1).reshape(-1, *segments.shape[1:3]))


def _frame_group(group: Any, number: int) -> Any:
    """The functional groups of one segment for a frame of the source, numbered from 1."""
    group = deepcopy(group)
    content = group.FrameContentSequence[0]
    content.TemporalPositionIndex = number
    content.DimensionIndexValues = [*np.atleast_1d(content.DimensionIndexValues).tolist(), number]
    for image in group.DerivationImageSequence[0].SourceImageSequence:
        image.ReferencedFrameNumber = number
    return group
