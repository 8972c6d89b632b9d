import os
import threading

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged, Resized
from PIL import Image
from torch.utils.data import DataLoader

from scripts.data.dataset import BASE, ViewDataset, ViewLoader, ViewSampler
from scripts.data.transforms import LabelToClassesd, ToRowsFirstd, joint_augmentation
from scripts.utils.digests import content_digest, json_digest

KEYS = ("image", "label")


def preprocessing(size=32):
    return Compose(
        [
            LoadImaged("image", reader="scripts.data.readers.GrayImageReader"),
            LoadImaged("label", reader="scripts.data.readers.MaskReader", allow_missing_keys=True),
            EnsureChannelFirstd(KEYS, allow_missing_keys=True),
            ToRowsFirstd(KEYS, allow_missing_keys=True),
            Resized(KEYS, (size, size), mode=("bilinear", "nearest"), allow_missing_keys=True),
            LabelToClassesd("label", 2, allow_missing_keys=True),
            EnsureTyped(KEYS, track_meta=False, allow_missing_keys=True),
        ]
    )


class Counting:
    """Preprocessing that counts its calls in this process."""

    def __init__(self):
        self.calls, self.transform, self.lock = 0, preprocessing(), threading.Lock()

    def __call__(self, data):
        with self.lock:
            self.calls += 1
        return self.transform(data)


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    items = []
    for number in range(10):
        image, label = tmp_path / f"i{number}.png", tmp_path / f"l{number}.png"
        Image.fromarray(rng.integers(0, 255, (40, 50)).astype(np.uint8)).save(image)
        Image.fromarray(np.pad(np.full((10, 20), 255, np.uint8), ((5, 25), (10, 20)))).save(label)
        items.append(
            {"image": str(image), "label": str(label), "patient": number, "pathology": [None, "x"][number % 2]}
        )
    return items


def test_items_are_plain_tensors_rows_first(data):
    item = ViewDataset(data, preprocessing())[3]
    assert set(item) == {"image", "label", "case", "view"}
    assert item["case"] == data[3]["image"]
    assert all(type(item[key]) is torch.Tensor and item[key].shape == (1, 32, 32) for key in KEYS)
    assert item["label"][0, 6, 12] == 1
    assert item["label"][0, 25, 25] == 0


def test_items_without_label_have_none(data):
    item = ViewDataset([{"image": data[0]["image"]}], preprocessing(), joint_augmentation())[0]
    assert set(item) == {"image", "case", "view"}


def test_views_depend_on_seed_index_and_epoch(data):
    same = [data[0]] * 3
    views = ViewDataset(same, preprocessing(), joint_augmentation(prob=1.0), seed=1)
    other = ViewDataset(same, preprocessing(), joint_augmentation(prob=1.0), seed=2)
    first = views[0, 0]["image"]
    assert torch.equal(first, views[0, 0]["image"])
    assert torch.equal(first, views[0]["image"])
    for different in (views[1, 0], views[0, 1], other[0, 0]):
        assert not torch.equal(first, different["image"])


def test_names_of_views_stay_where_reading_is_plain_and_name_the_rule_elsewhere(tmp_path):
    picture = (7 * np.arange(30).reshape(5, 6)).astype(np.uint8)
    affine, swapped = np.diag([0.1, 0.1, 1, 1]), np.diag([0.1, 0.1, 1, 1])[:, [1, 0, 2, 3]]
    Image.fromarray(picture).save(tmp_path / "plain.png")
    nibabel.save(nibabel.Nifti1Image(picture, affine), tmp_path / "plain.nii")
    Image.fromarray(picture.astype(np.uint16)).save(tmp_path / "deep.png")
    nibabel.save(nibabel.Nifti1Image(picture.astype(np.int16), affine), tmp_path / "deep.nii")
    nibabel.save(nibabel.Nifti1Image(picture, swapped), tmp_path / "swapped.nii")
    for path in sorted(tmp_path.iterdir()):
        views = ViewDataset([{"image": str(path)}], preprocessing(), settings={"preprocessing": "p"})
        same = views.view_key(0, BASE) == json_digest([content_digest(path.read_bytes()), "p"])
        assert same == path.name.startswith("plain"), path


