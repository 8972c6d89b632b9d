"""Images without labels: what a datalist may say of them, how they are mixed into batches, and what is refused."""

import json
import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from scripts.data.datalist import SegmentationData
from scripts.data.dataset import ViewDataset, ViewSampler
from scripts.data.image_folder import ImageFolder
from scripts.data.transforms import joint_augmentation
from scripts.data.unlabeled import unlabeled_cases
from scripts.utils.options import NO_LABEL


@pytest.fixture
def folder(tmp_path):
    """Three training, one validation, one test and four unlabeled cases; a function loads them, changed."""
    (tmp_path / "images").mkdir()

    def case(number, label=True):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"i{number}.png")
        Image.fromarray(np.eye(20, 30, dtype=np.uint8)).save(tmp_path / f"l{number}.png")
        labels = {"label": f"l{number}.png"} if label else {}
        return {"image": f"images/i{number}.png", **labels, "patient": number}

    content = {"training": [case(0), case(1), case(2)], "validation": [case(3)], "test": [case(4)]}
    content["unlabeled"] = [case(number, label=False) for number in range(5, 9)]

    def load(kind=SegmentationData, change=None, **options):
        if change:
            change(content)
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        return kind(tmp_path, **options)

    return SimpleNamespace(path=tmp_path, content=content, load=load)


# the list


def test_list_is_read_with_absolute_paths_and_changes_no_other(folder):
    data = folder.load()
    assert [os.path.basename(case["image"]) for case in data.unlabeled] == ["i5.png", "i6.png", "i7.png", "i8.png"]
    assert data.unlabeled[0]["patient"] == 5
    assert data.sizes == {"training": 3, "validation": 1, "test": 1, "unlabeled": 4}
    assert data.unlabeled_share == 0


def test_lists_that_are_not_trained_on_leave_the_digest_as_it_was(folder):
    with_list, used = folder.load().digest, folder.load(unlabeled_share=0.5).digest
    without = folder.load(change=lambda content: content.pop("unlabeled"))
    assert with_list == without.digest != used
    assert without.unlabeled == []


def test_a_run_tells_how_many_taught(folder):
    note = "Trained with images without labels too, drawn from a list of 4 (data::unlabeled_share 0.5)."
    assert note in folder.load(unlabeled_share=0.5).notes
    assert note not in folder.load().notes


def twin(split):
    """The first unlabeled image is one of another list's, under its own name."""
    return lambda content: content["unlabeled"][0].update(image=content[split][0]["image"])


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_image_of_another_list_is_refused(folder, split):
    with pytest.raises(ValueError, match=rf"\({split}\) and image .*\(unlabeled\)|\(unlabeled\) and image .*\({split}"):
        folder.load(change=twin(split))


def test_copy_of_a_test_image_is_refused_whatever_its_encoding(folder):
    picture = Image.open(folder.path / "images" / "i4.png")
    picture.save(folder.path / "images" / "i5.png", optimize=True, compress_level=1)
    with pytest.raises(ValueError, match="in two splits"):
        folder.load()
    picture.save(folder.path / "images" / "i5.png", compress_level=0)
    with pytest.raises(ValueError, match="show the same pixels in two splits"):
        folder.load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["unlabeled"].append(c["unlabeled"][1]), r"is twice in the list unlabeled \(items 1 and 4\)"),
        (lambda c: c["unlabeled"][0].update(patient=4), r"1 patient is in two splits \(test and unlabeled\): 4"),
        (lambda c: c["unlabeled"][0].update(label="l0.png"), "item 0 of unlabeled in .* has a label"),
        (lambda c: c["unlabeled"][0].update(image="../elsewhere.png"), "leads out of data::dataset_dir"),
        (lambda c: c.update(unlabeled={"image": "i5.png"}), "must be an object with the lists"),
    ],
)
def test_poor_lists_are_refused(folder, change, message):
    with pytest.raises(ValueError, match=message):
        folder.load(change=change)


