"""ONNX files: written from a network in torch, and quantized to int8; sessions.py starts them.

Every file has its metadata, see `metadata.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..utils.libraries import library
from .names import INPUT, KEY


def write_onnx(
    network: nn.Module,
    example: torch.Tensor,
    free: Mapping[int, str],
    path: Path,
    names: tuple[Sequence[str], Sequence[str]],
    metadata: str,
) -> None:
    """Write a network of one input as an ONNX file.

    Args:
        network: in eval mode.
        example: of its input; a free axis of length 1 would be taken as fixed.
        free: names of the axes that may have any length.
        path: of the file.
        names: of inputs and outputs.
        metadata: JSON text.
    """
    library("onnxscript")
    torch.onnx.export(
        network,
        (example,),
        path,
        input_names=names[0],
        output_names=names[1],
        dynamo=True,
        external_data=False,
        dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in free.items()},),
        verbose=False,
    )
    _add_metadata(path, metadata)


def _add_metadata(path: Path, metadata: str) -> None:
    onnx = library("onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: metadata})
    onnx.save(model, path)


def read_metadata(path: Path) -> str | None:
    """The JSON text of a file, see metadata.py; None where it has none."""
    properties = library("onnx").load(path, load_external_data=False).metadata_props
    return next((entry.value for entry in properties if entry.key == KEY), None)


def as_array(images: torch.Tensor) -> np.ndarray:
    """Images (B, 1, H, W) as a library takes them, float32."""
    return np.ascontiguousarray(images.detach().cpu().numpy(), dtype=np.float32)


def write_int8(path: Path, target: Path, images: Sequence[torch.Tensor], metadata: str) -> None:
    """Quantize an ONNX file: convolutions and linear layers in int8, with weights quantized per channel.

    The attention products stay in fp32, and so does the classifier: in int8 it would cut off the largest logits.
    Activations are symmetric, since OpenVINO runs these fastest.

    Args:
        path: of the file in fp32.
        target: of the new file; another one is left beside it.
        images: (1, 1, H, W) in [0, 1] to calibrate on.
        metadata: JSON text.
    """
    onnx, quantization = library("onnx"), library("onnxruntime.quantization")
    prepared = target.with_name("prepared.onnx")
    library("onnxruntime.quantization.shape_inference").quant_pre_process(path, prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        target,
        _CalibrationImages(images),
        nodes_to_quantize=_int8_nodes(onnx.load(prepared).graph),
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True},
    )
    _add_metadata(target, metadata)


def _int8_nodes(graph: Any) -> list[str]:
    """Names of the nodes of an onnx graph that have weights, without the classifier."""
    weights = {tensor.name for tensor in graph.initializer if "decode_head.conv_seg." not in tensor.name}
    return [node.name for node in graph.node if node.op_type in ("Conv", "MatMul") and weights.intersection(node.input)]


class _CalibrationImages:
    """A CalibrationDataReader of onnxruntime.quantization."""

    def __init__(self, images: Sequence[torch.Tensor]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: as_array(image)}
