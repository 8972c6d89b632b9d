"""Images without a lesion in the loss and in the validation score: a false lesion costs, an empty answer is right."""

import pytest
import torch

from scripts.loss_terms import Batch, IntraRelation, Task
from scripts.metrics import SegmentationScore

EMPTY, FALSE = -6.0, 6.0


def answer(channels, value=None):
    """Logits (2, channels, 16, 16) of an empty answer; with a value, the first image has a lesion of class 1 or 2."""
    logits = torch.zeros(2, channels, 16, 16)
    if channels == 1:
        logits[:] = EMPTY
    else:
        logits[:, 0] = -EMPTY
    if value is not None:
        logits[0, -1, 4:9, 4:9] = value
        if channels > 1:
            logits[0, 0, 4:9, 4:9] = -value
    return logits.requires_grad_()


def labels(second=False):
    label = torch.zeros(2, 1, 16, 16)
    label[1, :, 8:12, 8:12] = float(second)
    return label


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("second", [False, True])
def test_false_lesion_costs_and_is_pushed_away(channels, second):
    """In a batch without any lesion, and in one where another image has one."""
    term, label = Task(num_classes=2 if channels == 1 else channels), labels(second)
    quiet, wrong = answer(channels), answer(channels, FALSE)
    assert term(Batch(wrong, label)) > term(Batch(quiet, label)) + 0.02
    term(Batch(wrong, label)).backward()
    assert wrong.grad.isfinite().all()
    assert (wrong.grad[0, -1, 4:9, 4:9] > 0).all()  # a step lowers these logits


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 5, 100])
def test_gradient_of_an_empty_batch_is_finite_however_sure_the_answer(channels, scale):
    logits = (answer(channels).detach() * scale).requires_grad_()
    value = Task(num_classes=2 if channels == 1 else channels)(Batch(logits, labels()))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() < 0.1


def test_relation_to_a_teacher_that_finds_nothing_is_finite():
    logits = answer(1, FALSE)
    value = IntraRelation(1.0)(Batch(logits, labels(), torch.full((2, 1, 16, 16), EMPTY)))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_validation_score_of_an_empty_answer_is_1_and_of_a_false_lesion_0(num_classes):
    score = SegmentationScore(num_classes, lambda output: output)
    score.reset()
    empty, false = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    false[:, :4] = num_classes - 1
    score.update(([empty, false], [empty, empty]))
    right, wrong = (case["dice"] for case in score.scores.cases)
    assert right == 1
    assert wrong == (0 if num_classes == 2 else 0.5)  # of three classes one is right
