"""One picture has one brightness, whatever type and format hold it."""

import nibabel
import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image
from png_files import write_png16

from scripts.data.brightness import unit_range
from scripts.data.readers import read_image
from scripts.inference.frame_reader import FrameReader


@pytest.fixture
def picture():
    """uint8 (H, W) whose largest value is 201."""
    return np.random.default_rng(0).integers(0, 202, (20, 30)).astype(np.uint8)


TYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32, np.float64]


def save_nifti(path, array, **header):
    image = nibabel.Nifti1Image(array, np.diag([0.1, 0.1, 1, 1]), dtype=array.dtype)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def both(path):
    """What a training and what inference reads, which are the same."""
    training, inference = read_image(path)[0], FrameReader().decode(path)[0][..., 0]
    assert np.array_equal(training, inference)
    return training


@pytest.mark.parametrize("dtype", TYPES)
def test_nifti_of_every_type_is_as_bright_as_the_8_bit_png(tmp_path, picture, dtype):
    picture = np.minimum(picture, 127) if dtype == np.int8 else picture
    Image.fromarray(picture).save(tmp_path / "a.png")
    expected = both(tmp_path / "a.png")
    assert np.array_equal(expected, (picture.T / np.float32(255)))
    assert np.array_equal(both(save_nifti(tmp_path / "a.nii", picture.T.astype(dtype))), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_picture_of_every_type_is_as_bright_as_the_8_bit_png(tmp_path, picture, suffix, dtype):
    if suffix == "png" and dtype != np.uint16:
        pytest.skip("PNG holds whole numbers of 16 bits at most")
    Image.fromarray(picture.astype(dtype)).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(both(tmp_path / f"a.{suffix}"), picture.T / np.float32(255))


def test_float_that_was_a_whole_number_is_one(picture):
    nearly = picture / np.float32(255) * np.float32(255) + 1e-5
    assert np.array_equal(unit_range(nearly), picture / np.float32(255))


@pytest.mark.parametrize(
    "largest, white",
    [(1, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535), (65535, 65535)],
)
def test_whole_numbers_are_scaled_by_the_fewest_bits_that_hold_them(largest, white):
    values = np.array([0, largest], np.uint16)
    for dtype in (np.uint16, np.int32, np.float64):
        assert np.array_equal(unit_range(values.astype(dtype)), values / np.float32(white)) or largest == 1


def test_floats_in_the_unit_range_stay():
    values = np.array([0, 0.25, 1], np.float32)
    assert np.array_equal(unit_range(values), values)


def test_a_loop_has_one_scale(tmp_path):
    loop = np.zeros((20, 30, 1, 6), np.uint16)
    loop[..., 0], loop[..., 5] = 100, 4000  # the first frame alone would fit into 8 bits
    frames, _ = FrameReader().decode(save_nifti(tmp_path / "a.nii", loop))
    assert frames[0, 0, 0] == np.float32(100 / 4095)
    dark = loop.astype(np.int16) - 200  # negative values are stretched
    frames, _ = FrameReader().decode(save_nifti(tmp_path / "b.nii", dark))
    assert [frames[..., n].max() for n in (0, 1, 5)] == pytest.approx([100 / 4000, 0, 1])


def test_display_range_of_a_nifti_counts_where_nothing_else_is_known(tmp_path):
    decibels = np.array([[-80.0, -60, -30, 0, 10]], np.float32)
    read = both(save_nifti(tmp_path / "a.nii", decibels, cal_min=-60, cal_max=0))
    np.testing.assert_allclose(read[0], [0, 0, 0.5, 1, 1])
    whole = np.array([[0, 200]], np.uint16)
    assert both(save_nifti(tmp_path / "b.nii", whole, cal_min=10, cal_max=100))[0, 1] == np.float32(200 / 255)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_16_bit_colors_that_pillow_would_read_as_black_are_refused(tmp_path, mode):
    channels = {"RGB": 3, "RGBA": 4, "LA": 2}[mode]
    for largest in (255, 16383):
        write_png16(tmp_path / "a.png", np.full((4, 5, channels), largest, np.uint16))
        with pytest.raises(ValueError, match="a.png has colors of 16 bits, but uses at most 14 of them; save it"):
            read_image(tmp_path / "a.png")
    write_png16(tmp_path / "a.png", np.full((4, 5, channels), 65535, np.uint16))
    assert both(tmp_path / "a.png").min() == 1


# DICOM


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_of_every_type_is_as_bright_as_the_8_bit_png(pydicom, tmp_path, picture, dtype, photometric):
    path = write_dicom(tmp_path / "a.dcm", picture.astype(dtype), photometric)
    frames, _ = FrameReader().decode(path)
    expected = picture.T / 255
    np.testing.assert_allclose(frames[..., 0], 1 - expected if photometric == "MONOCHROME1" else expected, atol=1e-6)


def test_stored_bits_of_a_dicom_count_where_somebody_set_them(pydicom, tmp_path, picture):
    path = write_dicom(tmp_path / "a.dcm", picture.astype(np.uint16), bits=12)
    np.testing.assert_allclose(FrameReader().decode(path)[0][..., 0], picture.T / 4095, atol=1e-6)


@pytest.mark.parametrize(
    "function, center, width, expected",
    [
        (None, 128, 256, [0, 100 / 255, 1, 1]),
        ("LINEAR", 100.5, 101, [0, 0.5, 1, 1]),
        ("LINEAR_EXACT", 100, 200, [0, 0.5, 1, 1]),
        (None, [128, 40], [256, 80], [0, 100 / 255, 1, 1]),  # the first window
    ],
)
def test_window_of_a_dicom_counts(pydicom, tmp_path, function, center, width, expected):
    tags = {"WindowCenter": center, "WindowWidth": width, **({"VOILUTFunction": function} if function else {})}
    path = write_dicom(tmp_path / "a.dcm", np.array([[0, 100, 255, 3000]], np.int16), **tags)
    np.testing.assert_allclose(FrameReader().decode(path)[0][:, 0, 0], expected, atol=1e-6)
    # 8-bit pixels are shown as they are
    path = write_dicom(tmp_path / "b.dcm", np.array([[0, 100]], np.uint8), WindowCenter=10, WindowWidth=20)
    np.testing.assert_allclose(FrameReader().decode(path)[0][:, 0, 0], [0, 100 / 255], atol=1e-6)


def test_window_of_an_unknown_function_is_refused(pydicom, tmp_path):
    path = write_dicom(
        tmp_path / "a.dcm", np.ones((4, 5), np.int16), WindowCenter=1, WindowWidth=2, VOILUTFunction="SIGMOID"
    )
    with pytest.raises(ValueError, match="has a window of the function SIGMOID and the width 2; save its pixels in 8"):
        FrameReader().decode(path)


def test_frames_of_a_dicom_palette_are_as_bright_with_16_bit_entries(pydicom, tmp_path):
    from dicom_files import dicom_dataset

    dataset = dicom_dataset(np.array([[0, 1]], np.uint8), "PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [2, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", np.array([0, 200], "<u2").tobytes())
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert FrameReader().colors(tmp_path / "a.dcm")[0][:, 0, 0, 0].tolist() == [0, 200]
