"""The MONAI reader of inference: pictures, NIfTI and DICOM, stills and loops, as `frame_files` decodes them.

A still has one frame. Trainings read with `data/readers.py`, which refuses loops.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.data.image_reader import ImageReader

from ..data.dicom import MODALITIES
from ..data.readers import FileReader
from .frame_files import FrameDecoder


class FrameReader(FrameDecoder, FileReader):
    """Reads the gray frames of a file, float32 (W, H, N) in [0, 1]. `colors` reads the frames in their colors.

    Args:
        modalities: of the DICOM files that are read; others are refused. [list of DICOM codes]
        crop_to_region: read the tissue region alone of DICOM files that name exactly one; masks, overlays and areas
            still are of the whole image. [true, false]

    Raises:
        ValueError: modalities is no list of texts.
    """

    def __init__(self, modalities: Sequence[str] = MODALITIES, crop_to_region: bool = False) -> None:
        ImageReader.__init__(self)
        FrameDecoder.__init__(self, modalities, crop_to_region)
