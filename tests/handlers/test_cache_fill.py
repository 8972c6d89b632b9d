"""Filling the teacher's cache before the first batch."""

from functools import partial

import pytest
import torch
from handler_stand_ins import make_trainer
from ignite.engine import Events
from torch import nn

from scripts.data.segment import resize_image
from scripts.handlers import CacheFill


class Filled(nn.Module):
    """A teacher with a cache, which says what it was filled with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[list[torch.Tensor], int]] = []

    def fill(self, images, count: int) -> None:
        self.calls.append((list(images), count))


def images_of(count: int, size: int) -> list[dict]:
    return [{"image": torch.rand(1, size, size)} for _ in range(count)]


def final_evaluation(dataset, **networks) -> partial:
    return partial(print, dataset=dataset, networks=networks, img_size=8)


def test_cache_is_filled_with_the_images_of_panels_and_evaluation_and_their_number(tmp_path):
    teacher, engine, panels, test = Filled(), make_trainer(), images_of(6, 8), images_of(3, 12)
    CacheFill(teacher, panels, final_evaluation(test, student=nn.Identity(), teacher=teacher)).attach(engine)
    engine.run(engine.losses, max_epochs=1)
    engine.run(engine.losses, max_epochs=2)  # as in the next round of a federation
    ((images, count),) = teacher.calls
    expected = [case["image"] for case in panels[:4]] + [resize_image(case["image"], 8) for case in test]
    assert count == len(expected) == 7
    assert len(images) == 7
    assert all(map(torch.equal, images, expected))


@pytest.mark.parametrize("evaluation", [None, final_evaluation(images_of(3, 8), control=nn.Identity())])
def test_cache_is_not_filled_with_images_that_the_teacher_is_not_asked_about(evaluation):
    teacher = Filled()
    CacheFill(teacher, images_of(2, 8), evaluation)()
    CacheFill(teacher, None, evaluation)()
    assert [(len(images), count) for images, count in teacher.calls] == [(2, 2), (0, 0)]


@pytest.mark.parametrize("teacher", [None, nn.Identity()])
def test_run_without_a_cache_fills_none(teacher):
    engine = make_trainer()
    CacheFill(teacher, images_of(2, 8)).attach(engine)
    assert not engine.has_event_handler(Events.STARTED)
