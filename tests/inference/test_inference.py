"""configs/inference.json and configs/evaluate.json, run whole with a tiny student."""

import csv
import json
import logging
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import CONFIGS, ROOT, SHARED, TINY, root_cause, run, workflow
from dicom_files import region, write_dicom
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose, SaveImaged
from PIL import Image

from scripts.data.readers import read_image, read_mask
from scripts.data.segment import segment
from scripts.inference.output_folder import LOCK_FILE, RUN_FILE
from scripts.metrics import case_metrics
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.run.errors import find_user_error

NETWORK = {
    "_target_": "scripts.networks.tinyusfm.TinyUSFMSeg",
    "num_classes": "@num_classes",
    "img_size": "@img_size",
    **TINY,
}
WIDTH, HEIGHT = 70, 50
OF_THE_RUN = {"lesions.csv", RUN_FILE, LOCK_FILE}


@pytest.fixture(scope="module")
def student() -> TinyUSFMSeg:
    """Random weights that call about half of an image foreground."""
    torch.manual_seed(0)
    model = TinyUSFMSeg(img_size=64, **TINY).eval()
    with torch.no_grad():
        model.decode_head.conv_seg.weight.mul_(50)
        model.decode_head.conv_seg.bias -= model(picture_tensor()).median()
    return model


