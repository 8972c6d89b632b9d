"""Lists of several data sets as one: splits, patients, classes and paths, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from scripts.data.datalist import SegmentationData
from scripts.data.joined import parse_maps
from scripts.make_datalist import main

LISTS = ("training", "validation", "test", "unlabeled")


def make_set(root, name, classes=("background", "lesion"), lists=LISTS[:3], count=2, value=1, labeled=True, seed=0):
    """A data set of `count` images a list, of two patients called 1 and 2 in each list."""
    folder, content = root / name, {"labels": {str(i): text for i, text in enumerate(classes)}}
    rng = np.random.default_rng([seed, *name.encode()])
    for number, split in enumerate(lists):
        content[split] = []
        for index in range(count):
            file = f"{split}{index}.png"
            for part in ("images", "labels"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 24)).astype(np.uint8)).save(folder / "images" / file)
            mask = np.zeros((20, 24), np.uint8)
            mask[5:9, 4:9] = value
            Image.fromarray(mask).save(folder / "labels" / file)
            item = {"image": f"images/{file}", "patient": 10 * number + index}
            content[split].append({**item, "label": f"labels/{file}"} if labeled and split != LISTS[3] else item)
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder / "dataset.json")


def join(root, *options, output="joint.json"):
    code = main(["--dataset_dir", str(root), "--output", str(root / output), *map(str, options)])
    return code, json.loads((root / output).read_text()) if (root / output).exists() else None


def refused(capsys, root, *options):
    before = sorted(root.rglob("*"))
    code, _ = join(root, *options)
    assert code == 1
    assert sorted(root.rglob("*")) == before
    return capsys.readouterr().err


@pytest.fixture
def two(tmp_path):
    return tmp_path, make_set(tmp_path, "one"), make_set(tmp_path, "two")


def test_splits_are_kept_and_patients_and_sets_told_apart(two):
    root, *lists = two
    code, content = join(root, "--join", *lists)
    assert code == 0
    assert [item["image"] for item in content["validation"]] == [
        f"{name}/images/validation{i}.png" for name in ("one", "two") for i in range(2)
    ]
    assert [item["set"] for item in content["test"]] == ["one", "one", "two", "two"]
    assert {item["patient"] for item in content["training"]} == {"one:0", "one:1", "two:0", "two:1"}
    assert content["labels"] == {"0": "background", "1": "lesion"}
    assert "unlabeled" not in content
    data = SegmentationData(root, "joint.json", img_size=32)
    assert data.sizes == {"training": 4, "validation": 4, "test": 4}


def test_sets_outside_of_the_folder_are_told_to_the_training(two, capsys):
    root, *lists = two
    (root / "elsewhere").mkdir()
    code, content = join(root / "elsewhere", "--join", *lists)
    assert code == 0
    assert content["training"][0]["image"] == "../one/images/training0.png"
    assert capsys.readouterr().out.rstrip().endswith("joint.json --data::allow_outside true")
    SegmentationData(root / "elsewhere", "joint.json", img_size=32, allow_outside=True)


def test_unlabeled_images_stay_such_a_list(tmp_path, capsys):
    lists = make_set(tmp_path, "one"), make_set(tmp_path, "more", lists=LISTS[3:], labeled=False)
    _, content = join(tmp_path, "--join", *lists)
    assert content["unlabeled"][0] == {"image": "more/images/unlabeled0.png", "set": "more", "patient": "more:0"}
    assert content["numUnlabeled"] == 2
    assert "unlabeled: 2 images of 2 patients" in capsys.readouterr().out


def test_lesion_free_set_of_one_list_is_split_and_gets_black_masks(tmp_path, capsys):
    one = make_set(tmp_path, "one")
    muscle = make_set(tmp_path, "muscle", ("background",), LISTS[3:], 10, labeled=False)
    code, content = join(tmp_path, "--join", one, "--lesion_free", muscle, "--clean_masks", "clean")
    assert code == 0
    free = {split: [item for item in content[split] if item.get("lesion_free")] for split in LISTS[:3]}
    assert [len(items) for items in free.values()] == [7, 1, 2]
    item = free["training"][0]
    assert item["set"] == "muscle"
    assert item["patient"].startswith("muscle:")
    assert item["label"].startswith("clean/lesion_free/muscle/")
    mask = np.asarray(Image.open(tmp_path / item["label"]))
    assert mask.shape == (20, 24)
    assert not mask.any()
    printed = capsys.readouterr().out
    assert f"10 masks written to {tmp_path / 'clean'}" in printed
    assert "10 images show no lesion" in printed
    SegmentationData(tmp_path, "joint.json", img_size=32)


def test_lesion_free_set_of_several_lists_keeps_them(tmp_path):
    lists = make_set(tmp_path, "one"), "--lesion_free", make_set(tmp_path, "heads", ("background", "head"), LISTS)
    _, content = join(tmp_path, "--join", *lists, "--clean_masks", "clean")
    counts = [sum(item["set"] == "heads" for item in content[split]) for split in LISTS[:3]]
    assert counts == [4, 2, 2]  # unlabeled images train


def test_class_values_are_mapped(tmp_path):
    one = make_set(tmp_path, "one")
    organ = make_set(tmp_path, "organ", ("background", "nerve", "vessel"), value=2)
    options = ("--join", one, organ, "--clean_masks", "clean")
    _, content = join(tmp_path, *options, "--map", "organ: 1=0,2=1")
    item = content["training"][2]
    assert item["label"] == "clean/organ/training0.png"
    assert set(np.unique(Image.open(tmp_path / item["label"]))) == {0, 255}
    assert content["training"][0]["label"] == "one/labels/training0.png"
    _, content = join(tmp_path, *options, "--map", "organ: 1=0, 2=0", "--overwrite")
    assert not np.asarray(Image.open(tmp_path / content["training"][2]["label"])).any()


def test_joint_classes_can_be_named(tmp_path):
    one = make_set(tmp_path, "one", value=255)
    organ = make_set(tmp_path, "organ", ("background", "nerve", "vessel"), value=2)
    labels = "background,lesion,nerve,vessel"
    maps = ("--map", "one: 1=1", "organ: 1=2,2=3")
    _, content = join(tmp_path, "--join", one, organ, "--labels", labels, *maps, "--clean_masks", "clean")
    values = [set(np.unique(Image.open(tmp_path / content["training"][i]["label"]))) for i in (0, 2)]
    assert values == [{0, 1}, {0, 3}]
    SegmentationData(tmp_path, "joint.json", num_classes=4, img_size=32)


def test_other_class_of_the_same_number_needs_no_new_masks(tmp_path):
    one, thyroid = make_set(tmp_path, "one"), make_set(tmp_path, "thyroid", ("background", "nodule"))
    code, content = join(tmp_path, "--join", one, thyroid, "--map", "thyroid: 1=1")
    assert code == 0
    assert content["training"][2]["label"] == "thyroid/labels/training0.png"


def test_other_class_names_are_refused_with_the_option_that_maps_them(tmp_path, capsys):
    lists = make_set(tmp_path, "one"), make_set(tmp_path, "organ", ("background", "nerve", "vessel"))
    message = refused(capsys, tmp_path, "--join", *lists)
    assert "organ has the classes background, nerve, vessel, but the joint list has background, lesion" in message
    assert "such as --map 'organ: 1=0,2=0' (0 is the background)" in message


@pytest.mark.parametrize(
    "options, message",
    [
        (("--map", "two 1=0"), "--map must be of the form 'SET: 1=0,2=1', once for each set, got 'two 1=0'"),
        (("--map", "three: 1=0"), "--map names the set three, which is not joined with masks; sets are one, two."),
        (("--map", "two: 2=0"), "--map of two must give each of its classes 1..1 (lesion) one of 0..1"),
        (("--map", "two: 1=5"), "one of 0..1 (background, lesion), got {0: 0, 1: 5}"),
        (("--map", "two: 1=0"), "masks of two are written anew; pass --clean_masks DIR"),
        (("--recursive",), "--recursive goes not with --join"),
    ],
)
def test_wrong_options_are_refused(two, capsys, options, message):
    root, *lists = two
    assert message in refused(capsys, root, "--join", *lists, *options)


def test_look_alikes_in_two_lists_are_refused_or_told(two, capsys):
    root, *lists = two
    shutil.copy(root / "one" / "images" / "training0.png", root / "two" / "images" / "test1.png")
    message = refused(capsys, root, "--join", *lists)
    assert "(groups: 1): one/images/training0.png (training) = two/images/test1.png (test); take one" in message
    code, _ = join(root, "--join", *lists, "--ignore_look_alikes")
    assert code == 0
    assert "warning: images that look alike are in two lists (groups: 1)" in capsys.readouterr().out


def test_unlabeled_picture_of_a_test_list_is_refused(tmp_path, capsys):
    lists = make_set(tmp_path, "one"), make_set(tmp_path, "more", lists=LISTS[3:], labeled=False)
    shutil.copy(tmp_path / "one" / "images" / "test0.png", tmp_path / "more" / "images" / "unlabeled1.png")
    message = refused(capsys, tmp_path, "--join", *lists)
    assert "one/images/test0.png (test) = more/images/unlabeled1.png (unlabeled)" in message
    shutil.copy(tmp_path / "one" / "images" / "training0.png", tmp_path / "more" / "images" / "unlabeled1.png")
    assert join(tmp_path, "--join", *lists)[0] == 0


def test_lists_that_are_none_are_refused(tmp_path, capsys):
    one = make_set(tmp_path, "one")
    assert "is a folder; name the datalist in it, such as" in refused(capsys, tmp_path, "--join", tmp_path / "one")
    assert "does not exist" in refused(capsys, tmp_path, "--join", one, tmp_path / "none.json")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "dataset.json").write_text("{}")
    assert "has no images in the lists" in refused(capsys, tmp_path, "--join", one, tmp_path / "empty/dataset.json")
    other = make_set(tmp_path / "copy", "one")
    assert "two of the joined sets are called one" in refused(capsys, tmp_path, "--join", one, other)


def test_training_list_without_a_lesion_is_refused(tmp_path, capsys):
    lists = "--join", make_set(tmp_path, "one", lists=("test",)), "--lesion_free", make_set(tmp_path, "free")
    message = refused(capsys, tmp_path, *lists, "--clean_masks", "clean")
    assert "the list training: none of 2 images shows a lesion" in message
    assert "add images with a lesion" in message


def test_maps_are_parsed():
    assert parse_maps(["a: 1=0,2=1", "b b:1 = 2"]) == {"a": {0: 0, 1: 0, 2: 1}, "b b": {0: 0, 1: 2}}
    with pytest.raises(ValueError, match="once for each set"):
        parse_maps(["a: 1=0", "a: 1=1"])


def test_set_without_patients_is_named(two, capsys):
    root, *lists = two
    content = json.loads((root / "two" / "dataset.json").read_text())
    del content["test"][0]["patient"]
    (root / "two" / "dataset.json").write_text(json.dumps(content))
    join(root, "--join", *lists)
    assert "one patient may be in two lists; add patient to the items of two\n" in capsys.readouterr().out


@pytest.mark.skipif(not (SHARED / "usgra").is_dir(), reason="needs the shared data")
def test_real_sets_are_joined(tmp_path, capsys):
    lists = [SHARED / name / "dataset.json" for name in ("demo_busbra24", "breast_external")]
    options = ("--lesion_free", SHARED / "usgra" / "dataset.json", "--clean_masks", "clean")
    code, content = join(tmp_path, "--join", *lists, *options)
    assert code == 0
    assert [len(content[split]) for split in LISTS[:3]] == [16 + 115, 3 + 86 + 17, 5 + 32]
    SegmentationData(tmp_path, "joint.json", allow_outside=True)
