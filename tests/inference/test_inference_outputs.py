"""What stands beside a mask: overlays, lesions.csv, DICOM SEG, and the refusals before anything is written."""

import csv
import re
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import SHARED
from dicom_files import region, write_dicom
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from scripts.data.brightness import looks_like_mask
from scripts.data.phantoms import make_phantom
from scripts.inference.dicom_seg import COPIED
from scripts.inference.frame_reader import FrameReader
from scripts.inference.inputs import ImageFiles, list_images
from scripts.inference.lesion_table import LesionTable, rows_of
from scripts.inference.lesions import COLUMNS, foreground_names, measure
from scripts.inference.masks import SaveImageMaskd, ToStoredShaped
from scripts.inference.output_folder import OutputFolder
from scripts.inference.outputs import mask_path, overlay_path, possible_outputs
from scripts.inference.overlays import SaveImageOverlayd
from scripts.utils.outlines import draw_outlines

WIDTH, HEIGHT, FRAMES = 60, 40, 3
ORANGE = [245, 158, 11]


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")


@pytest.fixture
def highdicom():
    return pytest.importorskip("highdicom", reason="DICOM SEG needs the extra dicom")


@pytest.fixture
def loop():
    """uint8 (N, H, W), no two frames alike."""
    return np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH), dtype=np.uint8)


def rectangle(path, *shape, **meta) -> MetaTensor:
    """A mask with a rectangle: columns 10..19, rows 5..24; of a loop in the frames 1 and 2."""
    mask = torch.zeros(*(shape or (WIDTH, HEIGHT)), dtype=torch.uint8)
    mask[10:20, 5:25, ...] = 1
    if mask.ndim > 2 and mask.shape[-1] > 1:
        mask[..., 0] = 0
    return MetaTensor(mask[None], meta={"filename_or_obj": str(path), "original_shape": tuple(mask.shape), **meta})


# lesions.csv


def test_measures_of_a_rectangle():
    mask = np.zeros((WIDTH, HEIGHT), bool)
    mask[10:20, 5:25] = True
    mask[50, 30] = mask[51, 31] = True  # they touch at a corner
    assert measure(mask, (0.1, 0.2)) == {
        "area_px": 202,
        "area_mm2": 4.04,
        "pixel_width_mm": 0.1,
        "pixel_height_mm": 0.2,
        "components": 2,
        "x_min": 10,
        "y_min": 5,
        "x_max": 51,
        "y_max": 31,
        "empty": "no",
    }


def test_empty_mask_is_a_row_too_and_mm2_stays_empty_where_unknown():
    row = measure(np.zeros((WIDTH, HEIGHT), bool))
    assert (row["area_px"], row["components"], row["empty"]) == (0, 0, "yes")
    assert {
        row[name] for name in ("area_mm2", "pixel_width_mm", "pixel_height_mm", "x_min", "y_min", "x_max", "y_max")
    } == {""}
    assert measure(np.zeros((2, 2), bool), (0.1, 0.1))["area_mm2"] == 0


@pytest.mark.parametrize("shape, frames", [((), 1), ((1,), 1), ((3,), 3), ((1, 3), 3)])
def test_rows_are_one_a_frame_and_class(shape, frames):
    rows = list(
        rows_of(
            rectangle("a", WIDTH, HEIGHT, *shape, spacing_mm=torch.tensor([0.1, 0.2])), ["nerve", "vessel"], "a.nii"
        )
    )
    assert [(row["file"], row["frame"], row["class"]) for row in rows] == [
        ("a.nii", frame, name) for frame in range(frames) for name in ("nerve", "vessel")
    ]
    assert rows[-2]["area_px"] == 200
    assert rows[-2]["area_mm2"] == 4.0
    assert rows[-1]["area_px"] == 0


