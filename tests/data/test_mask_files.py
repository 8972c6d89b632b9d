"""Masks of several files, in color and as JPEG: what they become, and what is refused."""

import nibabel
import numpy as np
import pytest
from PIL import Image
from png_files import write_png16

from scripts.data.mask_files import check_one_color, check_places, clean_mask, examine

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
    assert examine([save(tmp_path / "a.png", LESION * factor)], 2)[:2] == (True, {1})
    assert examine([save(tmp_path / "b.png", np.stack([LESION * factor] * 3, axis=-1))], 2)[:2] == (True, {1})
    assert examine([save(tmp_path / "c.png", LESION * 0)], 2)[:2] == (True, set())


def test_nifti_mask_is_ready(tmp_path):
    nibabel.save(nibabel.Nifti1Image(2 * LESION.T[..., None], np.eye(4)), tmp_path / "a.nii.gz")
    assert examine([tmp_path / "a.nii.gz"], 3)[:2] == (True, {2})


def test_masks_of_one_image_are_merged(tmp_path):
    paths = [save(tmp_path / "a.png", LESION * 255), save(tmp_path / "b.png", OTHER)]
    assert examine(paths, 2)[:2] == (False, {1})
    assert np.array_equal(clean_mask(paths, 2), LESION | OTHER)
    paths[1] = save(tmp_path / "c.png", OTHER * 2)
    paths[0] = save(tmp_path / "d.png", LESION)
    assert np.array_equal(clean_mask(paths, 3), LESION + 2 * OTHER)


def test_jpeg_mask_becomes_black_and_white(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(LESION * 255).save(path, quality=60)
    assert examine([path], 2)[:2] == (False, {1})
    assert (clean_mask([path], 2) != LESION).mean() < 0.02


def test_jpeg_of_class_values_is_refused(tmp_path):
    Image.fromarray(LESION * 100).save(tmp_path / "a.jpg", quality=60)
    for num_classes in (2, 3):
        with pytest.raises(ValueError, match="a.jpg holds the values 0, .*; expected"):
            clean_mask([tmp_path / "a.jpg"], num_classes)


def test_one_color_on_black_is_the_lesion(tmp_path):
    path = save(tmp_path / "a.png", colored((LESION, RED)))
    assert examine([path], 2)[:2] == (False, {1})
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


def test_named_colors_hold_for_masks_whose_values_would_fit(tmp_path):
    white = save(tmp_path / "a.png", 255 * (1 - LESION))
    colors = [(255, 255, 255), (0, 0, 0)]
    assert np.array_equal(clean_mask([white], 2, colors), LESION)
    assert examine([white], 2, colors)[:2] == (False, {1})
    Image.fromarray(255 * (1 - LESION)).convert("1").save(tmp_path / "b.png")
    assert np.array_equal(clean_mask([tmp_path / "b.png"], 2, colors), LESION)


def test_named_colors_are_those_of_a_palette(tmp_path):
    picture = Image.fromarray(1 - LESION).convert("P")
    picture.putpalette([*RED, *GREEN])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(clean_mask([tmp_path / "a.png"], 2, [GREEN, RED]), LESION)
    assert np.array_equal(clean_mask([tmp_path / "a.png"], 2), 1 - LESION)  # indices


def test_nifti_mask_has_values_whatever_the_colors_of_pictures(tmp_path):
    assert examine([nifti(tmp_path / "a.nii", LESION)], 2, [(0, 0, 0), RED])[:2] == (True, {1})


def test_colors_of_sixteen_bits_that_would_be_lost_are_refused(tmp_path):
    write_png16(tmp_path / "a.png", colored((LESION, RED)))
    with pytest.raises(ValueError, match="a.png has colors of 16 bits, but uses at most 14 of them; save it with 8"):
        examine([tmp_path / "a.png"], 2)


def test_second_color_in_another_mask_is_refused(tmp_path):
    paths = [save(tmp_path / f"{n}.png", colored((LESION, color))) for n, color in enumerate((RED, RED, GREEN))]
    check_one_color([paths[:2], [save(tmp_path / "white.png", LESION * 255)]])
    with pytest.raises(ValueError, match=r"colors ff0000 \(.*0.png\) and 00ff00 \(.*2.png\) .*; pass --mask_colors"):
        check_one_color([[path] for path in paths])


AFFINE = np.diag([-0.1, -0.2, 1, 1])


def nifti(path, rows, affine=AFFINE):
    """A NIfTI of pixels (H, W)."""
    image = nibabel.Nifti1Image(rows.T, affine)
    image.set_sform(affine, 1)
    nibabel.save(image, path)
    return path


def test_nifti_masks_of_one_image_must_lie_in_one_place(tmp_path):
    image = save(tmp_path / "image.png", LESION)
    shifted = AFFINE + np.eye(4, k=3) * 2
    mirrored = AFFINE.copy()
    mirrored[0] = (0.1, 0, 0, -3.1)  # the same place, the other way round
    masks = [nifti(tmp_path / f"{n}.nii", LESION, affine) for n, affine in enumerate((AFFINE, shifted, mirrored))]
    check_places(image, [masks[0], masks[0]], ready=False)
    with pytest.raises(
        ValueError, match="masks .*0.nii and .*1.nii of one image lie in different places .*; save both"
    ):
        check_places(image, masks[:2], ready=False)
    with pytest.raises(
        ValueError, match="mask .*2.nii runs in another direction .*; save it with the affine of its im"
    ):
        check_places(image, masks[::2], ready=False)


def test_nifti_masks_must_lie_as_their_nifti_image(tmp_path):
    image, mask = nifti(tmp_path / "image.nii", LESION), nifti(tmp_path / "mask.nii", LESION, AFFINE + np.eye(4, k=3))
    check_places(image, [image], ready=True)
    for ready in (True, False):
        with pytest.raises(ValueError, match="label .*mask.nii and image .*image.nii lie in different places"):
            check_places(image, [mask], ready)


def test_mask_of_an_image_with_swapped_axes_is_not_written_as_a_picture(tmp_path):
    image = nifti(tmp_path / "image.nii", LESION, AFFINE[:, [1, 0, 2, 3]])
    check_places(image, [image], ready=True)
    with pytest.raises(
        ValueError, match="axes of image .*image.nii are swapped and a cleaned mask is a PNG.*; save one N"
    ):
        check_places(image, [image, image], ready=False)
    with pytest.raises(ValueError, match="are swapped and .*a.png does not say how it lies"):
        check_places(image, [tmp_path / "a.png"], ready=True)
