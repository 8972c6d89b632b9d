import math

import pytest
import torch
from torch.nn import functional as F

from scripts.loss_terms import (
    Batch,
    ChannelWise,
    Divergence,
    Feature,
    InterRelation,
    IntraRelation,
    MaskedGeneration,
    Task,
    Term,
    boundary_mask,
    divergence,
    gate_weight,
    mean_divergence,
    region_mean,
)

NOTHING = torch.empty(0)  # in the place of what a term does not read


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_logits(term: Term, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The value of a term that compares logits."""
    return term(Batch(student, NOTHING, teacher))


def of_features(term: Term, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The value of a term that compares features with an embedding."""
    return term(Batch(NOTHING, NOTHING, None, student, teacher))


def logit(p: float) -> float:
    return math.log(p / (1 - p))


# gate

BINARY_TEACHER = torch.tensor([logit(p) for p in (0.95, 0.6, 0.4, 0.05)]).view(1, 1, 1, 4)
BINARY_LABEL = torch.tensor([0.0, 1.0, 1.0, 0.0]).view(1, 1, 1, 4)


@pytest.mark.parametrize(
    ("gate", "expected"),
    [("none", [1, 1, 1, 1]), ("confidence", [1, 0, 0, 1]), ("agreement", [0, 1, 0, 1]), ("both", [0, 0, 0, 1])],
)
def test_gate_keeps_sure_and_right_pixels_of_a_binary_teacher(gate, expected):
    assert gate_weight(BINARY_TEACHER, BINARY_LABEL, gate, 0.9).flatten().tolist() == expected


@pytest.mark.parametrize("gate", ["none", "confidence", "agreement", "both"])
def test_one_channel_is_gated_as_its_two_classes(gate):
    teacher, label = random_logits(2, 1, 6, 6) * 3, (random_logits(2, 1, 6, 6, seed=1) > 0).float()
    pair = torch.cat([torch.zeros_like(teacher), teacher], dim=1)
    assert torch.equal(gate_weight(teacher, label, gate, 0.8), gate_weight(pair, label, gate, 0.8))


def test_gate_of_several_classes_reads_the_top_class():
    teacher = torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.05, 0.9, 0.05]]).log().T.view(1, 3, 1, 3)
    label = torch.tensor([0, 0, 2]).view(1, 1, 1, 3)
    kept = {
        gate: gate_weight(teacher, label, gate, 0.5).flatten().tolist() for gate in ("confidence", "agreement", "both")
    }
    assert kept == {"confidence": [1, 0, 1], "agreement": [1, 1, 0], "both": [1, 0, 0]}


# boundary


def test_boundary_is_width_pixels_on_each_side_of_the_edge():
    label = torch.zeros(1, 1, 7, 9)
    label[..., 4:] = 1
    assert boundary_mask(label, 1)[0, 3].tolist() == [False] * 3 + [True] * 2 + [False] * 4
    assert boundary_mask(label, 2)[0, 3].tolist() == [False] * 2 + [True] * 4 + [False] * 3


def test_border_of_the_image_is_no_boundary():
    assert not boundary_mask(torch.ones(1, 1, 6, 6), 2).any()
    assert not boundary_mask(torch.zeros(2, 1, 6, 6), 2).any()


