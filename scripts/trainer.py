"""The distillation loop: monai's SupervisedTrainer with a frozen teacher beside the student.

The trainer imports neither a network nor a loss: it is given them. Several ranks (see run/distributed.py) end together.

Shapes: B batch, C classes, D channels, H W pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.engines import IterationEvents, SupervisedEvaluator, SupervisedTrainer
from monai.handlers import stopping_fn_from_metric
from monai.utils import CommonKeys as Keys
from torch import nn

from .run.distributed import bare, naming_lost_ranks
from .run.errors import NOTHING_KEPT, stopping, this_command
from .run.run_folder import LAST_CHECKPOINT, RunFolder
from .utils.screen import tell
from .utils.weight_files import read_weight_file

logger = logging.getLogger(__name__)

RESTART_ADVICE = (
    "nothing but the unfinished epoch is lost. torchrun --max-restarts 3 starts all again from the last epoch; without "
    "it pass --training::resume and the run folder, where an epoch is complete."
)
# options of SupervisedTrainer that this trainer does not implement: their neutral value, and why
UNSUPPORTED = {
    "compile": (False, "it renames the student's saved weights"),
    "amp": (False, "it would clip scaled gradients; pass --hardware::precision bf16"),
    "accumulation_steps": (1, "it would clip before the gradient is complete; lower --training::batch_size instead"),
}


class DistillationTrainer(SupervisedTrainer):
    """Trains the student (`network`) against the labels and a frozen teacher.

    `engine.state.loss_terms` holds the latest terms of the loss by name, as numbers.

    Args:
        loss_function: called with (student_logits, label, teacher_logits, student_features, teacher_features), the last
            three None where there are none; returns a dict of scalars with the total as `loss`. Its `needs_teacher`
            tells whether the teacher runs at all. It and `network` may come in DistributedDataParallel.
        teacher: images -> named tuple of `logits` and `features`; None trains on the ground truth alone (the control).
            It is frozen here, and is neither in `network` nor in the optimizer. One that `reads_views` is called with
            the batch's item "view" too, by which it finds what it has kept.
        max_grad_norm: gradients of all optimized parameters are clipped to this norm; None does not clip.
        kwargs: SupervisedTrainer's, but for `compile`, `amp` and `accumulation_steps`.

    Raises:
        ValueError: the loss needs a teacher and there is none, or an option this trainer does not implement.
    """

    def __init__(
        self,
        loss_function: nn.Module,
        teacher: nn.Module | None = None,
        max_grad_norm: float | None = 1.0,
        **kwargs: Any,
    ) -> None:
        for name, (neutral, reason) in UNSUPPORTED.items():
            if kwargs.get(name, neutral) != neutral:
                raise ValueError(f"{name} {kwargs[name]} is not supported by DistillationTrainer: {reason}.")
        needs_teacher = bare(loss_function).needs_teacher
        if needs_teacher and teacher is None:
            raise ValueError(
                "a term of the loss reads the teacher, but there is no teacher; give one, or set the weights of these "
                "terms to 0 (--distillation::beta 0, and gamma and what else was switched on)."
            )
        super().__init__(loss_function=loss_function, **kwargs)
        self.loss_function.to(self.state.device)
        self.teacher = freeze(teacher).to(self.state.device) if needs_teacher else None
        self.max_grad_norm = max_grad_norm

    def _iteration(self, engine: Engine, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """One step; monai's events are fired where SupervisedTrainer fires them."""
        image, label = self.prepare_batch(batchdata, self.state.device, self.non_blocking, **self.to_kwargs)
        output = self.state.output = {Keys.IMAGE: image, Keys.LABEL: label}

        teacher_logits, teacher_features = self._ask_teacher(image, batchdata)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=self.optim_set_to_none)
        student = self.inferer(image, self.network)
        student_logits, student_features = student if isinstance(student, tuple) else (student, None)
        output[Keys.PRED] = student_logits
        self.fire_event(IterationEvents.FORWARD_COMPLETED)

        terms = self.loss_function(student_logits, label, teacher_logits, student_features, teacher_features)
        output[Keys.LOSS] = terms.pop("loss")
        self.state.loss_terms = {name: float(value.detach()) for name, value in terms.items()}
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self._require_finite(output[Keys.LOSS])

        output[Keys.LOSS].backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self._clip_gradients()
        self.optimizer.step()
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.state.output

    @torch.no_grad()
    def _ask_teacher(self, image: torch.Tensor, batch: Mapping[str, Any]) -> tuple[torch.Tensor | None, ...]:
        """Logits (B, 1 or C, h, w) and features (B, D, h', w') of images; (None, None) without a teacher."""
        if self.teacher is None:
            return None, None
        view = (batch["view"],) if getattr(self.teacher, "reads_views", False) else ()
        return self.inferer(image, self.teacher, *view)

    def _require_finite(self, loss: torch.Tensor) -> None:
        value = float(loss.detach())
        problem = "" if math.isfinite(value) else f"the loss is {value} {self.state.loss_terms}"
        if idist.all_reduce(int(problem != ""), "MAX"):  # of any rank
            self._stop(problem)

    def _clip_gradients(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))  # of the mean gradient, the same on all ranks
        if not math.isfinite(norm):
            self._stop(f"the norm of the gradient is {norm}")

    def _stop(self, problem: str) -> None:
        """End the run on all ranks before the optimizer's step would spoil the weights; "" is a problem of others."""
        reports = idist.all_gather((problem, [str(case) for case in self.state.batch.get("case", ["(unknown)"])]))
        reports = [(text, cases) for text, cases in reports if text]
        files = ", ".join(case for _, cases in reports for case in cases)
        raise FloatingPointError(
            f"{reports[0][0]} in epoch {self.state.epoch}, iteration {self.state.iteration}. "
            f"Files of the batch: {files}. Look at these, lower --training::lr, or pass --hardware::precision fp32."
        )


