"""The distillation loop: monai's SupervisedTrainer with a frozen teacher beside the student.

Each iteration is SupervisedTrainer's own; when the student's forward is done the teacher sees the same images, and the
loss reads both. The trainer imports neither a network nor a loss: it is given them. Several ranks (see distributed.py)
end together.

Shapes: B batch, C classes, H W pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents, SupervisedEvaluator, SupervisedTrainer
from monai.handlers import EarlyStopHandler, stopping_fn_from_metric
from monai.utils import CommonKeys as Keys
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .run.distributed import naming_lost_ranks

logger = logging.getLogger(__name__)

GO_ON = (
    "nothing but the unfinished epoch is lost. torchrun --max-restarts 3 starts all again from the last epoch; without "
    "it pass "
    "--training::resume and the run folder."
)
# options of SupervisedTrainer that this trainer does not implement: their neutral value, and why
UNSUPPORTED = {
    "compile": (False, "it renames the student's saved weights"),
    "amp": (False, "it would clip scaled gradients; pass --hardware::precision bf16"),
    "accumulation_steps": (1, "it would clip before the gradient is complete; lower --training::batch_size instead"),
}


class DistillationTrainer(SupervisedTrainer):
    """Trains the student (`network`) against the labels and a frozen teacher.

    `engine.state.loss_terms` holds the latest detached terms by name: task, distill, feature.

    Args:
        loss_function: called with (student_logits, label, teacher_logits, student_features, teacher_features), the last
            three None where there are none; returns a named tuple whose first item is the total. Its `needs_teacher`
            tells whether the teacher runs at all. It and `network` may come in DistributedDataParallel.
        teacher: images -> named tuple of `logits` and `features`; None trains on the ground truth alone (the control).
            It is frozen here, and is neither in `network` nor in the optimizer. One that `reads_views` is called with
            the batch's item "view" too, by which it finds what it has kept.
        max_grad_norm: gradients of all optimized parameters are clipped to this norm; None does not clip.
        kwargs: SupervisedTrainer's, but for `compile`.

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
                "terms to 0 "
                "(--distillation::beta 0, and gamma and what else was switched on)."
            )
        super().__init__(loss_function=self._objective, **kwargs)
        self.criterion = loss_function.to(self.state.device)
        self.teacher = freeze(teacher).to(self.state.device) if needs_teacher else None
        self.max_grad_norm = max_grad_norm
        self.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._run_teacher)
        self.add_event_handler(IterationEvents.LOSS_COMPLETED, self._require_finite_loss)
        self.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip_gradients)

    @torch.no_grad()
    def _run_teacher(self) -> None:
        self._teacher_output = None
        if self.teacher:
            view = (self.state.batch["view"],) if getattr(self.teacher, "reads_views", False) else ()
            self._teacher_output = self.inferer(self.state.output[Keys.IMAGE], self.teacher, *view)

    def _objective(self, student: Any, label: torch.Tensor) -> torch.Tensor:
        student_logits, student_features = student if isinstance(student, tuple) else (student, None)
        teacher_logits, teacher_features = self._teacher_output or (None, None)
        terms = self.criterion(student_logits, label, teacher_logits, student_features, teacher_features)
        self.state.output[Keys.PRED] = student_logits
        self.state.loss_terms = {name: float(value.detach()) for name, value in zip(terms._fields[1:], terms[1:])}
        self._teacher_output = None
        return terms[0]

    def _require_finite_loss(self) -> None:
        loss = float(self.state.output[Keys.LOSS].detach())
        finding = "" if math.isfinite(loss) else f"the loss is {loss} {self.state.loss_terms}"
        if idist.all_reduce(int(finding != ""), "MAX"):  # of any rank
            self._stop(finding)

    def _clip_gradients(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        limit = math.inf if self.max_grad_norm is None else self.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))  # of the mean gradient, the same on all ranks
        if not math.isfinite(norm):
            self._stop(f"the norm of the gradient is {norm}")

    def _stop(self, finding: str) -> None:
        """End the run on all ranks before the optimizer's step would spoil the weights; "" is the finding where
        others made it.
        """
        own = (finding, [str(case) for case in self.state.batch.get("case", ["(unknown)"])])
        found = [(text, cases) for text, cases in idist.all_gather(own) if text]
        files = ", ".join(case for _, cases in found for case in cases)
        raise FloatingPointError(
            f"{found[0][0]} in epoch {self.state.epoch}, iteration {self.state.iteration}; the last good checkpoint is "
            "kept. "
            f"Files of the batch: {files}. "
            "Look at these files, lower --training::lr, or pass --hardware::precision fp32."
        )


