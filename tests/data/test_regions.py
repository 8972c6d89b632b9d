"""Where the pixels of an ultrasound image in DICOM have a size."""

import numpy as np
import pytest
import torch
from dicom_files import dicom_dataset, region, write_dicom
from monai.data import MetaTensor

from scripts.data.regions import REGIONS, TISSUE, calibrated_regions, pixel_spacing, spacing_of, tissue_box
from scripts.inference.frame_reader import FrameReader
from scripts.inference.lesion_table import rows_of
from scripts.inference.masks import ToStoredShaped

pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")

WIDTH, HEIGHT = 60, 40
CM, SECONDS, MOTION = 3, 4, 2  # units; the format of an M-mode
LEFT, RIGHT = (0, 0, 29, 39), (30, 0, 59, 39)  # columns and rows, the last ones included


def dataset(regions, **tags):
    return dicom_dataset(np.zeros((HEIGHT, WIDTH), np.uint8), SequenceOfUltrasoundRegions=regions, **tags)


def lesion(left, right, top=5, bottom=10):
    mask = np.zeros((WIDTH, HEIGHT), bool)
    mask[left:right, top:bottom] = True
    return mask


def spacing(regions, mask, tmp_path, **tags):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=regions, **tags)
    return spacing_of(mask, FrameReader().decode(path)[1])


FINE, COARSE = region(0.01, 0.02, box=LEFT), region(0.03, 0.03, box=RIGHT)


@pytest.mark.parametrize(
    "regions, mask, expected",
    [
        ([FINE], lesion(5, 30), (0.1, 0.2)),
        ([FINE], lesion(5, 31), None),  # partly outside
        ([FINE], lesion(40, 50), None),
        ([FINE, COARSE], lesion(5, 30), (0.1, 0.2)),
        ([FINE, COARSE], lesion(30, 60), (0.3, 0.3)),
        ([FINE, COARSE], lesion(25, 35), None),  # over two scales
        ([FINE, region(0.01, 0.02, box=RIGHT)], lesion(25, 35), (0.1, 0.2)),  # over two regions of one scale
        ([FINE, region(0.01, 1, SECONDS, MOTION, RIGHT)], lesion(5, 30), (0.1, 0.2)),
        ([FINE, region(0.01, 1, SECONDS, MOTION, RIGHT)], lesion(25, 35), None),
        ([region(0.01, 0.02, box=(0, 0, 60, 40))], lesion(0, 60, 0, 40), (0.1, 0.2)),  # the one after the last
        ([region(0.01, 0.02, box=(0, 0, 99, 39))], lesion(5, 10), None),  # does not fit
        ([FINE, region(0.01, 1, SECONDS, MOTION, (30, 0, 59, 90))], lesion(5, 10), None),
        ([region(0.01, 0.02, box=(20, 0, 10, 39))], lesion(12, 15), None),
        ([FINE, COARSE], lesion(0, 0), None),
        ([FINE], lesion(0, 0), (0.1, 0.2)),
    ],
)
def test_pixels_have_a_size_inside_of_regions_of_one_scale(tmp_path, regions, mask, expected):
    found = spacing(regions, mask, tmp_path)
    assert found == (None if expected is None else pytest.approx(expected))


def test_pixel_spacing_counts_where_no_region_has_millimeters(tmp_path):
    motion = region(0.01, 1, SECONDS, MOTION, RIGHT)
    assert spacing([motion], lesion(5, 10), tmp_path, PixelSpacing=[0.4, 0.3]) == (0.3, 0.4)
    assert spacing([motion], lesion(25, 35), tmp_path, PixelSpacing=[0.4, 0.3]) is None
    assert spacing([FINE], lesion(40, 50), tmp_path, PixelSpacing=[0.4, 0.3]) is None


def test_pixel_spacing_holds_in_a_two_dimensional_region_without_units(tmp_path):
    unscaled, motion = region(0, 0, 0, box=LEFT), region(0.01, 1, SECONDS, MOTION, RIGHT)
    assert spacing([unscaled], lesion(5, 10), tmp_path, PixelSpacing=[0.4, 0.3]) == (0.3, 0.4)
    assert spacing([unscaled, motion], lesion(5, 10), tmp_path, PixelSpacing=[0.4, 0.3]) == (0.3, 0.4)
    assert spacing([unscaled, motion], lesion(25, 35), tmp_path, PixelSpacing=[0.4, 0.3]) is None
    assert spacing([unscaled], lesion(5, 10), tmp_path) is None
    assert spacing([unscaled, region(0.03, 0.03, box=RIGHT)], lesion(5, 10), tmp_path, PixelSpacing=[1, 1]) is None


