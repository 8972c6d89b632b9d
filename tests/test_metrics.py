"""Metrics against hand-computed values, monai and a second HD95 by distance transforms."""

import math

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.metrics import compute_dice, compute_hausdorff_distance
from monai.transforms import Compose
from scipy import ndimage

from scripts.metrics import (
    METRICS,
    LogitsToClassesd,
    SegmentationMetrics,
    SegmentationScore,
    case_metrics,
    hausdorff95,
    logits_to_classes,
)


def square(top, left, size, shape=(20, 30)):
    mask = np.zeros(shape, dtype=np.uint8)
    mask[top : top + size, left : left + size] = 1
    return mask


def random_mask(rng, shape):
    """Blobs, single pixels, border strips, empty and full masks."""
    kind = rng.integers(6)
    mask = np.zeros(shape, dtype=bool)
    if kind == 1:
        mask[rng.integers(shape[0]), rng.integers(shape[1])] = True
    elif kind == 2:
        mask[:, : rng.integers(1, shape[1] + 1)] = True
    elif kind == 3:
        mask[rng.integers(shape[0]) :, rng.integers(shape[1]) :] = True
    elif kind > 3:
        mask = ndimage.gaussian_filter(rng.random(shape), rng.integers(1, 6)) > 0.5
    return mask


def reference_hd95(prediction, label, spacing):
    """By distance transforms of the edges, with the empty rules written out."""
    if not prediction.any() and not label.any():
        return 0.0
    if not prediction.any() or not label.any():
        return math.sqrt((label.shape[0] * spacing[0]) ** 2 + (label.shape[1] * spacing[1]) ** 2)
    edges = [mask ^ ndimage.binary_erosion(mask) for mask in (prediction, label)]
    maps = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return max(np.percentile(maps[1][edges[0]], 95), np.percentile(maps[0][edges[1]], 95))


