"""Outputs of a frozen network, kept on disk and looked up by what they depend on.

An entry's key is the hash of the network's weights, the arithmetic (fp32 or an autocast type) and the prepared image itself,
so that another teacher, another preprocessing or another augmentation is a miss, never a wrong hit. Stored in fp16: 2.1 MB
for a 256 x 64 x 64 embedding, 0.13 MB for a 256 x 256 mask. The first pass returns what was stored, so that it equals every
later one.

Shapes: B batch, H W pixels.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..files import atomic_path
from .weights import fingerprint

logger = logging.getLogger(__name__)


class OutputCache:
    """Looks outputs up by the image's content, and computes and stores those that miss.

    Args:
        directory: where the entries lie, one folder a network; made when the first entry is written.
        network: frozen; its weights are part of every key.
        kind: which of its outputs is kept.
    """

    def __init__(self, directory: str | Path, network: nn.Module, kind: str = "") -> None:
        self.folder = Path(directory) / (fingerprint(network.state_dict())[:16] + kind)
        self.hits = self.misses = 0

    def __call__(self, images: torch.Tensor, compute: Callable[[list[int]], torch.Tensor]) -> torch.Tensor:
        """Outputs (B, ...) float32, rounded to fp16, of prepared images (B, 3, H, W).

        Args:
            images: what the network reads, resized and normalized.
            compute: called once, with the indices of the images that miss; returns their outputs.
        """
        paths = [self._path(image) for image in images]
        entries = [_load(path) for path in paths]
        missing = [i for i, entry in enumerate(entries) if entry is None]
        self.hits += len(paths) - len(missing)
        self.misses += len(missing)
        if missing:
            for i, output in zip(missing, compute(missing)):
                entries[i] = output.detach().to("cpu", torch.float16).numpy()
                _store(paths[i], entries[i])
        return torch.from_numpy(np.stack(entries)).to(images.device).float()

    def _path(self, image: torch.Tensor) -> Path:
        device = image.device.type
        precision = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else str(image.dtype)
        digest = hashlib.blake2b(image.contiguous().cpu().numpy().tobytes(), digest_size=20)
        digest.update(f"{tuple(image.shape)} {precision}".encode())
        return self.folder / f"{digest.hexdigest()}.npy"


def _load(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        logger.warning("cache entry %s is damaged (%s): computed again.", path, error)
        return None


def _store(path: Path, output: np.ndarray) -> None:
    with atomic_path(path) as partial:
        np.save(partial, output, allow_pickle=False)
