"""The validation of a training that has nothing to be validated on."""

from __future__ import annotations

from monai.engines import Evaluator


class LastEpoch(Evaluator):
    """An evaluator that looks at nothing: every epoch counts as the best so far, and the last one's weights are kept.

    For a training without labels, such as configs/pretrain.json.
    """

    def __init__(self) -> None:
        super().__init__(device="cpu", val_data_loader=[None])

    def run(self, global_epoch: int = 1) -> None:
        """Take the epoch as the best.

        Args:
            global_epoch: of the training.
        """
        self.state.epoch = self.state.best_metric_epoch = global_epoch
        self.state.best_metric = 0.0
