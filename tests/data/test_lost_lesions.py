"""Views that lose their lesion are counted before a training, and too many are refused."""

import logging

import pytest
import torch
from monai.transforms import Compose

from scripts.data.dataset import ViewDataset
from scripts.data.lost_lesions import check_lesions_kept, lost_share
from scripts.data.transforms import joint_augmentation

SIDE = 32


def views(augmentation, lesion=True, side=SIDE):
    """Ten images with a lesion in the middle, none of them read from a file."""

    def read(entry):
        label = torch.zeros(1, side, side)
        label[:, 13:19, 13:19] = float(lesion)
        return {"image": label * 0.5, "label": label}

    return ViewDataset([{"image": f"{i}.png", "label": f"{i}.png"} for i in range(10)], read, augmentation)


def test_default_augmentation_loses_nothing():
    dataset = views(joint_augmentation())
    assert lost_share(dataset) == 0
    dataset.check_views()


def test_share_is_that_of_the_views():
    assert 0.2 < lost_share(views(joint_augmentation(prob=1.0, shift_fraction=0.9))) < 0.9
    assert lost_share(views(Compose([lambda item: {**item, "label": item["label"] * 0}]))) == 1


def test_augmentation_that_pushes_lesions_out_is_refused_with_its_settings():
    dataset = views(joint_augmentation(prob=1.0, shift_fraction=1.0))
    message = (
        r"the augmentation pushes the lesion out of \d\d% of the views \(shift_fraction 1.0, zoom_range \[0.9, 1.1\], "
        r"sector_prob 0.0\); lower augmentation::shift_fraction, .*\(at most 50% are taken\)\.$"
    )
    with pytest.raises(ValueError, match=message):
        check_lesions_kept(dataset)


def test_many_lost_lesions_are_a_warning(caplog):
    dataset = views(joint_augmentation(prob=0.6, shift_fraction=0.8))
    with caplog.at_level(logging.WARNING):
        check_lesions_kept(dataset)
    assert "pushes the lesion out of" in caplog.text


def test_windows_that_are_to_show_no_lesion_are_not_counted():
    dataset = views(joint_augmentation(zoom_range=(1.0, 2.0), lesion_free_prob=0.8), side=96)
    assert lost_share(dataset) > 0.5
    dataset.check_views()


def test_images_without_a_lesion_and_data_without_augmentation_say_nothing():
    assert lost_share(views(joint_augmentation(prob=1.0, shift_fraction=1.0), lesion=False)) == 0
    views(None).check_views()


def test_looking_leaves_the_views_of_the_training_alone():
    looked, fresh = (views(joint_augmentation(prob=1.0)) for _ in range(2))
    looked.check_views()
    assert torch.equal(looked[3, 2]["label"], fresh[3, 2]["label"])
