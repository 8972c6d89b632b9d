"""Panels are files of a fixed size that show every case, whatever its masks."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from scripts.report.panels import AGREE_COLOR, OTHER_CLASS_COLOR, SOURCE_COLORS, difference_map, draw_panel, draw_panels


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def case(shape=(40, 60), **masks):
    rng = np.random.default_rng(0)
    label = np.zeros(shape, dtype=np.uint8)
    label[5:15, 10:30] = 1
    return {"image": rng.random(shape, dtype=np.float32), "label": label, "student": np.roll(label, 3), **masks}


def size(path):
    with Image.open(path) as picture:
        return picture.size


def test_panel_is_a_png_of_fixed_size(tmp_path):
    paths = [draw_panel(**case(shape), path=tmp_path / f"{shape[0]}.png") for shape in [(40, 60), (64, 20), (224, 224)]]
    assert len({size(path) for path in paths}) == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["224.png", "40.png", "64.png"]


def test_teacher_adds_a_column_and_a_case_a_row(tmp_path):
    alone = size(draw_panels([case()], tmp_path / "a.png"))
    both = size(draw_panels([case(teacher=case()["label"])], tmp_path / "b.png"))
    rows = size(draw_panels([case(title="a"), case((30, 30), title="b")], tmp_path / "new" / "c.png"))
    assert both[0] > alone[0] and both[1] == alone[1]
    assert rows[0] == alone[0] and rows[1] > alone[1]


def test_teacher_alone_is_drawn(tmp_path):
    masks = case()
    draw_panel(masks["image"], masks["label"], student=None, teacher=masks["label"], path=tmp_path / "a.png")
    assert size(tmp_path / "a.png") == size(draw_panels([case()], tmp_path / "b.png"))


@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_masks_are_drawn(tmp_path, value):
    mask = np.full((40, 60), value)
    draw_panels([case(label=mask, student=mask, teacher=1 - mask)], tmp_path / "a.png")


def test_multi_class_masks_are_drawn_with_their_names(tmp_path):
    masks = case()
    several = 2 * masks["label"] + masks["student"]
    draw_panels(
        [case(label=several, teacher=several)], tmp_path / "a.png", num_classes=4, class_names=["nerve", "vessel"]
    )


def test_difference_map_tells_the_sources_apart():
    teacher, student = np.array([[0, 1, 1, 0, 2]]), np.array([[0, 1, 0, 1, 1]])
    colors = difference_map(teacher, student, "teacher", "student")[0]
    expected = [AGREE_COLOR, SOURCE_COLORS["teacher"], SOURCE_COLORS["student"], OTHER_CLASS_COLOR]
    assert np.allclose(colors[1:], [to_rgb(color) for color in expected])
    assert colors[0].max() < 0.2


def test_images_are_not_changed(tmp_path):
    before = case()
    draw_panels([before], tmp_path / "a.png")
    assert all(np.array_equal(before[key], case()[key]) for key in before)


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no cases to draw"):
        draw_panels([], tmp_path / "a.png")
    masks = case()
    with pytest.raises(
        ValueError, match=r"items \['image', 'label'\], expected one or two masks of teacher, control, student"
    ):
        draw_panels([{"image": masks["image"], "label": masks["label"]}], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
