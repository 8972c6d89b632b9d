"""ONNX Runtime and OpenVINO on arrays: how an exported student is run. Needs neither torch nor MONAI.

Surprise: OpenVINO computes in bf16 by itself where the processor can, so the precision is always asked for.

Legend: B batch, C channels of logits, S the side of the images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from ..utils.libraries import library
from .export_names import INPUT, KEY


@dataclass(frozen=True)
class Session:
    """A file that was started; called with its input it gives its outputs by name, also from several threads.

    The network takes images (B, 1, S, S), float32 in [0, 1], and gives logits (B, C, S, S) and, of a calibrated
    student, presence (B,).

    Args:
        run: from the input to the outputs.
        metadata: JSON text of the file, see metadata.py; None where it has none.
    """

    run: Callable[[np.ndarray], dict[str, np.ndarray]]
    metadata: str | None

    def __call__(self, values: np.ndarray) -> dict[str, np.ndarray]:
        return self.run(values)


def onnx_session(path: Path, threads: int | None, input_name: str = INPUT) -> Session:
    """A session of ONNX Runtime; threads None leaves their number to it."""
    onnxruntime = library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return Session(
        lambda values: dict(zip(names, session.run(names, {input_name: values}))),
        session.get_modelmeta().custom_metadata_map.get(KEY),
    )


def openvino_has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this processor."""
    return "BF16" in library("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino_session(path: Path, threads: int | None, precision: str = "f32") -> Session:
    """A session of OpenVINO; threads None leaves their number to it.

    Args:
        path: of the .xml or .onnx file.
        threads: of the computation.
        precision: f32 or bf16.

    Raises:
        ValueError: this processor has not the precision.
    """
    openvino = library("openvino")
    core, options = openvino.Core(), {"INFERENCE_NUM_THREADS": threads} if threads else {}
    model, place = core.read_model(path), ["framework", KEY]  # where OpenVINO puts the metadata of ONNX
    metadata = model.get_rt_info(place).astype(str) if model.has_rt_info(place) else None
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision, **options})
    actual = compiled.get_property("INFERENCE_PRECISION_HINT")
    if actual != getattr(openvino.Type, precision):
        raise ValueError(
            f"{path.name} would run in {actual.get_type_name()} on this processor, not in {precision}; choose the "
            "format openvino."
        )
    names = [output.get_any_name() for output in compiled.outputs]
    lock = Lock()

    def run(values: np.ndarray) -> dict[str, np.ndarray]:
        with lock:  # all calls share one request: two threads would get each other's outputs
            outputs = compiled({INPUT: values})  # its own requests do not check the size of an image
            return {name: outputs[name].copy() for name in names}

    return Session(run, metadata)
