"""Dictionary transforms for 2D ultrasound: rows-first layout, class labels, and the joint augmentation.

Legend: C channels, H rows, W columns. Arrays are channel first; ToRowsFirstd takes (C, W, H), all others (C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, MapTransform, Transposed
from monai.utils import CommonKeys, ImageMetaKey, convert_to_dst_type

from .appearance import RandDrawingsd, RandGammaContrastd, RandScannerd
from .brightness import unit_range
from .classes import check_label_values
from .geometry import Place, flips_to_match
from .views import RandFlipRotateZoomd

_SWAP_AXES = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)


class ToRowsFirstd(Transposed):
    """(C, W, H) -> (C, H, W), undone by Invertd. Swaps the axes of the affine too, which Transposed does not.

    Args:
        keys: items to transpose.
        allow_missing_keys: pass over keys that are not there.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, indices=(0, 2, 1), allow_missing_keys=allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        return self._swap_affines(super().__call__(data))

    def inverse(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        return self._swap_affines(super().inverse(data))

    def _swap_affines(self, data: dict[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        for key in self.key_iterator(data):
            if isinstance(data[key], MetaTensor):
                data[key].affine = data[key].affine @ _SWAP_AXES.to(data[key].affine)
        return data


class UnitRanged(MapTransform):
    """Pixels outside of [0, 1] as `unit_range` scales them, float32. Those of the bundle's readers, in [0, 1], stay.

    MONAI Deploy leaves out the reader, and hands on the pixels as the file has them.

    Args:
        keys: images (C, ...).
        allow_missing_keys: pass over keys that are not there.

    Raises:
        Refused: pixels are nan or infinite.
    """

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            if not (d[key].min() >= 0 and d[key].max() <= 1):
                scaled = unit_range(torch.as_tensor(d[key]).cpu().numpy())
                d[key] = convert_to_dst_type(scaled, d[key], dtype=torch.float32)[0]
        return d


def as_its_image(label: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
    """A label (C, H, W) that lies as its image does, by the affines of both.

    Raises:
        ValueError: see `geometry.flips_to_match`.
    """
    if not (isinstance(label, MetaTensor) and isinstance(image, MetaTensor)):
        return label
    flips = flips_to_match(_place(image), _place(label))
    if not flips:
        return label
    return MetaTensor(label.as_tensor().flip([-1 - axis for axis in flips]), affine=image.affine, meta=label.meta)


def _place(tensor: MetaTensor) -> Place:
    height, width = tensor.shape[-2:]
    affine = (tensor.affine @ _SWAP_AXES.to(tensor.affine)).numpy()  # of (H, W) to that of (W, H)
    return Place.read(str(tensor.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")), (width, height), affine, tensor.meta)


class LabelToClassesd(MapTransform):
    """Stored mask values -> class indices 0..num_classes-1, same type and shape, as its image lies.

    Two classes: 255 becomes 1, so that 0/1, 0/255 and 1-bit masks are the same. More classes: values are class indices
    already and are only checked. A mask that runs against its image is flipped, see `geometry.flips_to_match`.

    Args:
        keys: masks (C, H, W) to convert.
        num_classes: number of classes with background.
        allow_missing_keys: pass over keys that are not there.
        image_key: the masks' image; without it, or without the metadata of both, places are not compared.

    Raises:
        ValueError: when a mask holds another value, see `check_label_values`, or does not fit its image.
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int,
        allow_missing_keys: bool = False,
        image_key: str = CommonKeys.IMAGE,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        if num_classes < 2:
            raise ValueError(f"data::num_classes must be at least 2 (with background), got {num_classes}.")
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._classes(as_its_image(d[key], d.get(self.image_key)))
        return d

    def _classes(self, mask: torch.Tensor) -> torch.Tensor:
        mask = torch.as_tensor(mask)
        check_label_values(mask, self.num_classes, getattr(mask, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ, ""))
        return (mask > 0).to(mask.dtype) if self.num_classes == 2 else mask


def joint_augmentation(
    flip_prob: float = 0.5,
    rotate_degrees: float = 15.0,
    zoom_range: Sequence[float] | None = (0.9, 1.1),
    shift_fraction: float | None = 0.0,
    gamma_range: Sequence[float] | None = (0.7, 1.5),
    contrast_range: Sequence[float] | None = (0.8, 1.2),
    prob: float = 0.5,
    mirror_prob: float = 0.0,
    sector_prob: float = 0.0,
    brightness_range: Sequence[float] | None = None,
    gain_range: Sequence[float] | None = None,
    resolution_range: Sequence[float] | None = None,
    speckle_range: Sequence[float] | None = None,
    drawings_prob: float = 0.0,
    lesion_free_prob: float = 0.0,
) -> Compose:
    """Random geometry of image and label together, and a random look of the image.

    Acts on "image" (1, H, W) in [0, 1] and "label" (1, H, W); the image stays in [0, 1], both come back as plain
    tensors, with what describes the view, see `data/views.py`. 0, None or a range of (1, 1) switches a part off.

    Args:
        flip_prob: probability of a left-right flip. There is no up-down flip: depth runs downward in ultrasound. [0 to
            1]
        rotate_degrees: largest angle, in degrees. [0 to 180]
        zoom_range: zoom factors, above 1 enlarges. [two numbers above 0, or null]
        shift_fraction: largest shift along each axis, in parts of the image's side. [0 to 1]
        gamma_range: exponents of the pixel values; above 1 darkens. [two numbers above 0, or null]
        contrast_range: factors applied to the distance from the image's mean. [two numbers above 0, or null]
        prob: probability of rotation with zoom and shift, and of each change of the look, each on its own. [0 to 1]
        mirror_prob: probability that tissue, mirrored at the border, lies outside of the image, instead of black. [0 to
            1]
        sector_prob: probability that the view shows the sector of a convex probe, black around. [0 to 1]
        brightness_range: added to the pixel values. [two numbers from -1 to 1, or null]
        gain_range: factors of brightness at the top and at the bottom of the image. [two numbers above 0, or null]
        resolution_range: factors by which the image loses resolution; 1 loses none. [two numbers above 0 to 1, or null]
        speckle_range: standard deviation of multiplicative noise. [two numbers from 0 to 1, or null]
        drawings_prob: probability of text over the image, and of calipers. [0 to 1]
        lesion_free_prob: probability of a window of the image without a lesion, mirrored tissue around it, so that the
            student learns to find nothing. [0 to 1]

    Raises:
        ValueError: when a probability or the shift is outside [0, 1], an angle outside [0, 180] or a range not 0 < low
            <= high.
    """
    for name, value in (
        ("flip_prob", flip_prob),
        ("prob", prob),
        ("mirror_prob", mirror_prob),
        ("sector_prob", sector_prob),
        ("drawings_prob", drawings_prob),
        ("lesion_free_prob", lesion_free_prob),
    ):
        _check_number(name, value, 1)
    rotate_degrees = _check_number("rotate_degrees", rotate_degrees or 0, 180)
    shift = _check_number("shift_fraction", shift_fraction or 0, 1)
    zoom, gamma, contrast = (
        _check_range(name, value)
        for name, value in (
            ("zoom_range", zoom_range),
            ("gamma_range", gamma_range),
            ("contrast_range", contrast_range),
        )
    )
    image, label = CommonKeys.IMAGE, CommonKeys.LABEL
    geometry = (flip_prob, prob, rotate_degrees, zoom, shift, mirror_prob, sector_prob, lesion_free_prob)
    parts: list = [RandFlipRotateZoomd(image, label, *geometry)]
    if gamma != (1, 1) or contrast != (1, 1):
        parts.append(RandGammaContrastd(image, prob, gamma, contrast))
    scanner = {
        "brightness_range": _check_limits("brightness_range", brightness_range, -1, 1),
        "gain_range": _check_range("gain_range", gain_range) if gain_range else None,
        "resolution_range": _check_limits("resolution_range", resolution_range, 0.05, 1),
        "speckle_range": _check_limits("speckle_range", speckle_range, 0, 1),
    }
    if any(scanner.values()):
        parts.append(RandScannerd(image, prob, **scanner))
    if drawings_prob:
        parts.append(RandDrawingsd(image, drawings_prob))
    return Compose([*parts, EnsureTyped((image, label), track_meta=False, allow_missing_keys=True)])


def _check_number(name: str, value: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= high:
        raise ValueError(f"augmentation::{name} must be a number from 0 to {high}, got {value!r}.")
    return value


def _check_range(name: str, value: Sequence[float] | None) -> tuple[float, float]:
    if not value:
        return (1, 1)
    numbers = [v for v in value if isinstance(v, Real)] if isinstance(value, (list, tuple)) else []
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] < math.inf:
        raise ValueError(f"augmentation::{name} must be null or two numbers with 0 < low <= high, got {value!r}.")
    return tuple(numbers)


def _check_limits(name: str, value: Sequence[float] | None, low: float, high: float) -> tuple[float, float] | None:
    if not value:
        return None
    numbers = [v for v in value if isinstance(v, Real)] if isinstance(value, (list, tuple)) else []
    if len(numbers) != 2 or not low <= numbers[0] <= numbers[1] <= high:
        wanted = f"null or two numbers with {low:g} <= low <= high <= {high:g}"
        raise ValueError(f"augmentation::{name} must be {wanted}, got {value!r}.")
    return tuple(numbers)
