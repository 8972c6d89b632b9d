"""Dictionary transforms for 2D ultrasound: rows-first layout, class labels, and the joint augmentation.

Legend: C channels, H rows, W columns. Arrays are channel first; ToRowsFirstd takes (C, W, H), all others (C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, MapTransform, RandomizableTransform, Transposed
from monai.utils import CommonKeys, ImageMetaKey

from .classes import check_label_values
from .geometry import Place, flips_to_match

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


class RandFlipRotateZoomd(RandomizableTransform, MapTransform):
    """Rotates about the center, zooms, shifts and flips left-right, in one resampling with the same grid for image and
    label.

    Zoom is the same along both axes. Outside pixels are 0: a scanner shows black outside its sector, and there the
    label is background. Does what RandAffined and RandFlipd do (plus the equal zoom) in a sixth of their time.

    Adds the item "theta" (2, 3): where the view's pixels come from, in affine_grid's normalized coordinates, so that
    what was computed from the image before can be moved along with it (a teacher's logits).

    Args:
        image_key: resampled bilinearly.
        label_key: resampled to the nearest pixel; may be missing.
        flip_prob: probability of a flip.
        prob: probability of rotation with zoom and shift.
        rotate_degrees: the angle is uniform in [-rotate_degrees, rotate_degrees].
        zoom_range: the factor is uniform in it; above 1 enlarges.
        shift_fraction: the shift along each axis is uniform in [-shift_fraction, shift_fraction] of the image's side.
    """

    def __init__(
        self,
        image_key: str,
        label_key: str,
        flip_prob: float,
        prob: float,
        rotate_degrees: float,
        zoom_range: tuple[float, float],
        shift_fraction: float = 0.0,
    ) -> None:
        MapTransform.__init__(self, (image_key, label_key), allow_missing_keys=True)
        RandomizableTransform.__init__(self, prob)
        self.modes = {image_key: "bilinear", label_key: "nearest"}
        self.flip_prob = flip_prob
        self.rotate_degrees = rotate_degrees
        self.zoom_range = zoom_range
        self.shift_fraction = shift_fraction

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        shape = d[self.first_key(d)].shape
        theta, resampled, flipped = self._draw(*shape[-2:])
        grid = F.affine_grid(theta[None], [1, *shape], align_corners=False) if resampled else None
        for key in self.key_iterator(d):
            if resampled:
                d[key] = F.grid_sample(d[key][None], grid, mode=self.modes[key], align_corners=False)[0]
            elif flipped:
                d[key] = d[key].flip(-1)
        d["theta"] = theta
        return d

    def _draw(self, height: int, width: int) -> tuple[torch.Tensor, bool, bool]:
        """Theta (2, 3), whether it resamples, and whether it flips."""
        flipped = self.R.random() < self.flip_prob
        self.randomize(None)
        angle = math.radians(self.R.uniform(-self.rotate_degrees, self.rotate_degrees)) if self._do_transform else 0.0
        zoom = self.R.uniform(*self.zoom_range) if self._do_transform else 1.0
        across = down = 0.0
        # draws nothing where it is off, so that the other draws stay the same
        if self._do_transform and self.shift_fraction:
            across, down = self.R.uniform(-self.shift_fraction, self.shift_fraction, 2).tolist()
        theta = view_theta(angle, zoom, flipped, height / width, (across, down))
        return theta, (angle, zoom, across, down) != (0.0, 1.0, 0.0, 0.0), flipped


def view_theta(
    angle: float, zoom: float, flipped: bool = False, aspect: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)
) -> torch.Tensor:
    """The matrix (2, 3) that takes a view's normalized coordinates (x, y) to the image's, for `affine_grid`.

    Args:
        angle: in radians.
        zoom: above 1 enlarges.
        flipped: left-right, after the rotation.
        aspect: height / width of the image.
        shift: of the view's content, to the right and downwards, last of all, in parts of the image's sides.
    """
    cosine, sine, side = math.cos(angle) / zoom, math.sin(angle) / zoom, -1.0 if flipped else 1.0
    rows = (side * cosine, -sine * aspect), (side * sine / aspect, cosine)
    return torch.tensor([[x, y, -2 * (x * shift[0] + y * shift[1])] for x, y in rows])  # a side is 2 long


class RandGammaContrastd(RandomizableTransform, MapTransform):
    """(m + c (x^g - m)) clipped to [0, 1], m the mean of x^g: gamma, then contrast about the image's mean.

    MONAI's RandAdjustContrastd and RandScaleIntensityFixedMeand do the same on a MetaTensor in four times the time;
    they rescale to the image's own range, this one keeps to [0, 1].

    Args:
        keys: images in [0, 1].
        prob: probability of gamma and of contrast, each on its own.
        gamma_range: the exponent g is uniform in it.
        contrast_range: the factor c is uniform in it.
    """

    def __init__(
        self, keys: KeysCollection, prob: float, gamma_range: tuple[float, float], contrast_range: tuple[float, float]
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.gamma_range = gamma_range
        self.contrast_range = contrast_range

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        gamma, contrast = self._draw(self.gamma_range), self._draw(self.contrast_range)
        for key in self.key_iterator(d):
            image = d[key] if gamma == 1 else d[key].pow(gamma)
            d[key] = image if contrast == 1 else torch.lerp(image.mean(), image, contrast).clamp(0, 1)
        return d

    def _draw(self, limits: tuple[float, float]) -> float:
        self.randomize(None)
        return self.R.uniform(*limits) if self._do_transform else 1.0


def joint_augmentation(
    flip_prob: float = 0.5,
    rotate_degrees: float = 15.0,
    zoom_range: Sequence[float] | None = (0.9, 1.1),
    shift_fraction: float | None = 0.0,
    gamma_range: Sequence[float] | None = (0.7, 1.5),
    contrast_range: Sequence[float] | None = (0.8, 1.2),
    prob: float = 0.5,
) -> Compose:
    """Random flip, rotation, zoom and shift of image and label together, random gamma and contrast of the image.

    Acts on "image" (1, H, W) in [0, 1] and "label" (1, H, W); the image stays in [0, 1], both come back as plain
    tensors, with "theta", see `RandFlipRotateZoomd`. 0, None or a range of (1, 1) switches a part off.

    Args:
        flip_prob: probability of a left-right flip. There is no up-down flip: depth runs downward in ultrasound. [0 to
            1]
        rotate_degrees: largest angle, in degrees. [0 to 180]
        zoom_range: zoom factors, above 1 enlarges. [two numbers above 0, or null]
        shift_fraction: largest shift along each axis, in parts of the image's side. [0 to 1]
        gamma_range: exponents of the pixel values; above 1 darkens. [two numbers above 0, or null]
        contrast_range: factors applied to the distance from the image's mean. [two numbers above 0, or null]
        prob: probability of rotation with zoom and shift, of gamma and of contrast, each on its own. [0 to 1]

    Raises:
        ValueError: when a probability or the shift is outside [0, 1], an angle outside [0, 180] or a range not 0 < low
            <= high.
    """
    _check_number("flip_prob", flip_prob, 1)
    _check_number("prob", prob, 1)
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
    parts: list = [RandFlipRotateZoomd(image, label, flip_prob, prob, rotate_degrees, zoom, shift)]
    if gamma != (1, 1) or contrast != (1, 1):
        parts.append(RandGammaContrastd(image, prob, gamma, contrast))
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