@pytest.mark.parametrize("spacing", [None, 0.07, (0.5, 1.25)])
def test_hd95_agrees_with_distance_transforms_on_200_random_masks(spacing):
    rng = np.random.default_rng(0)
    pixel = np.broadcast_to(1.0 if spacing is None else spacing, 2)
    for _ in range(200):
        prediction, label = (random_mask(rng, tuple(shape)) for shape in [rng.integers(1, 60, 2)] * 2)
        assert hausdorff95(prediction, label, spacing) == pytest.approx(reference_hd95(prediction, label, pixel), abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_hd95_and_dice_agree_with_monai_where_both_masks_have_pixels():
    rng = np.random.default_rng(1)
    compared = 0
    for _ in range(60):
        prediction, label = (random_mask(rng, (40, 56)) for _ in range(2))
        if not prediction.any() or not label.any():
            continue
        pair = [torch.tensor(mask)[None, None].float() for mask in (prediction, label)]
        ours = case_metrics(prediction, label, 2)
        theirs = compute_hausdorff_distance(*pair, include_background=True, percentile=95)
        assert ours["hd95"] == pytest.approx(float(theirs), rel=1e-6)
        assert ours["dice"] == pytest.approx(float(compute_dice(*pair)), abs=1e-6)
        compared += 1
    assert compared > 20


def test_hand_computed_values():
    prediction, label = np.zeros((2, 4)), np.zeros((2, 4))
    prediction[0, :3] = 1
    label[0, 1:] = 1
    metrics = case_metrics(prediction, label, 2)
    assert metrics["dice"] == pytest.approx(4 / 6)
    assert metrics["iou"] == pytest.approx(2 / 4)
    assert metrics["sensitivity"] == pytest.approx(2 / 3)
    assert metrics["specificity"] == pytest.approx(4 / 5)
    assert metrics["pixel_accuracy"] == pytest.approx(6 / 8)
    assert metrics["hd95"] == pytest.approx(0.9)  # distances 1, 0, 0 in each direction


def test_identical_masks_are_perfect():
    perfect = {"dice": 1, "hd95": 0, "iou": 1, "sensitivity": 1, "specificity": 1, "pixel_accuracy": 1}
    assert case_metrics(square(3, 4, 6), square(3, 4, 6), 2) == perfect


def test_both_masks_empty_are_perfect():
    empty = np.zeros((20, 30))
    assert case_metrics(empty, empty, 2) == {"dice": 1, "hd95": 0, "iou": 1, "sensitivity": 1, "specificity": 1, "pixel_accuracy": 1}


def test_one_empty_mask_counts_as_the_image_diagonal():
    empty, lesion = np.zeros((20, 30)), square(3, 4, 6)
    for prediction, label in ((empty, lesion), (lesion, empty)):
        metrics = case_metrics(prediction, label, 2)
        assert metrics["dice"] == metrics["iou"] == 0
        assert metrics["hd95"] == pytest.approx(math.sqrt(20**2 + 30**2))
    assert case_metrics(empty, lesion, 2, spacing=(0.5, 2))["hd95"] == pytest.approx(math.sqrt(10**2 + 60**2))
    assert case_metrics(empty, lesion, 2)["sensitivity"] == 0


def test_label_that_fills_the_image_is_not_nan():
    full = np.ones((8, 8))
    assert case_metrics(full, full, 2)["specificity"] == 1
    assert all(math.isfinite(value) for value in case_metrics(np.zeros((8, 8)), full, 2).values())


def test_deleting_the_prediction_never_improves_a_case_with_a_lesion():
    # specificity and pixel accuracy reward background and are no part of this
    rng = np.random.default_rng(2)
    for _ in range(200):
        prediction, label = (random_mask(rng, (24, 31)) for _ in range(2))
        if label.any():
            kept, deleted = case_metrics(prediction, label, 2), case_metrics(np.zeros((24, 31)), label, 2)
            assert deleted["hd95"] >= kept["hd95"]
            assert all(deleted[name] <= kept[name] for name in ("dice", "iou", "sensitivity"))


def test_spacing_scales_hd95_alone():
    masks = square(2, 2, 6), square(5, 9, 6)
    pixels, scaled = case_metrics(*masks, 2), case_metrics(*masks, 2, spacing=0.1)
    assert scaled["hd95"] == pytest.approx(0.1 * pixels["hd95"])
    assert {**scaled, "hd95": 0} == {**pixels, "hd95": 0}


def test_multi_class_means_are_over_foreground_classes():
    label = square(2, 2, 6) + 2 * square(10, 15, 6)
    prediction = square(2, 2, 6)
    metrics = case_metrics(torch.tensor(prediction)[None], MetaTensor(label[None].astype(np.float32)), 3)
    assert (metrics["dice_class1"], metrics["dice_class2"], metrics["dice"]) == (1, 0, 0.5)
    assert metrics["hd95"] == pytest.approx((0 + math.hypot(20, 30)) / 2)
    assert metrics["pixel_accuracy"] == pytest.approx(1 - 36 / 600)


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5)), r"prediction \(4, 4\) and label \(4, 5\) differ in size"),
        (np.zeros((2, 4, 4)), np.zeros((4, 4)), r"prediction must have the shape .* got \(2, 4, 4\)"),
        (np.full((4, 4), 0.7), np.zeros((4, 4)), "prediction holds the value 0.7, expected class indices 0..1"),
        (np.zeros((4, 4)), np.full((4, 4), 255), "label holds the value 255, expected class indices 0..1.*data::num_classes"),
    ],
)
def test_bad_masks_are_refused(prediction, label, message):
    with pytest.raises(ValueError, match=message):
        case_metrics(prediction, label, 2)


def test_error_names_the_case():
    with pytest.raises(ValueError, match="case a.png: prediction"):
        SegmentationMetrics(2).add("a.png", np.zeros((4, 4)), np.zeros((4, 5)))


def test_summary_averages_all_cases_and_counts_empty_masks():
    metrics, empty, lesion = SegmentationMetrics(2), np.zeros((20, 30)), square(3, 4, 6)
    for i, pair in enumerate([(lesion, lesion), (empty, lesion), (lesion, empty), (empty, empty)]):
        metrics.add(f"case {i}", *pair)
    summary = metrics.summary()
    assert summary["num_cases"] == 4
    assert summary["dice"] == pytest.approx(0.5)
    assert summary["hd95"] == pytest.approx(2 * math.hypot(20, 30) / 4)
    assert [summary[name] for name in ("empty_label", "empty_prediction", "both_empty", "one_empty")] == [2, 2, 1, 2]
    assert "hd95_mm" not in summary