def test_table_has_the_rows_of_a_file_as_soon_as_it_is_segmented(tmp_path):
    lengths = []

    def step(engine, name):
        lengths.append(len(read_rows(tmp_path)) if (tmp_path / "lesions.csv").exists() else 0)
        if name == "broken":
            raise RuntimeError("out of memory")
        return [{"pred": rectangle(name)}]

    table = LesionTable(tmp_path, ["lesion"])

    def run(names):
        engine = Engine(step)
        table.attach(engine)
        engine.run(names)

    with pytest.raises(RuntimeError, match="out of memory"):
        run(["a.png", "b.png", "broken"])
    assert lengths == [0, 1, 2]
    assert [row["file"] for row in read_rows(tmp_path)] == ["a.png", "b.png"]
    run(["c.png"])
    assert [row["file"] for row in read_rows(tmp_path)] == ["a.png", "b.png", "c.png"]


def read_rows(folder) -> list[dict]:
    with open(folder / "lesions.csv", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == COLUMNS
        return list(reader)


def test_names_of_the_classes():
    assert foreground_names(2) == ["lesion"]
    assert foreground_names(3) == ["class 1", "class 2"]
    assert foreground_names(3, ["nerve", "vessel"]) == ["nerve", "vessel"]
    for names in (["nerve"], "nerve"):
        with pytest.raises(ValueError, match="class_names must name the 2 classes without the background, got .*nerve"):
            foreground_names(3, names)


# overlays


def test_outline_lies_on_the_inner_border_and_leaves_the_rest():
    image = np.full((HEIGHT, WIDTH, 3), 50, np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:25, 10:20] = 1
    mask[30:, :10] = 2  # at the image's border
    drawn = draw_outlines(image, mask)
    assert (image == 50).all()
    inside = np.zeros_like(mask, bool)
    inside[6:24, 11:19] = inside[31:39, 1:9] = True
    line = (mask > 0) & ~inside
    assert (drawn[~line] == 50).all()
    assert (drawn[line & (mask == 1)] == ORANGE).all()
    other = np.unique(drawn[line & (mask == 2)], axis=0)
    assert len(other) == 1
    assert other[0].tolist() not in ([50, 50, 50], ORANGE)


def test_line_is_thicker_on_a_large_image():
    mask = np.zeros((900, 900), np.uint8)
    mask[100:200, 100:200] = 1
    assert (draw_outlines(np.zeros((900, 900, 3), np.uint8), mask).any(-1).sum()) == 100**2 - 94**2


def test_overlay_of_a_picture_keeps_its_colors_and_size(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 100, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    result = SaveImageOverlayd("pred", FrameReader(), tmp_path / "out")({"pred": rectangle(tmp_path / "a.png")})
    assert result["pred_overlay"] == str(tmp_path / "out" / "a_overlay.png")
    drawn = np.asarray(Image.open(result["pred_overlay"]))
    assert drawn[5, 10].tolist() == ORANGE
    assert np.array_equal(drawn[6:24, 11:19], pixels[6:24, 11:19])
    assert np.array_equal(drawn[:, 20:], pixels[:, 20:])


def test_overlay_of_a_loop_moves(tmp_path, loop):
    affine = np.diag([0.1, 0.1, 1, 1])
    image = nibabel.Nifti1Image(loop.transpose(2, 1, 0).reshape(WIDTH, HEIGHT, 1, FRAMES), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((0.1, 0.1, 1, 0.05))
    nibabel.save(image, tmp_path / "a.nii.gz")
    item = {"pred": rectangle(tmp_path / "a.nii.gz", WIDTH, HEIGHT, FRAMES)}
    path = SaveImageOverlayd("pred", FrameReader(), tmp_path)(item)["pred_overlay"]
    with Image.open(path) as movie:
        assert path.endswith("a_overlay.gif")
        assert (movie.n_frames, movie.size) == (FRAMES, (WIDTH, HEIGHT))
        assert movie.info["duration"] == 50
        corners = []
        for n in range(FRAMES):
            movie.seek(n)
            corners.append(np.abs(np.asarray(movie.convert("RGB"))[5, 10].astype(int) - ORANGE).max() < 40)
    assert corners == [False, True, True]


@pytest.mark.parametrize("order", [(0, 0, 1, 1, 1, 2, 0), (0, 0, 0, 0, 0)])
def test_overlay_keeps_every_frame_and_the_time_of_the_loop(tmp_path, loop, order):
    image = nibabel.Nifti1Image(loop[list(order)].transpose(2, 1, 0)[:, :, None], np.diag([0.1, 0.1, 1, 1]))
    image.header.set_xyzt_units("mm", "msec")
    image.header.set_zooms((0.1, 0.1, 1, 100 / 3))
    nibabel.save(image, tmp_path / "a.nii")
    item = {"pred": MetaTensor(torch.zeros(WIDTH, HEIGHT, 1, len(order)).to(torch.uint8))}
    item["pred"].meta["filename_or_obj"] = tmp_path / "a.nii"
    durations, frames = [], []
    with Image.open(SaveImageOverlayd("pred", FrameReader(), tmp_path)(item)["pred_overlay"]) as movie:
        assert movie.n_frames == len(order)
        for n in range(len(order)):
            movie.seek(n)
            durations.append(movie.info["duration"])
            frames.append(np.asarray(movie.convert("L")).astype(int))
    assert set(durations) <= {30, 40}
    assert sum(durations) == pytest.approx(len(order) * 100 / 3, abs=5)
    for frame, number in zip(frames, order):
        assert np.abs(frame - loop[number]).mean() < 8


def test_large_loop_is_made_smaller(tmp_path):
    image = nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 256, (1024, 100, 2), dtype=np.uint8), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")
    path = SaveImageOverlayd("pred", FrameReader(), tmp_path)({"pred": rectangle(tmp_path / "a.nii", 1024, 100, 2)})[
        "pred_overlay"
    ]
    with Image.open(path) as movie:
        assert movie.size == (512, 50)


def test_existing_overlay_is_refused_unless_overwrite(tmp_path):
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "a.png")
    item = {"pred": rectangle(tmp_path / "a.png")}
    SaveImageOverlayd("pred", FrameReader(), tmp_path)(item)
    with pytest.raises(FileExistsError, match="output .*a_overlay.png already exists"):
        SaveImageOverlayd("pred", FrameReader(), tmp_path)(item)
    SaveImageOverlayd("pred", FrameReader(), tmp_path, overwrite=True)(item)


# masks of DICOM


def test_dicom_still_gives_a_png_and_a_loop_a_nifti_in_its_place(pydicom, loop, tmp_path):
    tags = {"SequenceOfUltrasoundRegions": [region(0.01, 0.02)]}
    for name, pixels in (("still", loop[0]), ("loop", loop)):
        path = write_dicom(tmp_path / f"{name}.dcm", pixels, **tags)
        _, meta = FrameReader().decode(path)
        mask = rectangle(path, *meta["original_shape"], **meta)
        SaveImageMaskd("pred", tmp_path / "out")({"pred": mask})
    with Image.open(tmp_path / "out" / "still_mask.png") as picture:
        assert np.array_equal(np.asarray(picture).T, rectangle("", WIDTH, HEIGHT)[0].numpy())
    volume = nibabel.load(tmp_path / "out" / "loop_mask.nii.gz")
    assert volume.shape == (WIDTH, HEIGHT, FRAMES)
    assert volume.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(volume.dataobj), rectangle("", WIDTH, HEIGHT, FRAMES)[0].numpy())
    np.testing.assert_allclose(volume.affine, np.diag([-0.1, -0.2, 1, 1]))
    assert volume.header.get_xyzt_units()[0] == "mm"


