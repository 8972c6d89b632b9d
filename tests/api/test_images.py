"""What can be segmented: arrays as their files are, and one line for what cannot."""

import nibabel
import numpy as np
import pytest
import torch
from api_students import speckle
from dicom_files import write_dicom
from PIL import Image
from png_files import write_png16

from scripts.api.images import read_frames
from scripts.data.readers import read_image

GRAY = speckle()
DEEP = np.rint(GRAY.astype(np.float64) * 4095 / 255).astype(np.uint16)
COLOR = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], axis=2)
ALPHA = np.concatenate([COLOR, GRAY[..., None]], axis=2)


@pytest.mark.parametrize("pixels", [GRAY, DEEP, COLOR, ALPHA], ids=["gray", "12-bit", "rgb", "rgba"])
def test_array_is_what_a_file_of_it_is(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "image.png")
    array, file = read_frames(pixels), read_frames(tmp_path / "image.png")
    assert array.gray.shape == (1, 50, 60)
    assert array.gray.dtype == np.float32
    assert np.array_equal(array.gray, file.gray)
    assert np.array_equal(array.gray[0].T, read_image(tmp_path / "image.png")[0])
    assert array.colors().shape == (1, 50, 60, 3)
    assert np.array_equal(array.colors(), file.colors())


@pytest.mark.parametrize(
    "other",
    [
        GRAY.astype(np.int64),
        GRAY.astype(np.float32),
        GRAY / 255,
        GRAY[..., None],
        np.repeat(GRAY[..., None], 3, axis=2),
        COLOR[..., 0].astype(np.uint16),
        Image.fromarray(GRAY),
    ],
)
def test_type_and_channel_axis_make_no_difference(other):
    assert np.allclose(read_frames(other).gray, GRAY[None] / 255, atol=1e-6)
    assert np.abs(read_frames(other).colors()[0, ..., 0].astype(int) - GRAY).max() <= 1


def test_colors_of_16_bits_become_gray_as_those_of_8_bits():
    deep = COLOR.astype(np.uint16) * 257
    assert np.abs(read_frames(deep).gray - read_frames(COLOR).gray).max() < 1 / 255
    assert np.array_equal(read_frames(deep).colors(), read_frames(COLOR).colors())


def test_loop_has_a_frame_for_each_of_its_images(tmp_path):
    loop = np.stack([speckle(n, (40, 36)).T for n in range(3)], axis=-1)[:, :, None]  # (W, H, 1, N)
    nibabel.save(nibabel.Nifti1Image(loop, np.eye(4)), tmp_path / "loop.nii.gz")
    frames = read_frames(tmp_path / "loop.nii.gz")
    assert frames.loop
    assert frames.gray.shape == (3, 36, 40)
    assert np.array_equal(frames.gray[2], speckle(2, (40, 36)) / np.float32(255))


def test_spacing_is_of_images_that_do_not_say_it(tmp_path):
    assert read_frames(GRAY, (0.1, 0.2)).meta["spacing_mm"].tolist() == [0.1, 0.2]
    nibabel.save(nibabel.Nifti1Image(GRAY.T, np.diag([0.5, 0.5, 1, 1])), tmp_path / "image.nii.gz")
    with pytest.raises(ValueError, match=r"image.nii.gz says itself how large its pixels are; leave spacing out"):
        read_frames(tmp_path / "image.nii.gz", (0.1, 0.1))
    for spacing in (0.1, (0.1,), (0, 1), (float("nan"), 1), "ab"):
        with pytest.raises(ValueError, match=r"spacing must be the width and height of a pixel in mm, .* got"):
            read_frames(GRAY, spacing)


