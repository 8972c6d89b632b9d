"""The order in which images are offered for labeling."""

import pytest

from scripts.labeling.order import offering_order, sureness

SURE = {"a1": 0.9, "a2": 0.6, "a3": 0.5, "b1": 0.7, "c1": 0.8}
PATIENTS = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "c1": "c"}


def test_least_sure_image_comes_first():
    assert offering_order(SURE, {}) == ["a3", "a2", "b1", "c1", "a1"]


def test_every_patient_has_its_turn_before_a_second_image_of_one():
    assert offering_order(SURE, PATIENTS) == ["a3", "b1", "c1", "a2", "a1"]


def test_equally_sure_images_come_by_name_and_a_patient_is_no_image():
    assert offering_order({"b": 0.5, "a": 0.5, "c": 0.5}, {"b": "a"}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("confidence", "found", "presence", "expected"),
    [(0.8, True, None, 0.8), (0.6, False, None, 0.6), (0.8, True, 0.25, 0.2), (0.75, False, 0.25, 0.75)],
)
def test_a_mask_is_worth_as_much_as_the_presence_of_what_it_outlines(confidence, found, presence, expected):
    assert sureness(confidence, found, presence) == pytest.approx(expected)
