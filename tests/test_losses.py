import csv
import json
import math
from inspect import signature

import pytest
import torch
from conftest import CONFIGS, TINY, root_cause, run
from torch.nn import functional as F

from scripts.loss_terms import (
    Batch,
    ChannelWise,
    InterRelation,
    IntraRelation,
    Task,
    Term,
    boundary_mask,
    divergence,
    gate_weight,
)
from scripts.losses import DistillationLoss, distillation_loss, resize, shrink, task_loss
from scripts.metrics import class_logits
from scripts.networks.tinyusfm import TinyUSFMSeg


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distill_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """The divergence from the teacher, from a loss that has no other term."""
    label = torch.zeros(len(student), 1, *student.shape[-2:])
    loss = distillation_loss(temperature, alpha=0, beta=1, num_classes=max(2, student.shape[1]))
    return loss(student, label, teacher)["distill"]


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
    torch.testing.assert_close(Task(1.0, 2)(Batch(logits, label)), expected)


def test_multiclass_task_loss_is_half_cross_entropy_half_dice_over_all_classes():
    logits = random_logits(2, 3, 8, 8)
    label = torch.randint(0, 3, (2, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    p, truth = logits.softmax(1), F.one_hot(label[:, 0], 3).permute(0, 3, 1, 2).float()
    dice = 1 - (2 * (p * truth).sum((0, 2, 3)) + 1e-5) / ((p**2).sum((0, 2, 3)) + truth.sum((0, 2, 3)) + 1e-5)
    expected = 0.5 * F.cross_entropy(logits, label[:, 0]) + 0.5 * dice.mean()
    torch.testing.assert_close(Task(1.0, 3)(Batch(logits, label)), expected)


def test_total_is_the_weighted_sum_of_the_terms():
    loss = distillation_loss(alpha=0.3, beta=0.7, gamma=0.2, student_channels=4, teacher_channels=6).eval()
    terms = loss(
        random_logits(2, 1, 8, 8),
        torch.ones(2, 1, 8, 8),
        random_logits(2, 1, 8, 8, seed=1),
        random_logits(2, 4, 2, 2),
        random_logits(2, 6, 5, 5, seed=1),
    )
    assert all(term.item() > 0 for term in terms.values())
    torch.testing.assert_close(terms["loss"], 0.3 * terms["task"] + 0.7 * terms["distill"] + 0.2 * terms["feature"])


def test_feature_term_reaches_student_and_adapter_and_not_the_teacher():
    loss = distillation_loss(alpha=0, beta=0, gamma=1, student_channels=4, teacher_channels=6)
    student, teacher = random_logits(2, 4, 3, 3).requires_grad_(), random_logits(2, 6, 3, 3)
    loss(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), None, student, teacher)["loss"].backward()
    assert student.grad.abs().sum() > 0
    assert loss.terms["feature"].adapter[0].weight.grad.abs().sum() > 0
    assert teacher.grad is None


def test_adapter_can_reach_negative_embeddings():
    loss = distillation_loss(gamma=1, student_channels=4, teacher_channels=6)
    assert loss.terms["feature"].adapter(random_logits(2, 4, 8, 8)).min() < 0


def test_terms_without_weight_are_absent_and_need_no_teacher():
    loss = distillation_loss(alpha=1, beta=0)
    assert list(loss(random_logits(2, 1, 8, 8), torch.zeros(2, 1, 8, 8))) == ["loss", "task"]
    assert not loss.needs_teacher


def test_loss_of_a_control_is_the_task_alone():
    loss, logits, label = task_loss(3), random_logits(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    terms = loss(logits, label)
    assert list(terms) == ["loss", "task"]
    assert torch.equal(terms["loss"], Task(1.0, 3)(Batch(logits, label)))
    assert not loss.needs_teacher
    assert not loss.needs_features
    assert loss.student_features is None
    assert loss.settings == {"alpha": 1.0, "beta": 0.0, "gamma": 0.0}
    assert not list(loss.parameters())


class MeanLogit(Term):
    """A term that losses.py does not know."""

    key = "mean_logit"

    def forward(self, batch: Batch) -> torch.Tensor:
        return batch.student_logits.mean()


def test_new_term_is_one_class_and_one_key():
    loss = DistillationLoss({"task": Task(0.5), "level": MeanLogit(2.0), "off": MeanLogit(0.0)})
    logits, label = random_logits(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    terms = loss(logits, label)
    assert list(terms) == ["loss", "task", "level"]
    torch.testing.assert_close(terms["level"], logits.mean())
    torch.testing.assert_close(terms["loss"], 0.5 * terms["task"] + 2.0 * logits.mean())
    assert loss.settings["mean_logit"] == 2.0


def test_bfloat16_logits_are_computed_in_float32():
    logits, label = random_logits(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    low = distillation_loss()(logits.bfloat16(), label, logits.bfloat16())
    assert low["loss"].dtype == torch.float32
    assert low["distill"].item() == pytest.approx(0, abs=1e-6)


# the further terms

EXTRAS = {"boundary": 0.3, "cwd": 0.2, "dist_intra": 0.4}
LOGIT_TERMS = [{name: weight} for name, weight in EXTRAS.items()]


def batch(channels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student logits, a label of two or more classes in blobs, and a teacher of half the size."""
    coarse = torch.randint(0, max(2, channels), (2, 1, 4, 4), generator=torch.Generator().manual_seed(2))
    label = F.interpolate(coarse.float(), scale_factor=4, mode="nearest")
    return 3 * random_logits(2, channels, 16, 16), label, 3 * random_logits(2, channels, 8, 8, seed=1)


def enlarged(teacher: torch.Tensor) -> torch.Tensor:
    return F.interpolate(teacher, size=(16, 16), mode="bilinear", align_corners=False)


def loss_of(channels: int, **settings) -> DistillationLoss:
    return distillation_loss(num_classes=max(2, channels), **settings)


@pytest.mark.parametrize("channels", [1, 3])
def test_terms_that_are_off_leave_the_plain_loss_bit_for_bit(channels):
    student, label, teacher = batch(channels)
    off = dict.fromkeys(("boundary", "cwd", "dist_intra", "dist_inter", "mgd"), 0.0)
    terms = loss_of(channels, alpha=0.3, beta=0.7, gate="none", teacher_temperature=1.0, **off)(student, label, teacher)
    task, distill = Task(1.0, max(2, channels))(Batch(student, label)), distill_loss(student, teacher, 4.0)
    assert list(terms) == ["loss", "task", "distill"]
    assert torch.equal(terms["loss"], 0.3 * task + 0.7 * distill)
    assert torch.equal(terms["distill"], distill)


@pytest.mark.parametrize("channels", [1, 3])
def test_divergence_of_the_pixels_has_the_distill_loss_as_its_mean(channels):
    student, teacher = random_logits(2, channels, 8, 8), random_logits(2, channels, 8, 8, seed=1)
    torch.testing.assert_close(9 * divergence(student / 3, teacher / 3).mean(), distill_loss(student, teacher, 3.0))
    torch.testing.assert_close(divergence(student, teacher), divergence(class_logits(student), class_logits(teacher)))


@pytest.mark.parametrize("channels", [1, 3])
def test_added_terms_are_keys_of_their_own_and_part_of_the_total(channels):
    student, label, teacher = batch(channels)
    extras = {**EXTRAS, "dist_inter": 0.5} if channels > 1 else EXTRAS
    terms = loss_of(channels, alpha=0.3, beta=0.7, **extras)(student, label, teacher)
    assert list(terms) == ["loss", "task", "distill", *extras]
    weights = {"task": 0.3, "distill": 0.7, **extras}
    torch.testing.assert_close(terms["loss"], sum(weight * terms[name] for name, weight in weights.items()))
    resized = Batch(student, label, enlarged(teacher))
    torch.testing.assert_close(terms["cwd"], ChannelWise(1.0, 4.0)(resized))
    torch.testing.assert_close(terms["dist_intra"], IntraRelation(1.0)(resized))
    if channels > 1:
        torch.testing.assert_close(terms["dist_inter"], InterRelation(1.0, channels)(resized))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extra", LOGIT_TERMS)
def test_added_term_is_zero_for_identical_logits_and_needs_a_teacher(extra, channels):
    student, label, _ = batch(channels)
    loss = loss_of(channels, alpha=0, beta=0, **extra)
    terms = loss(student, label, student)
    assert list(terms) == ["loss", *extra]
    assert terms["loss"].item() == pytest.approx(0, abs=1e-5)
    assert loss.needs_teacher
    assert not loss.needs_features
    with pytest.raises(ValueError, match=f"teacher_logits is needed because {next(iter(extra))} > 0, got None"):
        loss(student, label)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extra", [*LOGIT_TERMS, {"gate": "both", "gate_confidence": 0.6}])
def test_added_term_moves_the_student_and_not_the_teacher(extra, channels):
    student, label, teacher = batch(channels)
    student, teacher = student.requires_grad_(), teacher.clone()
    before = teacher.clone()
    loss_of(channels, alpha=0, beta=1 if "gate" in extra else 0, **extra)(student, label, teacher)["loss"].backward()
    assert student.grad.abs().sum() > 0
    assert torch.isfinite(student.grad).all()
    assert teacher.grad is None
    assert torch.equal(teacher, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gate", ["confidence", "agreement", "both"])
def test_gated_pixels_add_nothing_and_do_not_raise_the_others(gate, channels):
    student, label, teacher = batch(channels)
    student.requires_grad_()
    terms = loss_of(channels, alpha=0, beta=1, gate=gate, gate_confidence=0.7)(student, label, teacher)
    weight = gate_weight(enlarged(teacher), label, gate, 0.7)
    assert 0 < weight.sum() < weight.numel()
    pixels = 16 * divergence(student / 4, enlarged(teacher) / 4)
    torch.testing.assert_close(terms["distill"], (weight * pixels).sum() / weight.numel())
    terms["loss"].backward()
    assert not student.grad[(weight == 0).unsqueeze(1).expand_as(student)].any()


def test_teacher_that_is_never_right_is_not_followed():
    label = torch.ones(1, 1, 4, 4)
    terms = distillation_loss(gate="agreement")(torch.zeros(1, 1, 4, 4), label, -5 * torch.ones(1, 1, 4, 4))
    assert terms["distill"] == 0
    assert terms["loss"] == 0.5 * terms["task"]


@pytest.mark.parametrize("channels", [1, 3])
def test_body_and_boundary_are_means_over_their_own_pixels(channels):
    student, label, teacher = batch(channels)
    terms = loss_of(channels, alpha=0, beta=0.5, boundary=0.25, boundary_width=1)(student, label, teacher)
    edge, pixels = boundary_mask(label, 1), 16 * divergence(student / 4, enlarged(teacher) / 4)
    torch.testing.assert_close(terms["boundary"], pixels[edge].mean())
    torch.testing.assert_close(terms["distill"], pixels[~edge].mean())
    torch.testing.assert_close(terms["loss"], 0.5 * pixels[~edge].mean() + 0.25 * pixels[edge].mean())


def test_batch_without_an_edge_has_no_boundary_and_a_finite_loss():
    student, _, teacher = batch(1)
    terms = distillation_loss(boundary=1.0)(student, torch.zeros(2, 1, 16, 16), teacher)
    assert terms["boundary"] == 0
    assert torch.isfinite(terms["loss"])
    torch.testing.assert_close(terms["distill"], distill_loss(student, teacher, 4.0))


def test_gate_and_boundary_go_together():
    student, label, teacher = batch(1)
    terms = distillation_loss(boundary=1.0, gate="agreement")(student, label, teacher)
    pixels = (
        16 * divergence(student / 4, enlarged(teacher) / 4) * gate_weight(enlarged(teacher), label, "agreement", 0.9)
    )
    torch.testing.assert_close(terms["boundary"], pixels[boundary_mask(label, 3)].mean())


def test_teacher_temperature_divides_the_teacher_alone_in_every_term():
    student, label, teacher = batch(1)
    settings = {**EXTRAS, "gate": "confidence", "gate_confidence": 0.7}
    calibrated = distillation_loss(teacher_temperature=2.5, **settings)(student, label, teacher)
    torch.testing.assert_close(calibrated, distillation_loss(**settings)(student, label, teacher / 2.5))
    assert calibrated["distill"] != distillation_loss(**settings)(student, label, teacher)["distill"]


def test_mgd_reaches_student_and_its_block_and_not_the_teacher():
    loss = distillation_loss(alpha=0, beta=0, mgd=1, student_channels=4, teacher_channels=6)
    student, teacher = random_logits(2, 4, 5, 5).requires_grad_(), random_logits(2, 6, 7, 7)
    terms = loss(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8), None, student, teacher)
    terms["loss"].backward()
    assert list(terms) == ["loss", "mgd"]
    assert terms["mgd"] == terms["loss"]
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())
    assert loss.needs_teacher
    assert loss.needs_features
    assert list(loss.terms) == ["mgd"]


def test_mgd_and_feature_have_adapters_of_their_own():
    loss = distillation_loss(gamma=1, mgd=1, student_channels=4, teacher_channels=6)
    student, label, teacher = batch(1)
    terms = loss(student, label, teacher, random_logits(2, 4, 5, 5), random_logits(2, 6, 7, 7))
    assert terms["feature"] > 0
    assert terms["mgd"] > 0
    assert loss.terms["feature"].adapter[0].weight.shape == loss.terms["mgd"].align.weight.shape
    with pytest.raises(ValueError, match="student_features is needed because gamma > 0"):
        loss(student, label, teacher)


@pytest.mark.parametrize(("features", "channels"), [("neck", 48), ("backbone", 192)])
def test_features_say_what_the_student_returns(features, channels):
    loss = distillation_loss(gamma=1, features=features)
    assert loss.student_features == features
    assert loss.terms["feature"].adapter[0].weight.shape == (256, channels, 1, 1)
    assert distillation_loss(features=features).student_features is None
    assert loss.settings.get("features", "neck") == features
    assert "features" not in distillation_loss(features=features).settings


@pytest.mark.parametrize("term", ["gamma", "mgd"])
def test_term_of_the_backbones_features_trains_every_block_and_of_the_necks_two_thirds(term):
    for features, trained in (("neck", 3), ("backbone", 4)):
        torch.manual_seed(0)
        network = TinyUSFMSeg(img_size=64, **TINY, drop_path_rate=0.0, return_features=features)
        weights = {"alpha": 0, "beta": 0, term: 1, "features": features, "whiten": True, "mask_ratio": 0.0}
        loss = distillation_loss(**weights, student_channels=24 if features == "backbone" else 6, teacher_channels=8)
        output, embedding = network(torch.rand(2, 1, 64, 64)), torch.randn(2, 8, 16, 16)
        terms = loss(output.logits, torch.zeros(2, 1, 64, 64), None, output.features, embedding)
        terms["loss"].backward()
        reached = [block.mlp.fc1.weight.grad is not None for block in network.backbone.blocks]
        assert reached == [i < trained for i in range(4)]


def test_whitened_embedding_weighs_the_same_whatever_its_scale():
    torch.manual_seed(0)
    loss = distillation_loss(alpha=0, beta=0, gamma=1, whiten=True, student_channels=4, teacher_channels=6)
    student, label, teacher = torch.randn(2, 4, 5, 5), torch.zeros(2, 1, 8, 8), torch.randn(2, 6, 5, 5)
    scale, shift = torch.tensor([1.0, 5.0, 20.0, 1.0, 3.0, 0.5]).view(1, 6, 1, 1), torch.arange(6.0).view(1, 6, 1, 1)
    plain = loss(torch.zeros(2, 1, 8, 8), label, None, student, teacher)["feature"]
    scaled = loss(torch.zeros(2, 1, 8, 8), label, None, student, scale * teacher + shift)["feature"]
    torch.testing.assert_close(plain, scaled, rtol=1e-3, atol=0)
    flat = (teacher - teacher.mean((0, 2, 3), keepdim=True)) / teacher.var(
        (0, 2, 3), unbiased=False, keepdim=True
    ).sqrt()
    torch.testing.assert_close(plain, F.mse_loss(loss.terms["feature"].adapter(student), flat), rtol=1e-3, atol=0)
    faint = loss(torch.zeros(2, 1, 8, 8), label, None, torch.zeros_like(student), 1e-3 * teacher)["feature"]
    assert 0 < faint < 0.3  # 1e-6 / (1e-6 + 1e-5): a channel that hardly varies counts less
    assert loss.settings["whiten"]
    assert "whiten" not in distillation_loss(whiten=True).settings


def test_embedding_is_averaged_where_it_is_larger():
    fine = torch.zeros(1, 1, 6, 6)
    fine[..., 0, 0] = 9.0  # an element that a bilinear sample at the middle of 3 x 3 would pass over
    assert shrink(fine, torch.Size((2, 2)))[0, 0, 0, 0] > 0.25
    assert resize(fine, torch.Size((2, 2)))[0, 0, 0, 0] == 0
    assert shrink(fine, torch.Size((6, 6))) is fine


def test_parameters_of_the_loss_leave_the_students_first_weights_as_they_are():
    drawn = []
    for settings in ({}, {"gamma": 1.0, "mgd": 1.0}):
        torch.manual_seed(3)
        distillation_loss(**settings)
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[1]


def test_logits_of_different_channels_are_not_broadcast():
    with pytest.raises(ValueError, match="differ in classes"):
        distillation_loss(beta=0, cwd=1, num_classes=3)(
            torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
        )


def test_settings_are_what_is_in_force():
    plain = {"alpha": 0.5, "beta": 0.5, "gamma": 0.0}
    assert distillation_loss().settings == plain
    switched = {"gate": "agreement", "boundary": 1.0, "mgd": 2.0, "teacher_temperature": 1.5}
    assert distillation_loss(**switched).settings == {**plain, **switched, "boundary_width": 3, "mask_ratio": 0.75}
    assert distillation_loss(gate="both").settings == {**plain, "gate": "both", "gate_confidence": 0.9}


def test_control_may_keep_the_gate_and_temperature_of_the_students_config():
    assert not distillation_loss(alpha=1.0, beta=0.0, gate="both", teacher_temperature=1.3).needs_teacher


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
        ({"num_classes": 1}, "data::num_classes must be an integer of at least 2"),
        ({"cwd": -1.0}, "cwd must not be negative, got -1.0; pass --distillation::cwd 0 to switch its term off"),
        ({"boundary": -1}, "boundary must not be negative"),
        ({"dist_intra": float("nan")}, "dist_intra must not be negative, got nan"),
        ({"dist_inter": -1, "num_classes": 3}, "dist_inter must not be negative"),
        ({"mgd": -0.5}, "mgd must not be negative"),
        ({"gate": "sure"}, "gate must be one of none, confidence, agreement, both, got 'sure'"),
        ({"teacher_temperature": 0}, "teacher_temperature must be positive, got 0"),
        ({"features": "head"}, "distillation::features must be one of neck, backbone, got 'head'"),
        ({"mode": "cache"}, "distillation::mode must be one of online, replay, warp, got 'cache'"),
        ({"views": 0}, "distillation::views must be a positive integer, got 0"),
        ({"dist_inter": 1.0}, "dist_inter is 1.0, but it is void for two classes"),
        (
            {"gate": "agreement", "beta": 0, "gamma": 1.0},
            "gate is agreement, but it gates only beta and boundary, which are 0, and not gamma",
        ),
        ({"gate": "confidence", "beta": 0, "cwd": 0.1}, "which are 0, and not cwd; pass --distillation::gate none"),
        (
            {"teacher_temperature": 2.0, "beta": 0, "mgd": 0.1},
            "teacher_temperature is 2.0, but no term reads the teacher's logits",
        ),
    ],
)
def test_settings_out_of_range_and_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        distillation_loss(**settings)


# state dicts of version 0.5.0

FORMER = {  # of a loss with gamma and mgd
    **{f"adapter.{name}": f"terms.feature.adapter.{name}" for name in ("0.weight", "1.weight", "1.bias")},
    **{
        f"adapter.1.{name}": f"terms.feature.adapter.1.{name}"
        for name in ("running_mean", "running_var", "num_batches_tracked")
    },
    **{f"generation.align.{name}": f"terms.mgd.align.{name}" for name in ("weight", "bias")},
    **{
        f"generation.generate.{layer}.{name}": f"terms.mgd.generate.{layer}.{name}"
        for layer in (0, 2)
        for name in ("weight", "bias")
    },
}


def test_weights_of_version_0_5_0_get_todays_names():
    loss = distillation_loss(gamma=1, mgd=1, student_channels=4, teacher_channels=6)
    state = loss.state_dict()
    former = {name: torch.full_like(state[today], 3) for name, today in FORMER.items()}
    renamed = loss.rename_former(former)
    assert set(renamed) == set(state)
    assert all(renamed[today] is former[name] for name, today in FORMER.items())
    loss.load_state_dict(renamed)
    assert loss.terms["mgd"].align.weight.eq(3).all()


def test_todays_names_are_left_alone():
    loss = distillation_loss(gamma=1, mgd=1, student_channels=4, teacher_channels=6)
    assert list(loss.rename_former(loss.state_dict())) == list(loss.state_dict())
    assert loss.rename_former({}) == {}


def test_missing_teacher_logits_are_named():
    with pytest.raises(ValueError, match="teacher_logits is needed because beta > 0"):
        distillation_loss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))


# in a run


def history(run_folder) -> list[dict]:
    with open(run_folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_section_of_the_config_has_the_functions_arguments_and_defaults():
    section = json.loads((CONFIGS / "train.json").read_text())["distillation"]
    options = {key: value for key, value in section.items() if key[0] != "_"}
    assert options.pop("num_classes") == "@data::num_classes"
    defaults = {name: argument.default for name, argument in signature(distillation_loss).parameters.items()}
    assert {name: defaults[name] for name in options} == options
    assert set(defaults) - set(options) == {"num_classes", "student_channels", "teacher_channels"}
    assert not distillation_loss(**options).needs_features


def test_run_logs_the_terms_that_are_on_and_keeps_their_settings(overrides, run_folder):
    changes = {
        "distillation::mode": "replay",
        "distillation::views": 2,
        "distillation::student_channels": 6,
        "distillation::cwd": 0.5,
        "distillation::mgd": 0.1,
        "distillation::gate": "agreement",
        "distillation::boundary": 0.2,
        "final_evaluation": None,
        "training::num_epochs": 1,
    }
    flow = run({**overrides, **changes})
    assert flow.parser.get_parsed_content("cached_teacher").keep_features
    (row,) = history(run_folder)
    assert all(float(row[name]) > 0 for name in ("task", "distill", "boundary", "cwd", "mgd"))
    assert "feature" not in row
    resumed = {**overrides, **changes, "training::num_epochs": 2, "training::resume": str(run_folder)}
    with pytest.raises(Exception) as error:
        run({**resumed, "distillation::cwd": 0.0})
    assert "distillation::cwd was 0.5 and is 'not recorded'" in str(root_cause(error.value))
    run(resumed)
    assert len(history(run_folder)) == 2


def test_default_run_logs_its_two_terms_alone(overrides, run_folder):
    run({**overrides, "training::num_epochs": 1, "final_evaluation": None})
    columns = list(history(run_folder)[0])
    assert columns[:5] == ["epoch", "loss", "task", "distill", "lr"]
    settings = torch.load(run_folder / "models" / "last.pt", weights_only=True)["progress"]["settings"]
    assert {key for key in settings if key.startswith("distillation")} == {
        f"distillation::{key}" for key in ("temperature", "alpha", "beta", "gamma", "mode", "views")
    }
