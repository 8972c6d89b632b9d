"""Lists with images that show no lesion: found in masks, added from folders, and refused where they are all."""

import numpy as np
import pytest
from PIL import Image
from test_make_datalist import SegmentationData, plain, refused, run, save  # noqa: F401

from scripts.data.prior import Center, center_of, position_notes

FOLDERS = ("--format", "folders")
FREE = (*FOLDERS, "--clean_masks", "clean", "--lesion_free")


@pytest.fixture
def negatives(plain):  # noqa: F811
    """Ten images without masks, beside the data set."""
    for number in range(10):
        save(plain.parent / "negatives" / f"n{number}_0.png", 100 + number)
    return plain.parent / "negatives"


def items_of(content):
    return [item for split in ("training", "validation", "test") for item in content[split]]


def test_empty_masks_are_counted(plain, capsys):  # noqa: F811
    for number in range(3):
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(plain / "masks" / f"p{number}_0.png")
    run(plain, *FOLDERS)
    assert "3 images show no lesion\n" in capsys.readouterr().out


def test_images_of_a_folder_are_added_with_black_masks(plain, negatives, capsys):  # noqa: F811
    code, content = run(plain, *FREE, negatives)
    assert code == 0
    free = [item for item in items_of(content) if item.get("lesion_free")]
    assert len(free) == 10
    assert free[0]["image"].startswith("../negatives/n")
    assert [sum(item in free for item in content[split]) for split in ("training", "validation", "test")] == [7, 1, 2]
    masks = [np.asarray(Image.open(plain / item["label"])) for item in free]
    assert {mask.shape for mask in masks} == {(20, 24)}
    assert not any(mask.any() for mask in masks)
    printed = capsys.readouterr().out
    assert f"10 images of --lesion_free added, black masks written to {plain / 'clean' / 'lesion_free'}" in printed
    assert "10 images show no lesion" in printed
    assert printed.rstrip().endswith("--data::allow_outside true")
    SegmentationData(plain, img_size=32, allow_outside=True)


def test_folder_in_the_data_set_is_no_image_without_a_mask(plain, negatives, capsys):  # noqa: F811
    negatives.rename(plain / "images" / "normal")
    code, content = run(plain, *FREE, "images/normal", "--recursive")
    assert code == 0
    free = [item["image"] for item in items_of(content) if item.get("lesion_free")]
    assert sorted(free)[0] == "images/normal/n0_0.png"
    assert "allow_outside" not in capsys.readouterr().out


def test_patients_are_found_in_their_names(plain, negatives, capsys):  # noqa: F811
    _, content = run(plain, *FREE, negatives, "--patient_regex", r"^[pn]\d+")
    assert {item["patient"] for item in items_of(content) if item.get("lesion_free")} == {f"n{i}" for i in range(10)}
    message = refused(capsys, plain, *FREE, negatives, "--patient_regex", r"^p\d+", output="b.json")
    assert "does not match the image name 'n0_0'" in message or "is not empty" in message


def test_lists_without_the_option_stay_as_they_were(plain, negatives):  # noqa: F811
    _, content = run(plain, *FOLDERS)
    _, more = run(plain, *FREE, negatives, output="b.json")
    with_masks = {split: [i for i in more[split] if not i.get("lesion_free")] for split in ("training", "test")}
    assert with_masks == {split: content[split] for split in with_masks}


@pytest.mark.parametrize(
    "options, message",
    [
        (("--lesion_free", "none"), "--lesion_free needs --clean_masks DIR"),
        (("--map", "plain: 1=0"), "--map goes with --join alone"),
        (("--clean_masks", "clean", "--lesion_free", "none"), "--lesion_free none is no folder, neither in"),
        (("--clean_masks", "clean", "--lesion_free", "images"), "is read twice, or has a mask; name it once"),
        (("--clean_masks", "clean", "--lesion_free", "."), "holds no image right in it, but 40 in its subfolders"),
    ],
)
def test_folders_that_do_not_fit_are_refused(plain, capsys, options, message):  # noqa: F811
    assert message in refused(capsys, plain, *FOLDERS, *options)


def test_lists_that_show_no_lesion_are_refused_before_anything_is_written(plain, capsys):  # noqa: F811
    for path in (plain / "masks").iterdir():
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(path)
    message = refused(capsys, plain, *FOLDERS)
    assert (
        "the list training: none of 14 images shows a lesion, so that a network would learn to find nothing" in message
    )


def test_training_on_lesion_free_images_alone_is_refused(plain):  # noqa: F811
    _, content = run(plain, *FOLDERS)
    for item in content["training"]:
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(plain / item["label"])
    data = SegmentationData(plain, img_size=32)
    assert len(data.validation) == 2  # an evaluation goes on
    with pytest.raises(ValueError, match="none of the 14 training masks shows a lesion .* add images with a lesion"):
        assert data.training


# the prior of position


def test_center_is_that_of_all_foreground():
    mask = np.zeros((10, 20))
    mask[2:4, 0:2] = 2
    mask[2:4, 18:20] = 1
    assert center_of(mask) == pytest.approx((0.3, 0.5, 1.0))
    assert center_of(mask * 0) is None
    assert center_of(mask[:, :10]) == pytest.approx((0.3, 0.1, 0.2))


def _centers(across: tuple[float, float], width: float = 0.3) -> list[Center]:
    rng = np.random.default_rng(0)
    return [Center(*place, width) for place in zip(rng.uniform(0.2, 0.5, 200), rng.uniform(*across, 200))]


def test_narrow_strip_is_told_with_its_remedy():
    (note,) = position_notes([*_centers((0.38, 0.62)), None])
    assert note.startswith(
        "95 % of the lesions lie within 0.11 of the width from the middle, and 95 % between 0.20 and"
    )
    assert "--augmentation::shift_fraction 0.35 --augmentation::mirror_prob 0.7" in note


@pytest.mark.parametrize(("width", "shift"), [(0.57, "0.2"), (0.45, "0.25"), (0.53, "0.2"), (0.4, "0.3")])
def test_wide_structure_is_shifted_to_the_edge_and_no_farther(width, shift):
    (note,) = position_notes(_centers((0.4, 0.6), width=width))
    assert f"--augmentation::shift_fraction {shift} " in note


def test_structure_as_wide_as_the_image_is_not_shifted():
    (note,) = position_notes(_centers((0.4, 0.6), width=0.97))
    assert note.endswith("a network learns to look there (docs/robustness.md)")


def test_spread_or_few_lesions_are_not_told():
    assert position_notes(_centers((0.1, 0.9))) == []
    assert position_notes([Center(0.5, 0.5, 0.1)] * 19 + [None] * 50) == []


def test_list_tells_it_before_a_training(plain, capsys):  # noqa: F811
    run(plain, *FOLDERS, "--val", 0.05, "--test", 0)
    assert "warning: " not in capsys.readouterr().out.replace("warning: patients were not told apart", "")
    for number in range(20, 30):
        save(plain / "images" / f"p{number}.png", number)
        Image.fromarray(np.eye(20, 24, dtype=np.uint8)).save(plain / "masks" / f"p{number}.png")
    run(plain, *FOLDERS, "--overwrite")
    assert "warning: 95 % of the lesions lie within 0.08 of the width" in capsys.readouterr().out
