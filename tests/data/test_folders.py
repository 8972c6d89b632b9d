"""Folders as people have them: which mask belongs to which image, what is left over, and which option helps."""

import re

import pytest

from scripts.data.folders import Names, find_pairs
from scripts.utils.passed_over import describe_passed_over

PLAIN = Names()


@pytest.fixture
def make(tmp_path):
    """Makes empty files in a dataset folder, and returns it."""

    def touch(*names: str):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return touch


def pairs_of(folder, names=PLAIN):
    """Paths by case, (image, masks), and the summary of what was passed over."""
    pairs = find_pairs(folder, names)
    relative = {
        case: [path.relative_to(folder).as_posix() for path in (image, *pairs.masks[case])]
        for case, image in pairs.images.items()
    }
    return relative, describe_passed_over(pairs.passed_over.values())


@pytest.mark.parametrize("suffix", ["_mask", "_seg", "_label", "-gt"])
@pytest.mark.parametrize("home", ["masks", "labels"])
def test_masks_with_a_suffix_are_read_by_a_pattern_that_the_message_names(make, home, suffix):
    folder = make("images/a.png", "images/b.png", f"{home}/a{suffix}.png", f"{home}/b{suffix}.png")
    message = rf"a.png has no mask a\.\* \(2 of 2 .*; the nearest is a{suffix}.png; pass --mask_name '\{{\}}{suffix}'\."
    with pytest.raises(ValueError, match=message):
        find_pairs(folder, Names())
    assert pairs_of(folder, Names(mask="{}" + suffix))[0] == {
        "a": ["images/a.png", f"{home}/a{suffix}.png"],
        "b": ["images/b.png", f"{home}/b{suffix}.png"],
    }


def test_message_names_both_patterns_where_both_names_differ(make):
    folder = make("images/img_01.png", "images/img_02.png", "masks/seg_01.png", "masks/seg_02.png")
    with pytest.raises(ValueError, match="the nearest is seg_01.png; pass --image_name .* --mask_name ") as error:
        find_pairs(folder, Names())
    options = dict(re.findall(r"--(\w+)_name '(.*?)'", str(error.value)))
    assert len(pairs_of(folder, Names(**options))[0]) == 2


def test_message_names_no_option_that_does_not_help(make):
    folder = make("images/a.png", "images/b.png", "masks/a.png", "masks/c.png")
    with pytest.raises(ValueError, match=r"b.png has no mask b\.\* .*; add the masks or remove the images\."):
        find_pairs(folder, Names())


def test_images_and_several_masks_side_by_side_in_subfolders(make):
    """The layout of BUSI."""
    names = ["benign/benign (1)", "benign/benign (2)", "normal/normal (1)"]
    folder = make(*(f"{n}{end}.png" for n in names for end in ("", "_mask")), "benign/benign (1)_mask_1.png")
    with pytest.raises(ValueError, match="holds no image right in it, but 7 in its subfolders; pass --recursive"):
        find_pairs(folder, Names(mask="{}_mask"))
    found, passed_over = pairs_of(folder, Names(mask="{}_mask", recursive=True))
    assert found["benign/benign (1)"][1:] == ["benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png"]
    assert found["normal/normal (1)"] == ["normal/normal (1).png", "normal/normal (1)_mask.png"]
    assert (len(found), passed_over) == (3, "")


def test_folder_without_images_names_the_folders_there_and_the_option(make):
    folder = make("ultrasound/a.png", "image/a.png")
    with pytest.raises(FileNotFoundError, match=r"has no folder images or .*--image_dir.*did you mean image\? .*_mask"):
        find_pairs(folder, Names())
    with pytest.raises(FileNotFoundError, match="has no folder masks or .*--mask_dir.*it has image, ultrasound"):
        find_pairs(folder, Names(image_dir="ultrasound"))


def test_images_and_masks_of_one_folder_need_a_pattern(make):
    folder = make("us/a.png", "us/a_gt.png")
    with pytest.raises(ValueError, match="us is the folder of images and masks; tell them apart with --mask_name"):
        find_pairs(folder, Names("us", "us"))
    assert pairs_of(folder, Names("us", mask="{}_gt"))[0] == {"a": ["us/a.png", "us/a_gt.png"]}


def test_folders_can_be_named(make):
    folder = make("us/a.png", "gt/a.png", "other/x.png")
    assert pairs_of(folder, Names("us", "gt")) == ({"a": ["us/a.png", "gt/a.png"]}, "1 passed over: 1 in other")


