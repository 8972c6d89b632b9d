"""The list unlabeled that make_datalist writes."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from scripts.data.datalist import SegmentationData
from scripts.data.unlabeled_lists import fewer_labels
from scripts.make_datalist import main


def save(path, seed, quality=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = gaussian_filter(np.random.default_rng(seed).normal(size=(60, 60)), 4)
    pixels = ((pixels - pixels.min()) / np.ptp(pixels) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, **({"quality": quality} if quality else {}))


@pytest.fixture
def plain(tmp_path):
    """images/ and masks/ of ten patients with two images each."""
    folder = tmp_path / "plain"
    for number in range(20):
        name = f"p{number // 2}_{number % 2}.png"
        save(folder / "images" / name, number)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.eye(60, dtype=np.uint8)).save(folder / "masks" / name)
    return folder


def build(folder, *options):
    words = ["--dataset_dir", folder, "--output", folder / "dataset.json", "--overwrite"]
    code = main([str(word) for word in (*words, *options)])
    return code, json.loads((folder / "dataset.json").read_text()) if (folder / "dataset.json").exists() else None


FOLDERS = ("--format", "folders", "--patient_regex", r"p(\d+)_")


def test_folder_elsewhere_becomes_a_list(plain, tmp_path, capsys):
    for number in range(3):
        save(tmp_path / "clinic" / "sub" / f"c{number}.jpg", 100 + number)
    code, content = build(plain, *FOLDERS, "--unlabeled", tmp_path / "clinic")
    assert code == 0
    assert [item["image"] for item in content["unlabeled"]] == [f"../clinic/sub/c{number}.jpg" for number in range(3)]
    assert content["numUnlabeled"] == 3
    printed = capsys.readouterr().out
    assert "unlabeled: 3 images\n" in printed
    assert "--data::allow_outside true" in printed
    data = SegmentationData(plain, allow_outside=True, unlabeled_share=0.5)
    assert len(data.unlabeled) == 3


def test_without_the_option_the_datalist_is_as_before(plain):
    _, content = build(plain, *FOLDERS)
    assert "unlabeled" not in content
    assert "numUnlabeled" not in content


def test_labeled_images_and_look_alikes_of_held_out_ones_are_left_out(plain, capsys):
    _, content = build(plain, *FOLDERS)
    new = plain / "new"
    save(new / "p20_0.png", 200)
    shutil.copy(plain / content["training"][0]["image"], new / "p21_0.png")
    held_out = int(content["test"][0]["image"][8]) * 2 + int(content["test"][0]["image"][10])
    save(new / "p22_0.jpg", held_out, quality=60)  # looks like a test image
    save(new / f"p{content['validation'][0]['patient']}_7.png", 201)  # a further image of a validation patient
    save(new / f"p{content['training'][0]['patient']}_7.png", 202)  # of a training patient: welcome
    code, content = build(plain, *FOLDERS, "--unlabeled", new)
    assert code == 0
    assert {item["image"] for item in content["unlabeled"]} == {
        "new/p20_0.png",
        f"new/p{content['training'][0]['patient']}_7.png",
    }
    assert "3 of 5 images without labels are left out" in capsys.readouterr().out
    SegmentationData(plain, unlabeled_share=0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "is no folder"),
        (lambda folder: folder / "masks", "looks like a mask"),
        (lambda folder: folder / "images", "holds images of the lists alone"),
    ],
)
def test_poor_folders_are_refused(plain, capsys, make, message):
    code, content = build(plain, *FOLDERS, "--unlabeled", make(plain))
    assert (code, content) == (1, None)
    assert message in capsys.readouterr().err


def test_name_without_a_patient_is_refused(plain, capsys):
    save(plain / "new" / "other.png", 200)
    assert build(plain, *FOLDERS, "--unlabeled", plain / "new")[0] == 1
    assert "does not match the image name 'other.png' of --unlabeled" in capsys.readouterr().err


# fewer labels


def datalist(num_patients=10, images=2):
    training = [
        {"image": f"{patient}_{number}.png", "label": f"l{patient}_{number}.png", "patient": patient}
        for patient in range(num_patients)
        for number in range(images)
    ]
    return {"name": "x", "training": training, "validation": [{"image": "v.png", "label": "w.png"}], "numTraining": 20}


def test_some_patients_keep_their_labels_and_the_others_become_unlabeled():
    content = datalist()
    few = fewer_labels(content, 0.2, seed=0)
    assert (few["numTraining"], few["numUnlabeled"]) == (len(few["training"]), len(few["unlabeled"])) == (4, 16)
    kept, rest = ({item["patient"] for item in few[split]} for split in ("training", "unlabeled"))
    assert len(kept) == 2
    assert kept | rest == set(range(10))
    assert not kept & rest
    assert not any("label" in item for item in few["unlabeled"])
    assert few["training"] == [item for item in content["training"] if item["patient"] in kept]
    assert few["validation"] == content["validation"]
    assert fewer_labels(content, 0.2, seed=1)["training"] != few["training"]


def test_a_smaller_share_is_a_part_of_a_larger_one():
    images = [{item["image"] for item in fewer_labels(datalist(), share, 0)["training"]} for share in (0.2, 0.5, 6, 7)]
    assert images[0] < images[2] < images[3] < images[1]
    assert [len(names) for names in images] == [4, 10, 6, 8]


def test_unlabeled_images_that_were_there_stay():
    few = fewer_labels({**datalist(), "unlabeled": [{"image": "u.png"}]}, 0.5, 0)
    assert few["unlabeled"][0] == {"image": "u.png"}
    assert len(few["unlabeled"]) == 11


@pytest.mark.parametrize("share", [0, -1, 0.01, 0.99, 20, 1000, float("nan")])
def test_share_that_leaves_none_or_all_is_refused(share):
    with pytest.raises(ValueError, match=r"--fewer_labels .* of 20 training images of 10 patients keeps"):
        fewer_labels(datalist(), share, 0)


def test_program_writes_a_list_that_a_training_reads(plain, capsys):
    build(plain, *FOLDERS)
    words = ["--dataset_dir", plain, "--output", plain / "few.json", "--from", plain / "dataset.json"]
    assert main([str(word) for word in (*words, "--fewer_labels", 0.5)]) == 0
    data = SegmentationData(plain, "few.json", unlabeled_share=0.5)
    whole = SegmentationData(plain)
    assert len(data.training) + len(data.unlabeled) == len(whole.training)
    assert data.test == whole.test
    assert f"unlabeled: {len(data.unlabeled)} images" in capsys.readouterr().out
    assert main([str(word) for word in words[:4]] + ["--overwrite", "--fewer_labels", "0.5"]) == 1
    assert "--fewer_labels needs --from" in capsys.readouterr().err


def test_images_are_added_to_a_datalist_that_is_there(plain, tmp_path, capsys):
    build(plain, *FOLDERS)
    before = json.loads((plain / "dataset.json").read_text())
    for number in range(3):
        save(tmp_path / "clinic" / f"c{number}.png", 100 + number)
    shutil.copy(plain / before["test"][0]["image"], tmp_path / "clinic" / "c3.png")
    words = ["--dataset_dir", plain, "--from", plain / "dataset.json", "--unlabeled", tmp_path / "clinic"]
    assert main([str(word) for word in (*words, "--output", plain / "more.json")]) == 0
    after = json.loads((plain / "more.json").read_text())
    assert {key: after[key] for key in before} == before
    assert [item["image"] for item in after["unlabeled"]] == [f"../clinic/c{number}.png" for number in range(3)]
    assert "1 of 4 images without labels are left out" in capsys.readouterr().out
    assert main([str(word) for word in (*words[:4], "--output", plain / "none.json")]) == 1
    assert "--from DATALIST needs --fewer_labels SHARE or --unlabeled DIR" in capsys.readouterr().err
    gone = [*words[:2], "--from", plain / "gone.json", *words[4:], "--output", plain / "none.json"]
    assert main([str(word) for word in gone]) == 1
    assert f"--from {plain / 'gone.json'} does not exist." in capsys.readouterr().err
    assert not (plain / "none.json").exists()
