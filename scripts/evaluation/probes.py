"""Probes: one change of an image that must not change what a network finds, each with one known cause.

A lesion that lies elsewhere, another gain, a scanner's text: the clinic has them, and a training set may not. A probe
changes an image and its label together, at the image's own size. All are pure functions, and the same call gives the
same image. What a move or a smaller scale leaves free is filled with the image's own tissue, mirrored at the edge:
black would tell a network that the image was moved. The fill is taken from beside the lesion. Where there is too little
tissue, it shows the lesion once more, and the label is IGNORED there: no patient has the second lesion.

Legend: H W pixels of the image, continuous positions run from 0 to 1 over its height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch.nn import functional as F

CENTERED = 0.15  # of the width: how far from the middle a lesion may lie to be moved
IGNORED = 255  # in a label: pixels that do not count
NARROWEST = 0.08  # of a side: tissue beside the lesion that is mirrored without it
IGNORED_MARGIN = 0.05  # of the shorter side, around a lesion that does not count
BORDER = 0.25  # of the height and of the width, on each of the four sides
WEAK_GAIN = 0.4  # the weaker end of a ramp
JPEG_QUALITY = 30
SPECKLE = 0.3  # standard deviation of the factor that a pixel is multiplied by
ANGLES = np.deg2rad(np.arange(0, 180, 2))  # at which the diameters of a lesion are tried
HEADER = ("BREAST  L12-3", "FR 28  DR 66", "GN 54  D 4.0 cm")
FOOTER = "LEFT 2:00  RAD"
Pair = tuple[torch.Tensor, torch.Tensor]


class Probe(NamedTuple):
    """A change of image and label.

    Args:
        meaning: of it, in a few words.
        change: image (1, H, W) float in [0, 1], label (1, H, W) class indices and a seed -> both, changed.
        moves: whether it moves the lesion, so that it is for lesions near the middle alone.
    """

    meaning: str
    change: Callable[[torch.Tensor, torch.Tensor, int], Pair]
    moves: bool = False


def apply_probe(name: str, image: torch.Tensor, label: torch.Tensor, seed: int = 0) -> Pair:
    """Image (1, H, W), float in [0, 1], and label (1, H, W), class indices and IGNORED, after a probe; the borders make
    them larger.

    Args:
        name: of PROBES.
        image: float in [0, 1].
        label: class indices, of the same size.
        seed: of the noise.

    Raises:
        ValueError: an unknown name, or a lesion to move where the label has none.
    """
    if name not in PROBES:
        raise ValueError(f"unknown probe {name!r}; probes are {', '.join(PROBES)}.")
    return PROBES[name].change(image, label, seed)


def without_ignored(mask: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """A mask (1, H, W) of class indices, background where the label (1, H, W) of a probe is IGNORED."""
    return torch.where(label == IGNORED, torch.zeros_like(mask), mask)


def lesion_center(label: torch.Tensor) -> tuple[float, float] | None:
    """Position (y, x) of the centroid of all foreground pixels of a label (1, H, W), each from 0 to 1; None without a
    lesion.
    """
    points = torch.nonzero(label[0] > 0)
    if len(points) == 0:
        return None
    y, x = ((points.double().mean(dim=0) + 0.5) / torch.tensor(label.shape[-2:])).tolist()
    return y, x


def offset_from_middle(label: torch.Tensor) -> float | None:
    """How far a lesion's centroid lies from the vertical middle line, as a share of the width; None without a lesion.

    Args:
        label: (1, H, W), class indices.
    """
    center = lesion_center(label)
    return None if center is None else abs(center[1] - 0.5)


# Geometry.


def _window(image: torch.Tensor, label: torch.Tensor, top: int, left: int, size: Sequence[int]) -> Pair:
    """The part (1, *size) of image and label whose corner is at (top, left), mirrored where it leaves the image.

    Only the tissue between an edge and the lesion is mirrored at that edge, again and again if need be. Where it is
    too narrow, the lesion is mirrored too; it is IGNORED there, with a margin around it.
    """
    axes = []
    for axis, (count, start) in enumerate(zip(size, (top, left))):
        length, lesion = label.shape[axis + 1], torch.nonzero((label[0] > 0).any(dim=1 - axis)).flatten()
        free = (int(lesion[0]), length - 1 - int(lesion[-1])) if len(lesion) else (length, length)
        axes.append(_mirror(torch.arange(count) + start, length, free))
    rows, columns = axes
    outside = ~(rows.inside[:, None] & columns.inside[None])
    shown = label[:, rows.index][:, :, columns.index]
    return image[:, rows.index][:, :, columns.index], _ignore_copies(shown, outside)


def _ignore_copies(label: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """A label (1, H, W), IGNORED in and near its lesions in the mirrored pixels (H, W)."""
    copies = (label > 0) & mirrored
    margin = round(IGNORED_MARGIN * min(label.shape[-2:]))
    near = F.max_pool2d(copies.float()[None], 2 * margin + 1, stride=1, padding=margin)[0] > 0
    return torch.where(near & mirrored, torch.full_like(label, IGNORED), label)


class _Axis(NamedTuple):
    """Of each pixel along a side: which of the image's it is, and whether it lies inside of the image."""

    index: torch.Tensor
    inside: torch.Tensor