def test_mask_of_a_loop_without_a_scale_claims_none(pydicom, loop, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.concatenate([loop, loop]))
    _, meta = FrameReader().decode(path)
    mask = rectangle(path, *meta["original_shape"], **meta)
    _, read = FrameReader().decode(SaveImageMaskd("pred", tmp_path / "out")({"pred": mask})["pred_path"])
    assert "spacing_mm" not in read


@pytest.mark.parametrize("count", [1, FRAMES])
def test_dicom_seg_refers_to_its_image_and_holds_the_mask(pydicom, highdicom, loop, tmp_path, count):
    pixels = loop if count > 1 else loop[0]
    source = write_dicom(tmp_path / "a.dcm", pixels)
    mask = rectangle(source, *((WIDTH, HEIGHT) if count == 1 else (WIDTH, HEIGHT, count)))
    result = SaveImageMaskd("pred", tmp_path, output_format="dicom_seg")({"pred": mask})
    assert result["pred_path"] == str(tmp_path / "a_mask.dcm")
    image, segmentation = pydicom.dcmread(source), highdicom.seg.segread(result["pred_path"])
    assert segmentation.Modality == "SEG"
    assert segmentation.StudyInstanceUID == image.StudyInstanceUID
    assert segmentation.PatientID == image.PatientID
    assert segmentation.SeriesInstanceUID != image.SeriesInstanceUID
    (description,) = segmentation.SegmentSequence
    assert description.SegmentLabel == "lesion"
    assert description.SegmentAlgorithmType == "AUTOMATIC"
    if count == 1:
        stored = segmentation.get_pixels_by_source_instance([image.SOPInstanceUID])
    else:
        stored = segmentation.get_pixels_by_source_frame(image.SOPInstanceUID, list(range(1, count + 1)))
    assert np.array_equal(stored[..., 0], mask.numpy().reshape(WIDTH, HEIGHT, count).transpose(2, 1, 0))
    assert "PixelMeasuresSequence" not in segmentation.SharedFunctionalGroupsSequence[0]


