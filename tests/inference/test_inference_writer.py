"""Images in, masks out: the parts of configs/inference.json one by one."""

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, EnsureChannelFirstd, Invertd, LoadImaged, Resized, SaveImaged
from PIL import Image

from scripts.data.readers import GrayImageReader
from scripts.data.transforms import ToRowsFirstd
from scripts.inference.frame_reader import FrameReader
from scripts.inference.inputs import list_images
from scripts.inference.lesion_table import rows_of
from scripts.inference.masks import SaveImageMaskd, ToStoredShaped, count_frames, stored_mask
from scripts.inference.outputs import mask_path, overlay_path
from scripts.inference.overlays import SaveImageOverlayd
from scripts.metrics import LogitsToClassesd
from scripts.utils.files import atomic_path


def picture(height=40, width=60):
    """Gray (H, W) with a bright rectangle in rows 5..15, columns 30..50."""
    pixels = np.full((height, width), 40, dtype=np.uint8)
    pixels[5:15, 30:50] = 220
    return pixels


def infer(path, output_dir, channels=1, **options):
    """Segments bright pixels through loading, resizing, collating, inverting and writing."""
    preprocessing = Compose(
        [
            LoadImaged(keys="image", reader=GrayImageReader),
            EnsureChannelFirstd(keys="image"),
            ToRowsFirstd(keys="image"),
            Resized(keys="image", spatial_size=(80, 120), mode="bilinear", anti_aliasing=True),
        ]
    )
    postprocessing = Compose(
        [
            Invertd(keys="pred", transform=preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True),
            LogitsToClassesd(keys="pred"),
            ToStoredShaped(keys="pred"),
            SaveImageMaskd(keys="pred", output_dir=output_dir, **options),
        ]
    )
    for batch in DataLoader(Dataset(list_images(path), preprocessing), batch_size=1):
        logits = (batch["image"] - 0.5) * 10
        batch["pred"] = logits if channels == 1 else torch.cat([-logits, logits - 100, logits], dim=1)
        return postprocessing(decollate_batch(batch)[0])


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_picture_gives_png_mask_in_its_orientation(tmp_path, suffix):
    Image.fromarray(picture()).save(tmp_path / f"a.{suffix}")
    result = infer(tmp_path / f"a.{suffix}", tmp_path / "masks")
    assert result["pred_path"] == str(tmp_path / "masks" / "a_mask.png")
    mask = Image.open(result["pred_path"])
    assert mask.mode == "L"
    assert np.array_equal(np.asarray(mask), picture() > 128)
    assert result["pred"].shape == (1, 60, 40)  # (1, W, H)
    assert result["pred"].dtype == torch.uint8


