"""A folder is never lost: bad files, what is no image, subfolders, kills, two runs at once, disks and names."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, root_cause
from dicom_files import write_dicom
from PIL import Image

from scripts.inference import masks, output_folder
from scripts.inference.folders import list_folder
from scripts.inference.frame_reader import FrameReader
from scripts.inference.inputs import list_images
from scripts.inference.output_folder import LOCK_FILE, RUN_FILE
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.run.workflow import build_workflow
from scripts.utils.files import WriteError
from scripts.utils.tables import read_table

NETWORK = {"_target_": "scripts.networks.tinyusfm.TinyUSFMSeg", "img_size": "@img_size", **TINY}
OF_THE_RUN = {"lesions.csv", RUN_FILE, LOCK_FILE}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "model.pt"
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), path)
    return path


def pixels(number: int) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((60, 50), Image.Resampling.BICUBIC))


def save(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four images."""
    save(*(tmp_path / "images" / f"{name}.png" for name in "abcd"))
    return tmp_path / "images"


def options(dataset_dir, checkpoint, output_dir, **overrides) -> dict:
    return {
        "dataset_dir": str(dataset_dir),
        "output_dir": str(output_dir),
        "checkpoint": str(checkpoint),
        "img_size": 64,
        "network_def": NETWORK,
        "hardware::gpu_ids": [],
        "hardware::precision": "fp32",
        **overrides,
    }


def infer(*arguments, **overrides):
    flow = build_workflow(["inference.json"], options(*arguments, **overrides), "run", "infer")
    flow.initialize()
    flow.run()
    return flow


def failure(*arguments, **overrides) -> BaseException:
    """What a run ends with."""
    with pytest.raises(Exception) as error:
        infer(*arguments, **overrides)
    return root_cause(error.value)


def written(output_dir: Path) -> set[str]:
    """Names of the masks."""
    return {path.name for path in output_dir.rglob("*_mask*")}


def files_in_table(output_dir: Path) -> list[str]:
    return [row["file"] for row in read_table(output_dir / "lesions.csv")]


def content(output_dir: Path) -> dict[str, bytes]:
    """All outputs but the lock, by their names; GIF and PNG are deterministic."""
    files = [path for path in output_dir.rglob("*") if path.is_file() and path.name != LOCK_FILE]
    return {str(path.relative_to(output_dir)): path.read_bytes() for path in files}


# bad files


def spoil(folder: Path) -> list[str]:
    """Bad files of several kinds; their names."""
    whole = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no picture")
    Image.fromarray(np.uint8(pixels(0) > 128)).save(folder / "label.png")
    first, *others = [Image.fromarray(pixels(number)) for number in range(3)]
    first.save(folder / "frames.tif", save_all=True, append_images=others)
    Image.fromarray(np.full((5, 5), np.nan, np.float32)).save(folder / "nan.tif")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 4), np.uint8), np.eye(4)), folder / "volume.nii.gz")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM" + bytes(9))
    names = ["cut.png", "empty.jpg", "text.png", "label.png", "frames.tif", "nan.tif", "volume.nii.gz", "gone.png"]
    return [*names, "broken.dcm"]


def test_run_goes_on_past_bad_files_and_names_all_of_them(folder, checkpoint, tmp_path, caplog):
    bad = spoil(folder)
    error = failure(folder, checkpoint, tmp_path / "out")
    assert isinstance(error, ValueError)
    assert str(error).startswith("9 files of 13 were not segmented; the lines above name them.")
    assert written(tmp_path / "out") == {f"{name}_mask.png" for name in "abcd"}
    assert files_in_table(tmp_path / "out") == ["a.png", "b.png", "c.png", "d.png"]
    lines = [record.message for record in caplog.records if record.name == "scripts.inference.evaluator"]
    assert [sum(f"{folder / name}" in line for line in lines) for name in bad] == [1] * len(bad)
    assert len(lines) == len(bad)
    assert all("\n" not in line and len(line) > len(str(folder)) + 30 for line in lines)


def test_one_bad_file_is_named_by_the_last_line(folder, checkpoint, tmp_path):
    (folder / "c.png").write_text("no picture")
    error = str(failure(folder, checkpoint, tmp_path / "out"))
    assert error.startswith(f"1 file of 4 was not segmented: file {folder / 'c.png'} cannot be read as an image")
    assert len(written(tmp_path / "out")) == 3


