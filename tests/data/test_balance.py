"""Balanced sampling: the numbers of each group by their formula, an order that seed and epoch fix, and refusals."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from scripts.data.balance import column_groups, describe_balance, draws_of_groups
from scripts.data.dataset import REPEAT, ViewSampler

DEVICES = ["GE"] * 70 + ["Toshiba"] * 6 + ["Philips"] * 24
FORMER = [98, 96, 89, 36, 20, 78]  # the first of seed 4, epoch 2, in version 0.7


def dataset(devices=tuple(DEVICES)):
    class Items(list):
        data = [{"image": f"{i}.png", "device": device} for i, device in enumerate(devices)]

    return Items(range(len(devices)))


def order(epoch=0, seed=0, **options):
    sampler = ViewSampler(dataset(), seed=seed, **{"balance": "device", **options})
    sampler.set_epoch(epoch)
    return list(sampler)


def devices_of(pairs):
    return Counter(DEVICES[index] for index, _ in pairs)


def test_numbers_follow_the_power():
    assert draws_of_groups([70, 6, 24], 1) == [70, 6, 24]
    assert draws_of_groups([70, 6, 24], 0) == [34, 33, 33]
    roots = [70**0.5, 6**0.5, 24**0.5]
    exact = [100 * root / sum(roots) for root in roots]
    draws = draws_of_groups([70, 6, 24], 0.5)
    assert sum(draws) == 100
    assert all(abs(number - share) < 1 for number, share in zip(draws, exact))


@pytest.mark.parametrize("power", [0, 0.5, 0.9])
def test_epoch_has_as_many_draws_as_images(power):
    pairs = order(balance_power=power)
    assert len(pairs) == len(DEVICES)
    assert [devices_of(pairs)[name] for name in ("GE", "Toshiba", "Philips")] == draws_of_groups([70, 6, 24], power)


def test_no_image_of_a_group_comes_once_more_before_all_came():
    counts = Counter(index for index, _ in order(balance_power=0))
    toshiba = [counts[index] for index in range(70, 76)]
    assert (min(toshiba), max(toshiba)) == (5, 6)  # 33 draws of 6 images
    assert max(counts[index] for index in range(70)) == 1


def test_repeated_image_has_another_view_each_time():
    pairs = order(epoch=3, balance_power=0)
    assert len(set(pairs)) == len(pairs)
    numbers = {number for index, number in pairs if index == 70}
    assert numbers == {3 + REPEAT * i for i in range(len(numbers))}


def test_order_is_fixed_by_seed_and_epoch():
    assert order(2, 1) == order(2, 1)
    assert order(2, 1) != order(3, 1)
    assert [index for index, _ in order(2, 1)] != [index for index, _ in order(2, 2)]


def test_ranks_share_the_order_of_one_process():
    shares = [order(rank=rank, num_ranks=4) for rank in range(4)]
    assert [pair for pairs in zip(*shares) for pair in pairs] == order()


def test_without_balance_the_order_is_that_of_earlier_versions():
    sampler = ViewSampler(dataset(), seed=4)
    sampler.set_epoch(2)
    assert [index for index, _ in sampler][:6] == FORMER
    assert {number for _, number in sampler} == {2}


def test_balance_is_told():
    told = describe_balance(dataset().data, "device", 0)
    assert told == "images of an epoch, balanced by device: GE 70 -> 34, Toshiba 6 -> 33, Philips 24 -> 33"


@pytest.mark.parametrize(
    "items, message",
    [
        ([{"image": "a", "site": 1}], "is 'device', which the training list does not have; its columns are site."),
        ([{"image": "a"}], "which the training list does not have; its items have no column."),
        (
            [{"image": "a", "device": 1}, {"image": "b", "device": None}, {"image": "c"}],
            r"'device', which 2 of 3 training images lack \(b\); add it to the datalist or name another column.",
        ),
        ([{"image": "a", "device": "GE"}] * 2, "which is GE in every training image; there is nothing to balance"),
    ],
)
def test_column_that_cannot_be_balanced_is_refused(items, message):
    with pytest.raises(ValueError, match=f"training::balance .*{message}"):
        column_groups(items, "device")


@pytest.mark.parametrize("power", [-0.1, 1.5, True])
def test_power_outside_of_its_range_is_refused(power):
    with pytest.raises(ValueError, match="training::balance_power must be a number from 0 to 1, got"):
        ViewSampler(SimpleNamespace(data=[]), balance_power=power)


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    order()
    assert torch.equal(before, torch.get_rng_state())