def _mirror(index: torch.Tensor, length: int, free: tuple[int, int]) -> _Axis:
    """Indices below `length`; those outside come back from the edge, whose pixel is not repeated.

    Args:
        index: along the side, below 0 and above the length too.
        length: of the side.
        free: pixels at its start and at its end that show no lesion.
    """
    widths = [width if width >= NARROWEST * length else length for width in free]
    below, above = -index, index - (length - 1)
    start, end = (_fold(distance, width) for distance, width in zip((below, above), widths))
    inside = (below <= 0) & (above <= 0)
    return _Axis(torch.where(below > 0, start, torch.where(above > 0, length - 1 - end, index)), inside)


def _fold(distance: torch.Tensor, width: int) -> torch.Tensor:
    """Distances from an edge, folded to stay below the width."""
    period = max(2 * (width - 1), 1)
    distance = distance % period
    return torch.minimum(distance, period - distance)


def _move(image: torch.Tensor, label: torch.Tensor, seed: int, y: float | None = None, x: float | None = None) -> Pair:
    """Lesion's centroid at the position (y, x), to the next pixel; None leaves it where it is."""
    center = lesion_center(label)
    if center is None:
        raise ValueError("the label has no lesion to move.")
    size = image.shape[-2:]
    top, left = (
        0 if goal is None else -round((goal - start) * length) for goal, start, length in zip((y, x), center, size)
    )
    return _window(image, label, top, left, size)


def _scale(image: torch.Tensor, label: torch.Tensor, seed: int, factor: float) -> Pair:
    """Content `factor` times as large, about the lesion's centroid or else the middle."""
    size = image.shape[-2:]
    scaled = [max(1, round(factor * length)) for length in size]
    resized = F.interpolate(image[None], scaled, mode="bilinear", align_corners=False, antialias=True)[0]
    classes = F.interpolate(label[None].float(), scaled, mode="nearest-exact")[0].to(label.dtype)
    center = lesion_center(label) or (0.5, 0.5)
    top, left = (round(at * (new - old)) for at, new, old in zip(center, scaled, size))
    return _window(resized, classes, top, left, size)


def _borders(image: torch.Tensor, label: torch.Tensor, seed: int) -> Pair:
    """Black, and background in the label, around the whole picture."""
    height, width = (round(BORDER * length) for length in image.shape[-2:])
    sides = (width, width, height, height)
    return F.pad(image, sides), F.pad(label, sides)


def _sector(image: torch.Tensor, label: torch.Tensor, seed: int) -> Pair:
    """What a convex array sees: the fan between two arcs, whose apex lies above the image."""
    height, width = image.shape[-2:]
    y = (torch.arange(height)[:, None] + 0.5) / height + 0.3  # below the apex, in heights
    x = (torch.arange(width)[None] + 0.5) / width - 0.5  # from the middle, in widths
    radius = torch.hypot(y, x)
    inside = (radius >= 0.33) & (radius <= 1.3) & (x.abs() <= 0.62 * y)
    return image * inside, label * inside


# Intensity.


def _brighten(image: torch.Tensor, label: torch.Tensor, seed: int, amount: float) -> Pair:
    return (image + amount).clamp(0, 1), label


def _contrast(image: torch.Tensor, label: torch.Tensor, seed: int, factor: float) -> Pair:
    mean = image.mean()
    return (mean + factor * (image - mean)).clamp(0, 1), label


def _ramp(image: torch.Tensor, label: torch.Tensor, seed: int, top: float, bottom: float) -> Pair:
    """A gain that changes evenly with depth."""
    return image * torch.linspace(top, bottom, image.shape[-2])[:, None], label


def _jpeg(image: torch.Tensor, label: torch.Tensor, seed: int) -> Pair:
    file = BytesIO()
    Image.fromarray((image[0] * 255).round().to(torch.uint8).numpy()).save(file, "JPEG", quality=JPEG_QUALITY)
    pixels = np.array(Image.open(file, formats=["JPEG"]), dtype=np.float32) / 255
    return torch.from_numpy(pixels)[None], label


