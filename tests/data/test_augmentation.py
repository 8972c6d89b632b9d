"""The joint augmentation: geometry of image and label together, the look of the image alone."""

import numpy as np
import pytest
import torch
from monai.transforms import RandAffined

from scripts.data.appearance import RandDrawingsd, RandScannerd
from scripts.data.transforms import joint_augmentation
from scripts.data.views import WHOLE_IMAGE, RandFlipRotateZoomd, sector_mask, view_grid, view_theta

OFF = {
    "flip_prob": 0,
    "rotate_degrees": 0,
    "zoom_range": None,
    "shift_fraction": None,
    "gamma_range": None,
    "contrast_range": None,
}
EVERYTHING = {
    "shift_fraction": 0.35,
    "zoom_range": (0.6, 2.5),
    "mirror_prob": 0.7,
    "sector_prob": 0.5,
    "brightness_range": (-0.3, 0.3),
    "gain_range": (0.4, 1.4),
    "resolution_range": (0.3, 1),
    "speckle_range": (0, 0.3),
    "drawings_prob": 0.5,
    "lesion_free_prob": 0.2,
    "prob": 0.8,
}


def item(size=64):
    """A bright disc off the center and its mask."""
    rows, cols = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((rows - 0.4 * size) ** 2 + (cols - 0.6 * size) ** 2 < (0.2 * size) ** 2).float()[None]
    return {"image": 0.2 + 0.6 * disc, "label": disc}


def dice(a, b):
    return (2 * (a * b).sum() / (a.sum() + b.sum())).item()


def test_everything_off_changes_nothing():
    before = item()
    after = joint_augmentation(**OFF, prob=1)(item())
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(after["theta"], torch.eye(2, 3))
    assert not after["mirror"].any()
    assert torch.equal(after["sector"], torch.tensor(WHOLE_IMAGE))


def test_image_and_label_move_together():
    augmentation = joint_augmentation(gamma_range=None, contrast_range=None, prob=1.0).set_random_state(0)
    for _ in range(20):
        view = augmentation(item())
        assert dice((view["image"] > 0.5).float(), view["label"]) > 0.97
        assert set(view["label"].unique().tolist()) == {0, 1}


def test_views_are_plain_float_tensors_in_the_unit_range():
    augmentation = joint_augmentation(prob=1.0).set_random_state(0)
    for _ in range(20):
        view = augmentation(item())
        assert all(type(view[key]) is torch.Tensor and view[key].dtype == torch.float32 for key in ("image", "label"))
        assert view["image"].min() >= 0
        assert view["image"].max() <= 1


def test_flip_is_left_right():
    view = joint_augmentation(**{**OFF, "flip_prob": 1.0})(item())
    assert torch.equal(view["image"], item()["image"].flip(-1))
    assert torch.equal(view["label"], item()["label"].flip(-1))


def test_intensity_leaves_the_label_alone():
    view = joint_augmentation(**{**OFF, "gamma_range": (2, 2), "contrast_range": (0.5, 0.5)}, prob=1)(item())
    assert torch.equal(view["label"], item()["label"])
    squared = item()["image"] ** 2
    assert torch.allclose(view["image"], squared.mean() + 0.5 * (squared - squared.mean()), atol=1e-6)


def test_zoom_above_1_enlarges_equally_along_both_axes():
    label = joint_augmentation(**{**OFF, "zoom_range": (1.25, 1.25)}, prob=1)(item(128))["label"][0]
    before = item(128)["label"][0]
    for axis in (0, 1):
        extent = label.amax(axis).sum() / before.amax(axis).sum()
        assert extent.item() == pytest.approx(1.25, abs=0.04)


def test_shift_moves_image_and_label_to_the_right_and_downwards():
    grid = torch.nn.functional.affine_grid(
        view_theta(0.0, 1.0, shift=(0.25, 0.125))[None], [1, 1, 64, 64], align_corners=False
    )
    image = torch.rand(1, 1, 64, 64)
    moved = torch.nn.functional.grid_sample(image, grid, mode="nearest", align_corners=False)
    assert torch.equal(moved[..., 8:, 16:], image[..., :-8, :-16])
    assert not moved[..., :8, :].any()
    assert not moved[..., :16].any()


@pytest.mark.parametrize(
    "angle, zoom, flipped", [(0.0, 1.0, False), (0.5, 1.0, False), (0.0, 1.3, True), (0.4, 0.8, True)]
)
def test_shift_is_of_the_turned_zoomed_and_flipped_view(angle, zoom, flipped):
    # where the center has gone
    there = view_theta(angle, zoom, flipped, 0.5, (0.25, 0.125)) @ torch.tensor([0.5, 0.25, 1.0])
    torch.testing.assert_close(there, torch.zeros(2))


