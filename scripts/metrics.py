"""Segmentation metrics of class-index masks, per case and in the mean, and their MONAI parts; what logits stand for.

Dice, IoU, HD95, sensitivity, specificity and pixel accuracy (Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x), and
NSD, the surface Dice (Nikolov et al. 2018, arXiv:1809.04430). Every class of every case gets a number: no metric is nan
and no case is dropped, so that deleting a prediction cannot improve a mean, as it does with monai's
HausdorffDistanceMetric. Specificity and pixel accuracy cannot have this property: they reward background, and an empty
mask is all background.

HD95 is computed here and not by monai's compute_hausdorff_distance, whose float32 differs by up to 1e-5 pixels; the
definition is the same: edge pixels are those lost by an erosion with a cross, pixels outside the image count as
background, and of the two directed 95th percentiles (linear interpolation) the larger is taken. NSD is the share of the
same edge pixels, of both masks together, that lie within a tolerance of the other's edge: 2 pixels, and 1 mm where
lengths are in mm. The paper measures the length of the surface; pixels are counted here, as monai's
compute_surface_dice does unless it is told otherwise.

Legend: B batch, C classes with the background, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.handlers import from_engine
from monai.transforms import MapTransform
from monai.utils import CommonKeys as Keys
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from .utils.options import check_num_classes

METRICS = ("dice", "hd95", "nsd", "iou", "sensitivity", "specificity", "pixel_accuracy")
LOWER_IS_BETTER = frozenset({"hd95", "hd95_mm", "hd95_with_lesion", "hd95_mm_with_lesion", "ece"})
COUNTS = ("empty_label", "empty_prediction", "both_empty", "one_empty")
AREAS = ("label_area", "predicted_area", "label_area_mm2", "predicted_area_mm2")
NSD_TOLERANCE = 2.0  # pixels
NSD_TOLERANCE_MM = 1.0
_BY_CLASS = METRICS[:-1]
_LENGTHS = ("hd95", "nsd")  # these depend on the size of a pixel
TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95 (pixels)",
    "hd95_mm": "HD95 (mm)",
    "nsd": f"NSD ({NSD_TOLERANCE:g} pixels)",
    "nsd_mm": f"NSD ({NSD_TOLERANCE_MM:g} mm)",
    "ece": "ECE",
    "dice_with_lesion": "Dice (images with a lesion)",
    "hd95_with_lesion": "HD95 (pixels, images with a lesion)",
    "hd95_mm_with_lesion": "HD95 (mm, images with a lesion)",
}
UNITS = {name: TITLES[name].lower() for name in ("hd95", "hd95_mm", "nsd", "nsd_mm")}


def metric_title(name: str) -> str:
    """A metric as a reader knows it, such as "HD95 (pixels)" or "Dice, class 1"."""
    metric, _, number = name.partition("_class")
    return TITLES.get(metric, metric.replace("_", " ")) + (f", class {number}" if number else "")


def lower_is_better(name: str) -> bool:
    """Whether a small value of a metric is a good one; also of one class, such as hd95_class2."""
    return name.partition("_class")[0] in LOWER_IS_BETTER


def class_logits(logits: torch.Tensor) -> torch.Tensor:
    """Logits with one channel a class.

    One-channel x (B, 1, H, W) becomes [0, x] (B, 2, H, W), since softmax([0, x])[1] = sigmoid(x). Others are returned
    as they are.
    """
    return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits


def logits_to_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities, float32: the sigmoid of one channel (1, ...), the softmax over the classes of (C, ...)."""
    logits = logits.float()
    return logits.sigmoid() if logits.shape[0] == 1 else logits.softmax(dim=0)


def logits_to_classes(logits: torch.Tensor) -> torch.Tensor:
    """Class indices (B, 1, H, W), uint8, of logits (B, C, H, W); one channel is foreground where it is above 0."""
    if logits.shape[1] == 1:
        return (logits > 0).to(torch.uint8)
    return logits.argmax(dim=1, keepdim=True).to(torch.uint8)