@pytest.mark.parametrize("count", [1, FRAMES])
def test_dicom_seg_has_the_size_of_a_pixel_where_it_is_known(pydicom, highdicom, loop, tmp_path, count):
    pixels = loop if count > 1 else loop[0]
    source = write_dicom(tmp_path / "a.dcm", pixels, SequenceOfUltrasoundRegions=[region(0.01, 0.02)])
    mask = rectangle(source, *((WIDTH, HEIGHT) if count == 1 else (WIDTH, HEIGHT, count)))
    path = SaveImageMaskd("pred", tmp_path, output_format="dicom_seg")({"pred": mask})["pred_path"]
    (measures,) = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert [float(length) for length in measures.PixelSpacing] == pytest.approx([0.2, 0.1])  # rows first


def test_dicom_seg_is_written_quietly(pydicom, highdicom, loop, tmp_path, caplog):
    with caplog.at_level("INFO"):
        SaveImageMaskd("pred", tmp_path, output_format="dicom_seg")(
            {"pred": rectangle(write_dicom(tmp_path / "a.dcm", loop))}
        )
    assert not [record.name for record in caplog.records if record.name.startswith("highdicom")]


def test_dicom_seg_of_several_classes_and_of_nothing(pydicom, highdicom, loop, tmp_path):
    source = write_dicom(tmp_path / "a.dcm", loop[0])
    mask = rectangle(source)
    mask[:, 40:, 30:] = 2
    SaveImageMaskd("pred", tmp_path / "two", output_format="dicom_seg", class_names=["nerve", "vessel"])({"pred": mask})
    segmentation = highdicom.seg.segread(tmp_path / "two" / "a_mask.dcm")
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == ["nerve", "vessel"]
    stored = segmentation.get_pixels_by_source_instance([pydicom.dcmread(source).SOPInstanceUID])[0]
    assert np.array_equal(stored[..., 0], mask[0].numpy().T == 1)
    assert np.array_equal(stored[..., 1], mask[0].numpy().T == 2)
    SaveImageMaskd("pred", tmp_path / "none", output_format="dicom_seg")(
        {"pred": MetaTensor(torch.zeros_like(mask), meta=mask.meta)}
    )
    assert highdicom.seg.segread(tmp_path / "none" / "a_mask.dcm").pixel_array.max() == 0


