import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, Invertd, RandAffined, Resized

from scripts.data.transforms import LabelToClassesd, RandFlipRotateZoomd, ToRowsFirstd, joint_augmentation, view_theta

OFF = {
    "flip_prob": 0,
    "rotate_degrees": 0,
    "zoom_range": None,
    "shift_fraction": None,
    "gamma_range": None,
    "contrast_range": None,
}


def item(size=64):
    """A bright disc off the center and its mask."""
    rows, cols = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = ((rows - 0.4 * size) ** 2 + (cols - 0.6 * size) ** 2 < (0.2 * size) ** 2).float()[None]
    return {"image": 0.2 + 0.6 * disc, "label": disc}


def dice(a, b):
    return (2 * (a * b).sum() / (a.sum() + b.sum())).item()


def test_rows_first_transposes_plain_tensors():
    columns_first = torch.rand(1, 7, 5)
    result = ToRowsFirstd("image")({"image": columns_first})["image"]
    assert torch.equal(torch.as_tensor(result), columns_first.transpose(1, 2))


def test_rows_first_swaps_the_affine():
    image = MetaTensor(torch.rand(1, 7, 5), affine=torch.diag(torch.tensor([0.1, 0.2, 1.0, 1.0])))
    affine = ToRowsFirstd("image")({"image": image})["image"].affine
    row_step = affine @ torch.tensor([1, 0, 0, 0.0], dtype=affine.dtype)
    assert row_step.tolist() == pytest.approx([0, 0.2, 0, 0])


def test_invertd_undoes_rows_first_and_resize():
    affine = torch.tensor([[0.1, 0, 0, 3], [0, 0.2, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    image = MetaTensor(torch.rand(1, 30, 20), affine=affine)
    forward = Compose([ToRowsFirstd("image"), Resized("image", (40, 60)), EnsureTyped("image", track_meta=True)])
    batch = forward({"image": image})
    assert batch["image"].shape == (1, 40, 60)
    batch["pred"] = torch.as_tensor(batch["image"]) * 1.0
    inverted = Invertd("pred", forward, orig_keys="image", nearest_interp=False)(batch)["pred"]
    assert inverted.shape == (1, 30, 20)
    assert torch.allclose(inverted.affine, affine.double(), atol=1e-6)
    assert (inverted.as_tensor() - image.as_tensor()).abs().mean() < 0.1


def test_rows_first_is_inverted_exactly():
    image = MetaTensor(torch.rand(1, 30, 20))
    transform = ToRowsFirstd("image")
    assert torch.equal(transform.inverse(transform({"image": image}))["image"].as_tensor(), image.as_tensor())


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 255.0], [0.0], [1.0], [255.0]])
def test_binary_labels_are_0_1_or_0_255(values):
    label = LabelToClassesd("label", 2)({"label": torch.tensor([[values]])})["label"]
    assert label.tolist() == [[[float(value > 0) for value in values]]]


@pytest.mark.parametrize("values", [[0, 2], [0, 7], [2], [0, 1, 255], [1, 255], [-1, 0], [-1, 1], [0, 0.5], [0.5, 1]])
def test_other_binary_labels_are_refused_with_their_file(values):
    label = MetaTensor(torch.tensor([[values]], dtype=torch.float32), meta={"filename_or_obj": "case.png"})
    shown = ", ".join(f"{value:g}" for value in values)
    message = (
        f"label case.png holds the values {shown}; expected 0 and 1, or 0 and 255, for data::num_classes 2: correct "
        f"the mask"
    )
    with pytest.raises(ValueError, match=message):
        LabelToClassesd("label", 2)({"label": label})


def test_many_wrong_values_are_listed_in_part():
    with pytest.raises(ValueError, match="holds the values 0, 1, .*, 9 and 3 more; expected"):
        LabelToClassesd("label", 2)({"label": torch.arange(13.0)})


def test_class_labels_are_kept():
    label = torch.tensor([[[0.0, 1.0, 2.0]]])
    assert torch.equal(LabelToClassesd("label", 3)({"label": label})["label"], label)


@pytest.mark.parametrize("value", [3.0, -1.0, 0.5])
def test_label_outside_the_classes_is_refused_with_its_file(value):
    label = MetaTensor(torch.tensor([[[0.0, value]]]), meta={"filename_or_obj": "case.png"})
    with pytest.raises(
        ValueError, match=rf"label case.png holds the values .*{value:g}.*; expected .* 0..2 .*data::num_classes"
    ):
        LabelToClassesd("label", 3)({"label": label})


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="data::num_classes must be at least 2 .*, got 1"):
        LabelToClassesd("label", 1)


def test_everything_off_changes_nothing():
    before = item()
    after = joint_augmentation(**OFF, prob=1)(item())
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(after["theta"], torch.eye(2, 3))


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
        assert all(type(value) is torch.Tensor and value.dtype == torch.float32 for value in view.values())
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
    assert set(joint_augmentation(prob=1.0)({"image": item()["image"]})) == {"image", "theta"}


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
