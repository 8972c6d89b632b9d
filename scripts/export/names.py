"""Names of the formats and files of an export, and of what goes in and comes out. Imports no library, so that the
program can list them at once.
"""

from __future__ import annotations

ALL_FORMATS = "all"
SAFETENSORS, TORCHSCRIPT, ONNX, ONNX_INT8 = "student.safetensors", "student.ts", "student.onnx", "student_int8.onnx"
OPENVINO = ("student.xml", "student.bin")
ONNX_FULL = "student_full.onnx"
EXPORT_RECORD = "export.json"
# by format that can be written: its files, first the one to start; formats may share files
FORMAT_FILES = {
    "safetensors": (SAFETENSORS,),
    "torchscript": (TORCHSCRIPT,),
    "onnx": (ONNX,),
    "onnx_int8": (ONNX_INT8,),
    "onnx_full": (ONNX_FULL,),
    "openvino": OPENVINO,
    "openvino_bf16": OPENVINO,
    "openvino_int8": (ONNX_INT8,),
}

# of the bare network, and of the whole way
INPUT, OUTPUT, PRESENCE = "image", "logits", "presence"
PICTURE, MASK, PROBABILITY = "picture", "mask", "probability"

KEY = "sam_tinyusfm"  # under which a file has its metadata
