"""What probes cost: paired on cases, over patients, for every arm and seed; who is left out is said."""

import pytest
import torch
from evaluation.stand_ins import Cases, Threshold

from scripts.evaluation.evaluate import Arm, evaluate
from scripts.evaluation.probes import apply_probe
from scripts.evaluation.robustness import measure_probes, spread_cases, worst_probe
from scripts.evaluation.statistics import cluster_bootstrap
from scripts.metrics import case_dice, case_metrics

SIZE = 64


class MiddleOnly(Threshold):
    """Sees nothing outside of the middle quarter of the width."""

    def forward(self, image):
        logits = super().forward(image)
        side = image.shape[-1] * 3 // 8
        logits[..., :side] = logits[..., -side:] = -20.0
        return logits


class DeepOnly(Threshold):
    """Sees nothing above the middle."""

    def forward(self, image):
        logits = super().forward(image)
        logits[..., : image.shape[-2] // 2, :] = -20.0
        return logits


def lesions(lefts=(26, 28, 24, 26)):
    """A bright lesion of 12 pixels at each of the columns; None has none. The last two are of one patient."""
    items = Cases()
    for number, left in enumerate(lefts):
        image = torch.full((1, SIZE, SIZE), 0.2)
        if left is not None:
            image[:, 24:40, left : left + 12] = 0.8
        items.append({"image": image, "label": (image > 0.5).float(), "case": f"images/{number}.png"})
    items.data = [{"image": item["case"], "patient": min(i, len(lefts) - 2)} for i, item in enumerate(items)]
    return items


def rows_of(probes):
    return {row["probe"]: row for row in probes["rows"]}


def test_prior_of_position_is_found_where_it_is():
    arms = [Arm("student", MiddleOnly(), SIZE), Arm("teacher", Threshold(), SIZE)]
    probes = measure_probes(lesions(), arms, 2, probes=["left", "right", "shallow", "darker", "text"])
    rows = rows_of(probes)
    assert list(rows) == ["left", "right", "shallow", "darker", "text"]
    assert rows["left"]["arms"]["student"]["dice"]["mean"] < -0.9
    assert rows["left"]["arms"]["student"]["misses"] == {"mean": 1, "low": 1, "high": 1, "before": 0, "after": 4}
    assert rows["left"]["arms"]["student"]["failures"]["after"] == 4
    assert rows["shallow"]["arms"]["student"]["dice"]["mean"] == pytest.approx(0)
    assert rows["left"]["arms"]["teacher"]["dice"]["mean"] == pytest.approx(0)
    assert rows["darker"]["arms"]["teacher"]["failures"]["after"] == 4  # 0.8 - 0.3 is no more than the threshold
    assert worst_probe(probes, "teacher")["probe"] == "darker"
    assert worst_probe(probes, "control") is None
    assert (probes["num_cases"], probes["num_centered"], probes["without_lesion"]) == (4, 4, 0)


def test_change_is_paired_and_its_interval_is_over_patients():
    items, network = lesions(), Threshold(0.7)
    (row,) = measure_probes(items, [Arm("student", network, SIZE)], 2, probes=["text"])["rows"]
    changes = []
    for item in items:
        image, label = apply_probe("text", item["image"], item["label"])
        dice = [case_dice((picture > 0.7).int(), label, 2) for picture in (item["image"], image)]
        changes.append(dice[1] - dice[0])
    expected = cluster_bootstrap(changes, [entry["patient"] for entry in items.data])
    effect = row["arms"]["student"]["dice"]
    assert [effect[key] for key in ("mean", "low", "high")] == pytest.approx(list(expected))
    assert effect["after"] - effect["before"] == pytest.approx(effect["mean"])
    assert effect["mean"] < 0


def test_seeds_of_an_arm_are_averaged_and_their_failures_summed():
    arms = [Arm("student", MiddleOnly(), SIZE, 0), Arm("student", Threshold(), SIZE, 1)]
    (row,) = measure_probes(lesions(), arms, 2, probes=["right"])["rows"]
    effect = row["arms"]["student"]
    assert effect["dice"]["mean"] == pytest.approx(-0.5, abs=0.06)
    assert effect["failures"]["mean"] == 0.5
    assert effect["failures"]["after"] == 4  # of eight


def test_only_centered_lesions_are_moved_and_images_without_one_left_out():
    probes = measure_probes(lesions((26, 2, None, 26)), [Arm("student", Threshold(), SIZE)], 2, probes=["deep", "jpeg"])
    assert (probes["num_cases"], probes["num_centered"], probes["without_lesion"]) == (3, 2, 1)
    assert {name: row["num_cases"] for name, row in rows_of(probes).items()} == {"deep": 2, "jpeg": 3}


def test_lesion_cut_off_by_a_probe_does_not_count():
    items = lesions((26, 26))
    items[0]["label"][:] = 0
    items[0]["label"][:, 62:, :2] = 1  # in a corner outside of the fan
    (row,) = measure_probes(items, [Arm("student", Threshold(), SIZE)], 2, probes=["sector"])["rows"]
    assert row["num_cases"] == 1


def test_finding_the_second_lesion_or_not_is_the_same():
    items, arms = lesions((26, 26)), [Arm("student", Threshold(), SIZE), Arm("teacher", DeepOnly(), SIZE)]
    for item in items:
        item["image"], item["label"] = (item[key].roll(-21, 1) for key in ("image", "label"))  # at the skin
    (row,) = measure_probes(items, arms, 2, probes=["deep"])["rows"]
    assert row["arms"]["student"]["dice"]["mean"] == pytest.approx(0)
    assert row["arms"]["teacher"]["dice"]["after"] == 1


def test_probe_without_a_case_has_no_arms():
    (row,) = measure_probes(lesions((2, 2)), [Arm("student", Threshold(), SIZE)], 2, probes=["left"])["rows"]
    assert (row["num_cases"], row["arms"]) == (0, {})


def test_set_without_lesions_is_refused_in_one_line():
    with pytest.raises(ValueError, match="^no case of the list has a lesion, .*; choose another list.$"):
        measure_probes(lesions((None, None)), [Arm("student", Threshold(), SIZE)], 2)


def test_nothing_to_probe_is_refused():
    with pytest.raises(ValueError, match="expected a network and a probe"):
        measure_probes(lesions(), [], 2)
    with pytest.raises(ValueError, match="probes must be one of left"):
        measure_probes(lesions(), [Arm("student", Threshold(), SIZE)], 2, probes=["leftt"])


def test_cases_are_spread_over_the_list():
    items = lesions((26,) * 10)
    some = spread_cases(items, 4)
    assert [item["case"] for item in some] == [f"images/{i}.png" for i in (0, 3, 6, 9)]
    assert [entry["image"] for entry in some.data] == [item["case"] for item in some]
    assert spread_cases(items, 10) is spread_cases(items, None) is items
    with pytest.raises(ValueError, match="the number of cases must be positive, got 0"):
        spread_cases(items, 0)


def test_noise_is_the_same_in_every_selection():
    items, arms = lesions((26,) * 5), [Arm("student", Threshold(0.75), SIZE)]
    (whole,) = measure_probes(items, arms, 2, probes=["speckle"])["rows"]
    (part,) = measure_probes(spread_cases(items, 1), arms, 2, probes=["speckle"])["rows"]
    (alone,) = measure_probes(spread_cases(items, 1), arms, 2, probes=["speckle"])["rows"]
    assert part == alone
    assert whole["arms"]["student"]["dice"]["after"] != part["arms"]["student"]["dice"]["after"]  # others, other noise


def test_dice_alone_is_the_dice_of_all_metrics():
    generator = torch.Generator().manual_seed(0)
    masks = [torch.randint(0, 3, (1, 20, 20), generator=generator) for _ in range(2)]
    assert case_dice(*masks, 3) == case_metrics(*masks, 3)["dice"]
    empty = torch.zeros(1, 4, 4)
    assert case_dice(empty, empty, 2) == 1


def test_rows_have_the_offset_of_their_lesion():
    rows = evaluate(lesions((26, 0, None)), [Arm("student", Threshold(), SIZE)], 2).rows
    assert [row["label_offset"] for row in rows] == [0, (32 - 6) / 64, None]