def test_boundary_between_any_two_classes_equals_a_search_of_the_neighbors():
    coarse = torch.randint(0, 3, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    label = coarse.repeat_interleave(5, 2).repeat_interleave(5, 3)
    found = boundary_mask(label, 2)
    for image in range(2):
        for row in range(20):
            for column in range(20):
                near = label[image, 0, max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
                assert found[image, row, column] == (near.unique().numel() > 1)


def test_region_mean_is_over_the_regions_pixels_and_0_without_any():
    values = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert region_mean(values, values > 2).item() == 4.5
    assert region_mean(values, values > 9).item() == 0


# channel-wise distillation


def test_cwd_of_two_pixels_equals_hand_computed_value():
    student, teacher, temperature = torch.zeros(1, 1, 1, 2), torch.tensor([2.0, 0.0]).view(1, 1, 1, 2), 2.0
    p = 1 / (1 + math.exp(-1.0))
    expected = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    assert of_logits(ChannelWise(1.0, temperature), student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_cwd_sums_pixels_and_averages_batch_and_channels():
    student, teacher = random_logits(3, 4, 5, 6), random_logits(3, 4, 5, 6, seed=1)
    p, q = ((logits / 3).flatten(2).softmax(-1) for logits in (teacher, student))
    expected = 9 * (p * (p.log() - q.log())).sum() / (3 * 4)
    torch.testing.assert_close(of_logits(ChannelWise(1.0, 3.0), student, teacher), expected)


def test_cwd_is_zero_for_logits_that_are_identical_up_to_a_channels_shift():
    logits = random_logits(2, 3, 8, 8)
    shifted = logits + torch.tensor([1.0, -2.0, 5.0]).view(1, 3, 1, 1)
    assert of_logits(ChannelWise(1.0, 4.0), logits, logits).item() == 0
    assert of_logits(ChannelWise(1.0, 4.0), shifted, logits).item() == pytest.approx(0, abs=1e-5)


def test_cwd_of_a_constant_channel_says_nothing():
    student, teacher = random_logits(2, 1, 4, 4), random_logits(2, 1, 4, 4, seed=1)
    pairs = [torch.cat([torch.zeros_like(logits), logits], dim=1) for logits in (student, teacher)]
    term = ChannelWise(1.0, 4.0)
    torch.testing.assert_close(2 * of_logits(term, *pairs), of_logits(term, student, teacher))


# relations


def pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].float()


def test_dist_intra_is_one_less_the_classes_mean_correlation_over_all_pixels():
    student, teacher = random_logits(2, 3, 5, 4), random_logits(2, 3, 5, 4, seed=1)
    p, q = student.softmax(1), teacher.softmax(1)
    expected = 1 - sum(pearson(p[:, c], q[:, c]) for c in range(3)) / 3
    torch.testing.assert_close(of_logits(IntraRelation(1.0), student, teacher), expected)


def test_dist_intra_of_one_channel_equals_that_of_its_two_classes():
    student, teacher = random_logits(2, 1, 5, 4), random_logits(2, 1, 5, 4, seed=1)
    loss = of_logits(IntraRelation(1.0), student, teacher)
    torch.testing.assert_close(loss, 1 - pearson(student.sigmoid(), teacher.sigmoid()))
    pairs = [torch.cat([torch.zeros_like(logits), logits], dim=1) for logits in (student, teacher)]
    torch.testing.assert_close(of_logits(IntraRelation(1.0), *pairs), loss)


def test_dist_inter_is_one_less_the_pixels_mean_correlation_over_the_classes():
    student, teacher = random_logits(1, 4, 2, 3), random_logits(1, 4, 2, 3, seed=1)
    p, q = student.softmax(1)[0].flatten(1), teacher.softmax(1)[0].flatten(1)
    expected = 1 - sum(pearson(p[:, i], q[:, i]) for i in range(6)) / 6
    torch.testing.assert_close(of_logits(InterRelation(1.0, 4), student, teacher), expected)


@pytest.mark.parametrize("term", [IntraRelation(1.0), InterRelation(1.0, 3)])
def test_relations_are_zero_for_identical_logits(term):
    logits = random_logits(2, 3, 8, 8)
    assert of_logits(term, logits, logits).item() == pytest.approx(0, abs=1e-6)


def test_dist_inter_of_two_classes_never_has_a_gradient_which_is_why_it_is_refused():
    student = random_logits(1, 2, 4, 4).requires_grad_()
    loss = of_logits(InterRelation(0.0, 2), student, random_logits(1, 2, 4, 4, seed=1))
    loss.backward()
    assert (16 * loss / 2).item() == pytest.approx(round((16 * loss / 2).item()), abs=1e-4)  # each pixel is 0 or 2
    assert student.grad.abs().max() < 1e-5


def test_relation_to_a_constant_teacher_is_one_with_a_finite_gradient():
    student = random_logits(1, 1, 4, 4).requires_grad_()
    loss = of_logits(IntraRelation(1.0), student, torch.zeros(1, 1, 4, 4))
    loss.backward()
    assert loss.item() == 1
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("term", [ChannelWise(1.0, 4.0), IntraRelation(1.0)])
def test_gradient_points_towards_the_teacher(term, channels):
    student, teacher = random_logits(1, channels, 6, 6).requires_grad_(), random_logits(1, channels, 6, 6, seed=1)
    before = of_logits(term, student, teacher)
    before.backward()
    assert of_logits(term, student.detach() - 0.1 * student.grad, teacher) < before


# masked generation


def identity_generation(mask_ratio: float) -> MaskedGeneration:
    """Of two channels; what is not masked passes unchanged, if it is positive."""
    block = MaskedGeneration(1.0, 2, 2, mask_ratio)
    for convolution in (block.align, block.generate[0], block.generate[2]):
        torch.nn.init.dirac_(convolution.weight)
        torch.nn.init.zeros_(convolution.bias)
    return block


def test_generation_that_passes_unmasked_features_has_no_error_on_them():
    features = torch.rand(2, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    assert of_features(identity_generation(0.0), features, features).item() == 0


def test_masked_positions_lack_all_channels_and_their_share_is_the_ratio():
    torch.manual_seed(0)
    ones = torch.ones(4, 2, 50, 50)
    loss = of_features(identity_generation(0.75), ones, ones)  # 1 where masked, else 0
    assert loss.item() == pytest.approx(0.75, abs=0.02)
    generated = []
    block = identity_generation(0.75)
    block.generate.register_forward_pre_hook(lambda _, inputs: generated.append(inputs[0]))
    for _ in range(2):
        of_features(block, ones, ones)
    assert torch.equal(generated[0][:, 0], generated[0][:, 1])
    assert not torch.equal(generated[0], generated[1])


def test_generation_is_the_papers_block():
    torch.manual_seed(0)
    block = MaskedGeneration(1.0, 3, 4, mask_ratio=0.0)
    student, teacher = random_logits(2, 3, 5, 5), random_logits(2, 4, 5, 5, seed=1)
    aligned = F.conv2d(student, block.align.weight, block.align.bias)
    hidden = F.conv2d(aligned, block.generate[0].weight, block.generate[0].bias, padding=1).relu()
    generated = F.conv2d(hidden, block.generate[2].weight, block.generate[2].bias, padding=1)
    torch.testing.assert_close(of_features(block, student, teacher), ((generated - teacher) ** 2).mean())


# the embedding


def test_feature_is_the_mean_squared_error_of_the_adapted_features():
    torch.manual_seed(0)
    term, student, teacher = Feature(1.0, 3, 4), random_logits(2, 3, 5, 5), random_logits(2, 4, 5, 5, seed=1)
    adapted = F.conv2d(student, term.adapter[0].weight)
    adapted = (adapted - adapted.mean((0, 2, 3), keepdim=True)) / (
        adapted.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(of_features(term, student, teacher), ((adapted - teacher) ** 2).mean())


@pytest.mark.parametrize("term", [Feature(0.0), MaskedGeneration(0.0)])
def test_term_without_weight_has_nothing_to_train(term):
    assert not list(term.parameters())


# the divergence


@pytest.mark.parametrize("channels", [1, 3])
def test_mean_of_the_divergence_is_the_same_however_it_is_computed(channels):
    student, teacher = random_logits(2, channels, 6, 6), random_logits(2, channels, 6, 6, seed=1)
    torch.testing.assert_close(mean_divergence(student, teacher), divergence(student, teacher).mean())


def test_divergence_of_a_region_is_the_mean_over_it():
    student, teacher = random_logits(2, 1, 8, 8), random_logits(2, 1, 8, 8, seed=1)
    label = torch.zeros(2, 1, 8, 8)
    label[..., 4:] = 1
    pixels, edge = 9 * divergence(student / 3, teacher / 3), boundary_mask(label, 2)
    for region, mask in (("all", torch.ones_like(edge)), ("edge", edge), ("body", ~edge)):
        term = Divergence("beta", 1.0, 3.0, region=region, width=2)
        torch.testing.assert_close(term(Batch(student, label, teacher)), pixels[mask].mean())


# weights and options


@pytest.mark.parametrize(
    ("term", "options"),
    [
        (Task(1.0), {}),
        (Divergence("beta", 1.0), {}),
        (Divergence("beta", 1.0, gate="agreement"), {"gate": "agreement"}),
        (Divergence("beta", 1.0, gate="both"), {"gate": "both", "gate_confidence": 0.9}),
        (Divergence("beta", 1.0, region="body"), {}),
        (Divergence("boundary", 1.0, region="edge", width=2), {"boundary_width": 2}),
        (MaskedGeneration(1.0, mask_ratio=0.5), {"mask_ratio": 0.5}),
    ],
)
def test_options_are_those_that_decide_the_value(term, options):
    assert term.options == options


@pytest.mark.parametrize("weight", [-0.1, float("nan")])
@pytest.mark.parametrize(
    ("build", "key"),
    [
        (Task, "alpha"),
        (lambda weight: Divergence("boundary", weight), "boundary"),
        (Feature, "gamma"),
        (ChannelWise, "cwd"),
        (IntraRelation, "dist_intra"),
        (lambda weight: InterRelation(weight, 3), "dist_inter"),
        (MaskedGeneration, "mgd"),
    ],
)
def test_negative_weight_is_refused_by_its_key(build, key, weight):
    message = f"{key} must not be negative, got {weight}; pass --distillation::{key} 0 to switch its term off"
    with pytest.raises(ValueError, match=message):
        build(weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature must be positive, got 0; pass --distillation::temperature 4.0"),
        ({"gate": "sure"}, "distillation::gate must be one of none, confidence, agreement, both, got 'sure'"),
        (
            {"gate": "confidence", "gate_confidence": 0.5},
            r"gate_confidence must be between 0.5, .* 2 classes .*, got 0.5; pass",
        ),
        ({"gate": "both", "gate_confidence": 1.0}, "gate_confidence must be between 0.5, .* and 1, got 1.0"),
        (
            {"gate": "both", "gate_confidence": 0.25, "num_classes": 4},
            "gate_confidence must be between 0.25, .* 4 classes",
        ),
        ({"width": 0}, "boundary_width must be a positive number of pixels, got 0"),
        ({"width": 1.5}, "boundary_width must be a positive number of pixels, got 1.5"),
    ],
)
def test_option_of_the_divergence_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Divergence("beta", 1.0, **changes)


@pytest.mark.parametrize("mask_ratio", [1.0, -0.1])
def test_mask_ratio_out_of_range_is_refused(mask_ratio):
    with pytest.raises(ValueError, match=f"mask_ratio must be from 0 to below 1, got {mask_ratio}"):
        MaskedGeneration(1.0, mask_ratio=mask_ratio)


def test_relation_between_two_classes_is_refused():
    message = "dist_inter is 1.0, but it is void for two classes: .* 1 or -1.*pass --distillation::dist_inter 0"
    with pytest.raises(ValueError, match=message):
        InterRelation(1.0, 2)


def test_threshold_that_is_not_read_is_not_checked():
    Divergence("beta", 1.0, gate="agreement", gate_confidence=0.0)