def test_shift_is_drawn_within_its_fraction_and_leaves_the_other_draws_alone():
    image, off = (
        torch.zeros(1, 8, 8),
        RandFlipRotateZoomd("image", "label", 0.5, 0.7, 20.0, (0.8, 1.2)).set_random_state(0),
    )
    assert off({"image": image})["theta"][:, 2].abs().sum() == 0
    shifting = RandFlipRotateZoomd("image", "label", 0.0, 1.0, 0.0, (1.0, 1.0), 0.1).set_random_state(0)
    shifts = torch.stack([shifting({"image": image})["theta"][:, 2] for _ in range(200)])
    assert 0.19 < shifts.max() <= 0.2
    assert -0.2 <= shifts.min() < -0.19


def test_rotation_keeps_shapes_in_images_that_are_not_square():
    image = torch.zeros(1, 64, 128)
    image[:, 22:42, 54:74] = 1  # a square about the center stays one
    turned = RandFlipRotateZoomd("image", "label", 0.0, 1.0, 1e-9, (1.0, 1.0))({"image": image})["image"]
    assert torch.allclose(turned, image, atol=1e-4)
    grid = torch.nn.functional.affine_grid(
        view_theta(np.pi / 2, 1.0, aspect=0.5)[None], [1, *image.shape], align_corners=False
    )
    turned = torch.nn.functional.grid_sample(image[None], grid, align_corners=False)[0]
    assert dice((turned > 0.5).float(), image) > 0.97


def test_rotation_agrees_with_monai_rand_affine():  # which turns the other way
    image = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 64, 64), 5, 1, 2)[0]
    own = RandFlipRotateZoomd("image", "label", 0.0, 1.0, 20.0, (1.0, 1.0)).set_random_state(0)
    turned = own({"image": image})["image"]
    own.set_random_state(0).R.random()
    own.randomize(None)
    angle = np.deg2rad(own.R.uniform(-20, 20))
    reference = RandAffined("image", prob=1, rotate_range=((-angle, -angle),), padding_mode="zeros")({"image": image})
    inner = (..., slice(16, 48), slice(16, 48))
    assert torch.allclose(turned[inner], torch.as_tensor(reference["image"])[inner], atol=1e-4)


def test_same_seed_gives_the_same_view():
    views = [joint_augmentation().set_random_state(7)(item()) for _ in range(2)]
    assert torch.equal(views[0]["image"], views[1]["image"])


def test_a_view_without_label_works():
    assert set(joint_augmentation(prob=1.0)({"image": item()["image"]})) == {"image", "theta", "mirror", "sector"}


