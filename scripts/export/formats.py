"""The student in formats that run without this bundle: how each is written, and how it is run.

Surprise: OpenVINO computes in bf16 by itself where the processor can, so fp32 has to be asked for. A calibrated student
empties the masks of images without a lesion in its logits, in every format; ONNX and OpenVINO have a second output with
the probability, TorchScript a method `detect`.

Legend: B batch, C classes, H W pixels; H = W = img_size at both ends of a format.
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
from torch import nn

from ..networks.student import load_trained_student
from ..networks.tinyusfm import TinyUSFMSeg
from ..utils.options import check_num_classes, logit_channels
from ..utils.weight_files import check_finite, save_safetensors
from .names import ALL_FORMATS, EXPORT_RECORD, FORMAT_FILES, ONNX, ONNX_INT8, OPENVINO, SAFETENSORS, TORCHSCRIPT
from .sums import check_files

INPUT, OUTPUT, PRESENCE = "image", "logits", "presence"

Runner = Callable[[torch.Tensor], torch.Tensor]


class Limit(NamedTuple):
    """The most that a format may differ from torch.

    key: of what `check.Check.compare` returns. value: a format with a larger absolute difference is refused.
    """

    key: str
    value: float


LOGIT_LIMIT = Limit("max_logit_difference", 1e-4)
DICE_LIMIT = Limit("dice_change", 0.002)


class Setup(NamedTuple):
    """What a format is run for; threads None leaves their number to the library."""

    img_size: int
    num_classes: int
    threads: int | None


class Format(NamedTuple):
    """One row of FORMATS.

    start: (path, setup) -> Runner.
    write: (student, folder, images to calibrate on) writes the files; None where a checkpoint is run as it is.
    files: names in the folder, the first is the one to start.
    limit: of the difference from torch.
    needs: modules to write and run it.
    lacks: () -> what this processor lacks to run it, None where it lacks nothing.
    """

    start: Callable[[Path, Setup], Runner]
    write: Callable[[TinyUSFMSeg, Path, Sequence[torch.Tensor]], None] | None = None
    files: tuple[str, ...] = ()
    limit: Limit = LOGIT_LIMIT
    needs: tuple[str, ...] = ()
    lacks: Callable[[], str | None] = lambda: None


def library(name: str) -> ModuleType:
    """A module of the extra `export`, imported only where it is used.

    Raises:
        ImportError: naming the extra.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} cannot be imported ({error}); run pip install .[export]") from None


def read_student(path: Path, img_size: int, num_classes: int) -> TinyUSFMSeg:
    """The trained student of a checkpoint or a safetensors file, on the CPU, in eval mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no student, or one of another img_size or num_classes.
    """
    return load_trained_student(TinyUSFMSeg(num_classes=num_classes, img_size=img_size), path).eval()


def torch_runner(network: nn.Module, threads: int | None, bf16: bool = False) -> Runner:
    """The runner of a network in torch; `threads` is then the number of the whole process."""
    if threads:
        torch.set_num_threads(threads)

    @torch.inference_mode()
    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return network(images.cpu().as_subclass(torch.Tensor)).float()  # a MetaTensor too

    return run


def _start_torch(path: Path, setup: Setup, bf16: bool = False) -> Runner:
    return torch_runner(read_student(path, setup.img_size, setup.num_classes), setup.threads, bf16)


def _start_torchscript(path: Path, setup: Setup) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still what MONAI exports
        module = torch.jit.load(path, map_location="cpu")
    check_finite(module.state_dict(), str(path))
    return torch_runner(module, setup.threads)


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
    actual = compiled.get_property("INFERENCE_PRECISION_HINT")
    if actual != getattr(openvino.Type, precision):
        raise ValueError(
            f"{path.name} would run in {actual.get_type_name()} on this processor, not in {precision}; choose the "
            "format openvino."
        )
    # its own requests do not check the size of an image
    return lambda images: torch.from_numpy(compiled({INPUT: _array(images)})[OUTPUT].copy())