@pytest.mark.parametrize("stage", ["network", "mask", "overlay"])
def test_file_may_fail_at_any_stage_and_leaves_no_output(folder, checkpoint, tmp_path, monkeypatch, stage):
    from scripts.inference import frames, overlays

    calls = []

    def fail_once(function):
        def call(*arguments, **options):
            calls.append(0)
            if len(calls) == 2:
                raise RuntimeError("out of memory")
            return function(*arguments, **options)

        return call

    place, name = {
        "network": (frames.FrameInferer, "__call__"),
        "mask": (masks.SaveImageMaskd, "_save"),
        "overlay": (overlays.SaveImageOverlayd, "_save"),
    }[stage]
    monkeypatch.setattr(place, name, fail_once(getattr(place, name)))
    error = str(failure(folder, checkpoint, tmp_path / "out"))
    assert "1 file of 4 was not segmented: file " in error
    assert f"{folder / 'b.png'} cannot be segmented (RuntimeError: out of memory)" in error
    names = {path.name for path in (tmp_path / "out").iterdir()} - OF_THE_RUN
    assert names == {f"{name}_{kind}.png" for name in "acd" for kind in ("mask", "overlay")}
    assert files_in_table(tmp_path / "out") == ["a.png", "c.png", "d.png"]


def test_where_every_name_is_bad_nothing_is_written(folder, checkpoint, tmp_path):
    error = str(failure(folder, checkpoint, tmp_path / "out", output_format="dicom_seg"))
    assert "4 files of 4 were not segmented" in error
    assert not (tmp_path / "out").exists()


def test_images_of_one_name_are_both_named_and_the_others_segmented(folder, checkpoint, tmp_path, caplog):
    save(folder / "a.jpg")
    assert "2 files of 5 were not segmented" in str(failure(folder, checkpoint, tmp_path / "out"))
    both = f"images {folder / 'a.jpg'} and {folder / 'a.png'} would both give a_mask.png; rename one of them."
    assert caplog.messages.count(both) == 2
    assert written(tmp_path / "out") == {f"{name}_mask.png" for name in "bcd"}


# what is no image


def test_what_is_no_image_is_passed_over_and_counted(folder, checkpoint, tmp_path, caplog):
    for name in ("notes.txt", "report.pdf", "x.webp", "y.WEBP", "DICOMDIR", ".DS_Store", "readme", "sub/p.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    caplog.set_level("INFO")
    infer(folder, checkpoint, tmp_path / "out")
    (line,) = [message for message in caplog.messages if "passed over" in message]
    counts = "2 .webp, 1 .pdf, 1 .txt, 1 DICOMDIR, 1 hidden, 1 in subfolders, 1 without a suffix"
    assert line == f"8 passed over: {counts}; --recursive True reads subfolders too"
    assert len(written(tmp_path / "out")) == 4


def test_dicom_without_an_image_is_passed_over_by_name(folder, caplog):
    pydicom = pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
    classes = {"report.dcm": "1.2.840.10008.5.1.4.1.1.88.11", "state": "1.2.840.10008.5.1.4.1.1.11.1"}
    for name, number in {**classes, "other.dcm": classes["report.dcm"]}.items():
        dataset = pydicom.dcmread(write_dicom(folder / name, pixels(0)))
        del dataset.PixelData
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = number
        dataset.save_as(folder / name)
    write_dicom(folder / "still.dcm", pixels(0))
    caplog.set_level("INFO")
    images = [Path(item["image"]).name for item in list_images(folder)]
    assert images == ["a.png", "b.png", "c.png", "d.png", "still.dcm"]
    reports, state = (
        "2 DICOM Basic Text SR (other.dcm and others)",
        "1 DICOM Grayscale Softcopy Presentation State (state)",
    )
    assert f"3 passed over: {reports}, {state}" in caplog.messages


def test_folder_without_an_image_says_what_is_in_it(tmp_path):
    save(tmp_path / "study" / "a.png")
    (tmp_path / "b.webp").touch()
    message = (
        r"holds no image \(2 passed over: 1 .webp, 1 in subfolders; --recursive True .*\); expected files that end"
    )
    with pytest.raises(ValueError, match=message):
        list_images(tmp_path)


def test_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match="folder .* cannot be read .Permission denied.; let this user read it"):
        list_folder(tmp_path)


# subfolders


