"""What a view shows of an image: where its pixels come from, what lies outside, and the sector of a probe.

A view is described by few numbers, so that what was computed from the image before (a teacher's logits) can be moved
along with it exactly: "theta" (2, 3), "mirror" (1,) and "sector" (5,).

Legend: B batch, C channels, H rows, W columns. Coordinates are `affine_grid`'s: from -1 to 1 along each side.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import torch
import torch.nn.functional as F
from monai.transforms import MapTransform, RandomizableTransform

TRIES = 20  # windows drawn to find one without a lesion
COARSE = 8  # pixels to a side of the cells in which they are looked for
WHOLE_IMAGE = (0.0, 0.0, math.pi, 0.0, math.inf)  # the sector that cuts nothing
VIEW_KEYS = ("theta", "mirror", "sector")


class RandFlipRotateZoomd(RandomizableTransform, MapTransform):
    """Rotates about the center, zooms, shifts and flips left-right, in one resampling with the same grid for image and
    label, and cuts the sector of a convex probe.

    Zoom is the same along both axes. Outside of the image lies its own tissue, mirrored, or black, where the label is
    background. Does what RandAffined and RandFlipd do (plus the equal zoom) in a sixth of their time.

    Adds the items "theta", "mirror" and "sector", see this module.

    Args:
        image_key: resampled bilinearly.
        label_key: resampled to the nearest pixel; may be missing.
        flip_prob: probability of a flip.
        prob: probability of rotation with zoom and shift.
        rotate_degrees: the angle is uniform in [-rotate_degrees, rotate_degrees].
        zoom_range: the factor is uniform in it; above 1 enlarges.
        shift_fraction: the shift along each axis is uniform in [-shift_fraction, shift_fraction] of the image's side.
        mirror_prob: probability of mirrored tissue outside of the image, where a view is resampled.
        sector_prob: probability of a sector.
        lesion_free_prob: probability of a window of the image in which the label is background alone, mirrored tissue
            around it, at a zoom between 1 and the largest one; where TRIES windows show none, the view is as others.
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
        mirror_prob: float = 0.0,
        sector_prob: float = 0.0,
        lesion_free_prob: float = 0.0,
    ) -> None:
        MapTransform.__init__(self, (image_key, label_key), allow_missing_keys=True)
        RandomizableTransform.__init__(self, prob)
        self.modes = {image_key: "bilinear", label_key: "nearest"}
        self.flip_prob = flip_prob
        self.rotate_degrees = rotate_degrees
        self.zoom_range = zoom_range
        self.shift_fraction = shift_fraction
        self.mirror_prob = mirror_prob
        self.sector_prob = sector_prob
        self.label_key = label_key
        self.lesion_free_prob = lesion_free_prob

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        shape = d[self.first_key(d)].shape
        theta, resampled, flipped = self._draw(*shape[-2:])
        # they draw nothing where they are off, so that the other draws stay the same
        mirror = torch.tensor([bool(self.mirror_prob) and self.R.random() < self.mirror_prob])
        if self.lesion_free_prob and self.label_key in d and self.R.random() < self.lesion_free_prob:
            window = self._draw_lesion_free(d[self.label_key])
            if window is not None:
                theta, resampled, mirror = window, True, torch.tensor([True])
        in_sector = bool(self.sector_prob) and self.R.random() < self.sector_prob
        sector = torch.tensor(self._draw_sector() if in_sector else WHOLE_IMAGE)
        grid = view_grid(theta[None], shape[-2:], mirror) if resampled else None
        for key in self.key_iterator(d):
            if resampled:
                d[key] = F.grid_sample(d[key][None], grid, mode=self.modes[key], align_corners=False)[0]
            elif flipped:
                d[key] = d[key].flip(-1)
            if in_sector:
                d[key] = d[key] * sector_mask(sector[None], shape[-2:])[0]
        return {**d, "theta": theta, "mirror": mirror, "sector": sector}

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

    def _draw_lesion_free(self, label: torch.Tensor) -> torch.Tensor | None:
        """Theta (2, 3) of a window without a lesion; None where none is found, and for labels without one."""
        lesion = F.max_pool2d((label > 0).float(), COARSE, ceil_mode=True)
        if not lesion.any():
            return None
        height, width = label.shape[-2:]
        for _ in range(TRIES):
            angle = math.radians(self.R.uniform(-self.rotate_degrees, self.rotate_degrees))
            zoom = self.R.uniform(1.0, max(1.0, self.zoom_range[1]))
            shift = (self.R.uniform(-0.5, 0.5, 2) * zoom).tolist()  # the window's center lies anywhere in the image
            theta = view_theta(angle, zoom, self.R.random() < self.flip_prob, height / width, shift)
            grid = view_grid(theta[None], lesion.shape[-2:], torch.tensor([True]))
            if not F.grid_sample(lesion[None], grid, mode="bilinear", align_corners=False).any():
                return theta
        return None

    def _draw_sector(self) -> tuple[float, ...]:
        """A convex probe somewhere above the image: its arc near the top, most of the image inside."""
        above, across = self.R.uniform(0.2, 1.0), self.R.uniform(-0.3, 0.3)
        half_angle = math.atan(self.R.uniform(0.6, 1.2) / (1 + above))
        near, far = above * self.R.uniform(0.8, 1.2), (2 + above) * self.R.uniform(0.8, 1.05)
        return across, -1 - above, half_angle, near, far


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


def view_grid(theta: torch.Tensor, size: tuple[int, int], mirror: torch.Tensor) -> torch.Tensor:
    """Where the pixels of views come from, (B, H, W, 2), for grid_sample with padding by zeros, align_corners=False.

    Args:
        theta: (B, 2, 3).
        size: H and W.
        mirror: (B,) or (B, 1) bool; a point outside of the image is taken from inside, mirrored at its border.
    """
    grid = F.affine_grid(theta, [len(theta), 1, *size], align_corners=False)
    if not mirror.any():
        return grid
    last = 1 - 1 / torch.tensor([size[1], size[0]], dtype=grid.dtype, device=grid.device)  # the outermost centers
    return torch.where(mirror.view(-1, 1, 1, 1), torch.clamp(_reflect(grid), -last, last), grid)


def _reflect(points: torch.Tensor) -> torch.Tensor:
    """Points mirrored at -1 and 1 until they lie between."""
    return 1 - ((points + 1) % 4 - 2).abs()


def sector_mask(sector: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Whether a pixel lies in the sector of a probe, (B, 1, H, W) bool.

    Args:
        sector: (B, 5): apex (x, y), half of the opening angle in radians, nearest and farthest distance from the apex.
        size: H and W.
    """
    y, x = ((torch.arange(n, device=sector.device) * 2 + 1) / n - 1 for n in size)
    across, down, half_angle, near, far = (sector[:, i].view(-1, 1, 1, 1) for i in range(5))
    x, y = x.view(1, 1, 1, -1) - across, y.view(1, 1, -1, 1) - down
    distance = torch.hypot(x, y.expand(-1, -1, -1, x.shape[-1]))
    return (torch.atan2(x, y).abs() <= half_angle) & (distance >= near) & (distance <= far)
