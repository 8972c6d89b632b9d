"""A folder that is gone on with: what has changed since, what fails now, and outputs that lie among the images."""

import errno
import os
import shutil

import nibabel
import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image
from test_folder_runs import checkpoint, content, failure, files_in_table, folder, infer, pixels, save, written

from scripts.inference.inputs import list_images
from scripts.utils.files import WriteError

__all__ = ["checkpoint", "folder"]  # fixtures


def outputs(output_dir) -> set[str]:
    return {path.name for path in output_dir.glob("*.png")}


def both(names: str) -> set[str]:
    return {f"{name}_{kind}.png" for name in names for kind in ("mask", "overlay")}


@pytest.mark.parametrize("copy", [shutil.copy2, lambda source, target: target.unlink() or target.symlink_to(source)])
def test_image_replaced_by_an_older_file_is_segmented_anew(folder, checkpoint, tmp_path, copy):
    save(*(tmp_path / "older" / f"{name}.png" for name in "xyz"))
    os.utime(tmp_path / "older" / "z.png", (1e9, 1e9))
    infer(folder, checkpoint, tmp_path / "out")
    before = (tmp_path / "out" / "a_overlay.png").read_bytes()
    copy(tmp_path / "older" / "z.png", folder / "a.png")
    infer(folder, checkpoint, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "a_overlay.png").read_bytes() != before


@pytest.mark.parametrize("how", [{"resume": True}, {"overwrite": True}])
def test_file_that_is_damaged_since_leaves_no_outputs(folder, checkpoint, tmp_path, how):
    infer(folder, checkpoint, tmp_path / "out")
    (folder / "b.png").write_text("no picture")
    assert "1 file of 4 was not segmented" in str(failure(folder, checkpoint, tmp_path / "out", **how))
    assert outputs(tmp_path / "out") == both("acd")
    assert sorted(files_in_table(tmp_path / "out")) == ["a.png", "c.png", "d.png"]


def test_file_of_a_colliding_name_keeps_what_is_there(folder, checkpoint, tmp_path):
    infer(folder, checkpoint, tmp_path / "out")
    save(folder / "b.jpg")
    assert "2 files of 5 were not" in str(failure(folder, checkpoint, tmp_path / "out", resume=True))
    assert outputs(tmp_path / "out") == both("abcd")


@pytest.mark.parametrize("shape", [(1, 60, 50), (60, 1, 50), (60, 50, 1, 3), (60, 50, 1, 1, 1), (60, 50, 5)])
def test_nifti_of_every_shape_is_done_when_it_is(checkpoint, tmp_path, caplog, shape):
    count = np.prod(shape) // 3000
    stored = np.stack([pixels(number).T for number in range(count)], axis=-1).reshape(shape)
    (tmp_path / "images").mkdir()
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "images" / "a.nii.gz")
    infer(tmp_path / "images", checkpoint, tmp_path / "out")
    assert nibabel.load(tmp_path / "out" / "a_mask.nii.gz").shape == shape
    assert len(files_in_table(tmp_path / "out")) == count
    caplog.set_level("INFO")
    infer(tmp_path / "images", checkpoint, tmp_path / "out", resume=True)
    assert "1 of 1 files are segmented already; 0 are left" in caplog.messages


def test_table_that_a_spreadsheet_has_saved_is_named(folder, checkpoint, tmp_path):
    infer(folder, checkpoint, tmp_path / "out")
    whole, table = content(tmp_path / "out"), tmp_path / "out" / "lesions.csv"
    table.write_text(table.read_text().replace(",", ";"))
    error = failure(folder, checkpoint, tmp_path / "out", resume=True)
    assert isinstance(error, ValueError)
    assert f"{table} has other columns than a run writes" in str(error)
    table.unlink()  # as it says
    infer(folder, checkpoint, tmp_path / "out", resume=True)
    assert content(tmp_path / "out") == whole


def test_outputs_in_another_precision_do_not_mix(folder, checkpoint, tmp_path):
    infer(folder, checkpoint, tmp_path / "out", engine="torch")
    change = {"engine": "torch", "hardware::precision": "bf16", "resume": True}
    error = str(failure(folder, checkpoint, tmp_path / "out", **change))
    assert "were made with another precision (fp32, now bf16)" in error


@pytest.mark.parametrize("stop", [WriteError("c_mask.png", errno.ENOSPC), KeyboardInterrupt()])
def test_bad_files_are_named_when_something_stops_the_run(folder, checkpoint, tmp_path, monkeypatch, caplog, stop):
    def refuse(*arguments, **options):
        raise stop

    (folder / "a.png").write_text("no picture")
    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises((RuntimeError, WriteError, KeyboardInterrupt)):
        infer(folder, checkpoint, tmp_path / "out")
    assert [str(folder / "a.png") in text for text in caplog.messages if "cannot be read as an image" in text] == [True]


def test_nothing_is_said_of_outputs_where_there_are_none(folder, checkpoint, tmp_path, caplog):
    caplog.set_level("INFO")
    (folder / "a.png").write_text("no picture")
    failure(folder / "a.png", checkpoint, tmp_path / "out")
    assert [text for text in caplog.messages if "lesions.csv holds" in text] == []
    infer(folder / "b.png", checkpoint, tmp_path / "one")
    assert f"segmented 1 file into {tmp_path / 'one'}; lesions.csv holds the areas" in caplog.messages


# outputs among the images


def test_outputs_of_earlier_runs_are_no_images(folder, checkpoint, tmp_path, caplog):
    infer(folder, checkpoint, folder / "first")
    caplog.set_level("INFO")
    infer(folder, checkpoint, tmp_path / "out", recursive=True)
    assert "1 passed over: 1 outputs of a run" in caplog.messages
    assert written(tmp_path / "out") == {f"{name}_mask.png" for name in "abcd"}


def test_folder_of_a_single_image_is_none_for_its_outputs(folder, checkpoint):
    before = sorted(folder.iterdir())
    error = failure(folder / "a.png", checkpoint, folder, overwrite=True)
    assert "is the folder of the images" in str(error)
    assert sorted(folder.iterdir()) == before


def test_ultrasound_volume_is_no_file_to_pass_over(tmp_path):
    pydicom = pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
    path = write_dicom(tmp_path / "volume.dcm", np.stack([pixels(number) for number in range(3)]))
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedUSVolumeStorage
    dataset.save_as(path)
    assert list_images(tmp_path) == [{"image": str(path)}]
