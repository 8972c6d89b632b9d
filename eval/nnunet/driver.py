"""Runs one command of nnU-Net v2, in the Python that has it; nothing of the bundle is imported here.

    python driver.py '{"epochs": 50, "iterations": 250, "val_iterations": 50, "threads": 2}' nnUNetv2_train 1 2d 0 ...
    python driver.py '{}' versions

The commands, plans and the trainer are nnU-Net's own (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). Set here is
what they have no option for: the length of a training, and the threads. A checkpoint is kept after each epoch, so that
nnU-Net's `--c` loses little; the training ends without predicting its validation cases, which nnUNetv2_predict does.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import platform
import sys
from importlib import metadata
from typing import Any

PACKAGES = ("nnunetv2", "torch", "dynamic-network-architectures", "batchgeneratorsv2", "numpy")


def main(settings: dict[str, Any], command: str, *words: str) -> None:
    """Run a command of nnU-Net, or print what this file is asked for as JSON."""
    if command == "versions":
        print(json.dumps({"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}))
    elif command == "parameters":
        print(json.dumps(count_parameters(*words)))
    else:
        if settings.get("threads"):
            # what nnU-Net gives torch as its number of threads on a processor
            multiprocessing.cpu_count = lambda: settings["threads"]
        if command == "nnUNetv2_train":
            set_length(settings["epochs"], settings["iterations"], settings["val_iterations"])
        sys.argv = [command, *words]
        (entry,) = metadata.entry_points(group="console_scripts", name=command)
        entry.load()()


def version(name: str) -> str | None:
    """Of a package; None where it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def count_parameters(checkpoint: str) -> int:
    """Of the network in a checkpoint; tensors that it holds under two names count once."""
    import numpy as np
    import torch

    # of the training's curves, whose numbers are numpy's; nothing else that a pickle could call is let in
    numbers = [np.float64(0).__reduce__()[0], np.dtype, type(np.dtype("f4")), type(np.dtype("f8"))]
    with torch.serialization.safe_globals(numbers):
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["network_weights"]
    return sum({tensor.data_ptr(): tensor.numel() for tensor in weights.values()}.values())


def set_length(epochs: int, iterations: int, val_iterations: int) -> None:
    """Let nnU-Net's trainer train so many epochs of so many iterations; nothing of how it trains is changed."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    build = nnUNetTrainer.__init__

    @functools.wraps(build)  # the trainer looks at the signature of its own __init__
    def build_with_length(self: nnUNetTrainer, *arguments: Any, **options: Any) -> None:
        build(self, *arguments, **options)
        self.num_epochs, self.num_iterations_per_epoch = epochs, iterations
        self.num_val_iterations_per_epoch, self.save_every = val_iterations, 1

    nnUNetTrainer.__init__ = build_with_length
    nnUNetTrainer.perform_actual_validation = lambda self, *arguments, **options: None


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose files are no modules for nnU-Net to find
    main(json.loads(sys.argv[1]), *sys.argv[2:])