def test_dicom_that_lacks_what_a_seg_needs_is_named(pydicom, highdicom, loop, tmp_path):
    source = write_dicom(tmp_path / "a.dcm", loop[0])
    dataset = pydicom.dcmread(source)
    del dataset.StudyInstanceUID
    dataset.save_as(source)
    message = r"a.dcm gives no DICOM SEG, since it has no StudyInstanceUID; pass --output_format auto"
    with pytest.raises(ValueError, match=message):
        SaveImageMaskd("pred", tmp_path / "out", output_format="dicom_seg")({"pred": rectangle(source)})
    assert not (tmp_path / "out").exists()


def test_what_highdicom_refuses_is_named(pydicom, highdicom, loop, tmp_path, monkeypatch):
    def refuse(**options):
        raise TypeError("no such thing")

    source = write_dicom(tmp_path / "a.dcm", loop[0])
    monkeypatch.setattr(highdicom.seg, "Segmentation", refuse)
    with pytest.raises(
        ValueError, match=r"a.dcm gives no DICOM SEG \(TypeError: no such thing\); pass --output_format auto"
    ):
        SaveImageMaskd("pred", tmp_path / "out", output_format="dicom_seg")({"pred": rectangle(source)})


def test_anonymized_dicom_gives_a_seg(pydicom, highdicom, loop, tmp_path):
    source = write_dicom(tmp_path / "a.dcm", loop[0])
    dataset = pydicom.dcmread(source)
    for name in COPIED:
        delattr(dataset, name)
    dataset.save_as(source)
    path = SaveImageMaskd("pred", tmp_path, output_format="dicom_seg")({"pred": rectangle(source)})["pred_path"]
    assert highdicom.seg.segread(path).pixel_array.sum() == 200


def test_dicom_seg_without_highdicom_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(
        ValueError, match=r"output_format dicom_seg needs the extra dicom \(.*\); run pip install .\[dicom\]"
    ):
        SaveImageMaskd("pred", tmp_path, output_format="dicom_seg")


def test_unknown_output_format_is_refused(tmp_path):
    for call in (
        lambda: SaveImageMaskd("pred", tmp_path, output_format="nrrd"),
        lambda: list_images(tmp_path, output_format="nrrd"),
    ):
        with pytest.raises(ValueError, match="output_format must be one of auto, dicom_seg, got 'nrrd'"):
            call()


def test_mask_of_an_image_that_monai_read_itself_has_its_spatial_shape():
    mask = MetaTensor(
        torch.zeros(1, WIDTH, HEIGHT, 1), meta={"filename_or_obj": "a.png", "spatial_shape": (WIDTH, HEIGHT)}
    )
    assert ToStoredShaped("pred")({"pred": mask})["pred"].shape == (1, WIDTH, HEIGHT)


# names


def test_names_of_the_outputs(tmp_path):
    (tmp_path / "IM_1.2").write_bytes(bytes(128) + b"DICM")
    assert mask_path("x/a.DCM", "out").as_posix() == "out/a_mask.png"
    assert mask_path("x/a.dcm", "out", loop=True).as_posix() == "out/a_mask.nii.gz"
    assert mask_path("x/a.dcm", "out", "seg", output_format="dicom_seg").as_posix() == "out/a_seg.dcm"
    assert mask_path(tmp_path / "IM_1.2", "out").as_posix() == "out/IM_1.2_mask.png"
    assert overlay_path("x/a.nii.gz", "out", loop=True).as_posix() == "out/a_overlay.gif"
    names = [path.name for path in possible_outputs("a.dcm", "out")]
    assert names == ["a_mask.png", "a_mask.nii.gz", "a_overlay.png", "a_overlay.gif"]


@pytest.mark.parametrize("name", ["a_mask.png", "a_mask.nii.gz", "a_overlay.png", "a_overlay.gif", "lesions.csv"])
def test_any_existing_output_is_refused_before_anything_is_written(tmp_path, name):
    (tmp_path / "a.dcm").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).touch()
    images = [{"image": str(tmp_path / "a.dcm")}]
    places = (tmp_path / "out", tmp_path, tmp_path / "a.dcm", ["lesion"])
    message = f"output .*{name} already exists; pass --resume True .* or --overwrite True"
    with pytest.raises(FileExistsError, match=message), OutputFolder(*places).opened(images):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    with OutputFolder(*places, overwrite=True).opened(images) as left:
        assert left == images