def _speckle(image: torch.Tensor, label: torch.Tensor, seed: int) -> Pair:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image * (1 + SPECKLE * noise)).clamp(0, 1), label


# What a scanner writes over the image.


def _text(image: torch.Tensor, label: torch.Tensor, seed: int) -> Pair:
    """Settings at the top, and the place of the probe in the lower third, in white."""
    height, width = image.shape[-2:]
    ink = Image.new("L", (width, height))
    draw, step = ImageDraw.Draw(ink), max(10, height // 14)
    font = ImageFont.load_default(step)
    for line, words in enumerate(HEADER):
        draw.text((step // 2, step // 2 + line * step), words, fill=255, font=font)
    draw.text((width // 3, round(0.7 * height)), FOOTER, fill=255, font=font)
    return _overlay(image, ink), label


def _calipers(image: torch.Tensor, label: torch.Tensor, seed: int) -> Pair:
    """Crosses at the ends of the lesion's longest diameter and of the one across it, with a dotted line between."""
    height, width = image.shape[-2:]
    ink = Image.new("L", (width, height))
    draw, arm = ImageDraw.Draw(ink), max(3, height // 50)
    for ends in _diameters(label):
        for y, x in ends:
            draw.line((x - arm, y, x + arm, y), fill=255)
            draw.line((x, y - arm, x, y + arm), fill=255)
        draw.point(list(_dots(*ends)), fill=255)
    return _overlay(image, ink), label


def _overlay(image: torch.Tensor, ink: Image.Image) -> torch.Tensor:
    """The image under white ink; pixels without ink stay as they are."""
    return torch.maximum(image, torch.from_numpy(np.array(ink, dtype=np.float32) / 255)[None])


def _diameters(label: torch.Tensor) -> list[np.ndarray]:
    """Ends (2, 2), as (y, x) in pixels, of the largest lesion's longest diameter and of the one across it; [] without a
    lesion.
    """
    regions, count = ndimage.label(label[0].numpy() > 0)
    if count == 0:
        return []
    largest = 1 + int(np.argmax(np.bincount(regions.ravel())[1:]))
    points = np.argwhere(regions == largest)  # (N, 2)
    along = np.round(points @ np.stack([np.sin(ANGLES), np.cos(ANGLES)]), 6)  # (N, angles); equal ones stay equal
    longest = int(np.argmax(np.ptp(along, axis=0)))
    across = (longest + len(ANGLES) // 2) % len(ANGLES)
    return [points[[np.argmin(along[:, angle]), np.argmax(along[:, angle])]] for angle in (longest, across)]


def _dots(start: np.ndarray, end: np.ndarray, step: int = 4) -> Iterator[tuple[int, int]]:
    """Points (x, y) every `step` pixels between two ends (y, x)."""
    count = int(np.hypot(*(end - start)) // step)
    for share in np.linspace(0, 1, count + 1):
        y, x = np.rint(start + share * (end - start)).astype(int)
        yield int(x), int(y)


PROBES = {
    "left": Probe("the lesion at 25 % of the width", partial(_move, x=0.25), moves=True),
    "right": Probe("the lesion at 75 % of the width", partial(_move, x=0.75), moves=True),
    "shallow": Probe("the lesion at 25 % of the depth", partial(_move, y=0.25), moves=True),
    "deep": Probe("the lesion at 75 % of the depth", partial(_move, y=0.75), moves=True),
    "smaller": Probe("everything 0.6 times as large", partial(_scale, factor=0.6)),
    "larger": Probe("everything 1.6 times as large", partial(_scale, factor=1.6)),
    "darker": Probe("0.3 taken from each grey value (0 to 1)", partial(_brighten, amount=-0.3)),
    "brighter": Probe("0.3 added to each grey value (0 to 1)", partial(_brighten, amount=0.3)),
    "low_contrast": Probe("half the distance of each pixel to the mean", partial(_contrast, factor=0.5)),
    "high_contrast": Probe("1.5 times the distance of each pixel to the mean", partial(_contrast, factor=1.5)),
    "fading": Probe("gain from 1 at the skin to 0.4 in the depth", partial(_ramp, top=1.0, bottom=WEAK_GAIN)),
    "rising": Probe("gain from 0.4 at the skin to 1 in the depth", partial(_ramp, top=WEAK_GAIN, bottom=1.0)),
    "borders": Probe("black borders of a quarter of the picture on each side", _borders),
    "sector": Probe("the fan of a convex array, black outside", _sector),
    "text": Probe("text over the image", _text),
    "calipers": Probe("calipers at the ends of the lesion", _calipers),
    "jpeg": Probe(f"JPEG of quality {JPEG_QUALITY}", _jpeg),
    "speckle": Probe("multiplicative noise", _speckle),
}
