"""What computes a student's logits: torch, or a session of ONNX Runtime or OpenVINO, which needs no torch.

Legend: C channels of logits, H W the image, N frames, S the side of the network's input.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from ..data.resizing import interpolate, resize_array
from ..inference.export_names import OUTPUT, PRESENCE
from ..inference.sessions import Session

BATCH = 8  # frames that go through the network together, as inferer::frames of configs/inference.json


class Engine(Protocol):
    """One student, ready to run.

    name: of the engine. num_classes: with the background. img_size: S. threshold: of presence, None without one.
    """

    name: str
    num_classes: int
    img_size: int
    threshold: float | None

    def run(self, frames: np.ndarray) -> Iterator[tuple[np.ndarray, float | None]]:
        """Logits (C, H, W), float32, and presence of each of the frames (N, H, W) in [0, 1]."""


class TorchEngine:
    """The student in torch, on the GPU where there is one, as configs/inference.json runs it: bit for bit.

    Args:
        checkpoint: of a trained student.
        threads: of the whole process; None leaves torch's number.

    Raises:
        ValueError: the file is no trained student.
    """

    name = "torch"

    def __init__(self, checkpoint: Path, threads: int | None = None) -> None:
        import torch

        from ..networks.student import student_of_file
        from ..utils.hardware import Hardware

        if threads:
            torch.set_num_threads(threads)
        self.hardware = Hardware()
        self.network = student_of_file(checkpoint).eval().to(self.hardware.device)
        channels = self.network.decode_head.conv_seg.out_channels
        self.num_classes, self.img_size = max(2, channels), self.network.img_size
        presence = self.network.presence
        self.threshold = None if presence is None else float(presence.threshold)

    def run(self, frames: np.ndarray) -> Iterator[tuple[np.ndarray, float | None]]:
        """See `Engine`."""
        for first in range(0, len(frames), BATCH):
            yield from self._run_batch(frames[first : first + BATCH])

    def _run_batch(self, frames: np.ndarray) -> list[tuple[np.ndarray, float | None]]:
        import torch

        from ..data.segment import segment_frames

        tensors = [torch.from_numpy(frame)[None] for frame in frames]
        found = segment_frames(self.network, tensors, self.img_size, self.hardware.device, self.hardware.autocast())
        return [(logits.numpy(), presence) for logits, presence in found]


class SessionEngine:
    """An exported student.

    Args:
        name: of the engine.
        session: that runs it.
        record: what export.json says of it.
    """

    def __init__(self, name: str, session: Session, record: dict) -> None:
        self.name, self.session = name, session
        self.num_classes, self.img_size = record["num_classes"], record["img_size"]
        self.threshold = record.get("presence_threshold")

    def run(self, frames: np.ndarray) -> Iterator[tuple[np.ndarray, float | None]]:
        """See `Engine`."""
        for frame in frames:
            outputs = self.session(resize_array(frame, self.img_size)[None, None])
            presence = float(outputs[PRESENCE][0]) if PRESENCE in outputs else None
            yield interpolate(outputs[OUTPUT][0], frame.shape), presence