class LogitsToClassesd(MapTransform):
    """Logits (C, H, W) of one image -> class indices (1, H, W), uint8; see `logits_to_classes`."""

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = logits_to_classes(d[key][None])[0]
        return d


def case_metrics(
    prediction: Any, label: Any, num_classes: int, spacing: float | Sequence[float] | None = None
) -> dict[str, float]:
    """The metrics of one case, means over the foreground classes 1..C-1; with C > 2 also `dice_class1` and so on.

    Per class: both masks empty give Dice, NSD, IoU and sensitivity 1 and HD95 0; exactly one empty gives Dice, NSD and
    IoU 0 and HD95 the image diagonal sqrt((H sy)^2 + (W sx)^2), longer than any distance in the image. Sensitivity is 1
    where the label is empty, specificity where it fills the image: there is nothing to get wrong. Pixel accuracy is
    over all pixels.

    Args:
        prediction: class indices (1, H, W) or (H, W), array or tensor.
        label: class indices, as `prediction`.
        num_classes: with the background.
        spacing: size of a pixel in mm, one number or (sy, sx); HD95 is then in mm and NSD's tolerance 1 mm. None is
            pixels, and a tolerance of 2 pixels.

    Raises:
        ValueError: the sizes differ, a value is no class index, or the spacing is not positive.
    """
    prediction = _class_map(prediction, "prediction", num_classes)
    label = _class_map(label, "label", num_classes)
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction {prediction.shape} and label {label.shape} differ in size (H, W); a mask needs the size of "
            "its image."
        )
    scores = [_class_metrics(prediction == c, label == c, spacing) for c in range(1, num_classes)]
    metrics = {name: float(np.mean([score[name] for score in scores])) for name in _BY_CLASS}
    metrics["pixel_accuracy"] = float(np.mean(prediction == label))
    if num_classes > 2:
        metrics.update(
            {f"{name}_class{c}": score[name] for name in _BY_CLASS for c, score in enumerate(scores, start=1)}
        )
    return metrics


def case_dice(prediction: Any, label: Any, num_classes: int) -> float:
    """The Dice of `case_metrics`, without the search for edges that its lengths need."""
    masks = [_class_map(mask, name, num_classes) for mask, name in ((prediction, "prediction"), (label, "label"))]
    return float(np.mean([_dice(*(mask == c for mask in masks)) for c in range(1, num_classes)]))


def _class_map(mask: Any, name: str, num_classes: int) -> np.ndarray:
    """(H, W) int64 class indices."""
    mask = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"{name} must have the shape (1, H, W) or (H, W), got {mask.shape}.")
    classes = mask.astype(np.int64)
    wrong = (classes != mask) | (classes < 0) | (classes >= num_classes)
    if wrong.any():
        raise ValueError(
            f"{name} holds the value {mask[wrong][0]}, expected class indices 0..{num_classes - 1}; "
            "correct it or data::num_classes."
        )
    return classes


def _class_metrics(
    prediction: np.ndarray, label: np.ndarray, spacing: float | Sequence[float] | None
) -> dict[str, float]:
    """Metrics of one class from boolean masks (H, W)."""
    hits = int(np.sum(prediction & label))
    extra, missed = int(prediction.sum()) - hits, int(label.sum()) - hits
    rejected = label.size - hits - extra - missed
    return {
        "dice": _dice(prediction, label),
        **edge_metrics(prediction, label, spacing),
        "iou": _ratio(hits, hits + extra + missed),
        "sensitivity": _ratio(hits, hits + missed),
        "specificity": _ratio(rejected, rejected + extra),
    }


def _dice(prediction: np.ndarray, label: np.ndarray) -> float:
    return _ratio(2 * int(np.sum(prediction & label)), int(prediction.sum()) + int(label.sum()))


def _ratio(part: int, whole: int) -> float:
    """part / whole; 1 when there is nothing to get wrong."""
    return part / whole if whole else 1.0


