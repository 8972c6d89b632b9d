"""The student in formats that run without this bundle: how each is written, and how it is run.

Surprise: a calibrated student empties the masks of images without a lesion in its logits, in every format; ONNX and
OpenVINO have a second output with the probability, TorchScript a method `detect`.

Legend: B batch, C classes, H W pixels; H = W = img_size at both ends of a format.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..inference.export_sums import check_files
from ..inference.sessions import Session, onnx_session, openvino_has_bf16, openvino_session
from ..networks.student import load_trained_student
from ..networks.tinyusfm import TinyUSFMSeg
from ..utils.libraries import library
from ..utils.options import check_num_classes, logit_channels
from ..utils.weight_files import check_finite
from .metadata import EXTRA_FILE, NETWORK, check_metadata
from .names import ALL_FORMATS, EXPORT_RECORD, FORMAT_FILES, OUTPUT
from .onnx_files import as_array
from .web.packages import find_packages
from .web.write import write_page
from .writers import (
    write_int8_file,
    write_onnx_file,
    write_openvino_file,
    write_safetensors_file,
    write_torchscript_file,
    write_whole_file,
)

Runner = Callable[[torch.Tensor], torch.Tensor]


class Limit(NamedTuple):
    """The most that a format may differ from torch.

    key: of what `check.Check.compare` returns. value: a format with a larger absolute difference is refused.
    """

    key: str
    value: float


LOGIT_LIMIT = Limit("max_logit_difference", 1e-4)
PROBABILITY_LIMIT = Limit("max_probability_difference", 1e-4)  # of the whole way
DICE_LIMIT = Limit("dice_change", 0.002)


class Setup(NamedTuple):
    """What a format is run for; threads None leaves their number to the library."""

    img_size: int
    num_classes: int
    threads: int | None


class Format(NamedTuple):
    """One row of FORMATS.

    start: (path, setup) -> Runner.
    write: (student, folder, images to calibrate on, what `metadata.describe` gives) writes the files; None where a
        checkpoint is run as it is.
    files: names in the folder, the first is the one to start.
    limit: of the difference from torch.
    needs: modules to write and run it.
    lacks: () -> what this processor lacks to run it, None where it lacks nothing.
    made_of: files that `write` writes for `pack` to make its files of; left out where a format has no `pack`.
    pack: (folder, folder node_modules) makes the files.
    """

    start: Callable[[Path, Setup], Runner]
    write: Callable[[TinyUSFMSeg, Path, Sequence[torch.Tensor], Mapping[str, Any]], None] | None = None
    files: tuple[str, ...] = ()
    limit: Limit = LOGIT_LIMIT
    needs: tuple[str, ...] = ()
    lacks: Callable[[], str | None] = lambda: None
    made_of: tuple[str, ...] = ()
    pack: Callable[[Path, Path], None] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it holds the whole way, which `whole.load_whole` runs, and not the bare network."""
        return self.limit.key == PROBABILITY_LIMIT.key


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
    extra = {EXTRA_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still what MONAI exports
        module = torch.jit.load(path, map_location="cpu", _extra_files=extra)
    _check(extra[EXTRA_FILE], path, setup)
    check_finite(module.state_dict(), str(path))
    return torch_runner(module, setup.threads)


def _start_onnx(path: Path, setup: Setup) -> Runner:
    return _session_runner(onnx_session(path, setup.threads), path, setup)


def _start_openvino(path: Path, setup: Setup, precision: str = "f32") -> Runner:
    return _session_runner(openvino_session(path, setup.threads, precision), path, setup)


def _session_runner(session: Session, path: Path, setup: Setup) -> Runner:
    _check(session.metadata, path, setup)
    return lambda images: torch.from_numpy(session(as_array(images))[OUTPUT])


def _check(metadata: str | None, path: Path, setup: Setup) -> None:
    check_metadata(metadata, path, NETWORK, setup.img_size, setup.num_classes)


def _openvino_lacks_bf16() -> str | None:
    return None if openvino_has_bf16() else "bf16"


def _start_page(path: Path, setup: Setup) -> Runner:
    raise ValueError(f"{path} runs in a browser: open it there.")


_TO_ONNX = ("onnx", "onnxscript")
FORMATS = {
    "torch": Format(_start_torch),
    "torch_bf16": Format(partial(_start_torch, bf16=True), limit=DICE_LIMIT),
    "safetensors": Format(_start_torch, write_safetensors_file, FORMAT_FILES["safetensors"]),
    "torchscript": Format(_start_torchscript, write_torchscript_file, FORMAT_FILES["torchscript"]),
    "onnx": Format(_start_onnx, write_onnx_file, FORMAT_FILES["onnx"], needs=(*_TO_ONNX, "onnxruntime")),
    "onnx_int8": Format(
        _start_onnx, write_int8_file, FORMAT_FILES["onnx_int8"], DICE_LIMIT, needs=(*_TO_ONNX, "onnxruntime")
    ),
    "onnx_full": Format(
        _start_onnx, write_whole_file, FORMAT_FILES["onnx_full"], PROBABILITY_LIMIT, needs=(*_TO_ONNX, "onnxruntime")
    ),
    "web": Format(
        _start_page,
        write_whole_file,
        FORMAT_FILES["web"],
        PROBABILITY_LIMIT,
        needs=(*_TO_ONNX, "onnxruntime"),
        made_of=FORMAT_FILES["onnx_full"],
        pack=write_page,
    ),
    "openvino": Format(_start_openvino, write_openvino_file, FORMAT_FILES["openvino"], needs=(*_TO_ONNX, "openvino")),
    "openvino_bf16": Format(
        partial(_start_openvino, precision="bf16"),
        write_openvino_file,
        FORMAT_FILES["openvino_bf16"],
        DICE_LIMIT,
        needs=(*_TO_ONNX, "openvino"),
        lacks=_openvino_lacks_bf16,
    ),
    "openvino_int8": Format(
        _start_openvino,
        write_int8_file,
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


def choose_formats(names: Sequence[str], node_modules: Path) -> list[str]:
    """The formats with these names, or for `all` every format that this processor runs. Prints what is left out.

    Args:
        names: of formats, or `all`.
        node_modules: with the libraries of formats that are packed.

    Raises:
        FileNotFoundError: a library in node_modules that a format needs is not there.
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
        if any(FORMATS[name].pack for name in chosen):
            find_packages(node_modules)
        return chosen
    lacking = {name: lacks for name in written if (lacks := _lacks(FORMATS[name], node_modules))}
    for name, lacks in lacking.items():
        print(f"{name} is left out: {lacks}")
    return [name for name in written if name not in lacking]


def _lacks(format: Format, node_modules: Path) -> str | None:
    """What keeps a format from being written here."""
    if format.pack:
        try:
            find_packages(node_modules)
        except FileNotFoundError as error:
            return str(error)
    lacks = format.lacks()
    return None if lacks is None else f"this processor has no {lacks}"


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
        ValueError: an unknown format, a file that is damaged or for another img_size or num_classes, or whose metadata
            do not fit, such as those of the whole way.
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
