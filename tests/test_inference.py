"""configs/inference.json and configs/evaluate.json, run whole with a tiny student."""

import csv
import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import CONFIGS, ROOT, SHARED, TINY_STUDENT, root_cause, run, workflow
from monai.bundle import ConfigWorkflow
from PIL import Image

from scripts.config_check import _brief_excepthook
from scripts.data.readers import read_image, read_mask
from scripts.evaluation import predict
from scripts.metrics import case_metrics
from scripts.networks.tinyusfm import TinyUSFMSeg

SIZE = {key: value for key, value in TINY_STUDENT.items() if not isinstance(value, str)}
WIDTH, HEIGHT = 70, 50


@pytest.fixture(scope="module")
def student() -> TinyUSFMSeg:
    """Random weights that call about half of an image foreground."""
    torch.manual_seed(0)
    model = TinyUSFMSeg(img_size=64, **SIZE).eval()
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
    network_def = {"_target_": TINY_STUDENT["_target_"], "num_classes": "@num_classes", "img_size": "@img_size", **SIZE}
    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "inference.json"), meta_file=str(CONFIGS / "metadata.json"), logging_file=False,
        workflow_type="infer",
        **{
            "bundle_root": str(ROOT), "dataset_dir": str(dataset_dir), "output_dir": str(output_dir), "checkpoint": str(checkpoint),
            "img_size": 64, "network_def": network_def, "hardware::gpu_ids": [], "hardware::precision": "fp32", **overrides,
        },
    )  # fmt: skip
    flow.initialize()
    flow.run()
    return flow


def expected_mask(student, path) -> np.ndarray:
    """(H, W), as the evaluation segments it."""
    image = torch.as_tensor(read_image(path)[0]).T[None]  # (W, H) -> (1, H, W)
    return (predict(student, image, 64, "cpu")[0] > 0).numpy()


def test_masks_have_the_size_of_their_images_and_the_classes_of_the_evaluation(images, student, checkpoint, tmp_path):
    infer(images, checkpoint, tmp_path / "masks")
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == ["color_mask.png", "flat_mask.nii.gz", "gray_mask.png", "photo_mask.png", "slice_mask.nii.gz"]
    for name, image in (("color", "color.png"), ("gray", "gray.png"), ("photo", "photo.jpg")):
        with Image.open(tmp_path / "masks" / f"{name}_mask.png") as mask:
            assert (mask.mode, mask.size) == ("L", (WIDTH, HEIGHT))
            found = np.asarray(mask)
        expected = expected_mask(student, images / image)
        assert set(np.unique(found)) == {0, 1} and 0.2 < expected.mean() < 0.8
        assert (found == expected).mean() > 0.99, name


@pytest.mark.parametrize("name", ["flat", "slice"])
def test_nifti_mask_has_the_geometry_of_its_image(images, student, checkpoint, tmp_path, name):
    infer(images / f"{name}.nii.gz", checkpoint, tmp_path / "masks")
    image, mask = nibabel.load(images / f"{name}.nii.gz"), nibabel.load(tmp_path / "masks" / f"{name}_mask.nii.gz")
    assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
    assert np.array_equal(mask.affine, image.affine) and np.array_equal(mask.header["pixdim"], image.header["pixdim"])
    found = np.asarray(mask.dataobj).reshape(WIDTH, HEIGHT).T
    assert (found == expected_mask(student, images / f"{name}.nii.gz")).mean() > 0.99


@pytest.mark.skipif(not (ROOT / "models" / "model.pt").is_file(), reason="models/model.pt is not there")
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_shared_student_segments_real_lesions_out_of_the_box(tmp_path):
    folder = SHARED / "demo_busbra24"
    cases = json.loads((folder / "dataset.json").read_text())["test"]
    (tmp_path / "images").mkdir()
    for case in cases:
        shutil.copy(folder / case["image"], tmp_path / "images")
    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "inference.json"), meta_file=str(CONFIGS / "metadata.json"), logging_file=False, workflow_type="infer",
        bundle_root=str(ROOT), dataset_dir=str(tmp_path / "images"), output_dir=str(tmp_path / "masks"),
    )  # fmt: skip
    flow.initialize()
    flow.run()
    scores = []
    for case in cases:
        found = np.asarray(Image.open(tmp_path / "masks" / f"{Path(case['image']).stem}_mask.png"))
        scores.append(case_metrics(found, read_mask(folder / case["label"])[0].T > 0, 2)["dice"])
    assert len(scores) == 5 and np.mean(scores) > 0.5


