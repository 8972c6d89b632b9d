import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from scripts.data.readers import READING_RULE, GrayImageReader, MaskReader, read_image, read_mask, reading_rule

READER = "scripts.data.readers.GrayImageReader"


@pytest.fixture
def gray():
    """8-bit pixels (H, W) = (5, 7), all different."""
    return (np.arange(35).reshape(5, 7) * 7).astype(np.uint8)


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


def save_nifti(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_8_bit_modes_are_the_same_gray_image(gray, tmp_path, mode, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(gray).convert(mode).save(path)
    image, meta = read_image(path)
    assert image.dtype == np.float32 and image.shape == (7, 5)
    np.testing.assert_allclose(image, gray.T / 255, atol=1e-6)
    assert meta["original_channel_dim"] == "no_channel" and tuple(meta["original_shape"]) == (7, 5)


def test_bmp_is_exact_and_jpeg_is_close(gray, tmp_path):
    np.testing.assert_allclose(read_image(save(tmp_path / "a.bmp", gray))[0], gray.T / 255, atol=1e-6)
    flat = np.full((16, 16), 90, np.uint8)
    np.testing.assert_allclose(read_image(save(tmp_path / "a.jpg", flat))[0], 90 / 255, atol=0.02)


def test_color_becomes_luma(tmp_path):
    color = np.zeros((2, 3, 3), np.uint8)
    color[..., 0] = 255
    assert read_image(save(tmp_path / "a.png", color))[0][0, 0] == pytest.approx(0.299, abs=2e-3)


def test_palette_of_colors_is_read_through_the_palette(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 51, 51, 51])
    picture.save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[0], [[0], [0.2]], atol=1e-6)


def test_1_bit_image_is_0_and_1(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[0], [1]]


def test_alpha_is_composited_over_black(tmp_path):
    pixels = np.array([[[200, 0], [200, 51], [200, 255]]], np.uint8)
    image, _ = read_image(save(tmp_path / "a.png", pixels, "LA"))
    np.testing.assert_allclose(image[:, 0] * 255, [0, 40, 200], atol=1e-4)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_divided_by_65535(tmp_path, suffix):
    pixels = np.array([[0, 6554, 65535]], np.uint16)
    image, _ = read_image(save(tmp_path / f"a.{suffix}", pixels))
    np.testing.assert_allclose(image[:, 0], pixels[0] / 65535, atol=1e-6)


def test_32_bit_integer_within_16_bit_is_divided_by_65535(tmp_path):
    image, _ = read_image(save(tmp_path / "a.tif", np.array([[0, 65535]], np.int32)))
    assert image[:, 0].tolist() == [0, 1]
    with pytest.raises(ValueError, match="from 0 to 70000; expected 0 to 65535"):
        read_image(save(tmp_path / "b.tif", np.array([[0, 70000]], np.int32)))


def test_exif_rotation_is_applied_to_image_and_mask(gray, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to show
    Image.fromarray(gray).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(gray, -1).T
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[0], expected / 255, atol=1e-6)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png")[0], expected)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("trailing", [(), (1,)])
def test_nifti_keeps_shape_and_affine_in_meta(gray, tmp_path, suffix, trailing):
    affine = np.diag([0.1, 0.2, 1, 1])
    path = save_nifti(tmp_path / f"a.{suffix}", gray.T.reshape(7, 5, *trailing), affine)
    image, meta = read_image(path)
    np.testing.assert_allclose(image, gray.T / 255, atol=1e-6)
    assert tuple(meta["original_shape"]) == (7, 5, *trailing)
    np.testing.assert_allclose(meta["affine"], affine)


@pytest.mark.parametrize(
    "pixels, expected",
    [
        (np.array([[0, 65535]], np.uint16), [0, 1]),
        (np.array([[0, 65535]], ">u2"), [0, 1]),
        (np.array([[0.25, 0.5]], np.float32), [0.25, 0.5]),
        (np.array([[-100, 300]], np.int16), [0, 1]),
        (np.array([[10.5, 20.5]], np.float64), [0, 1]),
        (np.array([[-7, -7]], np.int16), [0, 0]),
        (np.array([[0, 70000]], np.int32), [0, 1]),
    ],
)
def test_nifti_of_fractions_and_negative_values_is_stretched(tmp_path, pixels, expected):
    assert read_image(save_nifti(tmp_path / "a.nii", pixels))[0][0].tolist() == expected


