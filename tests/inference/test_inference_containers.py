"""One picture in many containers has one mask, in each file's own geometry; a crop has that of the cut-out picture."""

import nibabel
import numpy as np
import pytest
from dicom_files import region, write_dicom
from PIL import Image
from test_inference import HEIGHT, WIDTH, checkpoint, infer, picture, student  # noqa: F401  fixtures

AFFINE = np.diag([-0.2, -0.3, 1, 1])


def save(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine, dtype=array.dtype), path)


def test_one_picture_has_one_mask_in_every_container(checkpoint, tmp_path):  # noqa: F811
    folder, pixels = tmp_path / "images", np.asarray(picture())  # (H, W)
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "png8.png")
    Image.fromarray(pixels.astype(np.uint16)).save(folder / "png16.png")
    Image.fromarray(pixels.astype(np.float32)).save(folder / "float.tif")
    for dtype in (np.uint8, np.uint16, np.int16, np.float32):
        save(folder / f"{np.dtype(dtype).name}.nii", pixels.T.astype(dtype))
    save(folder / "thin.nii", pixels.T[None], AFFINE[:, [2, 0, 1, 3]])
    save(folder / "swapped.nii", pixels, AFFINE[:, [1, 0, 2, 3]])
    save(folder / "swapped_thin.nii", pixels[:, None], AFFINE[:, [1, 2, 0, 3]])
    infer(folder, checkpoint, tmp_path / "out")
    with Image.open(tmp_path / "out" / "png8_mask.png") as mask:
        expected = np.asarray(mask)  # (H, W)
    assert 0 < expected.mean() < 1
    for path in sorted(folder.iterdir()):
        if path.suffix == ".nii":
            image, mask = nibabel.load(path), nibabel.load(tmp_path / "out" / f"{path.stem}_mask.nii.gz")
            assert mask.shape == image.shape, path
            assert np.array_equal(mask.affine, image.affine), path
            values = np.asarray(mask.dataobj).squeeze()
            values = values if path.stem.startswith("swapped") else values.T
        else:
            values = np.asarray(Image.open(tmp_path / "out" / f"{path.stem}_mask.png"))
        assert np.array_equal(values, expected), path
    assert Image.open(tmp_path / "out" / "swapped_overlay.png").size == (WIDTH, HEIGHT)
    table = (tmp_path / "out" / "lesions.csv").read_text().splitlines()
    assert len({row.split(",", 1)[1] for row in table if "swapped" in row or "int16" in row}) == 1


@pytest.mark.parametrize("crop", [False, True])
def test_crop_segments_the_tissue_alone(checkpoint, tmp_path, crop):  # noqa: F811
    pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
    screen = np.full((90, 120), 255, np.uint8)
    screen[20 : 20 + HEIGHT, 30 : 30 + WIDTH] = np.asarray(picture())
    screen[:10] = np.random.default_rng(0).integers(0, 256, (10, 120))
    tissue = region(0.01, 0.02, box=(30, 20, 30 + WIDTH - 1, 20 + HEIGHT - 1))
    (tmp_path / "images").mkdir()
    write_dicom(tmp_path / "images" / "a.dcm", screen, SequenceOfUltrasoundRegions=[tissue])
    picture().save(tmp_path / "images" / "cut.png")
    infer(tmp_path / "images", checkpoint, tmp_path / "out", crop_to_region=crop)
    masks = {name: np.asarray(Image.open(tmp_path / "out" / f"{name}_mask.png")) for name in ("a", "cut")}
    expected = np.zeros_like(screen)
    expected[20 : 20 + HEIGHT, 30 : 30 + WIDTH] = masks["cut"]
    assert masks["a"].shape == screen.shape
    assert np.array_equal(masks["a"], expected) == crop
    assert Image.open(tmp_path / "out" / "a_overlay.png").size == (120, 90)
    if crop:
        row = next(
            row for row in (tmp_path / "out" / "lesions.csv").read_text().splitlines() if row.startswith("a.dcm")
        )
        _, _, _, pixels, area, *_ = row.split(",")
        assert float(area) == pytest.approx(int(pixels) * 0.02)
