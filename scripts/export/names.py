"""Names of the formats and files of an export, and of what goes in and comes out. Imports no library, so that the
program can list them at once.
"""

from __future__ import annotations

from ..inference.export_names import EXPORT_RECORD, INPUT, KEY, OUTPUT, PRESENCE

__all__ = ["EXPORT_RECORD", "INPUT", "KEY", "OUTPUT", "PRESENCE"]  # known to those that run an export too

ALL_FORMATS = "all"
SAFETENSORS, TORCHSCRIPT, ONNX, ONNX_INT8 = "student.safetensors", "student.ts", "student.onnx", "student_int8.onnx"
OPENVINO = ("student.xml", "student.bin")
ONNX_FULL = "student_full.onnx"
PAGE = "student.html"
LICENSES = ("onnxruntime-web_LICENSE.txt", "onnxruntime-web_notices.txt", "dicom-parser_LICENSE.txt")
# by format that can be written: its files, first the one to start; formats may share files
FORMAT_FILES = {
    "safetensors": (SAFETENSORS,),
    "torchscript": (TORCHSCRIPT,),
    "onnx": (ONNX,),
    "onnx_int8": (ONNX_INT8,),
    "onnx_full": (ONNX_FULL,),
    "web": (PAGE, *LICENSES),
    "openvino": OPENVINO,
    "openvino_bf16": OPENVINO,
    "openvino_int8": (ONNX_INT8,),
}

# of the whole way; INPUT, OUTPUT and PRESENCE are of the bare network
PICTURE, MASK, PROBABILITY = "picture", "mask", "probability"