def freeze(teacher: nn.Module) -> nn.Module:
    """The teacher without gradients and in eval mode; nothing trains it, since it is not part of the network."""
    return teacher.requires_grad_(False).eval()


def run_training(
    trainer: SupervisedTrainer,
    evaluator: SupervisedEvaluator,
    num_epochs: int = 150,
    lr: float = 1e-4,
    warmup_epochs: int = 5,
    batch_size: int = 16,
    num_workers: int = 8,
    patience: int = 30,
    ema_decay: float = 0.0,
    balance: str | None = None,
    balance_power: float = 0.5,
    seed: int = 0,
    resume: str | None = None,
    val_interval: int = 1,
    run_folder: RunFolder | None = None,
    final_evaluation: Callable[[], Any] | None = None,
    on_completion: Callable[[], Any] | None = None,
) -> SupervisedTrainer:
    """Run a training: the config section `training`, at once its hyper-parameters and its start.

    Args:
        trainer: built from the other arguments by the config.
        evaluator: its key metric decides on early stopping.
        num_epochs: passes over the training list. [1 or more]
        lr: learning rate of AdamW, of the last layer. [above 0]
        warmup_epochs: epochs in which the learning rate rises to lr. [0 to below num_epochs]
        batch_size: images in a training step; with several processes each takes as many. [1 or more]
        num_workers: processes that load images, at most one a core. [0 or more]
        patience: early stopping after this many validations without a better Dice; 0 never stops early. [0 or more]
        ema_decay: decay of the running average of the weights, which is validated and kept; 0 keeps the last weights.
            [0 to below 1]
        balance: column of the datalist, such as device or set, whose rare values come more often in an epoch, and the
            others less; null takes every image once. [name of a column, null]
        balance_power: 0 gives every value of the column as many images, 1 leaves the list as it is, 0.5 is square-root
            sampling. [0 to 1]
        seed: of new weights, the order of the images and their augmentation. [0 or more]
        resume: run folder or checkpoint from which this run goes on. [path, null]
        val_interval: epochs between validations. [1 to num_epochs]
        run_folder: where the run writes.
        final_evaluation: called with the best weights in the network when the training is over; None leaves it out.
        on_completion: called last; None calls nothing.
    """
    if patience < 0:
        raise ValueError(f"training::patience must not be negative, got {patience}; 0 never stops early.")
    if isinstance(val_interval, str) or not 1 <= val_interval <= num_epochs:
        raise ValueError(f"val_interval must be from 1 to training::num_epochs ({num_epochs}), got {val_interval}.")
    _check_views(trainer)
    if patience:
        _stop_early(trainer, evaluator, patience, val_interval)
    start = f", resumed from {resume}" if resume else ""
    logger.info(
        "training on %s: %d epochs of %s iterations, batch size %d, %d workers, lr %g, %d warm-up epochs, seed %d%s",
        *(trainer.state.device, trainer.state.max_epochs, trainer.state.epoch_length, batch_size, num_workers),
        *(lr, warmup_epochs, seed, start),
    )
    with _alone(trainer, run_folder), stopping(lambda: _advice(run_folder)):
        with naming_lost_ranks(RESTART_ADVICE), _naming_kept_epochs(run_folder):
            trainer.run()
            idist.barrier()  # rank 0 has written its last file
        if final_evaluation:
            _load_best(trainer, run_folder)
            final_evaluation()
        if on_completion and idist.get_rank() == 0:
            on_completion()
    return trainer