def edge_metrics(
    prediction: np.ndarray, label: np.ndarray, spacing: float | Sequence[float] | None = None
) -> dict[str, float]:
    """`hd95` and `nsd` of boolean masks (H, W), from one search for the nearest edge pixels.

    NSD's tolerance is 2 pixels, with a spacing (in mm) 1 mm. Empty masks as in `case_metrics`.
    """
    pixel = _pixel_size(spacing)
    if not prediction.any() and not label.any():
        return {"hd95": 0.0, "nsd": 1.0}
    if not prediction.any() or not label.any():
        return {"hd95": math.hypot(*(np.asarray(label.shape) * pixel)), "nsd": 0.0}
    edges = [np.argwhere(mask & ~binary_erosion(mask)) * pixel for mask in (prediction, label)]
    directed = [KDTree(other).query(edge)[0] for edge, other in (edges, edges[::-1])]
    tolerance = NSD_TOLERANCE if spacing is None else NSD_TOLERANCE_MM
    # 10 pixels of 0.1 mm are 1 mm, wherever rounding puts them
    near = np.concatenate(directed) <= tolerance * (1 + 1e-9)
    return {"hd95": float(max(np.quantile(distances, 0.95) for distances in directed)), "nsd": float(np.mean(near))}


def _pixel_size(spacing: float | Sequence[float] | None) -> np.ndarray:
    """(sy, sx); 1 where there is no spacing."""
    pixel = np.asarray(1.0 if spacing is None else spacing, dtype=np.float64)
    if pixel.shape not in ((), (1,), (2,)) or not (np.isfinite(pixel) & (pixel > 0)).all():
        raise ValueError(
            f"spacing must be a positive number or two (sy, sx) in mm, got {spacing}; see pixel_mm in data::datalist."
        )
    return np.broadcast_to(pixel, 2)


class SegmentationMetrics:
    """Collects the metrics of cases.

    `cases` holds a row a case: its name, METRICS, the areas of AREAS (foreground pixels of label and prediction),
    COUNTS (foreground classes whose masks are empty in this case; 0 or 1 with two classes) and, where a spacing was
    given, `hd95_mm`, `nsd_mm` and the areas in mm^2.

    Args:
        num_classes: with the background.
        cases: rows to start from.
    """

    def __init__(self, num_classes: int, cases: Iterable[dict] = ()) -> None:
        check_num_classes(num_classes)
        self.num_classes = num_classes
        self.cases: list[dict] = list(cases)

    def add(self, case: str, prediction: Any, label: Any, spacing: float | Sequence[float] | None = None) -> dict:
        """Compute, keep and return the row of one case.

        Args:
            case: its name.
            prediction: class indices (1, H, W) or (H, W).
            label: class indices, as `prediction`.
            spacing: size of a pixel in mm, one number or (sy, sx): adds `hd95_mm`, `nsd_mm` and the areas in mm^2;
                `hd95`, `nsd` (tolerance 2 pixels) and the other areas stay in pixels.
        """
        try:
            row = {"case": str(case), **case_metrics(prediction, label, self.num_classes)}
            if spacing is not None:
                scaled = case_metrics(prediction, label, self.num_classes, spacing)
                row.update({f"{name}_mm": scaled[name] for name in _LENGTHS})
        except ValueError as error:
            raise ValueError(f"case {case}: {error}") from None
        masks = [_class_map(mask, "mask", self.num_classes) for mask in (label, prediction)]
        row.update({**_areas(*masks, spacing), **self._count_empty(*masks)})
        self.cases.append(row)
        return row

    def _count_empty(self, label: np.ndarray, prediction: np.ndarray) -> dict[str, int]:
        empty = [np.bincount(mask.ravel(), minlength=self.num_classes)[1:] == 0 for mask in (label, prediction)]
        sums = empty[0].sum(), empty[1].sum(), (empty[0] & empty[1]).sum(), (empty[0] ^ empty[1]).sum()
        return {name: int(value) for name, value in zip(COUNTS, sums)}

    def summary(self) -> dict[str, float]:
        """`num_cases`, the sums of COUNTS, and the mean of each metric over all cases, without AREAS.

        `hd95_mm` and `nsd_mm` are there when every case has them.
        """
        if not self.cases:
            raise ValueError(
                "there are no cases to summarize, expected at least one; check the lists in data::datalist."
            )
        names = [name for name in self.cases[0] if name != "case" and name not in (*COUNTS, *AREAS)]
        shared = [name for name in names if all(name in row for row in self.cases)]
        means = {name: float(np.mean([row[name] for row in self.cases])) for name in shared}
        counts = {name: sum(row[name] for row in self.cases) for name in COUNTS}
        return {"num_cases": len(self.cases), **means, **counts}


