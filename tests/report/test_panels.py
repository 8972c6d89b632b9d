"""Panels are files of a fixed size that show every case, whatever its masks."""

import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from scripts.report.panels import AGREE_COLOR, OTHER_CLASS_COLOR, difference_map, draw_panels, panel_figure
from scripts.utils.colors import CLASS_COLORS, SOURCE_COLORS


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


def texts(figure):
    return {text.get_text() for text in figure.findobj(Text)}


def pixels(ax):
    """What a cell of the figure shows, (H, W, 3)."""
    return np.asarray(ax.images[0].get_array())


def test_panel_is_a_png_of_fixed_size(tmp_path):
    shapes = [(40, 60), (64, 20), (224, 224)]
    paths = [draw_panels([case(shape)], tmp_path / f"{shape[0]}.png") for shape in shapes]
    assert len({size(path) for path in paths}) == 1
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["224.png", "40.png", "64.png"]


def test_teacher_adds_a_column_and_a_case_a_row(tmp_path):
    alone = size(draw_panels([case()], tmp_path / "a.png"))
    both = size(draw_panels([case(teacher=case()["label"])], tmp_path / "b.png"))
    rows = size(draw_panels([case(title="a"), case((30, 30), title="b")], tmp_path / "new" / "c.png"))
    assert both[0] > alone[0]
    assert both[1] == alone[1]
    assert rows[0] == alone[0]
    assert rows[1] > alone[1]


def test_teacher_alone_is_drawn(tmp_path):
    masks = case()
    alone = {"image": masks["image"], "label": masks["label"], "teacher": masks["label"]}
    assert size(draw_panels([alone], tmp_path / "a.png")) == size(draw_panels([case()], tmp_path / "b.png"))
    assert "Ground truth vs. teacher" in texts(panel_figure([alone]))


@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_masks_are_drawn(value):
    mask, drawn = np.full((40, 60), value), case()
    figure = panel_figure([{**drawn, "label": mask, "student": mask, "teacher": 1 - mask}])
    image, label, teacher, student, overlay, differences = figure.axes
    for ax, source, filled in ((label, "label", value), (teacher, "teacher", 1 - value), (student, "student", value)):
        expected = 0.55 * np.repeat(drawn["image"][..., None], 3, axis=2)
        if filled:
            expected = 0.45 * expected + 0.55 * np.asarray(to_rgb(SOURCE_COLORS[source]))
        assert np.allclose(pixels(ax), expected, atol=1e-6)
    assert len(overlay.collections) == (2 if value else 1)  # outlines, closed at the border
    assert np.allclose(pixels(differences), to_rgb(SOURCE_COLORS["student" if value else "teacher"]))
    assert {"Student  Dice 1.000", "Teacher  Dice 0.000", "Teacher vs. student"} <= texts(figure)


def test_multi_class_masks_are_drawn_with_their_names():
    masks = case()
    several = 2 * masks["label"] + masks["student"]
    figure = panel_figure([case(label=several, teacher=several)], num_classes=4, class_names=["nerve", "vessel"])
    assert {"nerve", "vessel", "class 3", "other class"} <= texts(figure)
    label, gray = pixels(figure.axes[1]), 0.55 * np.repeat(masks["image"][..., None], 3, axis=2)
    for c in (1, 2, 3):
        tinted = 0.45 * gray[several == c] + 0.55 * np.asarray(to_rgb(CLASS_COLORS[c - 1]))
        assert np.allclose(label[several == c], tinted, atol=1e-6)
    assert np.allclose(label[several == 0], gray[several == 0])


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
