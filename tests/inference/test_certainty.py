"""Presence and confidence in what inference writes: emptied masks, lesions.csv, DICOM SEG, MONAI Label's answer."""

import json
import math

import nibabel
import numpy as np
import pytest
import torch
from conftest import TINY
from dicom_files import write_dicom
from monai.data import MetaTensor
from PIL import Image
from test_folder_runs import content, failure, folder, infer, pixels

from scripts.data.segment import segment_and_detect
from scripts.inference.certainty import KeepPresenced, lesion_confidence
from scripts.inference.confidence import LOW_CONFIDENCE, NEAR_ODDS, Certainty, is_near
from scripts.inference.label_result import LabelResultd
from scripts.inference.lesions import COLUMNS, FORMER_COLUMNS
from scripts.metrics import logits_to_classes
from scripts.networks.presence import Presence
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.utils.tables import read_table, write_table

__all__ = ["folder"]  # a fixture


def shades(number):
    """An image (1, H, W) of `pixels`, as it is read."""
    return torch.from_numpy(pixels(number) / np.float32(255))[None]


@pytest.fixture(scope="module")
def student():
    """It finds two of the images of `folder` empty by presence, and a lesion in all of them without it."""
    torch.manual_seed(0)
    model = TinyUSFMSeg(img_size=64, **TINY).eval()
    with torch.no_grad():
        model.decode_head.conv_seg.bias.fill_(0.3)
        model.presence = Presence(TINY["embed_dim"])
        model.presence.weight.normal_()
        found = sorted(segment_and_detect(model, shades(number), 64, "cpu")[1] for number in range(4))
        model.presence.threshold.fill_((found[1] + found[2]) / 2)
    return model


