"""The student in forms that run without this bundle: how each is written, and how it is run.

Surprise: OpenVINO computes in bf16 by itself where the processor can, so fp32 has to be asked for.

Legend: B batch, C classes, H W pixels; H = W = img_size at both ends of a form.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from ..networks.tinyusfm import TinyUSFMSeg, load_trained_student, logit_channels

SAFETENSORS, TORCHSCRIPT, ONNX, ONNX_INT8 = "student.safetensors", "student.ts", "student.onnx", "student_int8.onnx"
OPENVINO = ("student.xml", "student.bin")
RECORD = "export.json"
INPUT, OUTPUT = "image", "logits"

Runner = Callable[[torch.Tensor], torch.Tensor]


class Limit(NamedTuple):
    """The most that a form may differ from torch.

    key: of what `export.Check.compare` returns. value: above it, up or down, the form is refused.
    """

    key: str
    value: float


LOGITS = Limit("max_logit_difference", 1e-4)
DICE = Limit("dice_change", 0.002)


class Setup(NamedTuple):
    """What a form is run for; threads None leaves their number to the library."""

    img_size: int
    num_classes: int
    threads: int | None


class Form(NamedTuple):
    """One row of FORMS.

    start: (path, setup) -> Runner. write: (student, folder, images to calibrate on) -> the files in the folder; None
    where a checkpoint is run as it is. files: the first is the one to start. needs: modules to write and run it. lacks:
    what this processor lacks to run it, None where it lacks nothing.
    """

    start: Callable[[Path, Setup], Runner]
    write: Callable[[TinyUSFMSeg, Path, Sequence[torch.Tensor]], None] | None = None
    files: tuple[str, ...] = ()
    limit: Limit = LOGITS
    needs: tuple[str, ...] = ()
    lacks: Callable[[], str | None] = lambda: None


def library(name: str) -> ModuleType:
    """A module of the extra `export`, imported when it is needed.

    Raises:
        ImportError: naming the extra.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} cannot be imported ({error}); run pip install .[export]") from None


def torch_runner(network: nn.Module, threads: int | None, bf16: bool = False) -> Runner:
    if threads:
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return network(images.cpu().as_subclass(torch.Tensor)).float()  # a MetaTensor too

    return run


def _start_torch(path: Path, setup: Setup, bf16: bool = False) -> Runner:
    student = load_trained_student(TinyUSFMSeg(num_classes=setup.num_classes, img_size=setup.img_size), path)
    return torch_runner(student.eval(), setup.threads, bf16)


def _start_torchscript(path: Path, setup: Setup) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still what MONAI exports
        return torch_runner(torch.jit.load(path, map_location="cpu"), setup.threads)


def _start_onnx(path: Path, setup: Setup) -> Runner:
    onnxruntime = library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setup.threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: _array(images)})[0])


def _start_openvino(path: Path, setup: Setup, precision: str = "f32") -> Runner:
    openvino = library("openvino")
    core, threads = openvino.Core(), {"INFERENCE_NUM_THREADS": setup.threads} if setup.threads else {}
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": precision, **threads})
    found = compiled.get_property("INFERENCE_PRECISION_HINT")
    if found != getattr(openvino.Type, precision):
        raise ValueError(
            f"{path.name} would run in {found.get_type_name()} on this processor, not in {precision}; choose the form "
            "openvino."
        )
    # its own requests do not check the size of an image
    return lambda images: torch.from_numpy(compiled({INPUT: _array(images)})[OUTPUT].copy())


def _openvino_lacks_bf16() -> str | None:
    capabilities = library("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return None if "BF16" in capabilities else "bf16"


def _array(images: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(images.detach().cpu().numpy(), dtype=np.float32)


def _write_safetensors(student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor]) -> None:
    (folder / SAFETENSORS).write_bytes(save(student.state_dict()))


def _write_torchscript(student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(student).save(folder / TORCHSCRIPT)


def _write_onnx(student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor]) -> None:
    if (folder / ONNX).exists():  # two forms are made from it
        return
    library("onnxscript")
    example = torch.zeros(2, 1, student.img_size, student.img_size)  # a batch of 1 would be taken as fixed
    torch.onnx.export(
        student,
        (example,),
        folder / ONNX,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )


def _write_openvino(student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor]) -> None:
    openvino = library("openvino")
    _write_onnx(student, folder, images)
    openvino.save_model(openvino.Core().read_model(folder / ONNX), folder / OPENVINO[0], compress_to_fp16=False)