def _openvino_lacks_bf16() -> str | None:
    capabilities = library("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return None if "BF16" in capabilities else "bf16"


def _array(images: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(images.detach().cpu().numpy(), dtype=np.float32)


def _write_safetensors(student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor]) -> None:
    save_safetensors(student.state_dict(), folder / SAFETENSORS)


def _write_torchscript(student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(student).save(folder / TORCHSCRIPT)


class _Detecting(nn.Module):
    """Images -> logits and presence, of a calibrated student."""

    def __init__(self, student: TinyUSFMSeg) -> None:
        super().__init__()
        self.student = student

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.student.detect(image)


def _write_onnx(student: TinyUSFMSeg, folder: Path, images: Sequence[torch.Tensor]) -> None:
    if (folder / ONNX).exists():  # several formats are made from it
        return
    library("onnxscript")
    example = torch.zeros(2, 1, student.img_size, student.img_size)  # a batch of 1 would be taken as fixed
    calibrated = student.presence is not None
    torch.onnx.export(
        _Detecting(student).eval() if calibrated else student,
        (example,),
        folder / ONNX,
        input_names=[INPUT],
        output_names=[OUTPUT, PRESENCE] if calibrated else [OUTPUT],
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
    """Convolutions and linear layers in int8, with weights quantized per channel.

    The attention products stay in fp32, and so does the classifier: in int8 it would cut off the largest logits.
    Activations are symmetric, since OpenVINO runs these fastest.
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
    weights = {tensor.name for tensor in graph.initializer if "decode_head.conv_seg." not in tensor.name}
    return [node.name for node in graph.node if node.op_type in ("Conv", "MatMul") and weights.intersection(node.input)]


class _CalibrationImages:
    """A CalibrationDataReader of onnxruntime.quantization."""

    def __init__(self, images: Sequence[torch.Tensor]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: _array(image)}


_TO_ONNX = ("onnx", "onnxscript")
FORMATS = {
    "torch": Format(_start_torch),
    "torch_bf16": Format(partial(_start_torch, bf16=True), limit=DICE_LIMIT),
    "safetensors": Format(_start_torch, _write_safetensors, FORMAT_FILES["safetensors"]),
    "torchscript": Format(_start_torchscript, _write_torchscript, FORMAT_FILES["torchscript"]),
    "onnx": Format(_start_onnx, _write_onnx, FORMAT_FILES["onnx"], needs=(*_TO_ONNX, "onnxruntime")),
    "onnx_int8": Format(
        _start_onnx, _write_onnx_int8, FORMAT_FILES["onnx_int8"], DICE_LIMIT, needs=(*_TO_ONNX, "onnxruntime")
    ),
    "openvino": Format(_start_openvino, _write_openvino, FORMAT_FILES["openvino"], needs=(*_TO_ONNX, "openvino")),
    "openvino_bf16": Format(
        partial(_start_openvino, precision="bf16"),
        _write_openvino,
        FORMAT_FILES["openvino_bf16"],
        DICE_LIMIT,
        needs=(*_TO_ONNX, "openvino"),
        lacks=_openvino_lacks_bf16,
    ),
    "openvino_int8": Format(
        _start_openvino,
        _write_onnx_int8,
        FORMAT_FILES["openvino_int8"],
        DICE_LIMIT,
        needs=(*_TO_ONNX, "onnxruntime", "openvino"),
    ),
}


def find_format(name: str) -> Format:
    """The row of FORMATS with this name.

    Raises:
        ValueError: there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}.")
    return FORMATS[name]


def choose_formats(names: Sequence[str]) -> list[str]:
    """The formats with these names, or for `all` every format that this processor runs. Prints what is left out.

    Raises:
        ImportError: a library that a format needs is not installed.
        ValueError: an unknown name, or `all` beside others.
    """
    written = [name for name, format in FORMATS.items() if format.write]
    wants_all = list(names) == [ALL_FORMATS]
    for name in names:
        if name not in written and not wants_all:
            raise ValueError(f"--formats must be {ALL_FORMATS}, or of {', '.join(written)}, got {name!r}.")
    chosen = written if wants_all else list(names)
    for module in dict.fromkeys(module for name in chosen for module in FORMATS[name].needs):
        library(module)
    if not wants_all:
        return chosen
    lacking = {name: lacks for name in written if (lacks := FORMATS[name].lacks())}
    for name, lacks in lacking.items():
        print(f"{name} is left out: this processor has no {lacks}")
    return [name for name in written if name not in lacking]


def load_runner(
    format: str, path: str | Path, img_size: int, threads: int | None = None, num_classes: int = 2
) -> Runner:
    """A function that runs a student on the CPU.

    It takes images (B, 1, img_size, img_size), float in [0, 1], and gives logits (B, 1 or C, img_size, img_size),
    float32.

    Args:
        format: a key of FORMATS.
        path: a file that the format runs, or the folder of an export; a checkpoint for torch and torch_bf16.
        img_size: side of the images in pixels, as in the training.
        threads: of the computation. For torch's formats this sets the number of the whole process. None leaves it to
            the library.
        num_classes: with the background.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the format's library is not installed.
        ValueError: an unknown format, or a file that is damaged or for another img_size or num_classes.
    """
    row, path = find_format(format), Path(path)
    check_num_classes(num_classes, "num_classes")
    if path.is_dir() and row.files:
        path = path / row.files[0]
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is no file; expected one that runs as {format}: see python -m scripts.export --help."
        )
    check_files(path, row.files)
    try:
        runner = row.start(path, Setup(img_size, num_classes, threads))
        logits = runner(torch.zeros(1, 1, img_size, img_size))
    except (ValueError, ImportError):
        raise
    except Exception as error:  # each library has its own
        raise ValueError(
            f"{path} does not run as {format} on an image of {img_size} x {img_size} pixels ({type(error).__name__}); "
            f"pass the img_size that its {EXPORT_RECORD} names, or write it again with python -m scripts.export."
        ) from error
    if logits.shape[1] != logit_channels(num_classes):
        raise ValueError(
            f"{path} gives {logits.shape[1]} channels of logits, but {num_classes} classes have "
            f"{logit_channels(num_classes)}; pass the num_classes that its {EXPORT_RECORD} names."
        )
    return runner
