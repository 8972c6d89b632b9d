"""The classes of one organ, of a network of many: other organs take no pixel."""

import pytest
import torch
from torch import nn

from scripts.evaluation.class_subset import ClassSubset, choose_classes
from scripts.metrics import logits_to_classes, logits_to_probabilities

LOGITS = torch.tensor([1.0, 2.0, 5.0, 3.0])[None, :, None, None].expand(1, 4, 2, 2)


def test_another_organ_takes_no_pixel():
    assert logits_to_classes(LOGITS).unique().tolist() == [2]
    assert logits_to_classes(choose_classes(LOGITS, [1, 3])).unique().tolist() == [2]  # class 3 is the organ's second
    assert logits_to_classes(choose_classes(LOGITS, [3, 1])).unique().tolist() == [1]


def test_one_class_gives_the_logit_of_two_classes():
    one = choose_classes(LOGITS, [3])
    assert one.shape == (1, 1, 2, 2)
    both = logits_to_probabilities(LOGITS[0, [0, 3]])
    assert torch.allclose(logits_to_probabilities(one[0])[0], both[1])
    assert logits_to_classes(one).unique().tolist() == [1]
    assert logits_to_classes(choose_classes(-LOGITS, [3])).unique().tolist() == [0]


@pytest.mark.parametrize("classes", [[], [1, 1], [0, 1], [4]])
def test_classes_that_are_not_there_are_refused(classes):
    with pytest.raises(ValueError, match=r"classes must be some of 1..3, each once"):
        choose_classes(LOGITS, classes)


def test_subset_reads_logits_of_a_named_tuple_too():
    class Named(nn.Module):
        def forward(self, image):
            from scripts.networks.teacher import TeacherOutput

            return TeacherOutput(LOGITS, image)

    assert torch.equal(ClassSubset(Named(), [2])(torch.zeros(1)), choose_classes(LOGITS, [2]))