def test_subfolders_are_read_when_asked_for_and_outputs_keep_them(tmp_path, checkpoint):
    images = tmp_path / "images"
    save(*(images / name for name in ("a.png", "p1/a.png", "p1/left/a.png", "p2/a.png", ".hidden/a.png")))
    (images / "p2" / "bad.png").touch()
    (images / "link").symlink_to(images / "p1")
    error = str(failure(images, checkpoint, tmp_path / "out", recursive=True))
    assert f"1 file of 5 was not segmented: file {images / 'p2' / 'bad.png'}" in error
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    folders = ("", "p1/", "p1/left/", "p2/")
    assert found == {f"{folder}a_{kind}.png" for folder in folders for kind in ("mask", "overlay")}
    assert files_in_table(tmp_path / "out") == ["a.png", "p1/a.png", "p1/left/a.png", "p2/a.png"]


# the folder of the outputs


@pytest.mark.parametrize(
    ("output_dir", "recursive", "message"),
    [
        ("images", False, "output_dir .* is the folder of the images, so that the next run would read masks as images"),
        ("images/../images", False, "is the folder of the images"),
        ("images/masks", True, "output_dir .*masks lies in the folder of the images"),
    ],
)
def test_folder_of_the_images_is_none_for_the_outputs(folder, checkpoint, tmp_path, output_dir, recursive, message):
    before = sorted(folder.iterdir())
    error = failure(folder, checkpoint, tmp_path / output_dir, recursive=recursive)
    with pytest.raises(ValueError, match=message):
        raise error
    assert sorted(folder.iterdir()) == before


def test_masks_in_a_subfolder_are_no_images_of_the_next_run(folder, checkpoint):
    infer(folder, checkpoint, folder / "masks")
    save(folder / "e.png")
    infer(folder, checkpoint, folder / "masks", resume=True)
    assert len(written(folder / "masks")) == 5