def test_region_that_does_not_fit_or_lies_nowhere_leaves_no_scale():
    good = region(0.01, 0.02, box=LEFT)
    for wrong in (region(0.01, 0.02, box=(0, 0, 60, 41)), region(0.01, 0.02, box=(-3, 0, 10, 10))):
        if wrong.RegionLocationMinX0 < 0:
            del wrong.RegionLocationMaxX1
            wrong.RegionLocationMinX0 = 0
        file = dataset([good], PixelSpacing=[1, 1])
        file.SequenceOfUltrasoundRegions = [good, wrong]
        assert pixel_spacing(file) is None
        assert calibrated_regions(file) is None


def test_lesions_have_an_area_where_it_is_certain(tmp_path):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=[FINE, COARSE])
    _, meta = FrameReader().decode(path)
    meta = {key: torch.as_tensor(value) if isinstance(value, np.ndarray) else value for key, value in meta.items()}
    classes = lesion(5, 15) + 2 * lesion(25, 35, 20, 30) + 3 * lesion(40, 50, 30, 40)
    mask = MetaTensor(torch.as_tensor(classes)[None], meta={"filename_or_obj": str(path), **meta})
    rows = list(rows_of(mask, ["a", "b", "c", "d"], "image"))
    assert [row["area_px"] for row in rows] == [50, 100, 100, 0]
    assert [row["area_mm2"] for row in rows] == [pytest.approx(1.0), "", pytest.approx(9.0), ""]
    assert [row["pixel_width_mm"] for row in rows] == [0.1, "", 0.3, ""]


# the offer to crop

TISSUE_BOX = (10, 4, 49, 33)


def test_tissue_is_the_one_region_of_its_kind():
    color = region(0.01, 0.01, box=(20, 10, 30, 20), data_type=2)
    assert tissue_box(dataset([region(0.01, 0.01, box=TISSUE_BOX), color])).tolist() == [10, 50, 4, 34]
    for regions in ([], [color], [FINE, COARSE], [region(0.01, 0.01, box=(0, 0, 99, 10))]):
        assert tissue_box(dataset(regions)) is None


@pytest.mark.parametrize("frames", [1, 6])
def test_crop_reads_the_tissue_alone_and_masks_are_of_the_whole_image(tmp_path, frames):
    pixels = np.random.default_rng(0).integers(0, 256, (frames, HEIGHT, WIDTH), dtype=np.uint8)
    tags = {"SequenceOfUltrasoundRegions": [region(0.01, 0.02, box=TISSUE_BOX)]}
    path = write_dicom(tmp_path / "a.dcm", pixels if frames > 1 else pixels[0], **tags)
    whole, whole_meta = FrameReader().decode(path)
    cropped, meta = FrameReader(crop_to_region=True).decode(path)
    assert TISSUE in whole_meta and REGIONS in whole_meta
    assert np.array_equal(cropped, whole[10:50, 4:34])
    assert tuple(meta["spatial_shape"]) == (40, 30, frames)
    assert np.allclose(meta["affine"] @ (0, 0, 0, 1), whole_meta["affine"] @ (10, 4, 0, 1))
    assert FrameReader(crop_to_region=True).colors(path)[0].shape == (WIDTH, HEIGHT, frames, 3)
    bright = MetaTensor(torch.as_tensor(cropped > 0.5)[None].to(torch.uint8), affine=meta["affine"], meta=meta)
    mask = ToStoredShaped("pred")({"pred": bright})["pred"]
    expected = np.zeros_like(whole)
    expected[10:50, 4:34] = cropped > 0.5
    assert np.array_equal(mask.numpy().reshape(whole.shape), expected)
    assert np.allclose(mask.affine, whole_meta["affine"])


def test_crop_leaves_other_files_as_they_are(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((HEIGHT, WIDTH), np.uint8))
    assert FrameReader(crop_to_region=True).decode(path)[0].shape == (WIDTH, HEIGHT, 1)