def test_millimeters_have_their_own_column_and_are_never_mixed():
    metrics = SegmentationMetrics(2)
    row = metrics.add("a", square(2, 2, 6), square(5, 9, 6), spacing=0.1)
    assert row["hd95_mm"] == pytest.approx(0.1 * row["hd95"])
    assert metrics.summary()["hd95_mm"] == row["hd95_mm"]
    metrics.add("b", square(2, 2, 6), square(5, 9, 6))
    assert "hd95_mm" not in metrics.summary()


def test_no_cases_and_too_few_classes_are_refused():
    with pytest.raises(ValueError, match="no cases to summarize"):
        SegmentationMetrics(2).summary()
    with pytest.raises(ValueError, match="num_classes must be at least 2 .* got 1"):
        SegmentationMetrics(1)


def test_logits_become_class_indices():
    binary = torch.tensor([[[[-1.0, 0.0, 2.0]]]])
    assert logits_to_classes(binary).tolist() == [[[[0, 0, 1]]]]
    several = torch.tensor([[[[3.0, 0.0]], [[1.0, 1.0]], [[2.0, 5.0]]]])  # (1, 3, 1, 2)
    assert logits_to_classes(several).tolist() == [[[[0, 2]]]]
    one = LogitsToClassesd(keys="pred")({"pred": MetaTensor(several[0], meta={"filename_or_obj": "a.png"})})["pred"]
    assert one.shape == (1, 1, 2) and one.dtype == torch.uint8 and one.meta["filename_or_obj"] == "a.png"


def evaluator(items, num_classes, name="val_mean_dice", batch_size=2):
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(items, batch_size=batch_size),
        network=torch.nn.Identity(),
        postprocessing=Compose([LogitsToClassesd(keys="pred")]),
        key_val_metric={name: SegmentationScore(num_classes)},
    )


def items(cases=("a", "b", "c")):
    lesion, empty = torch.tensor(square(3, 4, 6))[None].float(), torch.zeros(1, 20, 30)
    predictions = [lesion, empty, lesion]
    return [{"image": p * 2 - 1, "label": lesion, "case": case} for p, case in zip(predictions, cases)]


def test_evaluator_gets_every_metric_from_one_pass():
    engine = evaluator(items(), 2)
    engine.run()
    assert engine.state.best_metric == engine.state.metrics["val_mean_dice"] == pytest.approx(2 / 3)
    assert engine.state.metrics["val_mean_hd95"] == pytest.approx(math.hypot(20, 30) / 3)
    assert set(engine.state.metrics) == {f"val_mean_{name}" for name in METRICS}
    engine.run()  # starts anew
    assert engine.state.metrics["val_mean_dice"] == pytest.approx(2 / 3)


def test_name_without_dice_is_followed_by_the_metric():
    engine = evaluator(items(), 2, name="val")
    engine.run()
    assert set(engine.state.metrics) == {"val", *(f"val_{name}" for name in METRICS[1:])}


def test_case_seen_twice_counts_once():
    engine = evaluator(items(cases=("a", "b", "a")), 2)
    engine.run()
    assert engine.state.metrics["val_mean_dice"] == pytest.approx(1 / 2)


def test_unnamed_cases_all_count():
    unnamed = [{key: item[key] for key in ("image", "label")} for item in items()]
    engine = evaluator(unnamed, 2)
    engine.run()
    assert engine.state.metrics["val_mean_dice"] == pytest.approx(2 / 3)


def _score_of_rank(rank, folder):
    """Rank 0 sees a (1) and b (0); rank 1 sees b again and c (1)."""
    import ignite.distributed as idist

    idist.initialize("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    seen = [items()[:2], items()[1:]][rank]
    engine = evaluator(seen, 2)
    engine.run()
    (folder / f"dice{rank}").write_text(str(engine.state.metrics["val_mean_dice"]))
    idist.finalize()


def test_ranks_are_put_together_and_count_each_case_once(tmp_path):
    torch.multiprocessing.start_processes(_score_of_rank, args=(tmp_path,), nprocs=2, start_method="fork")
    assert [float((tmp_path / f"dice{rank}").read_text()) for rank in (0, 1)] == pytest.approx([2 / 3, 2 / 3])