@pytest.fixture(scope="module")
def calibrated(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.pt"
    torch.save(student.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def uncalibrated(student, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.pt"
    torch.save({key: value for key, value in student.state_dict().items() if "presence" not in key}, path)
    return path


def table(output_dir):
    return {row["file"]: row for row in read_table(output_dir / "lesions.csv")}


def mask(output_dir, name):
    return np.asarray(Image.open(output_dir / f"{name}_mask.png"))


def test_masks_and_rows_are_those_of_the_network(folder, calibrated, student, tmp_path):
    infer(folder, calibrated, tmp_path / "out")
    rows, threshold = table(tmp_path / "out"), float(student.presence.threshold)
    for number, name in enumerate("abcd"):
        logits, presence = segment_and_detect(student, shades(number), 64, "cpu")
        row, absent = rows[f"{name}.png"], presence < threshold
        assert np.array_equal(mask(tmp_path / "out", name), logits_to_classes(logits[None])[0, 0].numpy())
        assert float(row["presence"]) == pytest.approx(presence, abs=1e-4)
        assert row["empty"] == ("yes" if absent else "no")
        assert row["note"] == (f"presence below {threshold:.4f}, mask left empty" if absent else "")
        (confidence,) = lesion_confidence(logits)
        assert row["confidence"] == "" if absent else float(row["confidence"]) == pytest.approx(confidence, abs=1e-4)
    assert sorted(row["empty"] for row in rows.values()) == ["no", "no", "yes", "yes"]


def test_threshold_of_zero_empties_no_mask_and_one_that_is_higher_more(folder, calibrated, tmp_path):
    for threshold, empty in ((0, 0), (1.0, 4)):
        infer(folder, calibrated, tmp_path / str(threshold), presence_threshold=threshold)
        assert [row["empty"] for row in table(tmp_path / str(threshold)).values()].count("yes") == empty
        assert json.loads((tmp_path / str(threshold) / "run.json").read_text())["presence_threshold"] == threshold


def test_threshold_for_a_student_without_presence_is_refused_and_nothing_written(folder, uncalibrated, tmp_path):
    message = str(failure(folder, uncalibrated, tmp_path / "out", presence_threshold=0.5))
    assert message.startswith(f"presence_threshold is 0.5, but checkpoint {uncalibrated} gives no presence probability")
    assert not (tmp_path / "out").exists()


def test_student_without_presence_segments_as_before_and_tells_confidence(folder, uncalibrated, calibrated, tmp_path):
    infer(folder, uncalibrated, tmp_path / "without")
    infer(folder, calibrated, tmp_path / "never", presence_threshold=0)
    rows = table(tmp_path / "without")
    assert [row["presence"] for row in rows.values()] == [""] * 4
    assert all(row["confidence"] for row in rows.values())
    masks = [
        {name: data for name, data in content(tmp_path / out).items() if name.endswith(".png")}
        for out in ("without", "never")
    ]
    assert masks[0] == masks[1]


def test_every_frame_of_a_loop_is_decided_on(calibrated, student, tmp_path):
    (tmp_path / "images").mkdir()
    loop = np.stack([pixels(number).T for number in range(4)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(loop[:, :, None], np.eye(4)), tmp_path / "images" / "a.nii.gz")
    infer(tmp_path / "images", calibrated, tmp_path / "out", **{"inferer::frames": 3})
    rows = read_table(tmp_path / "out" / "lesions.csv")
    expected = [segment_and_detect(student, shades(number), 64, "cpu")[1] for number in range(4)]
    assert [float(row["presence"]) for row in rows] == pytest.approx(expected, abs=1e-4)
    empty = [value < float(student.presence.threshold) for value in expected]
    assert [row["empty"] == "yes" for row in rows] == empty
    masks = np.asarray(nibabel.load(tmp_path / "out" / "a_mask.nii.gz").dataobj)
    assert [not masks[..., frame].any() for frame in range(4)] == empty


@pytest.mark.parametrize("frames", [1, 2])
def test_dicom_seg_says_why_it_is_empty(calibrated, tmp_path, frames):
    pydicom = pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
    pytest.importorskip("highdicom", reason="DICOM SEG needs the extra dicom")
    (tmp_path / "images").mkdir()
    shape = np.stack([pixels(number) for number in range(frames)]) if frames > 1 else pixels(0)
    write_dicom(tmp_path / "images" / "a.dcm", shape)
    for threshold, text in ((1.0, f"presence below 1.0000 in {frames} of {frames}, masks left empty"), (0, "")):
        out = tmp_path / f"out{threshold}"
        infer(tmp_path / "images", calibrated, out, output_format="dicom_seg", presence_threshold=threshold)
        segmentation = pydicom.dcmread(out / "a_mask.dcm")
        assert (segmentation.get("ContentDescription") or "") == text
        assert segmentation.pixel_array.any() == (threshold == 0)


def test_folder_of_an_earlier_version_is_gone_on_with(folder, uncalibrated, tmp_path):
    infer(folder, uncalibrated, tmp_path / "out")
    rows, path = read_table(tmp_path / "out" / "lesions.csv"), tmp_path / "out" / "lesions.csv"
    write_table(path, FORMER_COLUMNS, [{key: row[key] for key in FORMER_COLUMNS} for row in rows])
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    del record["presence_threshold"]
    (tmp_path / "out" / "run.json").write_text(json.dumps(record))
    (tmp_path / "out" / "c_mask.png").unlink()
    infer(folder, uncalibrated, tmp_path / "out", resume=True)
    again = table(tmp_path / "out")
    assert list(again["a.png"]) == list(COLUMNS)
    assert {name: bool(row["look"]) for name, row in again.items()} == {
        "a.png": False,
        "b.png": False,
        "c.png": True,
        "d.png": False,
    }


def test_other_threshold_is_another_run(folder, calibrated, tmp_path):
    infer(folder, calibrated, tmp_path / "out")
    message = str(failure(folder, calibrated, tmp_path / "out", resume=True, presence_threshold=0.5))
    assert "were made with another presence_threshold (None, now 0.5)" in message


def test_client_of_monai_label_gets_presence_and_confidence():
    found = Certainty([0.02], 0.1, [[math.nan]])
    item = {"pred": MetaTensor(torch.zeros(4, 4)), "certainty": found}
    answer = LabelResultd("pred", ["lesion"])({**item, "image_path": "/studies/a.png"})["result"]
    row = {"frame": 0, "class": "lesion", "presence": 0.02, "confidence": "", "look": "no"}
    assert answer == {"certainty": [{**row, "note": "presence below 0.1000, mask left empty"}]}
    json.dumps(answer, allow_nan=False)
    assert "result" not in LabelResultd("pred")(item)


def test_presence_without_a_batch_is_taken_too():
    """MONAI Label calls the inferer with an image whose metadata are not those of a batch."""
    logits = MetaTensor(
        torch.zeros(1, 4, 4, 2), meta={"presence": torch.tensor([[0.1, 0.2]]), "presence_threshold": 0.5}
    )
    item = KeepPresenced("pred")({"pred": logits})
    assert item["presence"] == pytest.approx([0.1, 0.2])
    assert item["presence_threshold"] == 0.5
    assert "presence" not in KeepPresenced("pred")({"pred": torch.zeros(1, 4, 4, 2)})


def test_confidence_is_of_each_class_in_its_mask():
    logits = torch.tensor([[[0.0, 0.0]], [[2.0, -1.0]], [[-3.0, -1.0]]])
    first, second = lesion_confidence(logits)
    assert first == pytest.approx(float(logits[:, 0, 0].softmax(0)[1]))
    assert math.isnan(second)


@pytest.mark.parametrize(
    ("presence", "near"), [(None, False), (0.5, True), (0.74, True), (0.76, False), (0.26, True), (0.24, False)]
)
def test_presence_near_the_threshold_is_to_be_looked_at(presence, near):
    assert NEAR_ODDS == 3
    assert is_near(presence, 0.5) is near
    confidence = [[0.99 if presence is None or presence >= 0.5 else math.nan]]
    found = Certainty(None if presence is None else [presence], 0.5, confidence)
    assert found.columns(0, 1)["look"] == ("yes" if near else "no")


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_threshold_that_decides_nothing_is_near_to_nothing(threshold):
    assert not is_near(0.01, threshold)


def test_lesion_of_low_confidence_is_to_be_looked_at():
    looks = [Certainty(None, None, [[LOW_CONFIDENCE + step]]).columns(0, 1)["look"] for step in (-0.01, 0.01)]
    assert looks == ["yes", "no"]