def test_views_come_back_after_their_number(data):
    views = ViewDataset(data, preprocessing(), joint_augmentation(prob=1.0), views=3)
    assert torch.equal(views[2, 1]["image"], views[2, 4]["image"])
    assert not torch.equal(views[2, 1]["image"], views[2, 2]["image"])


def test_negative_index_is_the_same_view(data):
    views = ViewDataset(data, preprocessing(), joint_augmentation(prob=1.0))
    assert torch.equal(views[-1]["image"], views[9]["image"])
    with pytest.raises(IndexError):
        views[10]


def test_views_are_identical_for_every_number_of_workers(data):
    views = ViewDataset(data, preprocessing(), joint_augmentation(), seed=4)
    epochs = []
    for workers in (0, 2):
        sampler = ViewSampler(views, seed=4)
        sampler.set_epoch(5)
        loader = ViewLoader(views, batch_size=4, sampler=sampler, num_workers=workers)
        epochs.append(list(loader))
    for one, two in zip(*epochs, strict=True):
        assert one["case"] == two["case"]
        assert torch.equal(one["image"], two["image"])
        assert torch.equal(one["label"], two["label"])


def test_preprocessing_runs_once_for_each_item(data):
    transform = Counting()
    views = ViewDataset(data, transform, joint_augmentation())
    views.fill()
    for epoch in range(3):
        for index in range(len(views)):
            views[index, epoch]
    views.fill()
    assert transform.calls == len(data)


def test_loader_fills_the_memory_before_workers_start(data):
    transform = Counting()
    loader = ViewLoader(ViewDataset(data, transform), batch_size=5, num_workers=1)
    list(loader)
    list(loader)
    assert transform.calls == len(data)  # counted in this process; workers count in their own


def test_without_cache_every_fetch_reads_again(data):
    transform = Counting()
    views = ViewDataset(data, transform, cache=False)
    views.fill()
    views[0], views[0]
    assert transform.calls == 2


def test_changing_an_item_leaves_the_memory_alone(data):
    views = ViewDataset(data, preprocessing())
    views[0]["image"].zero_()
    assert views[0]["image"].sum() > 0


def test_mixed_metadata_does_not_break_batches(data):
    batch = next(iter(DataLoader(ViewDataset(data, preprocessing()), batch_size=4)))
    assert batch["image"].shape == (4, 1, 32, 32)
    assert len(batch["case"]) == 4


@pytest.mark.parametrize("use", [lambda views: views[1], lambda views: views.fill()])
def test_unreadable_file_is_named_without_a_wrapper(data, use):
    with open(data[1]["image"], "wb") as file:
        file.write(b"none")
    with pytest.raises(ValueError, match="i1.png cannot be read"):
        use(ViewDataset(data, preprocessing()))
    os.remove(data[1]["image"])
    with pytest.raises(FileNotFoundError, match="i1.png does not exist"):
        use(ViewDataset(data, preprocessing()))


def test_empty_list_and_wrong_number_of_views_are_refused(data):
    with pytest.raises(ValueError, match="data is empty, .*data::datalist"):
        ViewDataset([], preprocessing())
    with pytest.raises(ValueError, match="views must be None or at least 1, got 0"):
        ViewDataset(data, preprocessing(), views=0)


def test_sampler_order_is_fixed_by_seed_and_epoch():
    def order(seed, epoch, shuffle=True):
        sampler = ViewSampler(range(50), shuffle, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 2) == order(1, 2)
    assert sorted(order(1, 2)) == [(index, 2) for index in range(50)]
    assert [i for i, _ in order(1, 2)] != [i for i, _ in order(1, 3)] != [i for i, _ in order(2, 3)]
    assert order(1, 2, shuffle=False) == [(index, 2) for index in range(50)]


def test_sampler_leaves_the_global_random_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(ViewSampler(range(9)))
    assert torch.equal(before, torch.get_rng_state())