def _write_onnx_int8(student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor]) -> None:
    """Convolutions and linear layers in int8, their weights by channel; attention products and classifier stay fp32.

    Symmetric activations are what OpenVINO runs fastest. The classifier in int8 would cut off the largest logits.
    """
    onnx, quantization = library("onnx"), library("onnxruntime.quantization")
    prepared = folder / "prepared.onnx"
    _write_onnx(student, folder, images)
    library("onnxruntime.quantization.shape_inference").quant_pre_process(
        folder / ONNX, prepared, skip_symbolic_shape=True
    )
    quantization.quantize_static(
        prepared,
        folder / ONNX_INT8,
        _CalibrationImages(images),
        nodes_to_quantize=_int8_nodes(onnx.load(prepared).graph),
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True},
    )


def _int8_nodes(graph: Any) -> list[str]:
    """Names of the nodes of an onnx graph that have weights, without the classifier."""
    weights = {tensor.name for tensor in graph.initializer if not tensor.name.startswith("decode_head.conv_seg.")}
    return [node.name for node in graph.node if node.op_type in ("Conv", "MatMul") and weights.intersection(node.input)]


class _CalibrationImages:
    """What onnxruntime.quantization calls a CalibrationDataReader."""

    def __init__(self, images: Sequence[torch.Tensor]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: _array(image)}


_TO_ONNX = ("onnx", "onnxscript")
FORMS = {
    "torch": Form(_start_torch),
    "torch_bf16": Form(partial(_start_torch, bf16=True), limit=DICE),
    "safetensors": Form(_start_torch, _write_safetensors, (SAFETENSORS,)),
    "torchscript": Form(_start_torchscript, _write_torchscript, (TORCHSCRIPT,)),
    "onnx": Form(_start_onnx, _write_onnx, (ONNX,), LOGITS, (*_TO_ONNX, "onnxruntime")),
    "onnx_int8": Form(_start_onnx, _write_onnx_int8, (ONNX_INT8,), DICE, (*_TO_ONNX, "onnxruntime")),
    "openvino": Form(_start_openvino, _write_openvino, OPENVINO, LOGITS, (*_TO_ONNX, "openvino")),
    "openvino_bf16": Form(
        partial(_start_openvino, precision="bf16"),
        _write_openvino,
        OPENVINO,
        DICE,
        (*_TO_ONNX, "openvino"),
        _openvino_lacks_bf16,
    ),
    "openvino_int8": Form(
        _start_openvino, _write_onnx_int8, (ONNX_INT8,), DICE, (*_TO_ONNX, "onnxruntime", "openvino")
    ),
}


def find_form(name: str) -> Form:
    if name not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {name!r}.")
    return FORMS[name]


def load_runner(form: str, path: str | Path, img_size: int, threads: int | None = None, num_classes: int = 2) -> Runner:
    """A function images (B, 1, img_size, img_size) float in [0, 1] -> logits (B, 1 or C, img_size, img_size) float32,
    on the CPU.

    Args:
        form: a key of FORMS.
        path: a file that the form runs, or the folder of an export; a checkpoint for torch and torch_bf16.
        img_size: side of the images in pixels, as in the training.
        threads: of the computation; for torch's forms this sets the number of the whole process. None leaves it to the
            library.
        num_classes: with the background.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the form's library is not installed.
        ValueError: an unknown form, or a file that is damaged or for another img_size or num_classes.
    """
    known, path = find_form(form), Path(path)
    if path.is_dir() and known.files:
        path = path / known.files[0]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is no file; expected one that runs as {form}: see python -m scripts.export --help."
        )
    try:
        runner = known.start(path, Setup(img_size, num_classes, threads))
        logits = runner(torch.zeros(1, 1, img_size, img_size))
    except (ValueError, ImportError):
        raise
    except Exception as error:  # each library has its own
        raise ValueError(
            f"{path} does not run as {form} on an image of {img_size} x {img_size} pixels ({type(error).__name__}); "
            "pass the "
            f"img_size that its {RECORD} names, or write it again with python -m scripts.export.check."
        ) from error
    if logits.shape[1] != logit_channels(num_classes):
        raise ValueError(
            f"{path} gives {logits.shape[1]} channels of logits, but {num_classes} classes have "
            f"{logit_channels(num_classes)}; "
            f"pass the num_classes that its {RECORD} names."
        )
    return runner
