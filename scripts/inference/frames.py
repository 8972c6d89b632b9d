"""A 2D network on stills and loops. Every image is (C, W, H, N) outside the network; the network gets single frames.

Legend: B batch, C channels or classes, H rows, W columns, N frames.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from monai.transforms import GaussianSmooth, MapTransform, Transposed
from monai.utils import convert_to_tensor
from torch import nn

from ..data.transforms import ToRowsFirstd
from ..utils.hardware import Hardware


class FramesToRowsFirstd(ToRowsFirstd):
    """(C, W, H, N) -> (C, H, W, N), undone by Invertd, the affine too.

    Args:
        keys: items to transpose.
        allow_missing_keys: pass over keys that are not there.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        Transposed.__init__(self, keys, indices=(0, 2, 1, 3), allow_missing_keys=allow_missing_keys)


class SmoothFramesd(MapTransform):
    """Blurs each frame (C, H, W, N) as Resized with anti_aliasing does before it makes an image smaller.

    Resized itself would blur a loop as a volume, with 20 times the loop's memory.

    Args:
        keys: items to blur.
        img_size: height and width to which they will be resized.
        allow_missing_keys: pass over keys that are not there.
    """

    def __init__(self, keys: KeysCollection, img_size: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.img_size = img_size

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            sigma = [max(0.0, (length / self.img_size - 1) / 2) for length in d[key].shape[1:3]]
            if any(sigma):
                frames = convert_to_tensor(d[key], track_meta=False).unbind(-1)
                smooth = GaussianSmooth(sigma)
                blurred = MetaTensor(torch.stack([smooth(frame) for frame in frames], dim=-1))
                d[key] = blurred.copy_meta_from(d[key]) if isinstance(d[key], MetaTensor) else blurred
        return d


class FrameInferer(SliceInferer):
    """Logits (B, C, H, W, N) of frames (B, 1, H, W, N), in the hardware's precision, a few frames at a time.

    Args:
        hardware: gives the autocast context.
        img_size: H and W.
        frames: the network's batch.
    """

    def __init__(self, hardware: Hardware, img_size: int, frames: int = 8) -> None:
        super().__init__(spatial_dim=2, roi_size=(img_size, img_size), sw_batch_size=frames)
        self.hardware = hardware

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args, **kwargs) -> torch.Tensor:
        """The network's logits of every frame, float32."""
        with self.hardware.autocast():
            return super().__call__(inputs, network, *args, **kwargs)