def test_load_imaged_takes_the_readers_by_name(gray, tmp_path):
    image, mask = save(tmp_path / "i.png", gray), save_nifti(tmp_path / "m.nii.gz", (gray.T > 100).astype(np.uint8))
    load = Compose(
        [
            LoadImaged("image", reader=READER),
            LoadImaged("label", reader=READER.replace("GrayImage", "Mask")),
            EnsureChannelFirstd(("image", "label")),
        ]
    )
    item = load({"image": image, "label": mask})
    assert item["image"].shape == item["label"].shape == (1, 7, 5)
    assert item["image"].dtype == torch.float32 and item["image"].meta["filename_or_obj"] == str(image)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: save_nifti(p, np.zeros((4, 5, 6), np.uint8)), r"shape \(4, 5, 6\); expected \(W, H\)"),
        (lambda p: save_nifti(p, np.zeros((40, 50, 3), np.uint8)), r"shape \(40, 50, 3\); expected \(W, H\)"),
        (lambda p: save_nifti(p, np.zeros((4, 5), np.complex64)), "one gray channel"),
        (lambda p: save_nifti(p, np.array([[np.nan, 1]], np.float32)), "nan or infinite"),
        (lambda p: p.write_bytes(b"no image"), r"a.nii cannot be read as an image"),
    ],
)
def test_refused_nifti_is_named_and_no_other_reader_takes_it(tmp_path, make, message):
    path = tmp_path / "a.nii"
    make(path)
    with pytest.raises(ValueError, match=message) as error:
        read_image(path)
    assert str(path) in str(error.value)
    with pytest.raises(RuntimeError) as error:
        Compose(LoadImaged("image", reader=READER))({"image": path})
    assert str(path) in str(error.value.__cause__)


@pytest.mark.parametrize("slope, intercept, rule", [(1, 0, ""), (2, 0, READING_RULE), (1, 7, READING_RULE)])
def test_eight_bits_that_are_scaled_are_read_by_a_rule(gray, tmp_path, slope, intercept, rule):
    image = nibabel.Nifti1Image(gray.T, np.eye(4))
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, tmp_path / "a.nii")
    assert reading_rule(tmp_path / "a.nii") == rule


def test_messages_fit_a_program_that_has_no_list(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"replace it or take it out\.$"):
        read_image(tmp_path / "a.nii")
    with pytest.raises(FileNotFoundError, match=r"b.nii does not exist; put it back, or correct what names it\.$"):
        read_image(tmp_path / "b.nii")


def test_rgb_nifti_is_refused(tmp_path):
    rgb = np.zeros((4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ValueError, match="one gray channel"):
        read_image(save_nifti(tmp_path / "a.nii", rgb))


def test_several_frames_are_refused(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (0, 99)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="holds 2 frames"):
        read_image(tmp_path / "a.tif")


def test_truncated_picture_is_named(gray, tmp_path):
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match="a.png cannot be read as an image"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_missing_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="none.png does not exist"):
        read(tmp_path / "none.png")


def test_two_files_for_one_item_are_refused():
    with pytest.raises(ValueError, match="one file for each item, got 2: a.png, b.png"):
        GrayImageReader().get_data(GrayImageReader().read(["a.png", "b.png"]))


@pytest.mark.parametrize("values", [[0, 1, 1], [0, 255, 255], [0, 1, 2]])
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA"])
def test_mask_values_are_kept(tmp_path, values, mode):
    pixels = np.array([values], np.uint8)
    if mode == "P":
        picture = Image.fromarray(pixels, "P")
        picture.putpalette([value for gray in range(256) for value in (gray, gray, gray)])
        picture.save(tmp_path / "m.png")
    else:
        Image.fromarray(pixels).convert(mode).save(tmp_path / "m.png")
    mask, _ = read_mask(tmp_path / "m.png")
    assert mask.dtype == np.float32 and mask[:, 0].tolist() == values


def test_colored_palette_mask_gives_indices(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png")[0][:, 0].tolist() == [0, 1, 2]


def test_1_bit_mask_is_0_and_1(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png")[0].tolist() == [[0], [1]]


def test_transparent_mask_pixels_are_background(tmp_path):
    path = save(tmp_path / "m.png", np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], np.uint8))
    assert read_mask(path)[0].tolist() == [[0], [255]]


def test_color_mask_with_unequal_channels_is_refused(tmp_path):
    with pytest.raises(ValueError, match="m.png is a RGB mask with unequal color channels"):
        read_mask(save(tmp_path / "m.png", np.array([[[255, 0, 0]]], np.uint8)))


def test_nifti_mask_of_fractions_is_refused(tmp_path):
    assert read_mask(save_nifti(tmp_path / "a.nii", np.array([[0.0, 2.0]], np.float32)))[0].tolist() == [[0, 2]]
    with pytest.raises(ValueError, match="no whole numbers"):
        read_mask(save_nifti(tmp_path / "b.nii", np.array([[0.5, 1]], np.float32)))
    with pytest.raises(ValueError, match="nan or infinite"):
        MaskReader().get_data([save_nifti(tmp_path / "c.nii", np.array([[np.inf, 1]], np.float32))])
