"""MONAI Deploy's own operator for bundles, run by the Python of its environment on one DICOM series:

    python deploy_session.py MODEL SERIES OUT.npy

The series becomes a volume by MONAI Deploy's own operator, and MODEL, a bundle's folder or its TorchScript, is all that
the operator for bundles is given.
"""

import sys
from pathlib import Path

import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType, Operator
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator

MODEL, SERIES, OUT = sys.argv[1:]


class Keep(Operator):
    def setup(self, spec):
        spec.input("pred")

    def compute(self, op_input, op_output, context):
        np.save(OUT, op_input.receive("pred").asnumpy())


class Plain(Application):
    def compose(self):
        load = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=Path(SERIES), name="load")
        select = DICOMSeriesSelectorOperator(self, rules="", name="select")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        bundle = MonaiBundleInferenceOperator(
            self,
            app_context=CONTEXT,
            bundle_path=MODEL,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            name="bundle",
        )
        self.add_flow(load, select)
        self.add_flow(select, volume)
        self.add_flow(volume, bundle, {("image", "image")})
        self.add_flow(bundle, Keep(self, name="keep"), {("pred", "pred")})


CONTEXT = AppContext({"model": "none"})
Plain().run()
