"""Random changes of an image's look that leave its label alone: another scanner or setting, drawings on the image.

Each transform draws nothing where it is off. Images are (1, H, W) in [0, 1] and stay so.

Legend: H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from PIL import Image, ImageDraw

Range = tuple[float, float]
LETTERS = "ABCDEFGHIKLMNOPRSTUVW"


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


class RandScannerd(RandomizableTransform, MapTransform):
    """Another scanner or setting: brightness, gain over depth, resolution and speckle, each with its own probability.

    Args:
        keys: images in [0, 1].
        prob: probability of each part, on its own.
        brightness_range: added to every pixel, uniform in it; None is off.
        gain_range: factors at the top and at the bottom, each uniform in it, on a line between; None is off.
        resolution_range: the image is made smaller by a factor uniform in it, at most 1, and large again; None is off.
        speckle_range: standard deviation, uniform in it, of noise that multiplies; None is off.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float,
        brightness_range: Range | None = None,
        gain_range: Range | None = None,
        resolution_range: Range | None = None,
        speckle_range: Range | None = None,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.parts = [
            (change, limits)
            for change, limits in (
                (self._rescale, resolution_range),
                (self._speckle, speckle_range),
                (self._gain, gain_range),
                (self._brighten, brightness_range),
            )
            if limits is not None
        ]

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for change, limits in self.parts:
            self.randomize(None)
            if self._do_transform:
                for key in self.key_iterator(d):
                    d[key] = change(d[key], limits).clamp(0, 1)
        return d

    def _brighten(self, image: torch.Tensor, limits: Range) -> torch.Tensor:
        return image + self.R.uniform(*limits)

    def _gain(self, image: torch.Tensor, limits: Range) -> torch.Tensor:
        top, bottom = self.R.uniform(*limits, 2).tolist()
        return image * torch.linspace(top, bottom, image.shape[-2])[:, None]

    def _rescale(self, image: torch.Tensor, limits: Range) -> torch.Tensor:
        size = [max(8, round(length * self.R.uniform(*limits))) for length in image.shape[-2:]]
        small = F.interpolate(image[None], size=size, mode="bilinear", antialias=True)
        return F.interpolate(small, size=image.shape[-2:], mode="bilinear")[0]

    def _speckle(self, image: torch.Tensor, limits: Range) -> torch.Tensor:
        noise = self.R.standard_normal(image.shape).astype(np.float32)
        return image * (1 + self.R.uniform(*limits) * torch.from_numpy(noise))


class RandDrawingsd(RandomizableTransform, MapTransform):
    """What a scanner draws over an image: lines of text and calipers, crosses with a dotted line between.

    They lie anywhere: at the lesion's ends alone they would tell where it is.

    Args:
        keys: images in [0, 1].
        prob: probability of text and of calipers, each on its own.
    """

    def __init__(self, keys: KeysCollection, prob: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for draw in (self._text, self._calipers):
            self.randomize(None)
            if self._do_transform:
                for key in self.key_iterator(d):
                    d[key] = self._drawn(d[key], draw)
        return d

    def _drawn(self, image: torch.Tensor, draw) -> torch.Tensor:
        height, width = image.shape[-2:]
        layer = Image.new("L", (width, height))
        draw(ImageDraw.Draw(layer), width, height)
        ink = torch.from_numpy(np.array(layer))[None] > 127
        return torch.where(ink, float(self.R.uniform(0.6, 1.0)), image)

    def _text(self, canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        size = max(6.0, self.R.uniform(0.03, 0.07) * height)
        place = np.array([self.R.uniform(0, 0.8) * width, self.R.uniform(0, 0.9) * height])
        for line in range(self.R.randint(1, 4)):
            words = ("".join(self.R.choice(list(LETTERS), self.R.randint(1, 7))), f"{self.R.uniform(0, 99):.1f}")
            canvas.text(tuple(place + (0, line * 1.2 * size)), " ".join(words), fill=255, font_size=size)

    def _calipers(self, canvas: ImageDraw.ImageDraw, width: int, height: int) -> None:
        arm = max(2, round(height / 64))
        for _ in range(self.R.randint(1, 3)):
            ends = self.R.uniform(0.05, 0.95, (2, 2)) * (width, height)
            for x, y in ends:
                canvas.line([(x - arm, y), (x + arm, y)], fill=255)
                canvas.line([(x, y - arm), (x, y + arm)], fill=255)
            steps = max(2, int(np.linalg.norm(ends[1] - ends[0]) / (2 * arm)))
            canvas.point([tuple(ends[0] + part * (ends[1] - ends[0])) for part in np.linspace(0, 1, steps)], fill=255)