def _areas(label: np.ndarray, prediction: np.ndarray, spacing: float | Sequence[float] | None) -> dict[str, float]:
    """AREAS of class indices (H, W): all foreground classes together."""
    areas = [int(np.count_nonzero(mask)) for mask in (label, prediction)]
    if spacing is not None:
        areas += [area * float(np.prod(_pixel_size(spacing))) for area in areas]
    return dict(zip(AREAS, areas))


class SegmentationScore(Metric):
    """All METRICS in one pass of an ignite engine, Dice under the name that it is attached by.

    As key metric `val_mean_dice` it also fills `val_mean_hd95`, `val_mean_iou` and so on in `engine.state.metrics`; a
    name without "dice" is followed by `_hd95` and so on. Under a distributed engine the ranks' cases are put together,
    and a case that several ranks have seen counts once, by the item "case" of the batch.

    Args:
        num_classes: with the background.
        output_transform: engine output -> lists (or batches) of class indices (1, H, W): predictions and labels.
    """

    def __init__(self, num_classes: int, output_transform: Callable | None = None) -> None:
        self.num_classes = num_classes
        super().__init__(output_transform or from_engine([Keys.PRED, Keys.LABEL]))

    def reset(self) -> None:
        """Forget all cases."""
        self.scores = SegmentationMetrics(self.num_classes)

    def iteration_completed(self, engine: Engine) -> None:
        """Add the cases of the engine's output."""
        self.update((*self._output_transform(engine.state.output), _case_names(engine.state.batch)))

    def update(self, output: Sequence) -> None:
        """Add (predictions, labels) or (predictions, labels, names); without names no two cases are the same."""
        predictions, labels, names = (*output, None)[:3]
        if names is None:
            first = len(self.scores.cases)
            names = [f"rank {idist.get_rank()}, case {first + i}" for i in range(len(labels))]
        for name, prediction, label in zip(names, predictions, labels):
            self.scores.add(name, prediction, label)

    def compute(self) -> dict[str, float]:
        """The summary over all ranks; see `SegmentationMetrics.summary`."""
        cases = self.scores.cases
        if idist.get_world_size() > 1:
            cases = [row for rows in idist.all_gather(cases) for row in rows]
        by_case = {row["case"]: row for row in cases}
        # in an order that does not depend on who has seen which case, so that the means are the same to the last bit
        return SegmentationMetrics(self.num_classes, [by_case[case] for case in sorted(by_case)]).summary()

    def completed(self, engine: Engine, name: str) -> None:
        """Write the means to `engine.state.metrics`."""
        summary = self.compute()
        engine.state.metrics[name] = summary["dice"]
        for metric in METRICS[1:]:
            title = name.replace("dice", metric) if "dice" in name else f"{name}_{metric}"
            engine.state.metrics[title] = summary[metric]


def _case_names(batch: Any) -> list[str] | None:
    """The item "case" of a batch, decollated or not; None where there is none."""
    if isinstance(batch, Mapping):
        return batch.get("case")
    if batch and all(isinstance(item, Mapping) and "case" in item for item in batch):
        return [item["case"] for item in batch]
    return None
