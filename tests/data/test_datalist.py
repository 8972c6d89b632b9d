"""Datalists: what is read from them, and every refusal; and the cases that MONAI Label gives."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from scripts.data.datalist import GivenCases, SegmentationData
from scripts.data.splits import identical_files

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"the shared data set {name} is not there")
    return SHARED / name


class Folder:
    """A small dataset of four training, two validation and two test cases that a test then spoils."""

    def __init__(self, path):
        self.path = path
        self.content = {"labels": {"0": "background", "1": "lesion"}, "training": [], "validation": [], "test": []}
        for number, split in enumerate(["training"] * 4 + ["validation"] * 2 + ["test"] * 2):
            self.content[split].append(self.case(number))

    def case(self, number):
        names = {"image": f"i{number}.png", "label": f"l{number}.png"}
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30)).astype(np.uint8)
        Image.fromarray(pixels).save(self.path / names["image"])
        self.mask(names["label"], [0, 255])
        return {**names, "patient": number, "pathology": "benign"}

    def mask(self, name, values, shape=(20, 30)):
        mask = np.resize(np.array(values, np.uint8), shape)
        Image.fromarray(mask).save(self.path / name)

    def load(self, **options):
        (self.path / "dataset.json").write_text(json.dumps(self.content))
        return SegmentationData(self.path, **options)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_lists_have_absolute_paths_and_keep_metadata(folder):
    data = folder.load()
    assert (data.name, data.num_classes, data.img_size) == (folder.path.name, 2, 224)
    assert data.labels == ["background", "lesion"]
    assert [len(items) for items in (data.training, data.validation, data.test)] == [4, 2, 2]
    assert data.training[1]["image"] == str(folder.path / "i1.png")
    assert data.training[1]["pathology"] == "benign"


def test_cases_without_metadata_are_their_own_patients(folder):
    for items in (folder.content["training"], folder.content["validation"]):
        for item in items:
            del item["patient"], item["pathology"]
    del folder.content["labels"]
    assert folder.load().labels == ["background", "class 1"]


@pytest.mark.parametrize("cases", [["i6.png", "i7.png"], [{"image": "i6.png"}, {"image": "i7.png"}]])
def test_a_test_case_without_label_is_an_error_only_when_used(folder, cases):
    folder.content["test"] = cases
    data = folder.load()
    message = (
        r"test case .*i6.png in datalist .*dataset.json has no label \(2 of 2 have none\), .*; add its 'label' path "
        r"or take it"
    )
    with pytest.raises(ValueError, match=message):
        _ = data.test


def test_a_missing_test_list_is_an_error_only_when_used(folder):
    del folder.content["test"]
    data = folder.load()
    with pytest.raises(ValueError, match="has no test cases, expected a list 'test'"):
        _ = data.test


def test_datalist_may_lie_elsewhere(folder, tmp_path_factory):
    folder.load()
    other = shutil.move(folder.path / "dataset.json", tmp_path_factory.mktemp("lists") / "mine.json")
    assert len(SegmentationData(folder.path, datalist=str(other)).training) == 4


@pytest.mark.parametrize("values", [[0, 1], [0, 255], [0], [1], [255]])
def test_binary_masks_may_be_0_1_or_0_255(folder, values):
    folder.mask("l0.png", values)
    folder.load()


def test_1_bit_and_nifti_masks_are_fine(folder):
    Image.fromarray(np.eye(20, 30, dtype=np.uint8) * 255).convert("1").save(folder.path / "l0.png")
    nibabel.save(nibabel.Nifti1Image(np.eye(30, 20, dtype=np.uint8)[..., None], np.eye(4)), folder.path / "l1.nii.gz")
    folder.content["training"][1]["label"] = "l1.nii.gz"
    folder.load()


@pytest.mark.parametrize("split", ["training", "validation"])
def test_empty_split_is_refused(folder, split):
    folder.content[split] = []
    with pytest.raises(ValueError, match=f"has no {split} cases: .* found an empty list; .*make_datalist"):
        getattr(folder.load(), split)
    del folder.content[split]
    with pytest.raises(ValueError, match=f"has no {split} cases: .* found only the keys labels"):
        getattr(folder.load(), split)


def test_test_list_alone_is_enough_to_evaluate(folder):
    del folder.content["training"], folder.content["validation"]
    data = folder.load()
    assert [len(data.test), *data.sizes.values()] == [2, 0, 0, 2]


def test_datalist_without_any_case_is_refused(folder):
    folder.content = {"training": [], "test": []}
    with pytest.raises(ValueError, match="has no training cases: .* found an empty list"):
        folder.load()


@pytest.mark.parametrize("spelling", ["i1.png", "./i1.png", "sub/../i1.png", "link.png"])
def test_case_that_a_list_names_twice_is_refused(folder, spelling):
    (folder.path / "sub").mkdir()
    (folder.path / "link.png").symlink_to(folder.path / "i1.png")
    folder.content["training"].append({**folder.content["training"][1], "image": spelling})
    with pytest.raises(ValueError, match=r".png is twice in the list training \(items 1 and 4\), .*; take one"):
        folder.load()


@pytest.mark.parametrize("suffix", [".bmp", ".tif"])
def test_same_pixels_in_two_lists_are_refused(folder, suffix):
    Image.open(folder.path / "i0.png").convert("RGB").save(folder.path / f"anew{suffix}")
    folder.content["test"][1]["image"] = f"anew{suffix}"
    with pytest.raises(
        ValueError, match=rf"i0.png \(training\) and image .*anew{suffix} \(test\) show the same pixels"
    ):
        folder.load()


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize("kind", ["parent", "absolute", "link", "linked folder"])
def test_path_that_leads_out_of_the_folder_is_refused_unless_allowed(folder, tmp_path_factory, key, kind):
    item = folder.content["training"][2]
    outside = tmp_path_factory.mktemp("outside")
    name = item[key]
    shutil.move(folder.path / name, outside / name)
    if kind == "link":
        (folder.path / name).symlink_to(outside / name)
    elif kind == "linked folder":
        (folder.path / "away").symlink_to(outside)
    spellings = {"parent": f"../{outside.name}/{name}", "absolute": str(outside / name), "link": name}
    item[key] = spellings.get(kind, f"away/{name}")
    if kind == "parent":
        item[key] = os.path.relpath(outside / name, folder.path)
    message = rf"{name} in datalist .*dataset.json leads out of .* \(1 of 16 paths do\); .*--data::allow_outside true"
    with pytest.raises(ValueError, match=message):
        folder.load()
    assert len(folder.load(allow_outside=True).training) == 4


def test_absolute_path_and_link_inside_of_the_folder_are_fine(folder):
    (folder.path / "linked").symlink_to(folder.path)
    folder.content["training"][0]["image"] = str(folder.path / "i0.png")
    folder.content["training"][1]["image"] = "linked/i1.png"
    assert len(folder.load().training) == 4


def test_null_character_in_a_path_is_refused(folder):
    folder.content["training"][0]["image"] = "i0\0.png"
    with pytest.raises(ValueError, match="item 0 of training in .* has a path with a null character"):
        folder.load()


def test_metadata_that_names_a_folder_stays_as_it_is(folder):
    (folder.path / "benign").mkdir()
    assert folder.load().training[0]["pathology"] == "benign"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_datalist_may_come_from_windows(folder, encoding):
    for name in ("images", "labels"):
        (folder.path / name).mkdir()
    for items in (folder.content["training"], folder.content["validation"], folder.content["test"]):
        for item in items:
            for key in ("image", "label"):
                shutil.move(folder.path / item[key], folder.path / f"{key}s" / item[key])
                item[key] = f"{key}s/{item[key]}"
    expected = folder.load().digest
    text = json.dumps(folder.content, indent=1).replace("s/", "s\\\\").replace("\n", "\r\n")
    (folder.path / "dataset.json").write_bytes(text.encode(encoding))
    data = SegmentationData(folder.path)
    assert data.training[0]["image"] == str(folder.path / "images" / "i0.png")
    assert data.digest == expected


def test_backslash_in_a_name_stays_one_where_there_is_such_a_file(folder):
    shutil.move(folder.path / "i0.png", folder.path / "a\\b.png")
    folder.content["training"][0]["image"] = "a\\b.png"
    assert folder.load().training[0]["image"] == str(folder.path / "a\\b.png")


def test_class_that_no_mask_of_a_list_shows_is_told_before_the_training(folder, caplog):
    for number in (4, 5):
        folder.mask(f"l{number}.png", [0])
    data = folder.load()
    assert len(data.notes) == 1
    assert data.notes[0].startswith("No mask of the list validation shows class 1 (lesion): ")
    assert data.notes[0] in caplog.text
    folder.mask("l4.png", [0, 1])
    assert folder.load().notes == []


def test_patient_in_two_splits_is_refused(folder):
    folder.content["validation"][0]["patient"] = "2"
    folder.content["test"][0]["patient"] = 3
    with pytest.raises(
        ValueError, match=r"2 patients are in two splits \(training and validation\): 2, 3; .*make_datalist"
    ):
        folder.load()


def test_one_image_in_two_splits_is_refused(folder):
    folder.content["test"][0] = {**folder.content["training"][0], "patient": 99}
    with pytest.raises(ValueError, match=r"i0.png \(training\) and image .*i0.png \(test\) are the same file"):
        folder.load()


def test_a_copy_of_an_image_in_another_split_is_refused(folder):
    shutil.copy(folder.path / "i0.png", folder.path / "i5.png")
    with pytest.raises(ValueError, match=r"i0.png \(training\) and image .*i5.png \(validation\) are the same file"):
        folder.load()


def test_copies_in_one_split_are_fine(folder):
    shutil.copy(folder.path / "i0.png", folder.path / "i1.png")
    assert len(identical_files([item["image"] for item in folder.load().training])) == 1


@pytest.mark.parametrize("key, file", [("image", "i4.png"), ("label", "l4.png")])
def test_missing_file_is_named(folder, key, file):
    (folder.path / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{key} file .*{file} does not exist \(1 of 8 {key} files"):
        folder.load()


def test_nearest_file_to_a_missing_one_is_named(folder):
    shutil.move(folder.path / "i4.png", folder.path / "i4.PNG")
    with pytest.raises(FileNotFoundError, match="i4.png does not exist .*; the nearest file there is i4.PNG"):
        folder.load()
    folder.content["validation"][0]["image"] = "nowhere/i4.png"
    with pytest.raises(FileNotFoundError, match=r"nowhere/i4.png does not exist .*dataset.json\.$"):
        folder.load()


@pytest.mark.parametrize("file", ["i4.png", "l4.png"])
def test_unreadable_file_is_named(folder, file):
    (folder.path / file).write_bytes(b"none")
    with pytest.raises(ValueError, match=f"{file} cannot be read as an image"):
        folder.load()


def test_mask_of_another_size_is_refused(folder):
    folder.mask("l2.png", [0, 1], (30, 20))
    with pytest.raises(
        ValueError, match=r"l2.png has size \(20, 30\) .* image .*i2.png \(30, 20\); expected equal sizes"
    ):
        folder.load()


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 128, 255], [1, 2], [0, 2], [0, 7], [2], [0, 1, 255]])
def test_other_values_than_those_of_a_binary_mask_are_refused(folder, values):
    folder.mask("l3.png", values)
    expected = (
        rf"l3.png holds the values {', '.join(map(str, values))}; expected 0 and 1, or 0 and 255, for "
        rf"data::num_classes 2"
    )
    with pytest.raises(ValueError, match=expected):
        folder.load()


def test_value_outside_the_classes_is_refused(folder):
    folder.content["labels"]["2"] = "vessel"
    with pytest.raises(ValueError, match=r"l\d.png holds the values 0, 255; expected class indices 0..2"):
        folder.load(num_classes=3)


def test_check_false_decodes_nothing(folder):
    folder.mask("l3.png", [0, 1, 2])
    data = folder.load(check=False)
    with pytest.raises(ValueError, match="l3.png holds the values"):
        data.check_files()


@pytest.mark.parametrize("value", [None, ""])
def test_dataset_dir_is_required(value):
    with pytest.raises(ValueError, match="data::dataset_dir is required, .*pass --data::dataset_dir PATH"):
        SegmentationData(value)


def test_missing_dataset_dir_and_datalist_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="data::dataset_dir .*none is no folder"):
        SegmentationData(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="data::datalist .*mine.json does not exist; .*make_datalist"):
        SegmentationData(tmp_path, datalist="mine.json")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not readable JSON"),
        ("[]", "must be an object with the lists"),
        ('{"training": {}}', "must be an object with the lists"),
        (
            '{"training": ["a.png"], "validation": ["b.png"]}',
            "item 0 of training in .* must be an object with an 'image'",
        ),
        ('{"training": [{"image": "a.png"}]}', "item 0 of training in .* must have a 'label' path"),
        ('{"labels": ["a"], "training": []}', "labels in .* must map class index to name"),
    ],
)
def test_malformed_datalist_is_refused(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        SegmentationData(tmp_path)


def test_other_number_of_classes_than_the_datalist_names_is_refused(folder):
    with pytest.raises(ValueError, match=r"num_classes is 4, but .* names 2 classes \(background, lesion\)"):
        folder.load(num_classes=4)
    folder.content["labels"]["2"] = "vessel"
    with pytest.raises(ValueError, match="pass --data::num_classes 3"):
        folder.load()


@pytest.mark.parametrize("value", [1, 0, True, "2"])
def test_wrong_num_classes_is_refused(value):
    with pytest.raises(ValueError, match=f"data::num_classes must be an integer of at least 2 .*, got {value!r}"):
        SegmentationData(".", num_classes=value)


@pytest.mark.parametrize("value", [0, -16, 100, 224.0, "224"])
def test_wrong_img_size_is_refused(value):
    with pytest.raises(ValueError, match=f"data::img_size must be a positive multiple of 16, got {value!r}"):
        SegmentationData(".", img_size=value)


def test_digest_is_of_the_lists_without_their_folder(folder, tmp_path_factory):
    data = folder.load()
    lists = {split: getattr(data, split) for split in ("training", "validation", "test")}
    text = json.dumps(lists, sort_keys=True).replace(f"{folder.path}{os.sep}", "")
    assert data.digest == hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    moved = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(folder.path, moved)
    assert SegmentationData(moved).digest == data.digest
    folder.content["training"][0]["pathology"] = "malignant"
    assert folder.load().digest != data.digest


# cases that are given


@pytest.fixture
def studies(folder):
    """MONAI Label's lists: four cases for training, two for validation."""
    data = folder.load()
    keys = ("image", "label")
    return {
        split: [{key: item[key] for key in keys} for item in getattr(data, split)]
        for split in ("training", "validation")
    }


