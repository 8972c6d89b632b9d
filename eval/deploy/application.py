"""The application: load DICOM, select ultrasound, hand on its images, segment them, write DICOM SEG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from monai.deploy.conditions import BooleanCondition, CountCondition
from monai.deploy.core import AppContext, Application
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator

from scripts.data.dicom import MODALITIES

from .images import IMAGE, SERIES, UltrasoundImagesOperator
from .segmentations import MASK, SegmentationsOperator, StudentOperator

ULTRASOUND = json.dumps({"selections": [{"name": name, "conditions": {"Modality": name}} for name in MODALITIES]})


class Found(NamedTuple):
    """written: paths of the DICOM SEG. failures: reasons by file."""

    written: list[str]
    failures: dict[str, str]


class UltrasoundApplication(Application):
    """DICOM series -> DICOM SEG.

    Args:
        context: paths, as MONAI Deploy holds them.
        found: is filled.
    """

    def __init__(self, context: AppContext, found: Found) -> None:
        self.context, self.found = context, found
        super().__init__()

    def compose(self) -> None:
        """Connect the operators."""
        folder = Path(self.context.input_path)
        load = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=folder, must_load=False, name="load")
        select = DICOMSeriesSelectorOperator(self, rules=ULTRASOUND, all_matched=True, name="select")
        more = BooleanCondition(self, enable_tick=True, name="more")
        images = UltrasoundImagesOperator(self, failures=self.found.failures, more=more, name="images")
        student = StudentOperator(self, app_context=self.context, bundle_path=self.context.model_path, name="student")
        write = SegmentationsOperator(
            self,
            input_dir=folder,
            output_dir=Path(self.context.output_path),
            failures=self.found.failures,
            written=self.found.written,
            name="write",
        )
        self.add_flow(load, select)
        self.add_flow(select, images, {(SERIES, SERIES)})
        self.add_flow(images, student, {(IMAGE, IMAGE)})
        self.add_flow(student, write, {(MASK, MASK)})


def segment_series(input_dir: Path, output_dir: Path, model: Path) -> Found:
    """Write the DICOM SEG of every ultrasound image in a folder of DICOM series.

    Args:
        input_dir: folder of the series.
        output_dir: folder of the masks.
        model: folder of the bundle, or its TorchScript.
    """
    context = AppContext({"input": str(input_dir), "output": str(output_dir), "model": str(model)})
    context.models = None  # the operator loads the student by its path
    found = Found([], {})
    UltrasoundApplication(context, found).run()
    return found
