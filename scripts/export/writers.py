"""How the file of each format is written from a student; `formats.FORMATS` lists them.

All take the student, the folder, images (1, 1, S, S) in [0, 1] to calibrate int8 on, and what `metadata.describe`
gives.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..networks.tinyusfm import TinyUSFMSeg
from ..utils.libraries import library
from ..utils.weight_files import save_safetensors
from .metadata import EXTRA_FILE, network_text
from .names import INPUT, KEY, ONNX, ONNX_FULL, ONNX_INT8, OPENVINO, OUTPUT, PRESENCE, SAFETENSORS, TORCHSCRIPT
from .onnx_files import write_int8, write_onnx
from .whole import write_whole


def write_safetensors_file(
    student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor], about: Mapping[str, Any]
) -> None:
    save_safetensors(student.state_dict(), folder / SAFETENSORS, {KEY: network_text(about)})


def write_torchscript_file(
    student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor], about: Mapping[str, Any]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(student).save(folder / TORCHSCRIPT, _extra_files={EXTRA_FILE: network_text(about)})


class _Detecting(nn.Module):
    """Images -> logits and presence, of a calibrated student."""

    def __init__(self, student: TinyUSFMSeg) -> None:
        super().__init__()
        self.student = student

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.student.detect(image)


def write_onnx_file(
    student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor], about: Mapping[str, Any]
) -> None:
    if (folder / ONNX).exists():  # several formats are made from it
        return
    calibrated = student.presence is not None
    write_onnx(
        _Detecting(student).eval() if calibrated else student,
        torch.zeros(2, 1, student.img_size, student.img_size),
        {0: "batch"},
        folder / ONNX,
        ([INPUT], [OUTPUT, PRESENCE] if calibrated else [OUTPUT]),
        network_text(about),
    )


def write_openvino_file(
    student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor], about: Mapping[str, Any]
) -> None:
    openvino = library("openvino")
    write_onnx_file(student, folder, images, about)
    openvino.save_model(openvino.Core().read_model(folder / ONNX), folder / OPENVINO[0], compress_to_fp16=False)


def write_int8_file(
    student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor], about: Mapping[str, Any]
) -> None:
    write_onnx_file(student, folder, images, about)
    write_int8(folder / ONNX, folder / ONNX_INT8, images, network_text(about, len(images)))


def write_whole_file(
    student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor], about: Mapping[str, Any]
) -> None:
    if not (folder / ONNX_FULL).exists():  # the page is made of it
        write_whole(student, folder, about)
