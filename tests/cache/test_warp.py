"""What a teacher said of an image, moved along with a view of it."""

import pytest
import torch

from scripts.cache.warp import warp, warp_features
from scripts.data.views import WHOLE_IMAGE, sector_mask, view_grid, view_theta


def test_warp_flips_exactly_and_fills_the_outside_with_background():
    logits = torch.randn(2, 1, 8, 8)
    flip = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    torch.testing.assert_close(warp(logits, flip), logits.flip(-1), atol=1e-5, rtol=0)
    away = torch.tensor([[1.0, 0, 5], [0, 1, 0]]).expand(2, 2, 3)
    torch.testing.assert_close(warp(logits, away), logits.amin((1, 2, 3), keepdim=True).expand_as(logits))
    logits = torch.randn(1, 3, 8, 8)
    outside = warp(logits, away[:1])
    surest = logits.softmax(1)[:, 0].flatten().argmax()
    torch.testing.assert_close(outside[0, :, 0, 0], logits.flatten(2)[0, :, surest])


def test_warped_embedding_flips_exactly_and_ends_as_at_its_border():
    features = torch.randn(2, 5, 8, 8)
    flip = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    torch.testing.assert_close(warp_features(features, flip), features.flip(-1), atol=1e-5, rtol=0)
    away = torch.tensor([[1.0, 0, 5], [0, 1, 0]]).expand(2, 2, 3)
    torch.testing.assert_close(warp_features(features, away), features[..., -1:].expand_as(features))


@pytest.mark.parametrize("move", [warp, warp_features])
def test_positions_are_not_rounded_by_autocast(move):
    """In bf16 they are up to 1.2 of 256 pixels off."""
    theta = view_theta(0.2, 1.1, shift=(0.1, -0.07))[None]
    maps = torch.rand(1, 3, 64, 64)
    expected = move(maps, theta)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(move(maps, theta), expected)


def test_mirrored_views_have_the_logits_of_the_tissue_that_is_mirrored_in():
    """As if the teacher were asked about the view: of a teacher that looks at each pixel alone, exactly."""
    image = torch.rand(2, 1, 32, 32)
    theta = view_theta(0.0, 1.0, shift=(0.25, -0.125))[None].expand(2, 2, 3)
    mirror = torch.tensor([[True], [False]])
    view = torch.nn.functional.grid_sample(image, view_grid(theta, (32, 32), mirror), align_corners=False)
    moved = warp(8 * image - 4, theta, mirror)
    torch.testing.assert_close(moved[0], 8 * view[0] - 4, atol=1e-4, rtol=0)
    assert (moved[1, :, :, :7] == (8 * image[1] - 4).min()).all()
    features = warp_features(image, theta, mirror)
    torch.testing.assert_close(features[0], view[0], atol=1e-5, rtol=0)


def test_logits_outside_of_a_sector_are_background():
    logits = torch.randn(2, 1, 32, 32)
    theta = view_theta(0.0, 1.0)[None].expand(2, 2, 3)
    sector = torch.tensor([[0.0, -1.5, 0.5, 0.4, 2.3], WHOLE_IMAGE])
    moved, inside = warp(logits, theta, sector=sector), sector_mask(sector, (32, 32))
    torch.testing.assert_close(moved[inside], logits[inside], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[0][~inside[0]], logits[0].min().expand(int((~inside[0]).sum())))
    assert inside[1].all()