def test_link_that_leads_out_of_the_folder_is_refused(tmp_path, checkpoint):
    save(tmp_path / "images" / "sub" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    error = failure(tmp_path / "images", checkpoint, tmp_path / "out", recursive=True)
    assert "sub leads out of output_dir" in str(error)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_second_run_at_once_is_refused(folder, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder, "PATIENCE", 0.1)
    program = """
        import sys, time
        from filelock import FileLock
        lock = FileLock(sys.argv[1])
        lock.acquire()
        print("held", flush=True)
        time.sleep(60)
    """
    out = tmp_path / "out"
    out.mkdir()
    words = [sys.executable, "-c", textwrap.dedent(program), str(out / LOCK_FILE)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        error = failure(folder, checkpoint, out)
        assert f"another run writes into output_dir {out}; wait for its end" in str(error)
        assert not written(out)
    finally:
        process.kill()
        process.communicate()
    infer(folder, checkpoint, out)  # the lock has died with its process
    assert len(written(out)) == 4


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_disk_that_takes_no_more_stops_the_run_and_what_is_there_stays(
    folder, checkpoint, tmp_path, monkeypatch, number
):
    out, save_picture = tmp_path / "out", Image.Image.save

    def refuse(self, path, *arguments, **options):
        if "c_mask" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return save_picture(self, path, *arguments, **options)

    infer(folder, checkpoint, tmp_path / "whole")
    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(Exception) as error:
        infer(folder, checkpoint, out)
    found, cause = None, error.value
    while cause is not None and found is None:
        found, cause = (cause if isinstance(cause, WriteError) else None), cause.__cause__ or cause.__context__
    assert f"{out / 'c_mask.png'} cannot be written ({os.strerror(number)}): " in str(found)
    assert written(out) == {"a_mask.png", "b_mask.png"}
    monkeypatch.undo()
    infer(folder, checkpoint, out, resume=True)
    assert content(out) == content(tmp_path / "whole")


# going on

KILLED = """
    import os, signal, sys
    sys.path[:0] = [{root!r}, {tests!r}, {here!r}]
    from scripts.inference import lesion_table
    from test_folder_runs import infer

    append_rows, calls = lesion_table.append_rows, []

    def append_and_die(path, columns, rows):
        calls.append(0)
        append_rows(path, columns, rows)
        if len(calls) == 2:
            os.truncate(path, os.path.getsize(path) - 15)  # a kill in the middle of the write
            os.kill(os.getpid(), signal.SIGKILL)

    lesion_table.append_rows = append_and_die
    infer({images!r}, {checkpoint!r}, {out!r})
"""


def test_killed_run_goes_on_and_ends_as_an_uninterrupted_one(folder, checkpoint, tmp_path):
    out = tmp_path / "out"
    places = {"root": str(ROOT), "tests": str(ROOT / "tests"), "here": str(Path(__file__).parent)}
    program = KILLED.format(images=str(folder), checkpoint=str(checkpoint), out=str(out), **places)
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert written(out) == {"a_mask.png", "b_mask.png"}
    assert not (out / "lesions.csv").read_bytes().endswith(b"\n")
    (out / ".c_mask.png.part-abcd1234").mkdir()  # of a mask that was being written
    before = (out / "a_mask.png").stat().st_mtime_ns
    infer(folder, checkpoint, out, resume=True)
    assert (out / "a_mask.png").stat().st_mtime_ns == before
    infer(folder, checkpoint, tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")


def test_loop_whose_rows_are_not_all_there_is_segmented_again(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    loop = np.stack([pixels(number).T for number in range(5)], axis=-1)
    for name in "ab":
        nibabel.save(nibabel.Nifti1Image(loop, np.eye(4)), tmp_path / "images" / f"{name}.nii.gz")
    out = tmp_path / "out"
    infer(tmp_path / "images", checkpoint, out)
    table = (out / "lesions.csv").read_bytes()
    (out / "lesions.csv").write_bytes(b"".join(table.splitlines(keepends=True)[:-1]))  # a line ends there
    infer(tmp_path / "images", checkpoint, out, resume=True)
    assert (out / "lesions.csv").read_bytes() == table


def test_whole_outputs_are_kept_and_others_made(folder, checkpoint, tmp_path, caplog):
    out = tmp_path / "out"
    infer(folder, checkpoint, out, resume=True)  # there is nothing to go on with
    whole = content(out)
    (out / "b_mask.png").unlink()
    (out / "c_overlay.png").unlink()
    os.utime(folder / "d.png", (2e9, 2e9))  # an image that was replaced after it was segmented
    before = {name: (out / f"{name}_mask.png").stat().st_mtime_ns for name in "acd"}
    caplog.set_level("INFO")
    infer(folder, checkpoint, out, resume=True)
    assert "1 of 4 files are segmented already; 3 are left" in caplog.messages
    after = {name: (out / f"{name}_mask.png").stat().st_mtime_ns for name in "acd"}
    assert [before[name] == after[name] for name in "acd"] == [True, False, False]
    assert {name: size for name, size in content(out).items() if name != "lesions.csv"} == {
        name: size for name, size in whole.items() if name != "lesions.csv"
    }
    assert sorted(files_in_table(out)) == ["a.png", "b.png", "c.png", "d.png"]


def test_run_that_is_done_has_nothing_left(folder, checkpoint, tmp_path, caplog):
    infer(folder, checkpoint, tmp_path / "out")
    before = content(tmp_path / "out")
    caplog.set_level("INFO")
    infer(folder, checkpoint, tmp_path / "out", resume=True)
    assert "4 of 4 files are segmented already; 0 are left" in caplog.messages
    assert content(tmp_path / "out") == before


def test_bad_files_are_tried_again(folder, checkpoint, tmp_path):
    (folder / "c.png").write_text("no picture")
    assert "1 file of 4" in str(failure(folder, checkpoint, tmp_path / "out"))
    assert "1 file of 4" in str(failure(folder, checkpoint, tmp_path / "out", resume=True))
    save(folder / "c.png")
    infer(folder, checkpoint, tmp_path / "out", resume=True)
    assert len(written(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"class_names": ["nodule"]}, "class_names"),
        ({"checkpoint": "other.pt"}, "checkpoint"),
        ({"dataset_dir": "other"}, "dataset_dir"),
    ],
)
def test_masks_of_two_settings_do_not_mix(folder, checkpoint, tmp_path, change, name):
    infer(folder, checkpoint, tmp_path / "out")
    before = content(tmp_path / "out")
    state = {key: value + 1 for key, value in torch.load(checkpoint).items()}
    torch.save(state, tmp_path / "other.pt")
    save(tmp_path / "other" / "a.png")
    change = {key: str(tmp_path / value) if isinstance(value, str) else value for key, value in change.items()}
    given = {"dataset_dir": folder, "checkpoint": checkpoint, "output_dir": tmp_path / "out", "resume": True}
    error = str(failure(**{**given, **change}))
    assert f"were made with another {name} (" in error
    assert "pass --resume False --overwrite True" in error
    assert content(tmp_path / "out") == before


def test_outputs_of_unknown_settings_are_not_gone_on_with(folder, checkpoint, tmp_path):
    infer(folder, checkpoint, tmp_path / "out")
    (tmp_path / "out" / RUN_FILE).write_text("{")
    assert "run.json cannot be read" in str(failure(folder, checkpoint, tmp_path / "out", resume=True))
    (tmp_path / "out" / RUN_FILE).unlink()
    assert "holds a_mask.png but no run.json" in str(failure(folder, checkpoint, tmp_path / "out", resume=True))
    infer(folder, checkpoint, tmp_path / "out", resume=True, overwrite=True)
    assert json.loads((tmp_path / "out" / RUN_FILE).read_text())["img_size"] == 64


def test_overwriting_begins_a_new_table_before_anything_else(folder, checkpoint, tmp_path, monkeypatch):
    """Else a kill would leave rows that count as those of the new run."""
    infer(folder, checkpoint, tmp_path / "out")

    def die(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(masks.SaveImageMaskd, "_save", die)
    with pytest.raises(KeyboardInterrupt):
        infer(folder, checkpoint, tmp_path / "out", overwrite=True)
    assert files_in_table(tmp_path / "out") == []


def test_several_files_at_once_are_refused(folder, checkpoint, tmp_path):
    error = failure(folder, checkpoint, tmp_path / "out", **{"dataloader::batch_size": 2})
    assert "dataloader::batch_size must be 1, got 2" in str(error)


# names


def test_names_that_are_no_plain_text(tmp_path, checkpoint, caplog):
    """Those of MONAI's expressions and of formulas are kept, those that no table could hold are refused."""
    kept = ["$__import__('os').mkdir('hacked').png", "=1+1.png", "@a.png", "%b.png", "-c.png", "x" * 239 + ".png"]
    refused = ["a\nb.png", "\x1b[31m.png", os.fsdecode(b"M\xfcller.png"), "x" * 244 + ".png", "ü" * 122 + ".png"]
    save(*(tmp_path / "images" / name for name in (*kept, *refused)))
    error = str(failure(tmp_path / "images", checkpoint, tmp_path / "out"))
    assert error.startswith("5 files of 11 were not segmented")
    assert sorted(files_in_table(tmp_path / "out")) == sorted(kept)
    assert written(tmp_path / "out") == {f"{name.removesuffix('.png')}_mask.png" for name in kept}
    cells = (tmp_path / "out" / "lesions.csv").read_text().splitlines()
    assert [line for line in cells if line.startswith(("=", "+", "-", "@"))] == []
    text = "\n".join(record.message for record in caplog.records if record.name == "scripts.inference.evaluator")
    assert text.count("has control characters in its name, or bytes that are no UTF-8; rename it") == 3
    assert text.count("bytes, expected at most 255; rename it") == 2
    assert all(name in text for name in ("a\\nb.png", "\\x1b[31m.png", "M\\udcfcller.png"))
    assert not {"\x1b", "\udcfc"} & set(text)


@pytest.mark.parametrize("name", ["dataset_dir", "output_dir", "checkpoint"])
@pytest.mark.parametrize("value", ["$RECYCLE.BIN", "$__import__('os').mkdir('hacked')", "$a@b", "$"])
def test_folder_whose_name_monai_would_run_is_refused(folder, checkpoint, tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    error = failure(**{"dataset_dir": folder, "checkpoint": checkpoint, "output_dir": "out", name: value})
    assert f"{name} is {value!r}, which MONAI's configuration would run as Python; write ./ before the name" in str(
        error
    )
    assert not (tmp_path / "hacked").exists()


def test_such_a_folder_is_read_by_another_name(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("$RECYCLE.BIN/a.png"))
    infer("./$RECYCLE.BIN", checkpoint, "./$out")
    assert written(tmp_path / "$out") == {"a_mask.png"}


# the command line


@pytest.mark.slow
def test_command_ends_with_1_and_names_all_bad_files(folder, checkpoint, tmp_path):
    bad = spoil(folder)
    config = options(folder, checkpoint, tmp_path / "out")
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    files = str(["configs/inference.json", str(tmp_path / "tiny.json")])
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    *lines, last = result.stderr.splitlines()[-len(bad) - 1 :]
    assert last.startswith("error: 9 files of 13 were not segmented")
    assert all(sum(str(folder / name) in line for line in lines) == 1 for name in bad)
    assert "Traceback" not in result.stderr + result.stdout
    assert len(written(tmp_path / "out")) == 4


def test_file_is_decoded_once(folder, checkpoint, tmp_path, monkeypatch):
    """To look whether it is a mask, for the network, and in colors for the overlay."""
    decoded, stored = [], FrameReader._stored
    monkeypatch.setattr(FrameReader, "_stored", lambda self, *given: decoded.append(given[0]) or stored(self, *given))
    for accept_masks in (False, True):
        infer(folder, checkpoint, tmp_path / str(accept_masks), accept_masks=accept_masks)
        assert [path.name for path in decoded] == ["a.png", "b.png", "c.png", "d.png"]
        decoded.clear()
