"""Metrics against hand-computed values, monai, and second HD95 and NSD by distance transforms."""

import math

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.metrics import (
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
    get_confusion_matrix,
)
from monai.transforms import Compose
from scipy import ndimage

from scripts import metrics as metrics_module
from scripts.metrics import (
    AREAS,
    LOWER_IS_BETTER,
    METRICS,
    LogitsToClassesd,
    SegmentationMetrics,
    SegmentationScore,
    case_metrics,
    class_logits,
    edge_metrics,
    logits_to_classes,
    logits_to_probabilities,
    lower_is_better,
    metric_title,
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


def random_pairs(seed, count=200):
    """Pairs of masks of one random size, with the kinds that `random_mask` draws."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        shape = tuple(rng.integers(1, 60, 2))
        yield random_mask(rng, shape), random_mask(rng, shape)


def reference_distances(prediction, label, spacing):
    """By distance transforms of the edges: from the prediction's to the label's, and back."""
    edges = [mask ^ ndimage.binary_erosion(mask) for mask in (prediction, label)]
    maps = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return maps[1][edges[0]], maps[0][edges[1]]


def reference_hd95(prediction, label, spacing):
    """With the empty rules written out."""
    if not prediction.any() and not label.any():
        return 0.0
    if not prediction.any() or not label.any():
        return math.sqrt((label.shape[0] * spacing[0]) ** 2 + (label.shape[1] * spacing[1]) ** 2)
    return max(np.percentile(distances, 95) for distances in reference_distances(prediction, label, spacing))


def reference_nsd(prediction, label, spacing, tolerance):
    if not prediction.any() or not label.any():
        return float(not prediction.any() and not label.any())
    distances = np.concatenate(reference_distances(prediction, label, spacing))
    return np.count_nonzero(distances <= tolerance + 1e-9) / len(distances)


@pytest.mark.parametrize("spacing", [None, 0.07, 0.1, (0.5, 1.25)])
def test_hd95_and_nsd_agree_with_distance_transforms_on_200_random_masks(spacing):
    pixel = np.broadcast_to(1.0 if spacing is None else spacing, 2)
    for prediction, label in random_pairs(0):
        ours = edge_metrics(prediction, label, spacing)
        assert ours["hd95"] == pytest.approx(reference_hd95(prediction, label, pixel), abs=1e-6)
        assert ours["nsd"] == pytest.approx(
            reference_nsd(prediction, label, pixel, 2 if spacing is None else 1), abs=1e-6
        )


def test_random_masks_have_the_hard_kinds_among_them():
    pairs = list(random_pairs(1))
    pixels = [mask.sum() for pair in pairs for mask in pair]
    assert pixels.count(0) > 20
    assert pixels.count(1) > 20
    empty = [(prediction.any(), label.any()) for prediction, label in pairs]
    assert all(empty.count(kind) > 1 for kind in [(False, False), (False, True), (True, False), (True, True)])


@pytest.mark.filterwarnings("ignore")
def test_every_metric_agrees_with_monai_on_200_random_masks():
    for prediction, label in random_pairs(1):
        pair = [torch.tensor(mask)[None, None].float() for mask in (prediction, label)]
        hits, extra, rejected, missed = get_confusion_matrix(*pair)[0, 0].tolist()
        theirs = {
            "dice": compute_dice(*pair, ignore_empty=False),
            "hd95": compute_hausdorff_distance(*pair, include_background=True, percentile=95),
            "nsd": compute_surface_dice(*pair, class_thresholds=[2.0], include_background=True),
            "iou": compute_iou(*pair, ignore_empty=False),
            "sensitivity": hits / (hits + missed) if hits + missed else math.nan,
            "specificity": rejected / (rejected + extra) if rejected + extra else math.nan,
            "pixel_accuracy": (hits + rejected) / label.size,
        }
        ours = case_metrics(prediction, label, 2)
        assert list(theirs) == list(METRICS) == list(ours)
        for name, value in theirs.items():
            value = float(value)
            if not math.isfinite(value):  # monai gives up: the empty rules of case_metrics
                both = not prediction.any() and not label.any()
                diagonal = 0 if both else math.hypot(*label.shape)
                value = {"hd95": diagonal, "nsd": float(both), "dice": 1, "iou": 1, "sensitivity": 1, "specificity": 1}[
                    name
                ]
            assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


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
    assert metrics["nsd"] == 1


def test_nsd_counts_the_edge_pixels_of_both_masks_within_the_tolerance():
    prediction, label = np.zeros((1, 12), dtype=bool), np.zeros((1, 12), dtype=bool)
    prediction[0, :8] = label[0, :3] = True  # one row: all its pixels are edge; distances 0 0 0 1 2 3 4 5, and 0 0 0
    assert edge_metrics(prediction, label)["nsd"] == pytest.approx((5 + 3) / 11)
    assert edge_metrics(prediction, label, spacing=1.0)["nsd"] == pytest.approx((4 + 3) / 11)  # 1 mm is 1 pixel
    assert edge_metrics(prediction, label, spacing=(9.0, 0.25))["nsd"] == pytest.approx((7 + 3) / 11)  # 4 pixels


def test_nsd_on_the_tolerance_does_not_depend_on_the_place():
    for left in range(40):
        first, second = square(2, left, 1, (5, 60)) > 0, square(2, left + 10, 1, (5, 60)) > 0
        assert edge_metrics(first, second, spacing=0.1)["nsd"] == 1  # 10 pixels of 0.1 mm
        assert edge_metrics(first, square(3, left + 10, 1, (5, 60)) > 0, spacing=0.1)["nsd"] == 0


def test_distances_are_searched_once_for_hd95_and_nsd(monkeypatch):
    trees, tree = [], metrics_module.KDTree
    monkeypatch.setattr(metrics_module, "KDTree", lambda points: trees.append(1) or tree(points))
    case_metrics(square(3, 4, 6), square(5, 4, 6), 2)
    assert len(trees) == 2


def test_identical_masks_are_perfect():
    perfect = {"dice": 1, "hd95": 0, "nsd": 1, "iou": 1, "sensitivity": 1, "specificity": 1, "pixel_accuracy": 1}
    assert case_metrics(square(3, 4, 6), square(3, 4, 6), 2) == perfect


def test_both_masks_empty_are_perfect():
    empty = np.zeros((20, 30))
    perfect = {"dice": 1, "hd95": 0, "nsd": 1, "iou": 1, "sensitivity": 1, "specificity": 1, "pixel_accuracy": 1}
    assert case_metrics(empty, empty, 2) == perfect


def test_one_empty_mask_counts_as_the_image_diagonal():
    empty, lesion = np.zeros((20, 30)), square(3, 4, 6)
    for prediction, label in ((empty, lesion), (lesion, empty)):
        metrics = case_metrics(prediction, label, 2)
        assert metrics["dice"] == metrics["iou"] == metrics["nsd"] == 0
        assert metrics["hd95"] == pytest.approx(math.sqrt(20**2 + 30**2))
    assert case_metrics(empty, lesion, 2, spacing=(0.5, 2))["hd95"] == pytest.approx(math.sqrt(10**2 + 60**2))
    assert case_metrics(empty, lesion, 2)["sensitivity"] == 0


def test_label_that_fills_the_image_is_not_nan():
    full = np.ones((8, 8))
    assert case_metrics(full, full, 2)["specificity"] == 1
    assert all(math.isfinite(value) for value in case_metrics(np.zeros((8, 8)), full, 2).values())


@pytest.mark.parametrize("spacing", [None, (0.5, 0.2)])
def test_deleting_the_prediction_never_improves_a_case_with_a_lesion(spacing):
    # specificity and pixel accuracy reward background and are no part of this
    for prediction, label in random_pairs(2):
        if label.any():
            kept, deleted = (case_metrics(mask, label, 2, spacing) for mask in (prediction, np.zeros_like(label)))
            assert deleted["hd95"] >= kept["hd95"]
            assert all(deleted[name] <= kept[name] for name in ("dice", "iou", "nsd", "sensitivity"))


def test_deleting_predictions_never_improves_the_means():
    kept, deleted = SegmentationMetrics(2), SegmentationMetrics(2)
    for i, (prediction, label) in enumerate(random_pairs(3, 60)):
        if label.any():
            kept.add(i, prediction, label, spacing=0.1)
            deleted.add(i, prediction & (i % 2 == 0), label, spacing=0.1)
    kept, deleted = kept.summary(), deleted.summary()
    assert kept["num_cases"] == deleted["num_cases"]
    for name in ("dice", "hd95", "hd95_mm", "nsd", "nsd_mm", "iou", "sensitivity"):
        assert deleted[name] > kept[name] if name in LOWER_IS_BETTER else deleted[name] < kept[name], name


def test_spacing_changes_hd95_and_nsd_alone():
    masks = square(2, 2, 6), square(5, 9, 6)
    pixels, scaled = case_metrics(*masks, 2), case_metrics(*masks, 2, spacing=0.1)
    assert scaled["hd95"] == pytest.approx(0.1 * pixels["hd95"])
    assert pixels["nsd"] < scaled["nsd"] == 1  # 2 and 10 pixels
    assert {**scaled, "hd95": 0, "nsd": 0} == {**pixels, "hd95": 0, "nsd": 0}


def test_multi_class_means_are_over_foreground_classes():
    label = square(2, 2, 6) + 2 * square(10, 15, 6)
    prediction = square(2, 2, 6)
    metrics = case_metrics(torch.tensor(prediction)[None], MetaTensor(label[None].astype(np.float32)), 3)
    assert (metrics["dice_class1"], metrics["dice_class2"], metrics["dice"]) == (1, 0, 0.5)
    assert (metrics["nsd_class1"], metrics["nsd_class2"], metrics["nsd"]) == (1, 0, 0.5)
    assert metrics["hd95"] == pytest.approx((0 + math.hypot(20, 30)) / 2)
    assert metrics["pixel_accuracy"] == pytest.approx(1 - 36 / 600)


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5)), r"prediction \(4, 4\) and label \(4, 5\) differ in size"),
        (np.zeros((2, 4, 4)), np.zeros((4, 4)), r"prediction must have the shape .* got \(2, 4, 4\)"),
        (np.full((4, 4), 0.7), np.zeros((4, 4)), "prediction holds the value 0.7, expected class indices 0..1"),
        (
            np.zeros((4, 4)),
            np.full((4, 4), 255),
            "label holds the value 255, expected class indices 0..1.*data::num_classes",
        ),
    ],
)
def test_bad_masks_are_refused(prediction, label, message):
    with pytest.raises(ValueError, match=message):
        case_metrics(prediction, label, 2)


@pytest.mark.parametrize("spacing", [0, -0.1, math.nan, math.inf, (0.1, 0), (0.1, 0.1, 0.1)])
def test_bad_spacing_is_refused(spacing):
    with pytest.raises(
        ValueError, match=r"case a.png: spacing must be a positive number or two .* got .*; see pixel_mm"
    ):
        SegmentationMetrics(2).add("a.png", square(3, 4, 6), square(3, 4, 6), spacing)


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


def test_millimeters_have_their_own_columns_and_are_never_mixed():
    metrics = SegmentationMetrics(2)
    row = metrics.add("a", square(2, 2, 6), square(5, 9, 6), spacing=0.1)
    assert row["hd95_mm"] == pytest.approx(0.1 * row["hd95"])
    assert row["nsd"] < row["nsd_mm"] == 1
    assert (metrics.summary()["hd95_mm"], metrics.summary()["nsd_mm"]) == (row["hd95_mm"], row["nsd_mm"])
    metrics.add("b", square(2, 2, 6), square(5, 9, 6))
    assert not {"hd95_mm", "nsd_mm"} & set(metrics.cases[1])
    assert not {"hd95_mm", "nsd_mm"} & set(metrics.summary())


def test_areas_are_of_all_foreground_classes_and_not_averaged():
    metrics = SegmentationMetrics(3)
    row = metrics.add("a", square(2, 2, 6), square(2, 2, 4) + 2 * square(10, 15, 6))
    assert (row["label_area"], row["predicted_area"]) == (16 + 36, 36)
    assert not {"label_area_mm2", "predicted_area_mm2"} & set(row)
    row = metrics.add("b", square(2, 2, 6), np.zeros((20, 30)), spacing=(0.5, 0.1))
    assert [row[name] for name in AREAS] == pytest.approx([0, 36, 0, 36 * 0.05])
    assert not set(AREAS) & set(metrics.summary())


def test_metric_added_to_the_rows_is_averaged():
    metrics = SegmentationMetrics(2)
    for case, error in (("a", 0.1), ("b", 0.3)):
        metrics.add(case, square(2, 2, 6), square(2, 2, 6))["ece"] = error
    assert metrics.summary()["ece"] == pytest.approx(0.2)


def test_no_cases_and_too_few_classes_are_refused():
    with pytest.raises(ValueError, match="no cases to summarize"):
        SegmentationMetrics(2).summary()
    with pytest.raises(ValueError, match="data::num_classes must be an integer of at least 2 .* got 1"):
        SegmentationMetrics(1)


def test_logits_become_class_indices():
    binary = torch.tensor([[[[-1.0, 0.0, 2.0]]]])
    assert logits_to_classes(binary).tolist() == [[[[0, 0, 1]]]]
    several = torch.tensor([[[[3.0, 0.0]], [[1.0, 1.0]], [[2.0, 5.0]]]])  # (1, 3, 1, 2)
    assert logits_to_classes(several).tolist() == [[[[0, 2]]]]
    one = LogitsToClassesd(keys="pred")({"pred": MetaTensor(several[0], meta={"filename_or_obj": "a.png"})})["pred"]
    assert one.shape == (1, 1, 2)
    assert one.dtype == torch.uint8
    assert one.meta["filename_or_obj"] == "a.png"


def test_probabilities_and_class_logits_mean_the_same():
    logits = torch.tensor([[[-1.0, 0.0, 2.0]]])  # (1, 1, 3), one case
    assert logits_to_probabilities(logits).tolist() == logits.sigmoid().tolist()
    two = class_logits(logits[None])[0]
    assert two[0].tolist() == [[0, 0, 0]]
    torch.testing.assert_close(logits_to_probabilities(two)[1:], logits.sigmoid())
    torch.testing.assert_close(class_logits(two[None])[0], two)


def test_titles_and_directions_of_metrics():
    titles = ["Dice", "HD95 (pixels)", "NSD (1 mm)", "pixel accuracy", "Dice, class 2"]
    assert [metric_title(name) for name in ("dice", "hd95", "nsd_mm", "pixel_accuracy", "dice_class2")] == titles
    assert lower_is_better("hd95_mm")
    assert lower_is_better("hd95_class2")
    assert not lower_is_better("dice")


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
