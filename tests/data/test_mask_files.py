"""Masks of several files, in color and as JPEG: what they become, and what is refused."""

import nibabel
import numpy as np
import pytest
from PIL import Image

from scripts.data.mask_files import clean_mask, examine

LESION = np.zeros((24, 32), np.uint8)
LESION[4:12, 8:20] = 1
OTHER = np.zeros_like(LESION)
OTHER[16:22, 2:10] = 1
RED, GREEN = (255, 0, 0), (0, 255, 0)


def save(path, array):
    Image.fromarray(array).save(path)
    return path


def colored(*layers):
    rgb = np.zeros((*LESION.shape, 3), np.uint8)
    for mask, color in layers:
        rgb[mask > 0] = color
    return rgb


@pytest.mark.parametrize("factor", [1, 255])
def test_mask_that_fits_is_ready(tmp_path, factor):
    assert examine([save(tmp_path / "a.png", LESION * factor)], 2) == (True, {1})
    assert examine([save(tmp_path / "b.png", np.stack([LESION * factor] * 3, axis=-1))], 2) == (True, {1})
    assert examine([save(tmp_path / "c.png", LESION * 0)], 2) == (True, set())


def test_nifti_mask_is_ready(tmp_path):
    nibabel.save(nibabel.Nifti1Image(2 * LESION.T[..., None], np.eye(4)), tmp_path / "a.nii.gz")
    assert examine([tmp_path / "a.nii.gz"], 3) == (True, {2})


def test_masks_of_one_image_are_merged(tmp_path):
    paths = [save(tmp_path / "a.png", LESION * 255), save(tmp_path / "b.png", OTHER)]
    assert examine(paths, 2) == (False, {1})
    assert np.array_equal(clean_mask(paths, 2), LESION | OTHER)
    paths[1] = save(tmp_path / "c.png", OTHER * 2)
    paths[0] = save(tmp_path / "d.png", LESION)
    assert np.array_equal(clean_mask(paths, 3), LESION + 2 * OTHER)


def test_jpeg_mask_becomes_black_and_white(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(LESION * 255).save(path, quality=60)
    assert examine([path], 2) == (False, {1})
    assert (clean_mask([path], 2) != LESION).mean() < 0.02


def test_jpeg_of_class_values_is_refused(tmp_path):
    Image.fromarray(LESION * 100).save(tmp_path / "a.jpg", quality=60)
    for num_classes in (2, 3):
        with pytest.raises(ValueError, match="a.jpg holds the values 0, .*; expected"):
            clean_mask([tmp_path / "a.jpg"], num_classes)


def test_one_color_on_black_is_the_lesion(tmp_path):
    path = save(tmp_path / "a.png", colored((LESION, RED)))
    assert examine([path], 2) == (False, {1})
    assert np.array_equal(clean_mask([path], 2), LESION)


def test_colors_become_the_classes_that_are_named(tmp_path):
    path = save(tmp_path / "a.png", colored((LESION, RED), (OTHER, GREEN)))
    assert np.array_equal(clean_mask([path], 3, [(0, 0, 0), GREEN, RED]), 2 * LESION + OTHER)
    one = save(tmp_path / "b.png", colored((np.ones_like(LESION), GREEN), (LESION, RED)))
    assert np.array_equal(clean_mask([one], 2, [GREEN, RED]), LESION)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_colors_that_nobody_has_named_are_refused(tmp_path, num_classes):
    path = save(tmp_path / "a.png", colored((LESION, RED), (OTHER, GREEN)))
    with pytest.raises(ValueError, match="a.png has the colors 000000, 00ff00, ff0000; pass .*--mask_colors"):
        clean_mask([path], num_classes)
    with pytest.raises(ValueError, match="has the colors 000000, 00ff00, ff0000, and not only those of --mask_colors"):
        clean_mask([path], 2, [(0, 0, 0), RED])


def test_bright_background_is_not_taken_for_a_lesion(tmp_path):
    white = colored((np.ones_like(LESION), (255, 255, 255)), (LESION, RED))
    with pytest.raises(ValueError, match="has the colors ff0000, ffffff; pass"):
        clean_mask([save(tmp_path / "a.png", white)], 2)


def test_masks_that_disagree_are_refused(tmp_path):
    one, two = save(tmp_path / "a.png", LESION), save(tmp_path / "b.png", 2 * LESION)
    with pytest.raises(ValueError, match="a.png and .*b.png give one pixel two classes"):
        clean_mask([one, two], 3)
    small = save(tmp_path / "c.png", LESION[:20])
    with pytest.raises(ValueError, match=r"a.png and .*c.png of one image have sizes \(32, 24\) and \(32, 20\)"):
        clean_mask([one, small], 3)


def test_unreadable_mask_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"none")
    with pytest.raises(ValueError, match="a.png cannot be read as an image"):
        examine([tmp_path / "a.png"], 2)
