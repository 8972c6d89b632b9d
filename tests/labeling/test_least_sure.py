"""Scores of unlabeled images and the strategy that reads them, with a datastore like MONAI Label's."""

import json
import logging
import re

import pytest
import torch

from scripts.evaluation.detection import mask_confidence
from scripts.labeling.scores import ScoreFile, Scores
from scripts.labeling.scoring import StudentCertainty, frames_sureness
from scripts.labeling.strategy import HELD, LeastSure

NOW = 1_000_000.0
LOGITS = {"a": 3.0, "b": 0.5, "c": 1.0, "d": 2.0}  # of all pixels: the least sure is b, then c, d, a


class Store:
    """Images by name, labels, and when each was offered, as MONAI Label's datastore tells them."""

    def __init__(self, names):
        self.images, self.labeled, self.info = list(names), set(), {}

    def get_unlabeled_images(self, label_tag=None, labels=None):
        return [name for name in self.images if name not in self.labeled]

    def get_image_uri(self, image):
        return f"{image}.png"

    def get_image_info(self, image):
        return self.info.get(image, {})

    def offer(self, strategy, seconds_ago=0.0, request=None):
        """What the server does with a request: the image, which is noted with the time."""
        offered = strategy(request or {}, self)
        if offered:
            self.info[offered["id"]] = {"strategy": {"least_sure": {"ts": NOW - seconds_ago, "client_id": None}}}
        return offered and offered["id"]


def segment(path):
    name = path.removesuffix(".png")
    if name not in LOGITS:
        raise OSError("cannot identify image file")
    return torch.full((1, 4, 4, 1), LOGITS[name]), None


@pytest.fixture
def file(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"a student")
    return ScoreFile(tmp_path, "studies")


@pytest.fixture
def store():
    return Store("abcd")


@pytest.fixture
def strategy(file):
    return LeastSure(file, now=lambda: NOW)


def score(file, store):
    return StudentCertainty(segment, file)({}, store)


def test_images_come_from_the_least_sure_on_and_none_twice(file, store, strategy):
    assert score(file, store)["executed"] == 4
    assert [store.offer(strategy) for _ in range(4)] == ["b", "c", "d", "a"]


def test_offer_says_how_sure_the_student_is(file, store, strategy):
    score(file, store)
    offered = strategy({}, store)
    assert offered["sureness"] == pytest.approx(float(torch.tensor(0.5).sigmoid()), abs=1e-6)
    assert (offered["scored"], offered["unlabeled"]) == (4, 4)


def test_images_that_were_offered_come_again_when_there_are_no_others(file, store, strategy):
    score(file, store)
    store.info = {
        name: {"strategy": {"first": {"ts": NOW - ago}}} for name, ago in {"a": 9, "b": 30, "c": 20, "d": 10}.items()
    }
    assert strategy({}, store)["id"] == "b"
    store.info["a"]["strategy"]["first"]["ts"] = NOW - 2 * HELD
    store.info["d"]["strategy"]["first"]["ts"] = NOW - HELD
    assert strategy({}, store)["id"] == "d"  # both are free again, and d is the less sure one


def test_without_scores_images_come_by_name_and_the_log_says_so(store, strategy, caplog):
    assert strategy({}, store)["id"] == "a"
    assert strategy({}, store)["sureness"] is None
    assert "NO SCORES of the current student" in caplog.text


def test_all_labeled_gives_no_image(file, store, strategy, caplog):
    score(file, store)
    store.labeled = set(store.images)
    with caplog.at_level(logging.INFO):
        assert strategy({}, store) is None
    assert "all images are labeled" in caplog.text


def test_image_that_cannot_be_read_is_noted_and_not_offered(file, store, strategy, caplog):
    store.images.insert(0, "broken")
    summary = score(file, store)
    assert (summary["executed"], summary["unreadable"]) == (4, 1)
    assert json.loads(file.path.read_text())["unreadable"] == {"broken": "OSError: cannot identify image file"}
    assert "'broken' cannot be segmented" in caplog.text
    store.labeled = {"a", "b", "c", "d"}
    assert strategy({}, store) is None
    assert "1 images cannot be segmented, and are not offered" in caplog.text