MASK = np.where(GRAY > 200, 255, 0).astype(np.uint8)
REFUSED = {
    "empty": (np.zeros((0, 64)), r"image is empty: it has shape \(0, 64\); expected \(H, W\)"),
    "no pixels": (np.zeros((4, 0, 3)), r"image is empty: it has shape \(4, 0, 3\)"),
    "nan": (np.full((32, 32), np.nan), "image holds nan or infinite pixels; expected finite values"),
    "infinite": (np.full((32, 32), np.inf), "image holds nan or infinite pixels"),
    "four axes": (np.zeros((2, 64, 64, 3)), r"image has shape \(2, 64, 64, 3\); expected .* a list of images"),
    "frames": (np.zeros((10, 64, 64)), r"image has shape \(10, 64, 64\); expected .* a list of images"),
    "one axis": (np.zeros(64), r"image has shape \(64,\); expected"),
    "two channels": (np.zeros((64, 64, 2)), r"image has shape \(64, 64, 2\)"),
    "negative": (GRAY / 255 - 0.5, "image has values from -0.5 to 0.5, whose black and white are not known"),
    "fractions": (GRAY * 1.37 + 0.1, "whose black and white are not known; expected 0 to 1, or whole numbers from 0"),
    "too large": (GRAY.astype(np.int64) * 1000, "whose black and white are not known"),
    "truth": (GRAY > 100, "image must be an array, .* got an array of type bool"),
    "text array": (np.array([["a"]]), "image must be an array, .* got an array of type <U1"),
    "number": (5, "image must be an array, a PIL image, a path or a list of them, .* got int"),
    "nothing": (None, "image must be an array, .* got NoneType"),
    "mask": (MASK, "image looks like a mask, not like an ultrasound image: it has 2 gray values, .* accept_masks=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_segmented_is_refused_in_one_line(name):
    image, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as refusal:
        read_frames(image)
    assert "\n" not in str(refusal.value)


def test_mask_is_taken_when_it_is_asked_for():
    assert read_frames(MASK, accept_masks=True).gray.max() == 1


def test_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"file .*gone.png does not exist"):
        read_frames(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"is a folder; pass a file or a list of files, or run sam_tinyusfm segment"):
        read_frames(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"file .*text.png cannot be read as an image"):
        read_frames(str(tmp_path / "text.png"))


def test_picture_is_refused_where_its_file_is(tmp_path):
    write_png16(tmp_path / "deep.png", COLOR.astype(np.uint16) * 16)  # 12 bits
    picture = Image.open(tmp_path / "deep.png")
    for _ in range(2):  # the second time it is decoded, and its upper 8 bits alone are left
        with pytest.raises(ValueError, match="image has colors of 16 bits, but uses at most 14 of them"):
            read_frames(picture)
    still = Image.fromarray(GRAY)
    still.save(tmp_path / "loop.tif", save_all=True, append_images=[still])
    loop = Image.open(tmp_path / "loop.tif")
    with pytest.raises(ValueError, match=r"image holds 2 frames; expected one: .* picture.copy\(\)"):
        read_frames(loop)
    assert np.array_equal(read_frames(loop.copy()).gray, read_frames(GRAY).gray)


def test_tensor_is_an_array_or_refused_in_one_line():
    tensor = torch.from_numpy(GRAY.copy())
    message = r"^image cannot be read as an array \(.*\); expected an array, a PIL image"
    assert np.array_equal(read_frames(tensor).gray, read_frames(GRAY).gray)
    for other in ((tensor / 255).requires_grad_(), (tensor / 255).bfloat16()):
        with pytest.raises(ValueError, match=message):
            read_frames(other)


def test_another_modality_is_taken_when_it_is_named(tmp_path):
    write_dicom(tmp_path / "still.dcm", GRAY, Modality="OT")
    with pytest.raises(ValueError, match=r"has the modality OT, expected US: .* or pass modalities=\['US', 'OT'\]\.$"):
        read_frames(tmp_path / "still.dcm")
    taken = read_frames(tmp_path / "still.dcm", modalities=["US", "OT"])
    assert np.array_equal(taken.gray, read_frames(GRAY).gray)


def test_path_below_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.fromarray(GRAY).save(tmp_path / "image.png")
    assert np.array_equal(read_frames("~/image.png").gray, read_frames(GRAY).gray)