@pytest.mark.parametrize("name", ["file", "file/deeper/out"])
def test_file_in_place_of_the_output_folder_is_refused_before_anything_runs(tmp_path, name):
    (tmp_path / "a.png").touch()
    (tmp_path / "file").touch()
    with pytest.raises(
        FileExistsError, match=f"output_dir .*{name} is no folder, since .*file is a file; give a folder"
    ):
        list_images(tmp_path / "a.png", output_dir=tmp_path / name)


def test_path_that_monai_has_made_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dataset_dir must be a path, got the int 2024; write ./ before the name"):
        list_images(2024)
    with pytest.raises(ValueError, match="output_dir must be a path, got the float 1.5; write ./ before the name"):
        list_images(tmp_path, output_dir=1.5)
    with pytest.raises(ValueError, match="dataset_dir must be a path, got the int 2024; write ./ before the name"):
        OutputFolder(tmp_path / "masks", 2024, "model.pt", ["lesion"])  # which the config builds first


def failures(path, **options) -> dict[str, str]:
    """Reasons by the name of the image, of those that have one."""
    items = list_images(path, **options)
    return {Path(item["image"]).name: item["failure"] for item in items if "failure" in item}


def test_images_whose_outputs_would_replace_others_are_bad_files(tmp_path):
    for name in ("a.png", "a.nii.gz", "b.png"):
        (tmp_path / name).touch()
    found = failures(tmp_path)
    assert set(found) == {"a.png", "a.nii.gz"}
    assert re.search("images .*a.nii.gz and .*a.png would both give a_overlay.png; rename one", found["a.png"])


def test_dicom_seg_of_a_png_is_a_bad_file(tmp_path):
    for name in ("a.dcm", "b.png"):
        (tmp_path / name).touch()
    found = failures(tmp_path, output_format="dicom_seg")
    assert set(found) == {"b.png"}
    assert re.search("output_format dicom_seg is for DICOM images, but .*b.png is none; take it out", found["b.png"])


# masks where images are wanted


def label_images(folder) -> dict:
    _, mask = make_phantom(0, 128)
    Image.fromarray(mask).save(folder / "indices.png")
    Image.fromarray(mask * 255).save(folder / "scaled.png")
    Image.fromarray(mask * 255).convert("1").save(folder / "bits.png")
    Image.fromarray(mask * 255).convert("RGB").save(folder / "color.png")
    Image.fromarray(mask * 255).save(folder / "compressed.jpg", quality=90)
    Image.fromarray(np.zeros_like(mask)).save(folder / "black.png")
    nibabel.save(nibabel.Nifti1Image(np.stack([mask, 2 * mask], -1), np.eye(4)), folder / "loop.nii.gz")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name", ["indices.png", "scaled.png", "bits.png", "color.png", "compressed.jpg", "black.png", "loop.nii.gz"]
)
def test_mask_in_place_of_an_image_is_refused_unless_it_is_accepted(tmp_path, name):
    files = ImageFiles([{"image": str(label_images(tmp_path)[name])}], Compose([]), FrameReader().decode)
    assert re.search(f"file .*{name} looks like a mask, .* pass --accept_masks True", files[0]["failure"])
    assert "failure" not in ImageFiles(files.data, Compose([]), FrameReader().decode, accept_masks=True)[0]


def test_phantoms_are_no_masks():
    assert not any(looks_like_mask(make_phantom(seed, 128)[0] / 255) for seed in range(5))


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
@pytest.mark.parametrize("name", ["demo_busbra24", "usgra", "hc18"])
def test_real_images_are_no_masks_and_real_masks_are(name):
    reader = FrameReader()
    for kind, expected in (("images", False), ("labels", True)):
        files = sorted((SHARED / name / kind).iterdir())[:24]
        wrong = [file.name for file in files if looks_like_mask(reader.decode(file)[0]) != expected]
        assert files
        assert not wrong