def test_image_that_was_mended_is_scored(file, store, monkeypatch):
    store.images = ["a", "broken"]
    score(file, store)
    monkeypatch.setitem(LOGITS, "broken", 1.0)
    assert score(file, store)["executed"] == 1
    known = file.read()
    assert set(known.sure) == {"a", "broken"}
    assert known.unreadable == {}


def test_not_one_image_that_can_be_read_is_an_error(file, monkeypatch):
    with pytest.raises(RuntimeError, match=re.escape("none of the 2 unlabeled images could be segmented, 'x' because")):
        score(file, Store(["x", "y"]))


def test_scores_of_a_former_student_do_not_count(file, store, strategy, caplog):
    score(file, store)
    assert StudentCertainty(segment, file).is_complete(store)
    file.model.write_bytes(b"a new student")
    assert not StudentCertainty(segment, file).is_complete(store)
    with caplog.at_level(logging.INFO):
        assert strategy({}, store)["id"] == "a"
    assert "the scores are of a former student: 4 images" in caplog.text
    assert score(file, store)["executed"] == 4
    assert strategy({}, store)["id"] == "b"


def test_student_that_comes_while_scoring_is_asked_about_all_images(file, store):
    asked = []

    def replace_student(path):
        asked.append(path)
        if len(asked) == 2:
            file.model.write_bytes(b"a new student")
        return segment(path)

    StudentCertainty(replace_student, file)({}, store)
    assert asked == ["a.png", "b.png", "c.png", "d.png"] * 2
    assert json.loads(file.path.read_text())["student"] == file.student()


def test_only_new_images_are_scored(file, store):
    score(file, store)
    store.images.append("e")
    LOGITS["e"] = 0.1
    try:
        assert score(file, store)["executed"] == 1
    finally:
        del LOGITS["e"]


def test_second_image_of_a_patient_waits_while_an_annotator_has_the_first(file, strategy):
    store = Store(["a", "b", "c", "d"])
    score(file, store)
    strategy.patient = {"b": 1, "c": 1, "d": 2}.get
    assert store.offer(strategy) == "b"
    assert store.offer(strategy) == "d"  # c is of the patient of b
    store.labeled = {"b", "d"}
    assert store.offer(strategy) == "a"  # b was labeled since the student was asked
    assert store.offer(strategy) == "c"


def test_damaged_scores_are_not_used_and_the_log_says_so(file, store, strategy, caplog):
    score(file, store)
    for text in ("{", "[]", '{"student": "x", "sure": {"a": "high"}, "unreadable": {}}'):
        file.path.write_text(text)
        assert strategy({}, store)["sureness"] is None
        assert f"{file.path.name} is damaged" in caplog.text
        caplog.clear()


def test_folders_of_studies_have_scores_of_their_own(file, tmp_path):
    assert ScoreFile(tmp_path, "studies").path == file.path
    assert ScoreFile(tmp_path, "others").path != file.path


def test_missing_student_is_named(file, store):
    file.model.unlink()
    with pytest.raises(FileNotFoundError, match=r"models.model\.pt does not exist; put the student's weights there"):
        score(file, store)


def test_sureness_of_frames_is_the_mean_of_the_evaluations_confidence():
    logits = torch.stack([torch.full((1, 2, 2), 3.0), torch.full((1, 2, 2), -2.0)], -1)
    expected = (mask_confidence(logits[..., 0]) + mask_confidence(logits[..., 1])) / 2
    assert frames_sureness(logits) == pytest.approx(expected)
    empty = torch.full((1, 2, 2, 1), -9.0)
    assert frames_sureness(empty, [0.2]) == pytest.approx(0.8)  # an empty mask: 1 less presence
    assert frames_sureness(logits[..., :1], [0.5]) == pytest.approx(0.5 * mask_confidence(logits[..., 0]))
    with pytest.raises(ValueError, match="logits that are not finite"):
        frames_sureness(torch.full((1, 2, 2, 1), torch.nan))


def test_partial_scores_are_used_and_images_without_one_come_last(file, store, strategy):
    file.write(Scores(file.student(), {"d": 0.7, "c": 0.8}))
    assert [store.offer(strategy) for _ in range(4)] == ["d", "c", "a", "b"]
