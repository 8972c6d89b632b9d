"""Which classes masks show, and what is told of those that none shows."""

import numpy as np
import pytest

from scripts.data.classes import foreground_classes, missing_class_notes

NAMES = ["background", "nerve", "class 2"]


@pytest.mark.parametrize(
    ("values", "num_classes", "classes"),
    [([0], 2, set()), ([0, 255], 2, {1}), ([0, 1], 2, {1}), ([0, 2], 3, {2}), ([0, 1, 2], 3, {1, 2})],
)
def test_foreground_classes(values, num_classes, classes):
    assert foreground_classes(np.array(values, np.float32), num_classes) == classes


def test_class_that_no_list_shows_is_told_once():
    notes = missing_class_notes({"training": {2}, "validation": {2}, "test": {2}}, NAMES)
    assert notes == ["No mask of any list shows class 1 (nerve): check the masks, the split and the number of classes."]


def test_class_that_some_lists_lack_is_told_with_them():
    notes = missing_class_notes({"training": {1, 2}, "validation": {1}, "test": {1}}, NAMES)
    assert len(notes) == 1
    assert notes[0].startswith("No mask of the lists validation and test shows class 2: ")


def test_nothing_is_told_where_every_class_is_shown():
    assert missing_class_notes({"training": {1, 2}, "test": {1, 2}}, NAMES) == []
    assert missing_class_notes({}, NAMES) == []