def _check_views(trainer: SupervisedTrainer) -> None:
    """What the training's images say of their own views, before a teacher or an epoch has cost hours."""
    dataset = getattr(trainer.state.dataloader, "dataset", None) or getattr(trainer.data_loader, "dataset", None)
    if hasattr(dataset, "check_views"):
        dataset.check_views()


@contextmanager
def _alone(trainer: Engine, run_folder: RunFolder | None) -> Iterator[None]:
    """The folder's lock is held until the results are there; the run's record, which makes the folder, has it for the
    epochs alone.
    """
    if run_folder is None or idist.get_rank() > 0:
        yield
        return
    started = trainer.add_event_handler(Events.STARTED, run_folder.lock)
    try:
        yield
    finally:
        started.remove()
        run_folder.unlock()


@contextmanager
def _naming_kept_epochs(run_folder: RunFolder | None) -> Iterator[None]:
    """What a run keeps that ends because a number is not finite; the same command would end there again."""
    try:
        yield
    except FloatingPointError as error:
        epochs = _completed(run_folder)
        kept = f"The {_first(epochs)} kept in {run_folder.path}" if epochs else "No epoch is complete yet"
        raise FloatingPointError(f"{error} {kept}.") from error


def _stop_early(trainer: Engine, evaluator: Engine, patience: int, val_interval: int) -> None:
    score = stopping_fn_from_metric(evaluator.state.key_metric_name)
    stopper = EarlyStopping(patience, score, trainer)  # monai's handler hides the one that counts
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, stopper)
    # after the checkpoint's handler has restored the epoch
    trainer.add_event_handler(Events.STARTED, _restore_patience, evaluator, stopper, val_interval)


def _restore_patience(trainer: Engine, evaluator: Engine, stopper: EarlyStopping, val_interval: int) -> None:
    """Count the validations without a better metric as the run did that this one goes on from."""
    best = evaluator.state.best_metric_epoch
    if trainer.state.epoch == 0 or best < 1:
        return
    stopper.best_score = evaluator.state.best_metric
    stopper.counter = (trainer.state.epoch - best) // val_interval
    if stopper.counter >= stopper.patience:
        tell(f"no better validation in {stopper.counter} epochs: pass a higher --training::patience to go on")
        trainer.terminate()


def _load_best(trainer: SupervisedTrainer, run_folder: RunFolder) -> None:
    best = run_folder.best_model()
    if idist.get_rank() == 0:
        tell(f"evaluating {best.name} on the test list")
    bare(trainer.network).load_state_dict(read_weight_file(best, "the run's best file"))


def _advice(run_folder: RunFolder | None) -> str:
    """What a training keeps when it is stopped, and the command that goes on."""
    epochs = _completed(run_folder)
    if not epochs:
        return f"{NOTHING_KEPT}; start again with: {this_command()}"
    command = this_command(training__resume=str(run_folder.path))
    return f"the {_first(epochs)} kept in {run_folder.path}; go on with: {command}"


def _first(epochs: int) -> str:
    return "first epoch is" if epochs == 1 else f"first {epochs} epochs are"


def _completed(run_folder: RunFolder | None) -> int:
    """Epochs that a resumed run would not repeat."""
    last = run_folder.models / LAST_CHECKPOINT if run_folder else None
    if last is None or not last.is_file():
        return 0
    return read_weight_file(last, "the checkpoint", lambda content: content["progress"], mmap=True)["epoch"]