def test_several_classes_give_class_indices(images, tmp_path):
    torch.manual_seed(0)
    torch.save(TinyUSFMSeg(num_classes=3, img_size=64, **SIZE).state_dict(), tmp_path / "three.pt")
    infer(images / "gray.png", tmp_path / "three.pt", tmp_path / "masks", num_classes=3)
    found = np.asarray(Image.open(tmp_path / "masks" / "gray_mask.png"))
    assert found.dtype == np.uint8 and found.max() <= 2


def test_second_run_is_refused_before_anything_is_computed(images, checkpoint, tmp_path):
    masks = tmp_path / "masks"
    infer(images / "slice.nii.gz", checkpoint, masks)
    before = {path.name: path.stat().st_mtime_ns for path in masks.iterdir()}
    with pytest.raises(Exception) as error:
        infer(images, checkpoint, masks)
    message = "slice_mask.nii.gz already exists; remove it, choose another output_dir, or pass overwrite true"
    assert message in str(root_cause(error.value))
    assert {path.name: path.stat().st_mtime_ns for path in masks.iterdir()} == before
    infer(images, checkpoint, masks, overwrite=True)
    assert len(list(masks.iterdir())) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "no.pt"}, "checkpoint no.pt does not exist"),
        ({"dataset_dir": "nowhere"}, "image path nowhere does not exist; give an image file or a folder of images"),
        ({"dataset_dir": "$@bundle_root + '/images'"}, "image path .*images does not exist"),  # the config's default
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


def test_one_unreadable_image_ends_the_run_before_any_mask_is_written(images, checkpoint, tmp_path, capsys):
    (images / "z.png").write_bytes(b"none")
    with pytest.raises(Exception) as error:
        infer(images, checkpoint, tmp_path / "masks")
    _brief_excepthook(error.type, error.value, error.tb)
    shown = capsys.readouterr().err.splitlines()[-1]
    assert re.match("error: file .*z.png cannot be read as an image", shown)
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
    assert f"{summary['student']['dice']:.4f}" in text and "2 cases at their original size" in text
    assert (run_folder / "visualizations" / "test_sample_000.png").is_file()
    assert not (tmp_path / "model.pt").exists() and not (run_folder / "models").exists()


def test_evaluation_without_a_teacher_needs_no_teacher_files(student_overrides, run_folder):
    absent = {"teacher::lora_checkpoint": None, "teacher::sam_checkpoint": None, "frozen_teacher": None}
    run({**student_overrides, **absent}, "evaluate.json", run_id="evaluating")
    assert {row["arm"] for row in read_rows(run_folder / "metrics.csv")} == {"student"}


def test_evaluation_of_the_control_needs_one_more_overlay(student_overrides, run_folder):
    absent = {"teacher::lora_checkpoint": None, "teacher::sam_checkpoint": None}
    run({**student_overrides, **absent}, "train_student.json", "evaluate.json", run_id="evaluating")
    assert {row["arm"] for row in read_rows(run_folder / "metrics.csv")} == {"student"}


def test_evaluation_builds_the_student_without_a_warning(student_overrides, caplog):
    del student_overrides["network_def"]  # the shipped student, not the tiny one
    flow = workflow(student_overrides, "evaluate.json", run_id="evaluating")
    assert isinstance(flow.parser.get_parsed_content("network_def"), TinyUSFMSeg)
    assert not [record for record in caplog.records if record.name.startswith("scripts")]


def test_evaluation_refuses_a_missing_checkpoint_and_writes_nothing(student_overrides, tmp_path):
    with pytest.raises(Exception) as error:
        run({**student_overrides, "student::checkpoint": str(tmp_path / "no.pt")}, "evaluate.json", run_id="evaluating")
    assert "no.pt does not exist" in str(root_cause(error.value))
    assert not (tmp_path / "logs").exists()