def test_missing_and_broken_files_are_refused(folder):
    (folder.path / "images" / "i6.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"i6.png cannot be read as an image"):
        folder.load()
    (folder.path / "images" / "i6.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"i6.png does not exist"):
        folder.load()


def test_patient_may_have_images_with_and_without_a_label(folder):
    assert folder.load(change=lambda content: content["unlabeled"][0].update(patient=0)).unlabeled[0]["patient"] == 0


def test_bare_paths_are_a_list(folder):
    assert folder.load(change=lambda content: content.update(unlabeled=["images/i5.png"])).unlabeled[0].keys() == {
        "image"
    }


@pytest.mark.parametrize("share", [1, 1.5, -0.1, True, "half"])
def test_share_out_of_range_is_refused(folder, share):
    with pytest.raises(ValueError, match=r"data::unlabeled_share must be a number from 0 \(off\) to below 1, got"):
        folder.load(unlabeled_share=share)


def test_share_without_the_list_is_refused(folder):
    with pytest.raises(ValueError, match="data::unlabeled_share is 0.5, but datalist .* has no unlabeled cases"):
        folder.load(change=lambda content: content.pop("unlabeled"), unlabeled_share=0.5)


def test_images_that_no_term_could_teach_by_are_refused(folder):
    data = folder.load(unlabeled_share=0.25)
    with pytest.raises(ValueError, match=r"unlabeled_share is 0.25, but no term of the loss reads a teacher"):
        unlabeled_cases(data, SimpleNamespace(needs_teacher=False))
    assert unlabeled_cases(data, SimpleNamespace(needs_teacher=True)) == data.unlabeled
    assert unlabeled_cases(folder.load(), SimpleNamespace(needs_teacher=False)) == []


# items and batches


def make_views(num_labeled=7, num_unlabeled=5):
    def read(files):
        return {key: torch.rand(1, 16, 16) if key == "image" else torch.ones(1, 16, 16) for key in files}

    labeled = [{"image": f"{number}.png", "label": f"{number}.png"} for number in range(num_labeled)]
    unlabeled = [{"image": f"u{number}.png"} for number in range(num_unlabeled)]
    return ViewDataset(labeled, read, joint_augmentation(prob=1.0, zoom_range=[0.5, 0.6]), unlabeled=unlabeled)


def test_label_of_an_image_without_one_is_the_ignore_value_everywhere():
    views = make_views()
    assert len(views) == 12
    assert set(views[0]["label"].unique().tolist()) == {0, 1}  # outside of the image is background
    assert (views[7]["label"] == NO_LABEL).all()
    assert views[-1]["label"].shape == (1, 16, 16)
    assert views[7]["case"] == "u0.png"


def batches(sampler, size, epoch=0):
    sampler.set_epoch(epoch)
    pairs = list(sampler)
    assert len(pairs) == len(sampler)
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def test_each_batch_holds_its_share_and_an_epoch_each_labeled_image_once():
    sampler = ViewSampler(make_views(), batch_size=4, unlabeled_share=0.5)
    found = batches(sampler, 4)
    assert [sum(index >= 7 for index, _ in batch) for batch in found] == [2, 2, 2, 2]
    assert [len(batch) for batch in found] == [4, 4, 4, 3]
    assert sorted(index for batch in found for index, _ in batch if index < 7) == list(range(7))


def test_labeled_images_come_as_they_do_without_the_others():
    views = make_views()
    alone = ViewSampler(make_views(num_unlabeled=0), seed=3)
    mixed = ViewSampler(views, seed=3, batch_size=4, unlabeled_share=0.25)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        mixed.set_epoch(epoch)
        assert [pair for pair in mixed if pair[0] < 7] == list(alone)


def test_unlabeled_images_come_equally_often_each_time_in_another_view():
    sampler = ViewSampler(make_views(), batch_size=4, unlabeled_share=0.5)
    drawn = [pair for epoch in range(5) for batch in batches(sampler, 4, epoch) for pair in batch if pair[0] >= 7]
    assert len(drawn) == 40
    assert Counter(index for index, _ in drawn) == dict.fromkeys(range(7, 12), 8)
    assert len(set(drawn)) == 40


def test_draw_of_an_epoch_does_not_depend_on_those_before():
    whole, resumed = (ViewSampler(make_views(), seed=1, batch_size=4, unlabeled_share=0.5) for _ in range(2))
    assert [batches(whole, 4, epoch) for epoch in range(3)][2] == batches(resumed, 4, 2)
    assert batches(whole, 4, 0) != batches(whole, 4, 1)
    assert batches(ViewSampler(make_views(), seed=2, batch_size=4, unlabeled_share=0.5), 4) != batches(whole, 4)


def test_ranks_together_draw_what_one_process_would():
    views = make_views(num_labeled=8)
    one = ViewSampler(views, batch_size=8, unlabeled_share=0.5)
    ranks = [ViewSampler(views, rank=r, num_ranks=2, batch_size=4, unlabeled_share=0.5) for r in range(2)]
    for epoch in (0, 3):
        together = [sorted(a + b) for a, b in zip(*(batches(rank, 4, epoch) for rank in ranks))]
        assert together == [sorted(batch) for batch in batches(one, 8, epoch)]


@pytest.mark.parametrize(("size", "share", "count"), [(4, 0.1, 0), (4, 0.9, 4), (1, 0.5, 0)])
def test_batch_without_one_kind_is_refused(size, share, count):
    with pytest.raises(ValueError, match=f"unlabeled_share {share} of training::batch_size {size} is {count} images"):
        ViewSampler(make_views(), batch_size=size, unlabeled_share=share)


# a folder of images


def test_folder_without_a_datalist_is_all_its_images(folder):
    Image.new("L", (20, 20)).save(folder.path / "images" / ".hidden.png")
    data = ImageFolder(folder.path / "images", img_size=64)
    assert len(data.unlabeled) == 9
    assert (data.training, data.validation, data.test, data.unlabeled_share) == ([], [], [], 1)
    assert (data.name, data.datalist) == ("images", None)


def test_folder_with_a_datalist_keeps_validation_and_test_out(folder):
    data = folder.load(ImageFolder)
    names = [os.path.basename(case["image"]) for case in data.unlabeled]
    assert names == [f"i{number}.png" for number in (0, 1, 2, 5, 6, 7, 8)]
    assert not any("label" in case for case in data.unlabeled)
    with pytest.raises(ValueError, match="in two splits"):
        folder.load(ImageFolder, twin("test"))


def test_datalist_of_unlabeled_images_alone_is_enough(folder):
    keep = [folder.content.pop(split) for split in ("training", "validation", "test")]
    assert len(folder.load(ImageFolder).unlabeled) == 4 == len(keep) + 1
    with pytest.raises(ValueError, match="neither training nor unlabeled cases to learn from"):
        folder.load(ImageFolder, lambda content: content.update(unlabeled=[]))


def test_masks_are_not_learned_from_as_images(folder):
    (folder.path / "masks").mkdir()
    Image.new("L", (20, 20)).save(folder.path / "masks" / "i0.png")
    with pytest.raises(ValueError, match=r"masks.i0.png looks like a mask \(1 of \d+ files"):
        ImageFolder(folder.path)
    (folder.path / "images" / "i0_mask.png").write_bytes((folder.path / "masks" / "i0.png").read_bytes())
    with pytest.raises(ValueError, match=r"i0_mask.png looks like a mask"):
        ImageFolder(folder.path / "images")


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no image"):
        ImageFolder(tmp_path)
