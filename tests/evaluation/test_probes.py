"""Probes: the geometry is exact, labels follow, grey values change as they say, and a seed gives the same image."""

import numpy as np
import pytest
import torch
from conftest import ROOT

from scripts.evaluation.probes import IGNORED, PROBES, apply_probe, lesion_center, offset_from_middle, without_ignored
from scripts.utils import options

H, W = 60, 80
MOVES = {"left": (None, 0.25), "right": (None, 0.75), "shallow": (0.25, None), "deep": (0.75, None)}
KEEPS_LABEL = [*options.PROBES[6:12], *options.PROBES[14:]]


def picture(top=24, left=30, height=8, width=12):
    """Noise with a bright lesion, and its label."""
    image = 0.1 + 0.4 * torch.rand(1, H, W, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(1, H, W)
    label[:, top : top + height, left : left + width] = 1
    return torch.where(label > 0, 0.9, image), label


def test_every_probe_has_its_name_and_its_line_in_the_page():
    assert tuple(PROBES) == options.PROBES
    page = (ROOT / "docs" / "robustness.md").read_text()
    assert [name for name in PROBES if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize("name", PROBES)
def test_size_and_range_stay_and_the_seed_decides(name):
    image, label = picture()
    before = image.clone(), label.clone()
    changed, moved = apply_probe(name, image, label, 5)
    again, _ = apply_probe(name, image, label, 5)
    assert torch.equal(changed, again)
    assert changed.dtype == image.dtype
    assert moved.dtype == label.dtype
    assert changed.shape == moved.shape == ((1, H + 30, W + 40) if name == "borders" else (1, H, W))
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(changed, image)
    assert set(moved.unique().tolist()) == {0, 1}
    assert torch.equal(image, before[0])  # nothing is changed in place
    assert torch.equal(label, before[1])


@pytest.mark.parametrize("name", KEEPS_LABEL)
def test_grey_values_alone_leave_the_label(name):
    image, label = picture()
    assert torch.equal(apply_probe(name, image, label)[1], label)


@pytest.mark.parametrize(("name", "goal"), MOVES.items())
def test_centroid_moves_where_it_should_within_a_pixel(name, goal):
    image, label = picture()
    changed, moved = apply_probe(name, image, label)
    y, x = lesion_center(moved)
    start = lesion_center(label)
    assert abs(y - (start[0] if goal[0] is None else goal[0])) * H <= 0.5 + 1e-9
    assert abs(x - (start[1] if goal[1] is None else goal[1])) * W <= 0.5 + 1e-9
    assert torch.equal(changed == 0.9, moved > 0)  # image and label moved alike


def test_what_a_move_leaves_free_is_the_tissue_mirrored_at_the_edge():
    image, label = picture()
    changed, _ = apply_probe("left", image, label)
    shift = 16  # of the lesion's centroid from 36 to 20
    assert torch.equal(changed[..., : W - shift], image[..., shift:])
    assert torch.equal(changed[..., W - shift :], image[..., W - 1 - shift : W - 1].flip(-1))
    deeper, _ = apply_probe("deep", image, label)
    down = 17  # from 28 to 45
    assert torch.equal(deeper[:, down:], image[:, :-down])
    assert torch.equal(deeper[:, :down], image[:, 1 : down + 1].flip(1))


@pytest.mark.parametrize("name", ["deep", "smaller"])
def test_fill_has_no_second_lesion_where_there_is_tissue_beside_it(name):
    image, label = picture(top=8, height=12) if name == "deep" else picture(top=5, height=30, left=20, width=30)
    changed, moved = apply_probe(name, image, label)
    assert set(moved.unique().tolist()) == {0, 1}
    assert changed[moved == 0].max() < 0.85
    if name == "deep":
        down = 31  # from 14 to 45; the seven rows above the lesion lie between mirrors
        folded = [min(d % 14, 14 - d % 14) for d in range(down, 0, -1)]
        assert torch.equal(changed[:, :down], image[:, folded])


def test_second_lesion_in_the_fill_does_not_count():
    image, label = picture(left=0, width=6)  # at the left edge: moved right, it comes twice
    changed, moved = apply_probe("right", image, label)
    start = 57  # of the lesion itself; its mirrored copy ends there
    assert torch.equal(moved == 1, (changed == 0.9) & (torch.arange(W) >= start))
    assert (moved == 1).sum() == label.sum()
    assert (moved[changed == 0.9] == IGNORED).sum() > label.sum() / 2
    assert (moved[0, :, start:] != IGNORED).all()  # the margin stays in the fill
    margin = (moved == IGNORED) & (changed != 0.9)
    assert margin[0, 24 - 3, start - 1]
    assert not margin[0, 24 - 4].any()


def test_what_a_network_finds_of_a_second_lesion_does_not_count():
    image, label = picture(top=3)  # at the skin: moved to the depth, it comes twice
    changed, moved = apply_probe("deep", image, label)
    both, own = (changed == 0.9).int(), (moved == 1).int()
    assert both.sum() > 1.5 * own.sum()
    assert torch.equal(without_ignored(both, moved), own)
    assert torch.equal(without_ignored(moved, moved).int(), own)


@pytest.mark.parametrize(("name", "factor"), [("smaller", 0.6), ("larger", 1.6)])
def test_scale_keeps_the_centroid_and_changes_the_area(name, factor):
    image, label = picture(left=34, height=10, width=10)
    changed, moved = apply_probe(name, image, label)
    start, end = lesion_center(label), lesion_center(moved)
    assert np.abs((np.array(end) - start) * (H, W)).max() <= 1
    assert moved.sum() / label.sum() == pytest.approx(factor**2, rel=0.01)
    assert changed[moved > 0].mean() > 0.8  # its edge is smoothed
    assert changed[moved == 0].mean() < 0.4


def test_smaller_image_has_no_black():
    image, label = picture()
    assert apply_probe("smaller", image, label)[0].min() >= image.min() - 1e-6


def test_grey_values_change_as_they_say():
    image, label = picture()
    torch.testing.assert_close(apply_probe("darker", image, label)[0], (image - 0.3).clamp(min=0))
    torch.testing.assert_close(apply_probe("brighter", image, label)[0], (image + 0.3).clamp(max=1))
    low = apply_probe("low_contrast", image, label)[0]
    torch.testing.assert_close(low.mean(), image.mean())
    torch.testing.assert_close(low.std(), image.std() / 2)
    fading, rising = (apply_probe(name, image, label)[0] / image for name in ("fading", "rising"))
    torch.testing.assert_close(fading[0, :, 0], torch.linspace(1, 0.4, H))
    torch.testing.assert_close(rising[0, :, 7], torch.linspace(0.4, 1, H))


def test_borders_are_black_around_the_whole_picture():
    image, label = picture()
    changed, moved = apply_probe("borders", image, label)
    assert torch.equal(changed[:, 15:75, 20:100], image)
    assert torch.equal(moved[:, 15:75, 20:100], label)
    assert torch.count_nonzero(changed) == image.numel()
    assert moved.sum() == label.sum()


def test_outside_of_the_sector_is_black_and_background():
    image, label = picture(top=0, left=0, height=H, width=W)
    changed, moved = apply_probe("sector", image, label)
    assert torch.equal(changed > 0, moved > 0)
    inside = moved[0].bool()
    assert torch.equal(inside, inside.flip(1))
    assert not inside[0, 0]  # beside the array
    assert not inside[-1, 0]  # below the lower arc
    assert not inside[0, W // 2]  # above the upper arc
    assert inside[H // 2, W // 2]
    assert 0.5 < inside.float().mean() < 0.9


@pytest.mark.parametrize("name", ["text", "calipers"])
def test_ink_is_white_and_the_rest_as_it_was(name):
    image, label = picture()
    changed, _ = apply_probe(name, image, label)
    inked = changed != image
    assert 0.002 < inked.float().mean() < 0.3
    assert (changed[inked] > image[inked]).all()
    assert changed[label == 0].max() > 0.8  # small letters are smoothed


def test_calipers_stand_at_the_ends_of_the_lesion():
    image, label = picture(top=24, left=20, height=1, width=41)
    changed, _ = apply_probe("calipers", torch.zeros_like(image), label)
    assert changed[0, 24, 20] == changed[0, 24, 60] == 1  # ends
    assert changed[0, 21:28, 20].min() == changed[0, 24, 17:24].min() == 1  # arms of the cross
    assert changed[0, 24, 24:57:4].min() == 1  # dots
    assert changed[0, 24, 26:56:4].max() == 0
    nothing = torch.zeros_like(label)
    assert torch.equal(apply_probe("calipers", image, nothing)[0], image)


def test_noise_differs_by_seed_and_multiplies():
    image, label = picture()
    first, second = (apply_probe("speckle", image, label, seed)[0] for seed in (1, 2))
    assert not torch.equal(first, second)
    dark = torch.zeros_like(image)
    assert torch.equal(apply_probe("speckle", dark, label)[0], dark)


def test_jpeg_changes_little():
    image, label = picture()
    assert 0 < (apply_probe("jpeg", image, label)[0] - image).abs().mean() < 0.1


def test_offset_is_the_share_of_the_width_from_the_middle():
    assert offset_from_middle(picture(left=34, width=12)[1]) == pytest.approx(0)
    assert offset_from_middle(picture(left=0, width=8)[1]) == pytest.approx(0.45)
    assert offset_from_middle(torch.zeros(1, H, W)) is None


@pytest.mark.parametrize("name", MOVES)
def test_no_lesion_cannot_be_moved(name):
    with pytest.raises(ValueError, match="the label has no lesion to move"):
        apply_probe(name, *[torch.zeros(1, H, W)] * 2)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown probe 'up'; probes are left, right"):
        apply_probe("up", *picture())
    with pytest.raises(ValueError, match="final_evaluation::probes must be one of left, .* got 'up'"):
        options.chosen_probes("final_evaluation::probes", ["left", "up"])
    with pytest.raises(ValueError, match="final_evaluation::probes must be \"all\" or a list of probes, got 'left'"):
        options.chosen_probes("final_evaluation::probes", "left")
    assert options.chosen_probes("probes", ["text", "left"]) == ("left", "text")
    assert options.chosen_probes("probes", "all") == options.PROBES