@pytest.mark.parametrize("prob", [0.0, 1.0])
@pytest.mark.parametrize("flip_prob", [0.0, 1.0])
def test_theta_moves_another_map_along_with_the_image(prob, flip_prob):
    augmentation = joint_augmentation(
        flip_prob=flip_prob, prob=prob, shift_fraction=0.2, gamma_range=None, contrast_range=None
    )
    view = augmentation.set_random_state(3)(item())
    grid = torch.nn.functional.affine_grid(view["theta"][None], [1, 1, *view["image"].shape[-2:]], align_corners=False)
    moved = torch.nn.functional.grid_sample(item()["image"][None], grid, align_corners=False)[0]
    torch.testing.assert_close(moved, view["image"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "argument, value",
    [
        ("flip_prob", 1.5),
        ("flip_prob", "yes"),
        ("prob", -0.1),
        ("rotate_degrees", 200),
        ("rotate_degrees", -5),
        ("zoom_range", (1.1, 0.9)),
        ("zoom_range", 0.9),
        ("shift_fraction", 1.5),
        ("shift_fraction", (0.0, 0.1)),
        ("gamma_range", (0, 1)),
        ("gamma_range", (0.5, float("inf"))),
        ("contrast_range", (0.5,)),
    ],
)
def test_wrong_arguments_are_named_by_their_config_id(argument, value):
    with pytest.raises(ValueError, match=rf"augmentation::{argument} must be .*, got"):
        joint_augmentation(**{argument: value})


# new looks and mirrored tissue


def test_new_parts_leave_the_draws_of_the_others_alone():
    """Views of version 0.6 stay the same where the parts are off, and their geometry where they are on."""
    former = joint_augmentation().set_random_state(3)
    on = joint_augmentation(mirror_prob=1.0, drawings_prob=1.0, speckle_range=(0.1, 0.1)).set_random_state(3)
    for _ in range(5):
        before, after = former(item()), on(item())
        former.set_random_state(4), on.set_random_state(4)
        assert torch.equal(before["theta"], after["theta"])


def test_windows_without_a_lesion_show_none_and_are_of_the_image():
    augmentation = joint_augmentation(**{**OFF, "zoom_range": (1, 2)}, lesion_free_prob=1.0).set_random_state(0)
    views = [augmentation(item()) for _ in range(20)]
    free = [view for view in views if not view["label"].any()]
    assert len(free) > 10
    assert all(view["image"].max() < 0.5 and view["mirror"] for view in free)  # tissue, and no disc
    for view in views:
        grid = view_grid(view["theta"][None], (64, 64), view["mirror"])
        same = torch.nn.functional.grid_sample(item()["image"][None], grid, align_corners=False)[0]
        torch.testing.assert_close(view["image"], same)


@pytest.mark.parametrize("lesion", [0.0, 1.0])
def test_view_is_as_others_where_no_window_is_free_or_nothing_is_to_be_avoided(lesion):
    image = {"image": torch.rand(1, 64, 64), "label": torch.full((1, 64, 64), lesion)}
    view = joint_augmentation(**OFF, lesion_free_prob=1.0)({key: part.clone() for key, part in image.items()})
    assert torch.equal(view["image"], image["image"])


def test_mirrored_tissue_is_that_of_the_image_reflected_at_its_border():
    image = torch.rand(1, 1, 32, 32)
    theta = view_theta(0.0, 1.0, shift=(0.25, 0.0))[None]  # 8 pixels to the right
    grid = view_grid(theta, (32, 32), torch.tensor([True]))
    moved = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    torch.testing.assert_close(moved[..., 8:], image[..., :-8], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[..., :8], image[..., :8].flip(-1), atol=1e-5, rtol=0)
    black = torch.nn.functional.grid_sample(
        image, view_grid(theta, (32, 32), torch.tensor([False])), align_corners=False
    )
    assert not black[..., :7].any()


def test_each_view_of_a_batch_has_its_own_outside():
    image, theta = torch.rand(2, 1, 32, 32), view_theta(0.0, 0.5)[None].expand(2, 2, 3)
    both = view_grid(theta, (32, 32), torch.tensor([True, False]))
    moved = torch.nn.functional.grid_sample(image, both, align_corners=False)
    assert moved[0].min() > 0
    assert (moved[1] == 0).float().mean() > 0.7


def test_sector_is_black_around_and_keeps_its_inside():
    augmentation = joint_augmentation(**OFF, prob=0, sector_prob=1.0).set_random_state(1)
    for _ in range(10):
        view = augmentation({"image": torch.full((1, 64, 64), 0.5), "label": torch.ones(1, 64, 64)})
        inside = sector_mask(view["sector"][None], (64, 64))[0]
        assert 0.3 < inside.float().mean() < 1
        assert torch.equal(view["image"], 0.5 * inside)
        assert torch.equal(view["label"], inside.float())
    assert sector_mask(torch.tensor([WHOLE_IMAGE]), (64, 64)).all()


def test_everything_at_once_keeps_range_and_classes():
    augmentation = joint_augmentation(**EVERYTHING).set_random_state(0)
    for _ in range(50):
        view = augmentation(item())
        assert view["image"].min() >= 0
        assert view["image"].max() <= 1
        assert view["image"].isfinite().all()
        assert set(view["label"].unique().tolist()) <= {0, 1}


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"brightness_range": (-0.3, -0.3)}, lambda image: (image - 0.3).clamp(0, 1)),
        ({"gain_range": (0.5, 0.5)}, lambda image: 0.5 * image),
        ({"resolution_range": (1, 1)}, lambda image: image),
        ({"speckle_range": (0, 0)}, lambda image: image),
    ],
)
def test_each_change_of_a_scanner_does_what_it_says(options, expected):
    image = torch.rand(1, 40, 30)
    changed = RandScannerd("image", 1.0, **options)({"image": image})["image"]
    torch.testing.assert_close(changed, expected(image), atol=1e-5, rtol=0)


def test_resolution_and_speckle_change_the_texture():
    image = torch.rand(1, 64, 64)
    rough = RandScannerd("image", 1.0, resolution_range=(0.25, 0.25))({"image": image})["image"]
    assert rough.std() < 0.6 * image.std()
    noisy = RandScannerd("image", 1.0, speckle_range=(0.2, 0.2)).set_random_state(0)
    change = noisy({"image": torch.full((1, 64, 64), 0.5)})["image"] - 0.5
    assert change.std().item() == pytest.approx(0.1, rel=0.1)


def test_drawings_are_bright_small_and_in_the_image_alone():
    drawn = RandDrawingsd("image", 1.0).set_random_state(0)
    shares = []
    for _ in range(20):
        image = torch.zeros(1, 224, 224)
        view = drawn({"image": image, "label": image})
        assert not view["label"].any()
        shares.append((view["image"] > 0.5).float().mean().item())
    assert 0.0005 < np.mean(shares) < 0.05


@pytest.mark.parametrize(
    "argument, value",
    [
        ("mirror_prob", 2),
        ("sector_prob", -1),
        ("drawings_prob", "on"),
        ("lesion_free_prob", 2),
        ("brightness_range", (0.5, -0.5)),
        ("brightness_range", (-2, 0)),
        ("gain_range", (0, 1)),
        ("resolution_range", (0.5, 2)),
        ("speckle_range", 0.3),
    ],
)
def test_wrong_ranges_are_named_by_their_config_id(argument, value):
    with pytest.raises(ValueError, match=rf"augmentation::{argument} must be .*, got"):
        joint_augmentation(**{argument: value})
