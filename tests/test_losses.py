import math

import pytest
import torch
from torch.nn import functional as F

from scripts.losses import DistillationLoss, TaskLoss, class_logits, distill_loss


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_distill_loss_of_one_pixel_equals_hand_computed_value():
    student, teacher, temperature = torch.tensor([[[[0.0]]]]), torch.tensor([[[[2.0]]]]), 2.0
    p = 1 / (1 + math.exp(-1.0))  # sigmoid(teacher / T)
    expected = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert distill_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_distill_loss_sums_classes_and_averages_pixels_and_batch():
    student, teacher = random_logits(3, 4, 5, 6), random_logits(3, 4, 5, 6, seed=1)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    expected = 9 * (p * (p.log() - q.log())).sum() / (3 * 5 * 6)
    torch.testing.assert_close(distill_loss(student, teacher, 3.0), expected)


def test_distill_loss_is_zero_for_identical_logits():
    logits = random_logits(2, 3, 8, 8)
    assert distill_loss(logits, logits, 4.0).item() == pytest.approx(0, abs=1e-6)


def test_one_channel_stands_for_two_classes():
    logits = random_logits(2, 1, 4, 4)
    torch.testing.assert_close(class_logits(logits).softmax(1)[:, 1:], logits.sigmoid())


def test_gradient_keeps_its_scale_over_temperature():
    # for T -> inf the gradient tends to the one of half the squared logit difference (Hinton et al., Sec. 2.1)
    teacher = random_logits(1, 3, 4, 4, seed=1) * 0.1
    norms = []
    for temperature in (20.0, 40.0):
        student = (random_logits(1, 3, 4, 4) * 0.1).requires_grad_()
        distill_loss(student, teacher, temperature).backward()
        norms.append(student.grad.norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_teacher_of_another_size_is_resized_without_aligned_corners():
    student, teacher = random_logits(2, 1, 8, 8), random_logits(2, 1, 4, 4, seed=1)
    resized = F.interpolate(teacher, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(distill_loss(student, teacher, 4.0), distill_loss(student, resized, 4.0))


def test_teacher_and_student_with_different_classes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2, 64, 64\) and student logits \(2, 4, 256, 256\) differ in classes"):
        distill_loss(torch.zeros(2, 4, 256, 256), torch.zeros(2, 2, 64, 64), 4.0)


def test_binary_task_loss_is_half_bce_half_batch_dice():
    logits, label = random_logits(3, 1, 8, 8), (random_logits(3, 1, 8, 8, seed=1) > 0).float()
    p = logits.sigmoid()
    dice = 1 - (2 * (p * label).sum() + 1e-5) / ((p**2).sum() + (label**2).sum() + 1e-5)
    expected = 0.5 * F.binary_cross_entropy_with_logits(logits, label) + 0.5 * dice
    torch.testing.assert_close(TaskLoss(2)(logits, label), expected)


def test_multiclass_task_loss_is_half_cross_entropy_half_dice_over_all_classes():
    logits = random_logits(2, 3, 8, 8)
    label = torch.randint(0, 3, (2, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    p, truth = logits.softmax(1), F.one_hot(label[:, 0], 3).permute(0, 3, 1, 2).float()
    dice = 1 - (2 * (p * truth).sum((0, 2, 3)) + 1e-5) / ((p**2).sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1e-5)
    expected = 0.5 * F.cross_entropy(logits, label[:, 0]) + 0.5 * dice.mean()
    torch.testing.assert_close(TaskLoss(3)(logits, label), expected)


def test_total_is_the_weighted_sum_of_the_terms():
    loss = DistillationLoss(alpha=0.3, beta=0.7, gamma=0.2, student_channels=4, teacher_channels=6).eval()
    terms = loss(
        random_logits(2, 1, 8, 8), torch.ones(2, 1, 8, 8), random_logits(2, 1, 8, 8, seed=1),
        random_logits(2, 4, 2, 2), random_logits(2, 6, 5, 5, seed=1),
    )
    assert all(term.item() > 0 for term in terms)
    torch.testing.assert_close(terms.total, 0.3 * terms.task + 0.7 * terms.distill + 0.2 * terms.feature)


def test_feature_term_reaches_student_and_adapter_and_not_the_teacher():
    loss = DistillationLoss(alpha=0, beta=0, gamma=1, student_channels=4, teacher_channels=6)
    student, teacher = random_logits(2, 4, 3, 3).requires_grad_(), random_logits(2, 6, 3, 3)
    loss(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), None, student, teacher).total.backward()
    assert student.grad.abs().sum() > 0 and loss.adapter[0].weight.grad.abs().sum() > 0 and teacher.grad is None


def test_adapter_can_reach_negative_embeddings():
    loss = DistillationLoss(gamma=1, student_channels=4, teacher_channels=6)
    assert loss.adapter(random_logits(2, 4, 8, 8)).min() < 0


def test_terms_without_weight_are_zero_and_need_no_teacher():
    terms = DistillationLoss(alpha=1, beta=0)(random_logits(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))
    assert terms.distill == 0 and terms.feature == 0 and not DistillationLoss(alpha=1, beta=0).needs_teacher


def test_bfloat16_logits_are_computed_in_float32():
    logits, label = random_logits(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    low = DistillationLoss()(logits.bfloat16(), label, logits.bfloat16())
    assert low.total.dtype == torch.float32 and low.distill.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature must be positive, got 0"),
        ({"temperature": -1}, "temperature must be positive, got -1"),
        ({"temperature": float("nan")}, "temperature must be positive, got nan"),
        ({"alpha": -0.1}, "alpha must not be negative, got -0.1"),
        ({"beta": -1}, "beta must not be negative"),
        ({"gamma": -1}, "gamma must not be negative"),
        ({"alpha": 0, "beta": 0}, "alpha, beta and gamma are all 0"),
        ({"num_classes": 1}, "num_classes must be at least 2"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DistillationLoss(**settings)


def test_missing_teacher_logits_are_named():
    with pytest.raises(ValueError, match="teacher_logits is needed because beta > 0"):
        DistillationLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
