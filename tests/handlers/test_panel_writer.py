"""Panels while training."""

import torch
from handler_stand_ins import at_epoch, make_trainer
from torch import nn

from scripts.handlers import PanelWriter


class Constant(nn.Module):
    """A network that says how often it has run."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return torch.full((len(image), 1, 4, 4), self.value)


def test_panels_are_drawn_every_interval_and_the_teacher_runs_once(tmp_path):
    student, teacher, drawn = Constant(1.0), Constant(-1.0), []
    dataset = [{"image": torch.rand(1, 8, 8), "label": torch.zeros(1, 8, 8)} for _ in range(3)]
    engine = make_trainer()
    PanelWriter(
        tmp_path,
        dataset,
        student,
        inferer=lambda images, network: network(images),
        device=torch.device("cpu"),
        draw=lambda rows, path: drawn.append((rows, path)),
        classify=lambda logits: (logits > 0).long(),
        teacher=teacher,
        interval=2,
        num_cases=2,
    ).attach(engine)
    engine.run(engine.losses, max_epochs=5)
    assert [path.name for _, path in drawn] == ["epoch_002.png", "epoch_004.png"]
    assert (student.calls, teacher.calls) == (2, 1)
    rows = drawn[1][0]
    assert len(rows) == 2
    assert all(set(row) == {"image", "label", "student", "teacher"} for row in rows)
    assert rows[0]["student"].shape == (8, 8)
    assert rows[0]["student"].all()
    assert not rows[0]["teacher"].any()


def test_panels_without_a_teacher_have_none(tmp_path):
    drawn = []
    dataset = [{"image": torch.rand(1, 8, 8), "label": torch.zeros(1, 8, 8)}]
    writer = PanelWriter(
        tmp_path,
        dataset,
        Constant(1.0),
        lambda images, network: network(images),
        torch.device("cpu"),
        lambda rows, path: drawn.extend(rows),
        lambda logits: (logits > 0).long(),
    )
    writer(at_epoch(10))
    assert len(drawn) == 1
    assert set(drawn[0]) == {"image", "label", "student"}
