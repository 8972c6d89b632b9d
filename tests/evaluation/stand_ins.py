"""Small networks, cases and rows that the tests of evaluation and report share."""

from collections import namedtuple

import numpy as np
import torch
from torch import nn

TeacherOutput = namedtuple("TeacherOutput", "logits features")


class Threshold(nn.Module):
    """Student: bright pixels are foreground."""

    def __init__(self, level=0.5, channels=1):
        super().__init__()
        self.level, self.channels, self.sizes = level, channels, []

    def forward(self, image):
        assert not self.training
        assert type(image) is torch.Tensor
        self.sizes.append(tuple(image.shape))
        logits = (image - self.level) * 20
        return logits if self.channels == 1 else torch.cat([-logits] + [logits] * (self.channels - 1), dim=1)


class Teacher(Threshold):
    """Half the size, and a named tuple."""

    def forward(self, image):
        return TeacherOutput(nn.functional.avg_pool2d(super().forward(image), 2), None)


class Cases(list):
    """A data set whose entries are beside its items, as ViewDataset's."""

    data: list


def cases(count=3, shape=(48, 72), **entry):
    items = Cases()
    for i in range(count):
        image = torch.full((1, *shape), 0.1)
        image[:, 8:24, 10 + 5 * i : 40 + 5 * i] = 0.9
        items.append({"image": image, "label": (image > 0.5).float(), "case": f"images/{i}.png"})
    items.data = [{"image": item["case"], "patient": 7, **entry} for item in items]
    return items


def make_rows(arms, metric="dice", patients=None, **columns):
    """Rows of {arm: {seed: values}}; columns hold a value a case."""
    return [
        {"case": f"c{i}", "patient": patients[i] if patients else f"p{i}", "arm": arm, "seed": seed, metric: value}
        | {name: column[i] for name, column in columns.items()}
        for arm, seeds in arms.items()
        for seed, values in seeds.items()
        for i, value in enumerate(values)
    ]


def shifted(shift, spread=0.0, num_cases=30, metric="dice"):
    """A reference and an arm that is `shift` above it, three seeds each, their means `spread` apart."""
    base = np.random.default_rng(0).normal(0.8, 0.05, num_cases)
    steps = (-spread / 2, 0.0, spread / 2)
    jitter = np.random.default_rng(1).normal(0, 0.002, num_cases)
    return make_rows(
        {
            "control": {seed: base + step for seed, step in enumerate(steps)},
            "student": {seed: base + shift + step + jitter - jitter.mean() for seed, step in enumerate(steps)},
        },
        metric,
    )
