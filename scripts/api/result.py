"""What a student finds in an image: mask, probability, lesions and an overlay.

Legend: C classes with the background, H rows, W columns, N frames of a loop.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.special import expit, softmax

from ..inference.confidence import Certainty
from ..inference.lesions import frame_rows
from ..utils.outlines import draw_outlines
from .images import Frames

MOST_TOLD = 3  # lesions, of all frames; a line of a notebook


def _no_colors() -> np.ndarray:
    raise ValueError("this result was made without its image, so that there is no overlay.")


class Lesion(NamedTuple):
    """A class in a frame: a row of lesions.csv, see docs/inference.md.

    box: first column, first row, last column, last row, all inside. area_mm2: None where the size of a pixel is not
    known. confidence: mean probability inside. look: whether a person should look at it. frame: 0 of a still.
    """

    name: str
    area_px: int
    area_mm2: float | None
    box: tuple[int, int, int, int]
    confidence: float
    components: int
    look: bool
    frame: int


@dataclass(frozen=True, repr=False, eq=False)
class Result:
    """What a student finds in one image.

    Args:
        mask: class indices, uint8, (H, W) as the image is looked at, or (N, H, W) of a loop.
        probability: float32; of a student of two classes that of the lesion, in the mask's shape; otherwise of all
            classes, (C, H, W) or (N, C, H, W).
        lesions: those that were found, by frame and class.
        presence: probability that each frame shows anything, N numbers; None of a student that does not tell it.
        colors: gives the image, uint8 (N, H, W, 3).
    """

    mask: np.ndarray
    probability: np.ndarray
    lesions: list[Lesion]
    presence: list[float] | None = None
    colors: Callable[[], np.ndarray] = _no_colors

    def overlay(self) -> np.ndarray:
        """The image with the outlines of its lesions, uint8 (H, W, 3), or (N, H, W, 3) of a loop.

        Raises:
            FileNotFoundError: the image was a file, and is gone.
        """
        masks = self.mask if self.mask.ndim == 3 else self.mask[None]
        drawn = np.stack([draw_outlines(image, mask) for image, mask in zip(self.colors(), masks)])
        return drawn if self.mask.ndim == 3 else drawn[0]

    def __repr__(self) -> str:
        lesions = [f"{lesion.name} of {lesion.area_px} pixels" for lesion in self.lesions[:MOST_TOLD]]
        more = len(self.lesions) - len(lesions)
        told = ", ".join([*lesions, *([f"and {more} more"] if more else [])])
        return f"<Result {self.mask.shape}: {told or 'no lesion'}>"

    def _repr_png_(self) -> bytes:
        """What a notebook shows; the first frame of a loop."""
        drawn, file = self.overlay(), io.BytesIO()
        Image.fromarray(drawn if drawn.ndim == 3 else drawn[0]).save(file, "PNG")
        return file.getvalue()


def make_result(
    frames: Frames,
    outputs: Iterable[tuple[np.ndarray, float | None]],
    class_names: Sequence[str],
    threshold: float | None,
) -> Result:
    """The result of an image.

    Args:
        frames: of the image.
        outputs: logits (C, H, W) and presence of each frame.
        class_names: without the background.
        threshold: of presence.
    """
    masks, probabilities, presences, confidences = [], [], [], []
    for logits, presence in outputs:
        probability = logits_to_probability(logits)
        masks.append(logits_to_mask(logits))
        presences.append(presence)
        confidences.append(_confidences(probability, masks[-1]))
        probabilities.append(probability[0] if len(logits) == 1 else probability)
    presence = None if None in presences else presences
    certainty = Certainty(presence, threshold, confidences)
    shown = np.stack(masks).transpose(2, 1, 0)  # (N, H, W) -> (W, H, N)
    lesions = [_lesion(row) for row in frame_rows(shown, frames.meta, class_names, certainty) if row["area_px"]]
    pixels = (np.stack(masks), np.stack(probabilities))
    mask, probability = pixels if frames.loop else (array[0] for array in pixels)
    return Result(mask, probability, lesions, presence, frames.colors)


def logits_to_mask(logits: np.ndarray) -> np.ndarray:
    """Class indices (H, W), uint8, of logits (C, H, W), as `metrics.logits_to_classes` gives them."""
    return (logits[0] > 0 if len(logits) == 1 else logits.argmax(axis=0)).astype(np.uint8)


def logits_to_probability(logits: np.ndarray) -> np.ndarray:
    """Probabilities (C, H, W), float32, of logits (C, H, W), as `metrics.logits_to_probabilities` gives them."""
    return expit(logits) if len(logits) == 1 else softmax(logits, axis=0)


def _confidences(probability: np.ndarray, mask: np.ndarray) -> list[float]:
    foreground = probability if len(probability) == 1 else probability[1:]
    inside = (values[mask == number] for number, values in enumerate(foreground, start=1))
    return [float(values.mean(dtype=np.float64)) if values.size else np.nan for values in inside]


def _lesion(row: Mapping[str, Any]) -> Lesion:
    return Lesion(
        name=row["class"],
        area_px=row["area_px"],
        area_mm2=None if row["area_mm2"] == "" else float(row["area_mm2"]),
        box=tuple(int(row[name]) for name in ("x_min", "y_min", "x_max", "y_max")),
        confidence=row["confidence"],
        components=row["components"],
        look=row["look"] == "yes",
        frame=row["frame"],
    )