def test_multi_class_values_are_written_as_they_are(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    result = infer(tmp_path / "a.png", tmp_path / "masks", channels=3)
    assert np.array_equal(np.asarray(Image.open(result["pred_path"])), 2 * (picture() > 128))


def test_scale_binary_writes_255(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    result = infer(tmp_path / "a.png", tmp_path / "masks", scale_binary=True)
    assert np.unique(np.asarray(Image.open(result["pred_path"]))).tolist() == [0, 255]
    assert result["pred"].max() == 1
    with pytest.raises(RuntimeError) as raised:
        infer(tmp_path / "a.png", tmp_path / "masks3", channels=3, scale_binary=True)
    assert "scale_binary is for two classes" in str(raised.value.__cause__)


def test_rotated_picture_gives_an_upright_mask(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=exif, quality=100)
    mask = Image.open(infer(tmp_path / "a.jpg", tmp_path / "masks")["pred_path"])
    assert np.array_equal(np.asarray(mask), np.rot90(picture() > 128, k=-1))


def volume(shape, kind=nibabel.Nifti1Image):
    affine = np.array([[0.2, 0.05, 0, -7], [-0.05, 0.3, 0, 11], [0, 0, 1.5, 3], [0, 0, 0, 1]])
    image = kind(picture().T.reshape(shape).astype(np.float32) / 255, affine)
    image.set_sform(affine, code=2)
    image.set_qform(np.diag([0.2, 0.3, 1.5, 1]), code=1)
    image.header["cal_max"] = 1
    return image


@pytest.mark.parametrize("shape", [(60, 40), (60, 40, 1)])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_mask_has_shape_and_geometry_of_its_image(tmp_path, shape, suffix):
    nibabel.save(volume(shape), tmp_path / f"a.{suffix}")
    result = infer(tmp_path / f"a.{suffix}", tmp_path / "masks")
    assert result["pred_path"].endswith("a_mask.nii.gz")
    assert tuple(result["pred"].shape) == (1, *shape)
    mask, image = nibabel.load(result["pred_path"]), nibabel.load(tmp_path / f"a.{suffix}")
    assert mask.shape == shape
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(mask.dataobj).reshape(60, 40), (picture() > 128).T)
    assert np.array_equal(mask.affine, image.affine)
    names = [
        "dim",
        "pixdim",
        "qform_code",
        "sform_code",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "srow_x",
        "srow_y",
        "xyzt_units",
    ]
    for name in names:
        assert np.array_equal(mask.header[name], image.header[name]), name
    assert mask.header["cal_max"] == 0  # the display range was of gray values


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1), (40, 1, 60), (1, 40, 60), (40, 60, 1, 6)])
@pytest.mark.parametrize("reader", [GrayImageReader, FrameReader])
def test_nifti_whose_axes_are_swapped_is_read_upright_and_its_mask_lies_in_the_file(tmp_path, shape, reader):
    if reader is GrayImageReader and shape[-1] == 6:
        pytest.skip("trainings read no loops")
    rows, columns = (axis for axis, n in enumerate(shape[:3]) if n > 1)
    affine = np.zeros((4, 4))
    affine[[1, 0, 2, 3], [rows, columns, 3 - rows - columns, 3]] = -0.2, -0.1, 1, 1
    pixels = np.broadcast_to(picture().reshape(*shape[:3], *[1] * (len(shape) - 3)), shape)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(pixels), affine), tmp_path / "a.nii")
    image, meta = reader().get_data(reader().read(tmp_path / "a.nii"))
    assert np.array_equal(np.atleast_3d(image)[..., 0], picture().T / np.float32(255))
    np.testing.assert_allclose(meta["spacing_mm"], (0.1, 0.2), rtol=1e-6)
    bright = MetaTensor(torch.as_tensor(image > 0.5)[None].to(torch.uint8), affine=meta["affine"], meta=meta)
    bright.meta["filename_or_obj"] = str(tmp_path / "a.nii")
    for steps in ([], [ToStoredShaped("pred")]):
        item = Compose([*steps, SaveImageMaskd("pred", tmp_path / "out", overwrite=True)])({"pred": bright})
        mask = nibabel.load(item["pred_path"])
        assert mask.shape == shape
        assert np.array_equal(np.asarray(mask.dataobj), pixels > 128)
        assert np.array_equal(mask.affine, nibabel.load(tmp_path / "a.nii").affine)
    assert np.allclose(item["pred"].affine, affine)
    (row, *_) = rows_of(item["pred"], ["lesion"], "a")
    assert [row[name] for name in ("x_min", "x_max", "y_min", "y_max")] == [30, 49, 5, 14]
    assert row["area_mm2"] == pytest.approx(200 * 0.02)
    shown = Image.open(SaveImageOverlayd("pred", FrameReader(), tmp_path)(item)["pred_overlay"])
    assert shown.size == (60, 40)
    assert np.ptp(np.asarray(shown.convert("RGB"))[5, 30:50].astype(int).min(0)) > 100  # the colored outline


def test_nifti_without_any_orientation_code_stays_so(tmp_path):
    image = volume((60, 40, 1))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nibabel.save(image, tmp_path / "a.nii")
    mask, image = nibabel.load(infer(tmp_path / "a.nii", tmp_path)["pred_path"]), nibabel.load(tmp_path / "a.nii")
    assert int(mask.header["sform_code"]) == int(mask.header["qform_code"]) == 0
    assert np.array_equal(mask.affine, image.affine)


