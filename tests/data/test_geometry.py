"""Frames lie upright whatever the order of axes in their file, and labels lie as their images do."""

import nibabel
import numpy as np
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from scripts.data import nifti
from scripts.data.datalist import GivenCases
from scripts.data.geometry import AXES, CROP, as_shown, as_stored
from scripts.data.readers import GrayImageReader, MaskReader, read_image, read_mask
from scripts.data.transforms import LabelToClassesd, ToRowsFirstd
from scripts.inference.frame_reader import FrameReader

WIDTH, HEIGHT = 30, 20
AFFINE = np.array([[-0.1, 0, 0, 5], [0, -0.2, 0, 7], [0, 0, 1, 3], [0, 0, 0, 1.0]])


@pytest.fixture
def columns():
    """uint8 (W, H)."""
    return np.random.default_rng(0).integers(0, 256, (WIDTH, HEIGHT), dtype=np.uint8)


@pytest.fixture
def mask():
    """uint8 (W, H), in one corner."""
    pixels = np.zeros((WIDTH, HEIGHT), np.uint8)
    pixels[2:9, 3:7] = 1
    return pixels


def save(path, array, affine=AFFINE, code=1):
    """A NIfTI of pixels (W, H[, ...]) that lie in space by `affine`."""
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code)
    image.set_qform(None, 0)
    nibabel.save(image, path)
    return str(path)


def flipped(array, affine, axis):
    """The same pixels in space with one axis of the array the other way round."""
    turn = np.eye(4)
    turn[axis, axis], turn[axis, 3] = -1, array.shape[axis] - 1
    return np.flip(array, axis), affine @ turn


def transposed(array, affine):
    """The same pixels in space with the first two axes of the array swapped."""
    return array.swapaxes(0, 1), affine[:, [1, 0, 2, 3]]


def paired(image, label):
    """Image and label (H, W) as a training gets them."""
    keys = ["image", "label"]
    reading = Compose(
        [
            LoadImaged("image", reader=GrayImageReader),
            LoadImaged("label", reader=MaskReader),
            EnsureChannelFirstd(keys),
            ToRowsFirstd(keys),
            LabelToClassesd("label", 2),
        ]
    )
    item = reading({"image": image, "label": label})
    return item["image"][0].numpy(), item["label"][0].numpy()


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("trailing", [(), (1,)])
def test_label_lies_as_its_image_by_the_affines(tmp_path, columns, mask, axes, swap, trailing):
    array, affine = mask, AFFINE
    for axis in axes:
        array, affine = flipped(array, affine, axis)
    if swap:
        array, affine = transposed(array, affine)
    image = save(tmp_path / "image.nii", columns.reshape(WIDTH, HEIGHT, *trailing))
    label = save(tmp_path / "label.nii", array, affine)
    GivenCases([{"image": image, "label": label}], [])  # the check before a training agrees
    read, classes = paired(image, label)
    assert np.array_equal(read, columns.T / np.float32(255))
    assert np.array_equal(classes, mask.T)


def test_label_of_an_image_with_swapped_axes_lies_as_it(tmp_path, columns, mask):
    image = save(tmp_path / "image.nii", *transposed(columns, AFFINE))
    label = save(tmp_path / "label.nii", *flipped(*transposed(mask, AFFINE), 0))
    read, classes = paired(image, label)
    assert np.array_equal(read, columns.T / np.float32(255))
    assert np.array_equal(classes, mask.T)


SHIFTED = AFFINE.copy()
SHIFTED[:3, 3] += (0.3, 0, 0)  # three pixels
ROUNDED = AFFINE.copy()
ROUNDED[:3] += 1e-4


@pytest.mark.parametrize("affine", [SHIFTED, 1.5 * AFFINE, AFFINE @ np.diag([-1, 1, 1, 1]), np.eye(4)])
def test_label_in_another_place_is_refused_with_both_names(tmp_path, columns, mask, affine):
    image, label = save(tmp_path / "image.nii", columns), save(tmp_path / "label.nii", mask, affine)
    message = f"label {label} and image {image} lie in different places by their affines .*save the label with the aff"
    with pytest.raises(ValueError, match=message):
        GivenCases([{"image": image, "label": label}], [])
    with pytest.raises(RuntimeError) as error:
        paired(image, label)
    assert "lie in different places" in str(error.value.__cause__)


@pytest.mark.parametrize("affine, code", [(ROUNDED, 1), (np.eye(4), 0), (np.diag([-1.0, -1, 1, 1]), 1)])
def test_label_with_a_rounded_or_an_unset_affine_is_paired_as_it_is(tmp_path, columns, mask, affine, code):
    image, label = save(tmp_path / "image.nii", columns), save(tmp_path / "label.nii", mask, affine, code)
    assert np.array_equal(paired(image, label)[1], mask.T)


