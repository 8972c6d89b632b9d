"""Ignite handlers: what happens around the iterations of a training."""

from .cache_fill import CacheFill
from .checkpoints import Checkpoints, save_atomically
from .last_epoch import LastEpoch
from .mlflow_record import MLflowRecord
from .panel_writer import PanelWriter
from .progress import EpochSeed, EpochSummary, ProgressBar
from .progress_picture import ProgressPicture
from .run_record import RunRecord
from .tensorboard import TensorBoard
from .tracker import Tracker
from .wandb_record import WandbRecord
from .weight_average import AverageUpdate, WeightAverage

__all__ = [
    "AverageUpdate",
    "CacheFill",
    "Checkpoints",
    "EpochSeed",
    "EpochSummary",
    "LastEpoch",
    "MLflowRecord",
    "PanelWriter",
    "ProgressBar",
    "ProgressPicture",
    "RunRecord",
    "TensorBoard",
    "Tracker",
    "WandbRecord",
    "WeightAverage",
    "save_atomically",
]