def freeze(teacher: nn.Module) -> nn.Module:
    """The teacher without gradients and in eval mode; nothing trains it, since it is not part of the network."""
    return teacher.requires_grad_(False).eval()


def bare(module: nn.Module) -> nn.Module:
    """The module itself, taken out of DistributedDataParallel, whose names of weights differ."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def _restore_patience(trainer: Engine, evaluator: Engine, stopper: EarlyStopHandler, val_interval: int) -> None:
    """Count the validations without a better metric as the run did that this one goes on from."""
    best = evaluator.state.best_metric_epoch
    if trainer.state.epoch == 0 or best < 1:
        return
    stopper.best_score = evaluator.state.best_metric
    stopper.counter = (trainer.state.epoch - best) // val_interval
    if stopper.counter >= stopper.patience:
        logger.info("the run had stopped early: no better validation in %d", stopper.counter)
        trainer.terminate()


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
    seed: int = 0,
    resume: str | None = None,
    val_interval: int = 1,
    run_folder: Any = None,
    final_evaluation: Callable[[], Any] | None = None,
    on_completion: Callable[[], Any] | None = None,
) -> SupervisedTrainer:
    """Run a training: the config section `training`, at once its hyper-parameters and its start.

    Args:
        trainer: built from the other arguments by the config.
        evaluator: its key metric decides on early stopping.
        num_epochs: passes over the training list.
        lr: AdamW's, of the last layer.
        warmup_epochs: of linear warm-up.
        batch_size: images an iteration; of several ranks each takes as many.
        num_workers: data-loading processes, at most the machine's cores.
        patience: early stopping after this many validations without a better key metric; 0 never stops early.
        ema_decay: of the averaged weights that are validated and kept, see `handlers.WeightAverage`; 0 keeps the
            weights as they are.
        seed: of the weights, the order of the images and their augmentation.
        resume: run folder or checkpoint that this run goes on from.
        val_interval: epochs between validations.
        run_folder: offers `best_model()`, the file of the best weights, for the final evaluation.
        final_evaluation: called with the best weights in the network when the training is over; None leaves it out.
        on_completion: called last; None calls nothing.
    """
    if patience < 0:
        raise ValueError(f"training::patience must not be negative, got {patience}; 0 never stops early.")
    if isinstance(val_interval, str) or not 1 <= val_interval <= num_epochs:
        raise ValueError(f"val_interval must be from 1 to training::num_epochs ({num_epochs}), got {val_interval}.")
    if patience:
        stopper = EarlyStopHandler(patience, stopping_fn_from_metric(evaluator.state.key_metric_name), trainer)
        stopper.attach(evaluator)
        # after the checkpoint's
        trainer.add_event_handler(Events.STARTED, _restore_patience, evaluator, stopper, val_interval)
    logger.info(
        "training on %s: %d epochs of %s iterations, batch size %d, %d workers, lr %g, %d warm-up epochs, seed %d%s",
        trainer.state.device,
        trainer.state.max_epochs,
        trainer.state.epoch_length,
        batch_size,
        num_workers,
        lr,
        warmup_epochs,
        seed,
        f", resumed from {resume}" if resume else "",
    )
    with naming_lost_ranks(GO_ON):
        trainer.run()
        idist.barrier()  # rank 0 has written its last file
    if final_evaluation:
        best = run_folder.best_model()
        logger.info("evaluating %s on the test list", best)
        bare(trainer.network).load_state_dict(torch.load(best, weights_only=True, map_location=trainer.state.device))
        final_evaluation()
    if on_completion and idist.get_rank() == 0:
        on_completion()
    return trainer
