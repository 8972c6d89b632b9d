"""A run in MLflow: parameters, origin, metrics, files, and the student as a model with its signature.

By default in a SQLite file of this machine, since MLflow no longer keeps runs in plain files.

Legend: B batch, C classes, S side in pixels.
"""

from __future__ import annotations

import atexit
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import path_to_sqlite_uri, path_to_uri

from ..run.tracking import Record, TrackedRun
from ..utils.machine import list_versions
from ..utils.weight_files import read_weight_file

# what a logged model needs to be loaded
MODEL_PACKAGES = ("torch", "numpy")


class MLflowRecord(Record):
    """Records a run in MLflow.

    Args:
        run: what is recorded.
        store: folder of mlflow.db and of the artifacts.
        experiment: that the run belongs to.
        tracking_uri: of another store, such as an MLflow server; None takes the SQLite file in `store`.
        log_model: keep the trained network with its signature, as a program of torch.export.
        img_size: side of the network's input, in pixels.

    Raises:
        ValueError: mlflow is not installed, or the store is one that MLflow has given up.
    """

    package = "mlflow"

    def __init__(
        self,
        run: TrackedRun,
        store: str | Path,
        experiment: str,
        tracking_uri: str | None = None,
        log_model: bool = True,
        img_size: int = 224,
    ) -> None:
        super().__init__(run)
        if tracking_uri and (tracking_uri.startswith("file:") or "://" not in tracking_uri):
            raise ValueError(
                f"mlflow_record::tracking_uri {tracking_uri!r} is a folder, in which MLflow no longer keeps runs; "
                "leave it out for a SQLite file in mlflow_record::store, or pass sqlite:///PATH or a server's address."
            )
        self.store, self.experiment = Path(store).absolute(), experiment
        self.tracking_uri = tracking_uri or path_to_sqlite_uri(self.store / "mlflow.db")
        self.log_model, self.img_size = log_model, img_size

    def _open(self, id: str | None) -> str:
        self.store.mkdir(parents=True, exist_ok=True)
        self.client = self.module.MlflowClient(tracking_uri=self.tracking_uri)
        if id is None:
            id = self.client.create_run(self._experiment_id(), run_name=self.run.name).info.run_id
        else:
            self._reopen(id)
        atexit.register(self.client.set_terminated, id, "FAILED")  # of a process that ends before `_close`
        self._describe(id)
        return id

    def _reopen(self, id: str) -> None:
        try:
            self.client.set_terminated(id, "RUNNING")
        except self.module.MlflowException as error:
            raise ValueError(
                f"{self._state_file} says that this is the run {id} of MLflow, but the store does not give it "
                f"({error}); pass the "
                "mlflow_record::store or mlflow_record::tracking_uri of the earlier run, or remove the file to begin a "
                "record."
            ) from error

    def _experiment_id(self) -> str:
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment:
            return experiment.experiment_id
        local = self.tracking_uri.startswith("sqlite:")  # a server has its own place
        return self.client.create_experiment(self.experiment, path_to_uri(self.store / "artifacts") if local else None)

    def _describe(self, id: str) -> None:
        """Parameters are for good: those that a resumed run has changed, such as the number of epochs, become tags."""
        recorded = self.client.get_run(id).data.params
        params = {name: str(value) for name, value in self.run.params().items()}
        changed = {f"resumed.{name}": value for name, value in params.items() if recorded.get(name, value) != value}
        entities = self.module.entities
        self.client.log_batch(
            id,
            params=[entities.Param(name, value) for name, value in params.items() if name not in recorded],
            tags=[entities.RunTag(name, value) for name, value in {**self.run.origin(), **changed}.items()],
        )

    def _log_epoch(self, values: Mapping[str, float], epoch: int) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.id, [self.module.entities.Metric(name, value, now, epoch) for name, value in values.items()]
        )

    def _log_results(self, figures: Mapping[str, float], panels: Sequence[Path], files: Sequence[Path]) -> None:
        self._log_epoch(figures, self.last_epoch)
        for path in files:
            self.client.log_artifact(self.id, str(path))
        for path in panels:
            self.client.log_artifact(self.id, str(path), "visualizations")
        if self.network is not None and self.log_model:
            self._log_model()

    def _log_model(self) -> None:
        """The best epoch's network as a model, or the file alone where it holds a part of the network."""
        if not self.run.keeps_whole_network:
            self.client.log_artifact(self.id, str(self.run.best_weights()), "models")
            return
        network = copy.deepcopy(getattr(self.network, "module", self.network)).cpu().eval()  # module: of several ranks
        network.load_state_dict(read_weight_file(self.run.best_weights(), "the run's best file"))
        images = torch.zeros(2, 1, self.img_size, self.img_size)  # two: torch.export would fix a batch of one
        with torch.no_grad():
            logits = network(images)
        versions = list_versions()
        with self._active():
            self.module.pytorch.log_model(
                network,
                name="student",
                signature=_signature(images, logits),
                input_example=images.numpy(),
                serialization_format="pt2",
                # it would send the example as JSON lists, which the PyTorch flavor does not take
                validate_serving_input=False,
                pip_requirements=[f"{name}=={versions[name]}" for name in MODEL_PACKAGES],
            )

    @contextmanager
    def _active(self) -> Iterator[None]:
        """The run as MLflow's active one, which log_model wants; what the program had set before comes back."""
        former = self.module.get_tracking_uri() if self.module.tracking.is_tracking_uri_set() else None
        self.module.set_tracking_uri(self.tracking_uri)
        try:
            with self.module.start_run(run_id=self.id, nested=True):
                yield
        finally:
            self.module.set_tracking_uri(former)

    def _close(self) -> None:
        self.client.set_terminated(self.id, "FINISHED")
        atexit.unregister(self.client.set_terminated)


def _signature(images: torch.Tensor, logits: torch.Tensor) -> Any:
    """MLflow's ModelSignature: images (B, 1, S, S) in [0, 1] -> logits (B, C, S, S), whatever B."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    named = {"image": images, "pred": logits}
    image, pred = (TensorSpec(np.dtype(np.float32), (-1, *tensor.shape[1:]), name) for name, tensor in named.items())
    return ModelSignature(Schema([image]), Schema([pred]))