@pytest.mark.parametrize("code", [0, 1])
def test_label_without_an_orientation_of_a_swapped_image_is_refused(tmp_path, columns, mask, code):
    square = slice(0, HEIGHT)
    image = save(tmp_path / "image.nii", *transposed(columns[square], AFFINE))
    label = save(tmp_path / "label.nii", mask[square].T, np.eye(4), code)
    message = {
        0: "the axes of .*image.nii are swapped and .*label.nii does not say how it lies; save the label as NIfTI with",
        1: "label .*label.nii and image .*image.nii lie in different places",
    }
    with pytest.raises(ValueError, match=message[code]):
        GivenCases([{"image": image, "label": label}], [])


def test_label_of_another_size_is_refused_at_its_image(tmp_path, columns, mask):
    image, label = save(tmp_path / "image.nii", columns), save(tmp_path / "label.nii", mask[:-1])
    with pytest.raises(RuntimeError) as error:
        paired(image, label)
    assert f"label {label} has size (29, 20) (width, height) and image {image} (30, 20)" in str(error.value.__cause__)


@pytest.mark.parametrize(
    "shape",
    [
        (1, WIDTH, HEIGHT),
        (WIDTH, 1, HEIGHT),
        (WIDTH, HEIGHT, 1),
        (1, WIDTH, HEIGHT, 1),
        (WIDTH, HEIGHT, 1, 1, 1),
        (WIDTH, 1, HEIGHT, 1, 1, 1),
    ],
)
def test_thin_axis_in_any_place_is_squeezed(tmp_path, columns, shape, monkeypatch):
    monkeypatch.setattr(nifti, "MIN_SIDE", HEIGHT)
    path = save(tmp_path / "a.nii", columns.reshape(shape), np.eye(4))
    image, meta = read_image(path)
    assert np.array_equal(image, columns / np.float32(255))
    assert np.array_equal(read_mask(path)[0], columns)
    frames, frames_meta = FrameReader().decode(path)
    assert np.array_equal(frames[..., 0], image) and frames.shape[2] == 1
    assert tuple(meta["original_shape"]) == tuple(frames_meta["original_shape"]) == shape
    assert np.array_equal(as_stored(np.round(255 * frames).astype(np.uint8), frames_meta), columns.reshape(shape))


@pytest.mark.parametrize("read", [read_image, read_mask, FrameReader().decode])
@pytest.mark.parametrize(
    "shape",
    [
        *((60, 50, 3), (60, 50, 4), (60, 50, 3, 1), (3, 60, 50), (60, 2, 50), (1, 1, 50), (60, 50, 5, 2)),
        *((10, 64, 48), (64, 10, 48)),  # frames first, or between
        *((1, 64, 3), (64, 1, 3), (1, 64, 31)),  # a line, and its colors
    ],
)
def test_what_may_be_colors_or_no_frame_is_refused(tmp_path, shape, read):
    path = save(tmp_path / "a.nii", np.ones(shape, np.uint8))
    with pytest.raises(ValueError, match=r"file .*a.nii has shape \(.*\).*expected .*save") as error:
        read(path)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    "axes, shape", [((1, 0, 2), (20, 30, 1, 6)), ((1, 2, 0), (1, 30, 20)), ((0, 2, 1), (30, 1, 20, 6))]
)
def test_stored_and_shown_are_inverse(axes, shape):
    stored = np.random.default_rng(0).integers(0, 3, shape)
    shown = as_shown(stored, {"stored_axes": axes})
    assert shown.shape[:2] == (30, 20)
    assert np.array_equal(as_stored(shown, {AXES: axes, "original_shape": shape}), stored)


def test_crop_is_put_back_into_its_place():
    part = np.ones((4, 3, 2), np.uint8)
    whole = as_stored(part, {CROP: (5, 9, 6, 9), "original_shape": (30, 20, 2)})
    assert whole.shape == (30, 20, 2) and whole.sum() == part.sum() and whole[5:9, 6:9].all()


def test_a_loop_of_three_frames_is_certain_along_the_fourth_axis(tmp_path):
    path = save(tmp_path / "a.nii", np.ones((30, 20, 1, 3), np.uint8))
    assert FrameReader().decode(path)[0].shape == (30, 20, 3)


def test_picture_of_a_swapped_nifti_is_refused_without_a_word_of_its_affine(tmp_path, columns, mask):
    image = save(tmp_path / "image.nii", *transposed(columns, AFFINE))
    Image.fromarray(mask.T).save(tmp_path / "label.png")
    message = (
        "the axes of .*image.nii are swapped and .*label.png does not say how it lies; save the label as NIfTI with"
    )
    with pytest.raises(ValueError, match=message):
        GivenCases([{"image": image, "label": str(tmp_path / "label.png")}], [])
    Image.fromarray(columns.T).save(tmp_path / "image.png")
    label = save(tmp_path / "label.nii", *transposed(mask, AFFINE))
    message = "the axes of .*label.nii are swapped and .*image.png .*; save the label with columns on its first axis"
    with pytest.raises(ValueError, match=message):
        GivenCases([{"image": str(tmp_path / "image.png"), "label": label}], [])
