"""The student in MONAI Deploy, and the DICOM SEG of each mask.

Legend: W columns, H rows, N frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.deploy.core import Fragment, IOType, Operator, OperatorSpec
from monai.deploy.core import Image as DeployImage
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator
from monai.utils import ImageMetaKey

from scripts.inference.certainty import CERTAINTY
from scripts.inference.failures import reason_of, write_error
from scripts.inference.masks import SaveImageMaskd
from scripts.inference.outputs import DICOM_SEG

from .images import IMAGE

MASK, CLASSES = "pred", "classes"  # ids of the bundle's metadata and of inference.json


class StudentOperator(MonaiBundleInferenceOperator):
    """MONAI Deploy's operator for bundles, which also hands on how sure the student is and what its classes are.

    Args:
        fragment: the application.
        args: of MonaiBundleInferenceOperator.
        kwargs: likewise.
    """

    def __init__(self, fragment: Fragment, *args: Any, **kwargs: Any) -> None:
        inputs, outputs = ([IOMapping(name, DeployImage, IOType.IN_MEMORY)] for name in (IMAGE, MASK))
        super().__init__(fragment, *args, input_mapping=inputs, output_mapping=outputs, **kwargs)

    def post_process(self, data: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The items of the bundle's postprocessing; those of the mask go into the metadata that MONAI Deploy sends."""
        items = super().post_process(data, *args, **kwargs)
        items[IMAGE].meta |= {CERTAINTY: items[CERTAINTY], CLASSES: self.parser.get_parsed_content(CLASSES)}
        return items


class SegmentationsOperator(Operator):
    """Writes the DICOM SEG of each mask, NAME_mask.dcm, in the subfolder that its image has.

    Named input:
        pred: Image of class indices (N, H, W) with the metadata of its image.

    Args:
        fragment: the application.
        args: of Operator.
        input_dir: folder of the images.
        output_dir: made when the first mask is written.
        failures: gets the reason of each image that gives no DICOM SEG.
        written: gets the path of each DICOM SEG.
        kwargs: of Operator.

    Raises:
        WriteError: the disk or the folder refuses it.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        input_dir: Path,
        output_dir: Path,
        failures: dict[str, str],
        written: list[str],
        **kwargs: Any,
    ) -> None:
        self.folders = {"dataset_dir": input_dir, "output_dir": output_dir}
        self.failures, self.written = failures, written
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input(MASK)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = op_input.receive(MASK)
        pixels, meta = np.swapaxes(image.asnumpy(), 0, 2), image.metadata()  # (N, H, W) -> (W, H, N)
        mask = MetaTensor(torch.from_numpy(np.ascontiguousarray(pixels))[None], meta=meta)
        save = SaveImageMaskd(MASK, output_format=DICOM_SEG, class_names=meta[CLASSES], **self.folders)
        file = meta[ImageMetaKey.FILENAME_OR_OBJ]
        try:
            self.written.append(save({MASK: mask, CERTAINTY: meta[CERTAINTY]})[f"{MASK}_path"])
        except (ValueError, OSError) as error:
            if stop := write_error(error):
                raise stop from None
            self.failures[file] = reason_of(error, file)
