"""A 2D network on stills and loops. Every image is (C, W, H, N) outside the network; the network gets single frames.

Legend: B batch, C channels or classes, H rows, W columns, N frames.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import InvertibleTransform, MapTransform, Transposed
from monai.transforms.utils import scale_affine
from monai.utils import TraceKeys, convert_to_tensor
from torch import nn

from ..data.segment import detect, resize_image, restore_logits
from ..data.transforms import ToRowsFirstd
from ..utils.hardware import Hardware

PRESENCE, THRESHOLD = "presence", "presence_threshold"  # in the metadata of logits


class FramesToRowsFirstd(ToRowsFirstd):
    """(C, W, H, N) -> (C, H, W, N), undone by Invertd, the affine too.

    Args:
        keys: items to transpose.
        allow_missing_keys: pass over keys that are not there.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        Transposed.__init__(self, keys, indices=(0, 2, 1, 3), allow_missing_keys=allow_missing_keys)


class ResizeFramesd(MapTransform, InvertibleTransform):
    """Each frame of (C, H, W, N) as `resize_image` gives it, (C, img_size, img_size, N); Invertd restores logits.

    A loop is no volume: Resized would blur and interpolate along its frames too, with 20 times the memory.

    Args:
        keys: items to resize.
        img_size: height and width of the network's input.
        allow_missing_keys: pass over keys that are not there.
    """

    def __init__(self, keys: KeysCollection, img_size: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.img_size = img_size

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            frames, size = d[key], tuple(d[key].shape[1:])
            resized = torch.stack([resize_image(frame.contiguous(), self.img_size) for frame in _unbind(frames)], -1)
            d[key] = MetaTensor(resized)
            if isinstance(frames, MetaTensor):
                d[key].copy_meta_from(frames)
            scale = scale_affine(size, resized.shape[1:])
            self.push_transform(d[key], orig_size=size, affine=scale, extra_info={"affine": d[key].affine.clone()})
        return d

    def inverse(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Logits (C, img_size, img_size, N) -> (C, H, W, N), as `restore_logits` gives them."""
        d = dict(data)
        for key in self.key_iterator(d):
            done = self.pop_transform(d[key])
            size = [int(length) for length in done[TraceKeys.ORIG_SIZE][:2]]
            restored = [restore_logits(frame.contiguous()[None], size)[0] for frame in _unbind(d[key])]
            d[key] = MetaTensor(torch.stack(restored, -1)).copy_meta_from(d[key])
            d[key].affine = done[TraceKeys.EXTRA_INFO]["affine"]
        return d


class FrameInferer(Inferer):
    """Logits (B, C, H, W, N) of frames (B, 1, H, W, N), in the hardware's precision, a few frames at a time.

    Args:
        hardware: gives the autocast context.
        frames: the network's batch.
    """

    def __init__(self, hardware: Hardware, frames: int = 8) -> None:
        super().__init__()
        self.hardware, self.frames = hardware, frames

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args, **kwargs) -> torch.Tensor:
        """The network's logits of every frame, float32, with the metadata of the frames.

        Of a network with a presence the metadata hold presence (B, N) too, and presence_threshold (B,).
        """
        # (B, 1, H, W, N) -> (BN, 1, H, W)
        images = convert_to_tensor(inputs, track_meta=False).movedim(-1, 1).flatten(0, 1)
        with self.hardware.autocast():
            parts = [detect(network, part.contiguous(), *args, **kwargs) for part in images.split(self.frames)]
        logits = torch.cat([part.float() for part, _ in parts]).unflatten(0, (len(inputs), -1)).movedim(1, -1)
        if not isinstance(inputs, MetaTensor):
            return logits
        logits = MetaTensor(logits).copy_meta_from(inputs)
        if parts[0][1] is not None:
            logits.meta[PRESENCE] = torch.cat([presence for _, presence in parts]).cpu().reshape(len(inputs), -1)
            logits.meta[THRESHOLD] = network.presence.threshold.cpu().repeat(len(inputs))
        return logits


def _unbind(frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Frames (C, H, W, N) as N plain tensors (C, H, W)."""
    return convert_to_tensor(frames, track_meta=False).unbind(-1)
