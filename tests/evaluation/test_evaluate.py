"""What is measured of every case: names, seeds, sizes."""

import pytest
import torch
from evaluation.stand_ins import Teacher, Threshold, cases

from scripts.data.segment import segment
from scripts.evaluation.evaluate import Arm, evaluate, evaluate_masks
from scripts.metrics import logits_to_classes


def test_cases_are_named_below_the_folder_that_they_share():
    items = cases(2)
    for i, item in enumerate(items):
        item["case"] = f"/data/set/images/{'ab'[i]}/{i}.png"
    measured = evaluate(items, [Arm("student", Threshold(), 32)], 2)
    assert [row["case"] for row in measured.rows] == ["a/0.png", "b/1.png"]
    assert evaluate(items[:1], [Arm("student", Threshold(), 32)], 2).rows[0]["case"] == "0.png"


def test_several_seeds_of_an_arm_are_rows_of_their_own():
    arms = [Arm("student", Threshold(level), 32, seed) for seed, level in enumerate((0.5, 2.0))]
    measured = evaluate(cases(2), arms, 2)
    assert [(row["arm"], row["seed"]) for row in measured.rows] == [("student", 0)] * 2 + [("student", 1)] * 2
    assert measured.summary["student", 0]["dice"] > 0.9
    assert measured.summary["student", 1]["dice"] == 0
    assert list(measured.reliability) == ["student"]


def test_predict_returns_logits_of_the_original_size():
    logits = segment(Teacher().eval(), torch.rand(1, 50, 30), 32, "cpu")
    assert logits.shape == (1, 50, 30)
    assert logits.dtype == torch.float32


def test_images_reach_the_network_in_its_size_and_come_back_in_theirs():
    network = Threshold()
    measured = evaluate(cases(1), [Arm("student", network, 32)], 2)
    assert network.sizes == [(1, 1, 32, 32)]
    assert measured.rows[0]["label_area"] == 16 * 30


def test_masks_of_another_program_are_measured_as_those_of_a_network():
    items, network = cases(2), Threshold()
    expected = evaluate(items, [Arm("student", network, 32, 3)], 2).rows

    def mask(index):
        return logits_to_classes(segment(network, items[index]["image"], 32, "cpu")[None])[0]

    found = evaluate_masks(items, mask, 2, "student", 3)
    others = [{key: value for key, value in row.items() if key not in ("ece", "confidence")} for row in expected]
    assert found.rows == others
    assert found.summary["student", 3]["dice"] == sum(row["dice"] for row in expected) / 2


def test_mask_of_another_size_is_refused_by_its_case():
    with pytest.raises(ValueError, match=r"^case .*: prediction \(5, 5\) and label"):
        evaluate_masks(cases(1), lambda index: torch.zeros(1, 5, 5), 2, "student")