def test_nnunet_folders_are_read_and_the_test_folders_are_counted(make):
    folder = make("imagesTr/x_001_0000.png", "imagesTr/x_001_0001.png", "labelsTr/x_001.png", "dataset.json")
    make("imagesTs/x_002_0000.png", "imagesTs/x_003_0000.png")
    found, passed_over = pairs_of(folder)
    assert found == {"x_001": ["imagesTr/x_001_0000.png", "labelsTr/x_001.png"]}
    assert passed_over == "3 passed over: 2 in imagesTs, 1 not named {}_0000"


def test_what_is_left_out_is_counted(make):
    folder = make("images/a.png", "masks/a.png", "masks/b.png", "images/a.webp", "images/b.WEBP", "images/.DS_Store")
    make(*(f"images/old/{i}.png" for i in range(3)), "images/notes", "masks/readme.txt")
    found, passed_over = pairs_of(folder)
    assert list(found) == ["a"]
    assert passed_over == (
        "9 passed over: 3 in subfolders, 2 .webp, 1 .txt, 1 hidden, 1 masks without an image, 1 without a suffix"
    )


def test_masks_in_the_image_folder_s_subfolder_are_masks(make):
    folder = make("a.png", "masks/a.png")
    assert pairs_of(folder, Names(image_dir=".", recursive=True)) == ({"a": ["a.png", "masks/a.png"]}, "")


def test_further_masks_are_told_from_masks_of_other_images(make):
    folder = make("images/a.png", "images/a_1.png", "masks/a.png", "masks/a_1.png", "masks/a_2.png")
    found, _ = pairs_of(folder)
    assert found["a"][1:] == ["masks/a.png", "masks/a_2.png"]
    assert found["a_1"][1:] == ["masks/a_1.png"]


def test_links_to_folders_are_not_followed(make):
    folder = make("images/one/a.png", "masks/one/a.png", "storage/b.png")
    (folder / "images" / "loop").symlink_to(folder / "images")
    (folder / "images" / "two").symlink_to(folder / "storage")
    found, passed_over = pairs_of(folder, Names(recursive=True))
    assert (list(found), passed_over) == (["one/a"], "3 passed over: 2 linked folders, 1 in storage")
    (folder / "images" / "one" / "a.png").unlink()
    with pytest.raises(ValueError, match="holds no image, and its link loop is not followed; move its files here"):
        find_pairs(folder, Names(recursive=True))


def test_hidden_files_and_folders_are_not_read(make):
    folder = make("images/a.png", "images/.ipynb_checkpoints/a-checkpoint.png", "images/.b.png", "masks/a.png")
    make("masks/.ipynb_checkpoints/a-checkpoint.png", ".cache/c.png")
    assert pairs_of(folder, Names(recursive=True)) == (
        {"a": ["images/a.png", "masks/a.png"]},
        "3 passed over: 3 hidden",
    )


def test_images_in_subfolders_are_counted_without_masks(make):
    for names in (Names(), Names(image_dir=".", mask_dir="masks")):
        folder = make("images/b/a.png", "masks/b/a.png")
        with pytest.raises(ValueError, match="holds no image right in it, but 1 in its subfolders; pass --recursive"):
            find_pairs(folder, names)
    with pytest.raises(ValueError, match="holds 1 images, all not named us_{}; pass the right --image_name"):
        find_pairs(folder, Names(image="us_{}", recursive=True))


@pytest.mark.parametrize("option", ["image_dir", "mask_dir"])
def test_folders_outside_are_refused_and_absolute_ones_inside_are_read(make, option):
    folder = make("us/a.png", "gt/a.png")
    names = {"image_dir": str(folder / "us"), "mask_dir": str(folder / "us" / ".." / "gt")}
    assert pairs_of(folder, Names(**names))[0] == {"a": ["us/a.png", "gt/a.png"]}
    for outside in (str(folder.parent), ".."):
        with pytest.raises(ValueError, match=f"--{option} .* must be a folder in --dataset_dir"):
            find_pairs(folder, Names(**{**names, option: outside}))


@pytest.mark.parametrize("pattern", ["_mask", "{}{}", ""])
def test_pattern_without_the_case_is_refused(pattern):
    with pytest.raises(ValueError, match=r"--mask_name must hold \{\} once"):
        Names(mask=pattern)
