"""Ignite handlers: what happens around the iterations of a training."""

from .cache_fill import CacheFill
from .checkpoints import Checkpoints, save_atomically
from .panel_writer import PanelWriter
from .progress import EpochSeed, EpochSummary, ProgressBar
from .run_record import RunRecord
from .tensorboard import TensorBoard

__all__ = [
    "CacheFill", "Checkpoints", "EpochSeed", "EpochSummary", "PanelWriter", "ProgressBar", "RunRecord", "TensorBoard", "save_atomically",
]
