"""The images of the selected series, one after the other.

MONAI Deploy's own operator makes one volume of a series by the positions of its slices. Ultrasound has stills and
loops, without positions and of any size, and its brightness and colors follow `scripts/data/dicom.py`.

Legend: W columns, H rows, N frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.core import ConditionType, Fragment, Image, Operator, OperatorSpec
from monai.utils import ImageMetaKey

from scripts.data.geometry import SHAPE, SPATIAL_SHAPE
from scripts.inference.failures import reason_of
from scripts.inference.frame_files import FrameDecoder
from scripts.inference.inputs import refuse_mask

SERIES, IMAGE = "study_selected_series_list", "image"


class UltrasoundImagesOperator(Operator):
    """Emits an image at each call, and ends with the last one.

    Named input:
        study_selected_series_list: what DICOMSeriesSelectorOperator gives.
    Named output:
        image: Image of the gray frames (W, H, N), float32 in [0, 1], with their metadata.

    Args:
        fragment: the application.
        args: of Operator, such as the condition that ends it.
        failures: gets the reason of each file that cannot be read.
        more: BooleanCondition that is switched off after the last image.
        kwargs: of Operator.
    """

    def __init__(self, fragment: Fragment, *args: Any, failures: dict[str, str], more: Any, **kwargs: Any) -> None:
        self.failures, self.more = failures, more
        self.decoder = FrameDecoder()
        self.files: list[Path] | None = None
        super().__init__(fragment, more, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input(SERIES).condition(ConditionType.NONE)  # it comes once, and gives many images
        spec.output(IMAGE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        if self.files is None and (selected := op_input.receive(SERIES)) is not None:
            self.files = files_of(selected)
        while self.files:
            file = self.files.pop(0)
            try:
                image = read_image(self.decoder, file)
            except (ValueError, OSError) as error:  # the other files can be read
                self.failures[str(file)] = reason_of(error, str(file))
                continue
            op_output.emit(image, IMAGE)
            break
        if self.files == []:
            self.more.disable_tick()


def files_of(selected: list[Any]) -> list[Path]:
    """The files of the selected series, in the order of their names.

    Args:
        selected: StudySelectedSeries of MONAI Deploy.
    """
    series = [one.series for study in selected for one in study.selected_series]
    instances = [instance for one in series for instance in one.get_sop_instances()]
    return sorted(Path(instance.get_native_sop_instance().filename) for instance in instances)


def read_image(decoder: FrameDecoder, file: Path) -> Image:
    """The gray frames of a file as MONAI Deploy's Image, (W, H, N).

    Raises:
        ValueError: it cannot be decoded, or looks like a mask.
    """
    pixels, meta = decoder.decode(file)
    refuse_mask(str(file), pixels)
    # MONAI Deploy wants the mask of a still as (1, W, H, 1)
    return Image(pixels, {**meta, ImageMetaKey.FILENAME_OR_OBJ: str(file), SHAPE: meta[SPATIAL_SHAPE]})