def test_given_cases_are_used_as_they_are(folder, studies):
    data = GivenCases(**studies, num_classes=2, img_size=64)
    assert (data.training, data.validation, data.test) == (studies["training"], studies["validation"], [])
    assert (data.dataset_dir, data.name) == (folder.path, folder.path.name)
    assert (data.num_classes, data.img_size) == (2, 64)
    assert data.labels == ["background", "class 1"]


def test_digest_of_given_cases_is_that_of_a_datalist_with_the_same_lists(folder, studies):
    for items in (folder.content["training"], folder.content["validation"]):
        for item in items:
            del item["patient"], item["pathology"]
    folder.content["test"] = []
    assert GivenCases(**studies).digest == folder.load().digest


def test_given_cases_may_lie_in_several_folders(folder, studies):
    (folder.path / "more").mkdir()
    for key in ("image", "label"):
        name = shutil.move(studies["validation"][0][key], folder.path / "more")
        studies["validation"][0][key] = str(name)
    assert GivenCases(**studies).dataset_dir == folder.path


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (
            lambda folder, studies: (folder.path / "l4.png").unlink(),
            FileNotFoundError,
            r"label file .*l4.png does not exist \(1 of 6 label files are missing\); check the studies in MONAI Label",
        ),
        (
            lambda folder, studies: studies["validation"].append(studies["training"][0]),
            ValueError,
            r"i0.png \(training\) and image .*i0.png \(validation\) are the same file .* MONAI Label remove one",
        ),
        (lambda folder, studies: folder.mask("l3.png", [0, 2]), ValueError, "l3.png holds the values 0, 2; expected"),
        (lambda folder, studies: (folder.path / "i4.png").write_bytes(b"none"), ValueError, "i4.png cannot be read"),
        (
            lambda folder, studies: [items.clear() for items in studies.values()],
            ValueError,
            "training and validation are empty, expected at least one case; label a study first",
        ),
    ],
)
def test_bad_given_cases_are_refused(folder, studies, spoil, error, message):
    spoil(folder, studies)
    with pytest.raises(error, match=message):
        GivenCases(**studies)


def test_arguments_of_given_cases_are_checked(studies):
    with pytest.raises(ValueError, match="data::num_classes must be an integer of at least 2 .*, got 1"):
        GivenCases(**studies, num_classes=1)
    with pytest.raises(ValueError, match="data::img_size must be a positive multiple of 16, got 100"):
        GivenCases(**studies, img_size=100)


@pytest.mark.parametrize(
    "name, options, counts",
    [
        ("demo_busbra24", {}, (16, 3, 5)),
        ("demo_busbra24", {"datalist": "dataset_mc.json", "num_classes": 3}, (16, 3, 5)),
        ("usgra", {"num_classes": 3}, (115, 17, 32)),
        ("hc18", {}, (350, 50, 99)),
        ("busbra", {}, (1047, 151, 292)),
    ],
)
def test_shared_data_passes_every_check(name, options, counts):
    data = SegmentationData(shared(name), **options)
    assert (len(data.training), len(data.validation), len(data.test)) == counts