def test_nifti2_stays_nifti2(tmp_path):
    nibabel.save(volume((60, 40, 1), nibabel.Nifti2Image), tmp_path / "a.nii")
    assert isinstance(nibabel.load(infer(tmp_path / "a.nii", tmp_path)["pred_path"]), nibabel.Nifti2Image)


def test_existing_mask_is_refused_unless_overwrite(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    infer(tmp_path / "a.png", tmp_path / "masks")
    with pytest.raises(RuntimeError) as raised:
        infer(tmp_path / "a.png", tmp_path / "masks")
    assert isinstance(raised.value.__cause__, FileExistsError)
    assert "a_mask.png already exists" in str(raised.value.__cause__)
    infer(tmp_path / "a.png", tmp_path / "masks", overwrite=True)


def test_mask_of_another_size_is_refused(tmp_path):
    mask = MetaTensor(torch.zeros(1, 30, 40), meta={"filename_or_obj": "a.png", "original_shape": (60, 40)})
    with pytest.raises(ValueError, match=r"mask \(1, 30, 40\) has not the size of its image \(60, 40\); .*Invertd"):
        SaveImageMaskd(keys="pred", output_dir=tmp_path)({"pred": mask})
    assert list(tmp_path.iterdir()) == []


def test_masks_one_pixel_wide_keep_their_shape():
    assert stored_mask(torch.zeros(1, 1, 7), (1, 7)).shape == (1, 7)
    assert stored_mask(torch.zeros(1, 7, 1), (7, 1, 1)).shape == (7, 1, 1)


def test_monai_label_leaves_the_writer_out():
    assert isinstance(SaveImageMaskd(keys="pred", output_dir="."), SaveImaged)


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_path(tmp_path / "a.png") as partial:
        partial.write_text("half")
        raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "old"


def test_folder_lists_supported_images_sorted(tmp_path):
    for name in ("b.PNG", "a.nii.gz", "c.jpeg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert list_images(tmp_path) == [{"image": str(tmp_path / name)} for name in ("a.nii.gz", "b.PNG", "c.jpeg")]
    assert list_images(str(tmp_path / "c.jpeg")) == [{"image": str(tmp_path / "c.jpeg")}]


def test_bad_image_paths_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="image path .*nothing does not exist"):
        list_images(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no image; expected files that end in .png"):
        list_images(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="a.txt is no supported image; expected .png, .*, .nii.gz, .nii, .dcm"):
        list_images(tmp_path / "a.txt")


def test_mask_names():
    assert mask_path("x/a.b.png", "out").as_posix() == "out/a.b_mask.png"
    assert mask_path("x/a.NII.GZ", "out", "seg").as_posix() == "out/a_seg.nii.gz"
    assert mask_path("x/a.nii", "out").as_posix() == "out/a_mask.nii.gz"


def test_outputs_keep_the_subfolders_and_never_leave_the_folder():
    assert mask_path("x/b/c/a.png", "out", dataset_dir="x").as_posix() == "out/b/c/a_mask.png"
    assert overlay_path("x/b/a.nii", "out", True, "x").as_posix() == "out/b/a_overlay.gif"
    assert mask_path("x/a.png", "out", dataset_dir="x/a.png").as_posix() == "out/a_mask.png"
    assert mask_path("x/../../a.png", "out").as_posix() == "out/a_mask.png"
    for image in ("x/../../a.png", "y/a.png"):
        with pytest.raises(ValueError, match="a.png"):
            mask_path(image, "out", dataset_dir="x")


def test_frames_of_a_mask_are_read_from_its_header(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    for shape, frames in {
        (3, 4): 1,
        (3, 4, 1): 1,
        (3, 4, 5): 5,
        (3, 4, 1, 6): 6,
        (1, 50, 60): 1,
        (50, 1, 60): 1,
        (1, 50, 60, 6): 6,
    }.items():
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
        assert count_frames(tmp_path / "a.nii.gz", 1) == frames
    assert count_frames(tmp_path / "a.png", 2) == 1
