"""The checks that all parts of the bundle share."""

import pytest

from scripts.utils.options import (
    ARMS,
    MODES,
    check_choice,
    check_img_size,
    check_num_classes,
    is_whole,
    logit_channels,
    repeated_views,
)


def test_value_that_is_no_choice_is_refused_with_the_choices():
    check_choice("distillation::mode", "warp", MODES)
    with pytest.raises(ValueError, match="distillation::mode must be one of online, replay, warp, got 'cache'"):
        check_choice("distillation::mode", "cache", MODES)
    with pytest.raises(ValueError, match="arm must be one of teacher, control, student, got None"):
        check_choice("arm", None, iter(ARMS))


@pytest.mark.parametrize(
    ("value", "expected"), [(1, True), (2, True), (0, False), (1.0, False), (True, False), ("1", False), (None, False)]
)
def test_whole_number_is_an_integer_and_no_truth_value(value, expected):
    assert is_whole(value, 1) is expected


@pytest.mark.parametrize("value", [1, 0, True, 2.0, "2", None])
def test_number_of_classes_counts_the_background(value):
    check_num_classes(2)
    with pytest.raises(ValueError, match=f"data::num_classes must be an integer of at least 2 .*, got {value!r}"):
        check_num_classes(value)


@pytest.mark.parametrize("value", [0, -16, 100, 16.0, True, "16"])
def test_side_is_a_multiple_of_what_the_network_needs(value):
    check_img_size(224)
    check_img_size(168, 4)
    with pytest.raises(ValueError, match=f"teacher::img_size must be a positive multiple of 16, got {value!r}"):
        check_img_size(value, id="teacher::img_size")


def test_two_classes_have_one_channel_of_logits():
    assert [logit_channels(count) for count in (2, 3, 5)] == [1, 3, 5]


def test_views_come_back_in_replay_alone():
    assert [repeated_views(mode, 8) for mode in MODES] == [None, 8, None]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("views", [0, 1.5, True])
def test_number_of_views_is_checked_in_every_mode(mode, views):
    with pytest.raises(ValueError, match=f"distillation::views must be a positive integer, got {views!r}"):
        repeated_views(mode, views)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="distillation::mode must be one of online, replay, warp, got 'cache'"):
        repeated_views("cache", 8)