@pytest.fixture(scope="module")
def checkpoint(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.pt"
    torch.save(student.state_dict(), path)
    return path


def picture(mode: str = "L") -> Image.Image:
    """Noise with structure, WIDTH x HEIGHT."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).convert(mode)


def picture_tensor() -> torch.Tensor:
    return torch.as_tensor(np.array(picture().resize((64, 64))), dtype=torch.float32)[None, None] / 255


def volume(shape: tuple[int, ...]) -> nibabel.Nifti1Image:
    affine = np.array([[0.2, 0.05, 0, -7], [-0.05, 0.3, 0, 11], [0, 0, 1.5, 3], [0, 0, 0, 1]])
    return nibabel.Nifti1Image(np.asarray(picture()).T.reshape(shape), affine)


@pytest.fixture
def images(tmp_path):
    """A folder with one image of every kind."""
    folder = tmp_path / "images"
    folder.mkdir()
    picture().save(folder / "gray.png")
    picture("RGB").save(folder / "color.png")
    picture().save(folder / "photo.jpg", quality=95)
    nibabel.save(volume((WIDTH, HEIGHT)), folder / "flat.nii.gz")
    nibabel.save(volume((WIDTH, HEIGHT, 1)), folder / "slice.nii.gz")
    return folder


def infer(dataset_dir, checkpoint, output_dir, **overrides) -> ConfigWorkflow:
    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "inference.json"),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        **{
            "bundle_root": str(ROOT),
            "dataset_dir": str(dataset_dir),
            "output_dir": str(output_dir),
            "checkpoint": str(checkpoint),
            "img_size": 64,
            "network_def": NETWORK,
            "hardware::gpu_ids": [],
            "hardware::precision": "fp32",
            **overrides,
        },
    )
    flow.initialize()
    flow.run()
    return flow


def expected_mask(student, path, autocast=None) -> np.ndarray:
    """(H, W), as the evaluation segments it."""
    image = torch.as_tensor(read_image(path)[0]).T[None]  # (W, H) -> (1, H, W)
    return (segment(student, image, 64, "cpu", autocast)[0] > 0).numpy()


def test_masks_have_the_size_of_their_images_and_the_classes_of_the_evaluation(images, student, checkpoint, tmp_path):
    infer(images, checkpoint, tmp_path / "masks")
    names = {path.name for path in (tmp_path / "masks").iterdir()}
    masks = {"color_mask.png", "flat_mask.nii.gz", "gray_mask.png", "photo_mask.png", "slice_mask.nii.gz"}
    overlays = {f"{name}_overlay.png" for name in ("color", "flat", "gray", "photo", "slice")}
    assert names == {*masks, *overlays, *OF_THE_RUN}
    for name, image in (("color", "color.png"), ("gray", "gray.png"), ("photo", "photo.jpg")):
        with Image.open(tmp_path / "masks" / f"{name}_mask.png") as mask:
            assert (mask.mode, mask.size) == ("L", (WIDTH, HEIGHT))
            pixels = np.asarray(mask)
        expected = expected_mask(student, images / image)
        assert set(np.unique(pixels)) == {0, 1}
        assert 0.2 < expected.mean() < 0.8
        assert np.array_equal(pixels, expected), name


def test_masks_in_bf16_are_those_of_the_evaluation_bit_for_bit(images, student, checkpoint, tmp_path):
    infer(images, checkpoint, tmp_path / "masks", **{"hardware::precision": "bf16"})
    autocast = torch.autocast("cpu", torch.bfloat16)
    for name in ("color.png", "gray.png", "photo.jpg"):
        pixels = np.asarray(Image.open(tmp_path / "masks" / f"{name[:-4]}_mask.png"))
        assert np.array_equal(pixels, expected_mask(student, images / name, autocast)), name


@pytest.mark.parametrize("name", ["flat", "slice"])
def test_nifti_mask_has_the_geometry_of_its_image(images, student, checkpoint, tmp_path, name):
    infer(images / f"{name}.nii.gz", checkpoint, tmp_path / "masks")
    image, mask = nibabel.load(images / f"{name}.nii.gz"), nibabel.load(tmp_path / "masks" / f"{name}_mask.nii.gz")
    assert mask.shape == image.shape
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, image.affine)
    assert np.array_equal(mask.header["pixdim"], image.header["pixdim"])
    pixels = np.asarray(mask.dataobj).reshape(WIDTH, HEIGHT).T
    assert np.array_equal(pixels, expected_mask(student, images / f"{name}.nii.gz"))


@pytest.mark.skipif(not (ROOT / "models" / "model.pt").is_file(), reason="models/model.pt is not there")
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_shared_student_segments_real_lesions_out_of_the_box(tmp_path):
    folder = SHARED / "demo_busbra24"
    cases = json.loads((folder / "dataset.json").read_text())["test"]
    (tmp_path / "images").mkdir()
    for case in cases:
        shutil.copy(folder / case["image"], tmp_path / "images")
    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "inference.json"),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(ROOT),
        dataset_dir=str(tmp_path / "images"),
        output_dir=str(tmp_path / "masks"),
    )
    flow.initialize()
    flow.run()
    scores = []
    for case in cases:
        pixels = np.asarray(Image.open(tmp_path / "masks" / f"{Path(case['image']).stem}_mask.png"))
        scores.append(case_metrics(pixels, read_mask(folder / case["label"])[0].T > 0, 2)["dice"])
    assert len(scores) == 5
    assert np.mean(scores) > 0.5


def test_several_classes_give_class_indices(images, tmp_path):
    torch.manual_seed(0)
    torch.save(TinyUSFMSeg(num_classes=3, img_size=64, **TINY).state_dict(), tmp_path / "three.pt")
    infer(images / "gray.png", tmp_path / "three.pt", tmp_path / "masks", num_classes=3)
    pixels = np.asarray(Image.open(tmp_path / "masks" / "gray_mask.png"))
    assert pixels.dtype == np.uint8
    assert pixels.max() <= 2


def test_second_run_is_refused_before_anything_is_computed(images, checkpoint, tmp_path):
    masks = tmp_path / "masks"
    infer(images / "slice.nii.gz", checkpoint, masks)
    before = {path.name: path.stat().st_mtime_ns for path in masks.iterdir() if path.name != LOCK_FILE}
    with pytest.raises(Exception) as error:
        infer(images, checkpoint, masks)
    message = "lesions.csv already exists; pass --resume True to go on with the run that wrote it"
    assert message in str(root_cause(error.value))
    assert {path.name: path.stat().st_mtime_ns for path in masks.iterdir() if path.name != LOCK_FILE} == before
    infer(images, checkpoint, masks, overwrite=True)
    assert len(list(masks.iterdir())) == 5 + 5 + len(OF_THE_RUN)
    assert len(read_rows(masks / "lesions.csv")) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "no.pt"}, "checkpoint no.pt does not exist"),
        ({"dataset_dir": "nowhere"}, "image path nowhere does not exist; give an image file or a folder of images"),
        ({"dataset_dir": "$@bundle_root + '/images'"}, "image path .*images does not exist"),  # the config's default
        ({"output_format": "dicom_seg"}, "5 files of 5 were not segmented; the lines above name them"),
        ({"output_format": "nrrd"}, "output_format must be one of auto, dicom_seg, got 'nrrd'"),
        ({"modalities": "US"}, "modalities must be a list such as .*, got 'US'"),
        ({"class_names": ["a", "b"]}, "class_names must name the 1 classes without the background"),
        ({"num_classes": 3}, "segments 2 classes, but data::num_classes is 3"),
        ({"img_size": 32}, "was trained at 64 pixels, but the student is built for 32; pass --img_size 64"),
        ({"img_size": 100}, "img_size must be a .*multiple of 16, got 100"),
        ({"hardware::gpu_ids": [99]}, r"hardware::gpu_ids \[99\] does not exist"),
        ({"training.lr": 1}, "unknown id 'training.lr'"),
        ({"dataset_dri": "x"}, "unknown id 'dataset_dri' .* did you mean --dataset_dir"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(images, checkpoint, tmp_path, changes, message):
    with pytest.raises(Exception) as error:
        infer(**{"dataset_dir": images, "checkpoint": checkpoint, "output_dir": tmp_path / "masks", **changes})
    cause = root_cause(error.value)
    assert isinstance(cause, (ValueError, FileNotFoundError)), cause
    assert re.search(message, str(cause))
    assert not (tmp_path / "masks").exists()


def test_folder_of_masks_is_refused_file_by_file(images, checkpoint, tmp_path):
    Image.fromarray(np.uint8(np.asarray(picture()) > 128)).save(images / "label.png")
    with pytest.raises(Exception) as error:
        infer(images, checkpoint, tmp_path / "masks")
    assert "1 file of 6 was not segmented: file" in str(root_cause(error.value))
    assert "label.png looks like a mask, not like an ultrasound image" in str(root_cause(error.value))
    assert not (tmp_path / "masks" / "label_mask.png").exists()
    infer(images / "label.png", checkpoint, tmp_path / "label", accept_masks=True)
    assert (tmp_path / "label" / "label_mask.png").is_file()


# loops and DICOM


COUNT = 10  # frames: more than the network takes at once


@pytest.fixture
def loops(tmp_path):
    """The same frames, each darker than the one before, as every kind of loop."""
    folder = tmp_path / "loops"
    folder.mkdir()
    still = np.asarray(picture(), dtype=np.float32)
    frames = np.stack([np.uint8(still * (1 - 0.05 * n)) for n in range(COUNT)])  # (N, H, W)
    affine = volume((WIDTH, HEIGHT)).affine
    nibabel.save(nibabel.Nifti1Image(frames.transpose(2, 1, 0), affine), folder / "gray.nii.gz")
    rgb = np.repeat(frames.transpose(2, 1, 0)[..., None], 3, axis=-1)
    rgb24 = rgb.view(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))[..., 0]
    nibabel.save(nibabel.Nifti1Image(rgb24, affine), folder / "rgb.nii.gz")
    if find_spec("pydicom"):
        write_dicom(folder / "loop.dicom", frames, FrameTime=40, SequenceOfUltrasoundRegions=[region(0.02, 0.03)])
        write_dicom(folder / "IM_0001", np.repeat(frames[..., None], 3, axis=-1), "RGB")
    return folder, frames


def frame_masks(student, frames) -> np.ndarray:
    """(W, H, N), each frame segmented alone, as the evaluation does."""
    masks = [segment(student, torch.as_tensor(frame / np.float32(255))[None], 64, "cpu")[0] > 0 for frame in frames]
    return torch.stack(masks, dim=-1).numpy().swapaxes(0, 1)


@pytest.mark.parametrize("name", ["gray.nii.gz", "rgb.nii.gz", "loop.dicom", "IM_0001"])
def test_loop_is_segmented_frame_by_frame(loops, student, checkpoint, tmp_path, name):
    folder, frames = loops
    if not name.endswith(".nii.gz"):
        pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
    infer(folder / name, checkpoint, tmp_path / "out")
    stem = name.split(".")[0]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{stem}_mask.nii.gz",
        f"{stem}_overlay.gif",
        *OF_THE_RUN,
    }
    mask, expected = nibabel.load(tmp_path / "out" / f"{stem}_mask.nii.gz"), frame_masks(student, frames)
    pixels = np.asarray(mask.dataobj)
    assert pixels.shape == (WIDTH, HEIGHT, COUNT)
    assert mask.get_data_dtype() == np.uint8
    assert (pixels == expected).mean() > 0.99
    assert len({expected[..., n].sum() for n in range(COUNT)}) > 5
    rows = read_rows(tmp_path / "out" / "lesions.csv")
    assert [int(row["frame"]) for row in rows] == list(range(COUNT))
    assert [int(row["area_px"]) for row in rows] == pixels.sum((0, 1)).tolist()
    if name.endswith(".nii.gz"):
        image = nibabel.load(folder / name)
        assert np.array_equal(mask.affine, image.affine)
        assert np.array_equal(mask.header["pixdim"], image.header["pixdim"])
    with Image.open(tmp_path / "out" / f"{stem}_overlay.gif") as movie:
        assert movie.n_frames == COUNT
        assert movie.size == (WIDTH, HEIGHT)
        assert movie.info["duration"] == (40 if name == "loop.dicom" else 100)


def test_areas_are_in_mm2_where_the_file_has_a_scale_and_empty_where_not(loops, images, checkpoint, tmp_path):
    pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
    folder, frames = loops
    shutil.copy(images / "gray.png", folder / "still.png")
    infer(folder, checkpoint, tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "lesions.csv")
    counts = {name: sum(row["file"] == name for row in rows) for name in sorted(path.name for path in folder.iterdir())}
    assert counts == {name: 1 if name == "still.png" else COUNT for name in counts}
    assert len(rows) == sum(counts.values())
    nifti = np.sqrt(0.2**2 + 0.05**2) * np.sqrt(0.3**2 + 0.05**2)
    scales = {"IM_0001": None, "gray.nii.gz": nifti, "loop.dicom": 0.06, "rgb.nii.gz": nifti, "still.png": None}
    for row in rows:
        scale = scales[row["file"]]
        assert row["class"] == "lesion"
        assert row["empty"] == ("no" if int(row["area_px"]) else "yes")
        assert (row["area_mm2"] == "") == (row["pixel_width_mm"] == "") == (scale is None)
        if scale:
            assert float(row["area_mm2"]) == pytest.approx(int(row["area_px"]) * scale, rel=1e-3)


def test_folder_of_dicom_gives_dicom_seg(loops, student, checkpoint, tmp_path):
    pydicom = pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
    highdicom = pytest.importorskip("highdicom", reason="DICOM SEG needs the extra dicom")
    folder, frames = loops
    for path in folder.glob("*.nii.gz"):
        path.unlink()
    write_dicom(folder / "still.dcm", frames[0])
    infer(folder, checkpoint, tmp_path / "out", output_format="dicom_seg")
    masks = {"IM_0001_mask.dcm", "loop_mask.dcm", "still_mask.dcm"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *masks,
        "IM_0001_overlay.gif",
        "loop_overlay.gif",
        "still_overlay.png",
        *OF_THE_RUN,
    }
    segmentation, image = (
        highdicom.seg.segread(tmp_path / "out" / "loop_mask.dcm"),
        pydicom.dcmread(folder / "loop.dicom"),
    )
    stored = segmentation.get_pixels_by_source_frame(image.SOPInstanceUID, list(range(1, COUNT + 1)))[..., 0]
    assert (stored.transpose(2, 1, 0) == frame_masks(student, frames)).mean() > 0.99


def test_dicom_of_another_modality_is_refused_unless_it_is_asked_for(images, checkpoint, tmp_path):
    pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
    write_dicom(images / "z.dcm", np.asarray(picture()), modality="CT")
    with pytest.raises(Exception) as error:
        infer(images, checkpoint, tmp_path / "out")
    assert "z.dcm has the modality CT, expected US" in str(find_user_error(error.value))
    infer(images, checkpoint, tmp_path / "all", modalities=["US", "CT"])
    assert (tmp_path / "all" / "z_mask.png").is_file()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gray.png", (WIDTH, HEIGHT)),
        ("color.png", (WIDTH, HEIGHT)),
        ("flat.nii.gz", (WIDTH, HEIGHT, 1)),
        ("slice.nii.gz", (WIDTH, HEIGHT, 1)),
        ("loop.nii.gz", (WIDTH, HEIGHT, COUNT)),
        ("rgb.nii.gz", (WIDTH, HEIGHT, COUNT)),
    ],
)
def test_transforms_alone_give_what_monai_label_writes(images, loops, checkpoint, tmp_path, name, shape):
    """MONAI Label calls them one after the other, without evaluator and without what saves."""
    shutil.copy(loops[0] / "gray.nii.gz", images / "loop.nii.gz")
    shutil.copy(loops[0] / "rgb.nii.gz", images)
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "inference.json"))
    parser.update({"bundle_root": str(ROOT), "checkpoint": str(checkpoint), "img_size": 64, "network_def": NETWORK})
    parser["device"] = "cpu"
    transforms = {key: parser.get_parsed_content(key) for key in ("preprocessing", "postprocessing")}
    assert all(isinstance(transform, Compose) for transform in transforms.values())
    item = {"image": str(images / name), "image_path": str(images / name)}
    for transform in transforms["preprocessing"].transforms:
        item = transform(item)
    with torch.no_grad():
        network = parser.get_parsed_content("network").eval()
        item["pred"] = parser.get_parsed_content("inferer")(item["image"][None], network)[0]
    for transform in transforms["postprocessing"].transforms:
        if not isinstance(transform, SaveImaged):
            item = transform(item)
    mask = item["pred"]
    assert tuple(mask.shape) == shape
    assert mask.dtype == torch.uint8
    assert set(mask.unique().tolist()) == {0, 1}
    if name.endswith(".nii.gz"):
        np.testing.assert_allclose(np.asarray(mask.affine), nibabel.load(images / name).affine, atol=1e-6)
    assert not (tmp_path / "masks").exists()


# evaluation


@pytest.fixture
def student_overrides(overrides, checkpoint) -> dict:
    """The evaluation of a trained tiny student."""
    return {**overrides, "student::checkpoint": str(checkpoint)}


def read_rows(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_evaluation_of_student_and_teacher_writes_the_results(student_overrides, run_folder, tmp_path):
    run(student_overrides, "evaluate.json", run_id="evaluating")
    rows = read_rows(run_folder / "metrics.csv")
    assert [row["arm"] for row in rows].count("student") == [row["arm"] for row in rows].count("teacher") == 2
    assert {"dice", "hd95", "iou", "sensitivity", "specificity", "pixel_accuracy"} <= set(rows[0])
    summary = json.loads((run_folder / "summary.json").read_text())
    assert set(summary) == {"student", "teacher"}
    text = (run_folder / "test_results.txt").read_text()
    assert f"{summary['student']['dice']:.4f}" in text
    assert "2 cases at their original size" in text
    assert (run_folder / "visualizations" / "test_sample_000.png").is_file()
    assert not (tmp_path / "model.pt").exists()
    assert not (run_folder / "models").exists()


def test_evaluation_without_a_teacher_needs_no_teacher_files(student_overrides, run_folder):
    absent = {"teacher::lora_checkpoint": None, "teacher::sam_checkpoint": None}
    absent["final_evaluation::networks"] = {"student": "@network"}
    run({**student_overrides, **absent}, "evaluate.json", run_id="evaluating")
    assert {row["arm"] for row in read_rows(run_folder / "metrics.csv")} == {"student"}


def test_evaluation_of_the_control_needs_one_more_overlay(student_overrides, run_folder):
    absent = {"teacher::lora_checkpoint": None, "teacher::sam_checkpoint": None}
    run({**student_overrides, **absent}, "train_student.json", "evaluate.json", run_id="evaluating")
    assert {row["arm"] for row in read_rows(run_folder / "metrics.csv")} == {"control"}


def test_test_list_alone_can_be_evaluated(student_overrides, phantoms, run_folder, tmp_path):
    folder = tmp_path / "phantoms"
    shutil.copytree(phantoms, folder)
    content = json.loads((folder / "dataset.json").read_text())
    cases = [{key: case[key] for key in ("image", "label")} for case in content["test"]]
    (folder / "dataset.json").write_text(json.dumps({"labels": content["labels"], "test": cases}))
    run({**student_overrides, "data::dataset_dir": str(folder)}, "evaluate.json", run_id="evaluating")
    assert {row["arm"] for row in read_rows(run_folder / "metrics.csv")} == {"student", "teacher"}
    assert "Patients were not told apart" in (run_folder / "test_results.txt").read_text()
    assert "Patients were not told apart" in (run_folder / "report.html").read_text()


@pytest.mark.skipif(not (ROOT / "models" / "model.pt").is_file(), reason="models/model.pt is not there")
def test_evaluation_builds_the_student_without_a_warning(student_overrides, caplog):
    student_overrides["student::checkpoint"] = str(ROOT / "models" / "model.pt")
    student_overrides["data::img_size"] = 224
    del student_overrides["student::model_name"]  # the shipped student, not the tiny one
    flow = workflow(student_overrides, "evaluate.json", run_id="evaluating")
    assert isinstance(flow.parser.get_parsed_content("network_def"), TinyUSFMSeg)
    warnings = [record for record in caplog.records if record.levelno > logging.INFO]
    assert not [record for record in warnings if record.name.startswith("scripts")]


def test_evaluation_refuses_a_missing_checkpoint_and_writes_nothing(student_overrides, tmp_path):
    with pytest.raises(Exception) as error:
        run({**student_overrides, "student::checkpoint": str(tmp_path / "no.pt")}, "evaluate.json", run_id="evaluating")
    assert "no.pt does not exist" in str(root_cause(error.value))
    assert not (tmp_path / "logs").exists()
