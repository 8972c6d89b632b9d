"""The whole way in one network: a gray picture of any size in, its mask and probability at that size out.

torch.export turns it into ONNX with free height and width. `data/segment.py` resizes with MONAI, whose Gaussian has a
length that depends on the image, and which no export can follow. Both resizings are linear and separable: so here each
axis is a product with a matrix, and the network computes the matrix from the size of its input.

Legend: C channels of logits, H W pixels of the picture, S side of the student's input, T and L indices of an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..data.segment import detect, segment_and_detect
from ..inference.export_sums import check_files
from ..inference.sessions import onnx_session
from ..metrics import logits_to_classes, logits_to_probabilities
from ..networks.tinyusfm import TinyUSFMSeg
from .metadata import WHOLE_WAY, check_metadata, whole_text
from .names import MASK, ONNX_FULL, PICTURE, PRESENCE, PROBABILITY
from .onnx_files import write_onnx

TRUNCATED, SQRT_HALF = 4.0, 0.70710678  # MONAI's: sigmas in the tail of its Gaussian, and 1 / sqrt(2)
SMALLEST_SIGMA = 1e-6  # for no Gaussian: 1 at 0, and 0 elsewhere
EXAMPLE = (40, 50)  # of a picture, for the export


class Found(NamedTuple):
    """What is found in a picture.

    mask: (H, W) class indices, uint8. probability: (C, H, W), float32, the sigmoid of one channel and the softmax of
    several. presence: of a calibrated student, None of others.
    """

    mask: np.ndarray
    probability: np.ndarray
    presence: float | None


WholeRunner = Callable[[np.ndarray], Found]  # of gray pictures (H, W), uint8


class WholeWay(nn.Module):
    """Gray pictures (H, W), uint8 -> mask, probability and, of a calibrated student, presence (1,), see `Found`.

    Args:
        student: trained, in eval mode.
    """

    def __init__(self, student: TinyUSFMSeg) -> None:
        super().__init__()
        self.student = student

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows, columns, side = (_indices(length) for length in (*picture.shape, self.student.img_size))
        image = resizing(side, rows) @ (picture.float() / 255) @ resizing(side, columns).T
        logits, presence = detect(self.student, image[None, None])
        logits = interpolation(rows, side) @ logits[0] @ interpolation(columns, side).T  # (C, S, S) -> (C, H, W)
        found = logits_to_classes(logits[None])[0, 0], logits_to_probabilities(logits)
        return found if presence is None else (*found, presence)


def resizing(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The matrix (T, L) that resizes an axis as `segment.resize_image` does: blurred where it shrinks, interpolated.

    Args:
        target: indices of the axis afterwards (T,), float32.
        source: of the axis before (L,).
    """
    sigma = ((_length(source) / _length(target) - 1) / 2).clamp(min=SMALLEST_SIGMA)
    below, above, weight = _neighbors(target, source)
    return (1 - weight) * gaussian(source - below, sigma) + weight * gaussian(source - above, sigma)


def interpolation(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The matrix (T, L) that resizes an axis as `segment.restore_logits` does, with the arguments of `resizing`."""
    below, above, weight = _neighbors(target, source)
    return (1 - weight) * (source == below) + weight * (source == above)


def gaussian(offset: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The kernel of MONAI's GaussianSmooth at whole offsets, in pixels."""
    scale, tail = SQRT_HALF / sigma, ((sigma * TRUNCATED).clamp(min=0.5) + 0.5).floor()
    kernel = 0.5 * (torch.erf(scale * (offset + 0.5)) - torch.erf(scale * (offset - 0.5)))
    return kernel.clamp(min=0) * (offset.abs() <= tail)


def _neighbors(target: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two source indices (T, 1) that each target lies between, and the weight of the second."""
    position = (_length(source) / _length(target) * (target[:, None] + 0.5) - 0.5).clamp(min=0)
    below = position.floor()
    return below, (below + 1).minimum(_length(source) - 1), position - below


def _indices(length: int) -> torch.Tensor:
    return torch.arange(length, dtype=torch.float32)


def _length(indices: torch.Tensor) -> torch.Tensor:
    """Of an axis, as a tensor: the export would fix a number."""
    return indices.amax(dim=0) + 1


def write_whole(student: TinyUSFMSeg, folder: Path, about: Mapping[str, Any]) -> None:
    """Write the whole way of a student into a folder, as ONNX.

    Args:
        student: trained, on the CPU, in eval mode.
        folder: for the file.
        about: from `metadata.describe`.
    """
    outputs = [MASK, PROBABILITY] if student.presence is None else [MASK, PROBABILITY, PRESENCE]
    write_onnx(
        WholeWay(student).eval(),
        torch.zeros(EXAMPLE, dtype=torch.uint8),
        {0: "height", 1: "width"},
        folder / ONNX_FULL,
        ([PICTURE], outputs),
        whole_text(about),
    )


def load_whole(path: str | Path, threads: int | None = None) -> WholeRunner:
    """A function from a gray picture (H, W), uint8, to what is found in it.

    Args:
        path: of the file, or the folder of an export.
        threads: of the computation; None leaves it to the library.

    Raises:
        FileNotFoundError: no such file.
        ImportError: onnxruntime is not installed.
        ValueError: a file that is damaged, or whose metadata do not fit.
    """
    path = Path(path) / ONNX_FULL if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; write it with python -m scripts.export --formats onnx_full.")
    check_files(path, (ONNX_FULL,))
    try:
        session = onnx_session(path, threads, PICTURE)
    except ImportError:
        raise
    except Exception as error:  # the library has its own
        raise ValueError(
            f"{path} does not run as onnx_full ({type(error).__name__}); write it again with python -m scripts.export."
        ) from error
    check_metadata(session.metadata, path, WHOLE_WAY)

    def segment(picture: np.ndarray) -> Found:
        check_picture(picture)
        found = session(np.ascontiguousarray(picture))
        return Found(found[MASK], found[PROBABILITY], float(found[PRESENCE][0]) if PRESENCE in found else None)

    return segment


def segment_in_torch(student: TinyUSFMSeg, picture: np.ndarray) -> Found:
    """What the whole way has to give of a gray picture (H, W), uint8: found as inference and evaluation find it."""
    image = torch.tensor(picture)[None] / 255
    logits, presence = segment_and_detect(student, image, student.img_size, "cpu")
    mask = logits_to_classes(logits[None])[0, 0]
    return Found(mask.numpy(), logits_to_probabilities(logits).numpy(), presence)


def check_picture(picture: np.ndarray) -> None:
    """Refuse what the whole way cannot take.

    Raises:
        ValueError: not gray (H, W), not uint8, or without a pixel.
    """
    if picture.ndim != 2:
        raise ValueError(
            f'a picture must be gray, (H, W), got {picture.shape}; convert it, for example with Pillow\'s convert("L").'
        )
    if picture.dtype != np.uint8:
        raise ValueError(
            f"a picture must be uint8 with 0 for black and 255 for white, got {picture.dtype}; scale and convert it."
        )
    if not picture.size:
        raise ValueError(f"a picture must have a pixel at least, got {picture.shape}.")
