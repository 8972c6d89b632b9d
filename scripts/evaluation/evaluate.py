"""Evaluation of networks on test cases at their original size: the measurements of every case.

Each image is resized as in training, the logits are resized back, and the metrics count pixels of the original image. A
teacher gets the images that the student gets and resizes them itself, as it does when it teaches. Several ranks share
the cases, and find what one process finds, to the last bit. report/run_evaluation.py writes the results of a run.

Legend: C channels, H W pixels of the original image.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import nn
from torch.utils.data import Dataset

from ..data.segment import segment_and_detect
from ..metrics import AREAS, COUNTS, METRICS, SegmentationMetrics, logits_to_classes, logits_to_probabilities
from ..utils.options import logit_channels
from ..utils.screen import track
from .calibration import Reliability
from .case_table import CONFIDENCE, OFFSET, PRESENCE
from .detection import mask_confidence
from .lesion_free import summarize_apart
from .outlines import trace_outlines
from .probes import offset_from_middle

NO_SUBGROUPS = ("image", "label", "patient", "pixel_mm", "orig_size", "lesion_free")  # of a datalist's entry
# columns of a row that the datalist cannot give
MEASURED = ("case", "arm", "seed", OFFSET, PRESENCE, CONFIDENCE, *METRICS, *AREAS, *COUNTS)


class Arm(NamedTuple):
    """A network to evaluate.

    Args:
        name: `teacher`, `student` (distilled) or `control` in a comparison.
        network: images -> logits.
        img_size: side of its input in pixels, data::img_size.
        seed: of its training.
    """

    name: str
    network: nn.Module
    img_size: int
    seed: int = 0


class Measured(NamedTuple):
    """One case by one arm.

    Args:
        row: its metrics.
        about: what else the tables hold: patient, arm, seed and columns of the datalist.
        reliability: of its pixels.
        seconds: from the image to its logits; None of a network that reads what it said before from the disk.
        outlines: of its mask by class, see outlines.py; None where they were not asked for.
    """

    row: dict[str, Any]
    about: dict[str, Any]
    reliability: Reliability
    seconds: float | None = None
    outlines: list[str] | None = None


@dataclass
class Evaluation:
    """What was measured.

    Args:
        rows: one a case, arm and seed, see case_table.py; case is the image below the folder that all share.
        reliability: of each arm, over its seeds.
        summary: of each arm and seed, see `SegmentationMetrics.summary` and `lesion_free.summarize_apart`.
        seconds: of each arm and seed, of one image, the median; None where it was not measured.
        outlines: of each arm and seed, in the order of the data set; None where they were not asked for.
    """

    rows: list[dict[str, Any]]
    reliability: dict[str, Reliability]
    summary: dict[tuple[str, int], dict[str, float]]
    seconds: dict[tuple[str, int], float | None]
    outlines: dict[tuple[str, int], list[list[str]] | None]


def evaluate(
    dataset: Dataset,
    arms: Sequence[Arm],
    num_classes: int,
    device: torch.device | str = "cpu",
    autocast: AbstractContextManager | None = None,
    with_outlines: bool = False,
) -> Evaluation:
    """Measure all arms on every case in one pass over the list.

    Ranks share the cases, and each of them gets the whole result.

    Args:
        dataset: gives image (1, H, W) in [0, 1], label (1, H, W) class indices, both at their original size, and case,
            the path of the image. The entries of its `data` (or the items, where it has none) may hold patient, columns
            for subgroups, and pixel_mm: one number or (row, column), in mm. It is the size of a pixel of the image as
            it is or, with orig_size (W, H), of an image of that size.
        arms: their networks are put in eval mode. Each returns logits, or a named tuple with `logits`, from
            (1, 1, img_size, img_size).
        num_classes: with the background.
        device: of the networks.
        autocast: context in which the networks run.
        with_outlines: trace the masks too, of the first seed of each arm.

    Raises:
        ValueError: no cases, no arm, or a case or network that does not fit.
    """
    if not arms:
        raise ValueError("networks holds no network to evaluate, expected at least one such as student.")
    _check_cases(dataset)
    for arm in arms:
        arm.network.to(device).eval()
    share = range(idist.get_rank(), len(dataset), idist.get_world_size())
    measured, traced = [], _first_seeds(arms) if with_outlines else []
    for index in track(share, "Evaluating", len(share), show=idist.get_rank() == 0):
        case = read_case(dataset, index)
        measured += [(index, _measure(arm, case, num_classes, device, autocast, arm in traced)) for arm in arms]
    if idist.get_world_size() > 1:
        measured = [pair for pairs in idist.all_gather(measured) for pair in pairs]
    measured = [one for _, one in sorted(measured, key=lambda pair: pair[0])]
    return _put_together(measured, [(arm.name, arm.seed) for arm in arms], num_classes)


def evaluate_masks(
    dataset: Dataset, masks: Callable[[int], Any], num_classes: int, name: str, seed: int = 0
) -> Evaluation:
    """Measure masks that another program made, as `evaluate` measures those of networks.

    Calibration and confidence are not there: a mask has no probabilities.

    Args:
        dataset: see `evaluate`.
        masks: from the index of a case to its class indices (1, H, W), at the image's original size.
        num_classes: with the background.
        name: of the arm that they count as.
        seed: of the arm.

    Raises:
        ValueError: no cases, or a case or mask that does not fit.
    """
    _check_cases(dataset)
    measured = []
    for index in track(range(len(dataset)), "Evaluating", len(dataset)):
        case = read_case(dataset, index)
        row = _compare(case, masks(index), num_classes)
        measured.append(Measured(row, _about(case, name, seed), Reliability()))
    return _put_together(measured, [(name, seed)], num_classes)


def _check_cases(dataset: Dataset) -> None:
    if len(dataset) == 0:
        raise ValueError(
            "the data set to evaluate has no cases, expected at least one; check the list test in data::datalist."
        )


def _first_seeds(arms: Sequence[Arm]) -> list[Arm]:
    """Of arms with several seeds the first."""
    return list({arm.name: arm for arm in reversed(arms)}.values())


def _measure(
    arm: Arm,
    case: Mapping[str, Any],
    num_classes: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None,
    with_outlines: bool,
) -> Measured:
    started = time.perf_counter()
    logits, presence = detect_case(arm, case, num_classes, device, autocast)
    seconds = None if getattr(arm.network, "reads_views", False) else time.perf_counter() - started
    mask = logits_to_classes(logits[None])[0]
    row = _compare(case, mask, num_classes)
    reliability = Reliability()
    row["ece"] = reliability.add(logits_to_probabilities(logits), case["label"])
    sure = {CONFIDENCE: mask_confidence(logits, presence), **({} if presence is None else {PRESENCE: presence})}
    about = {**_about(case, arm.name, arm.seed), **sure}
    return Measured(row, about, reliability, seconds, trace_outlines(mask[0], num_classes) if with_outlines else None)


def _compare(case: Mapping[str, Any], mask: Any, num_classes: int) -> dict[str, Any]:
    """The metrics of a mask (1, H, W) of a case."""
    return SegmentationMetrics(num_classes).add(case["case"], mask, case["label"], case["spacing"])


def _about(case: Mapping[str, Any], name: str, seed: int) -> dict[str, Any]:
    """What the tables hold of a case and an arm besides the metrics."""
    about = {"patient": case["patient"], "arm": name, "seed": seed, **case["columns"]}
    return {**about, OFFSET: offset_from_middle(case["label"])}


def _put_together(measured: Sequence[Measured], arms: Sequence[tuple[str, int]], num_classes: int) -> Evaluation:
    """The measurements of each case, in the order of the data set, as one evaluation: by arm and seed."""
    reliability = {name: Reliability() for name, _ in arms}
    groups: dict[tuple[str, int], list[Measured]] = {key: [] for key in arms}
    for one in measured:
        reliability[one.about["arm"]].merge(one.reliability)
        groups[one.about["arm"], one.about["seed"]].append(one)
    summary = {
        key: {
            **SegmentationMetrics(num_classes, [one.row for one in group]).summary(),
            **summarize_apart([one.row for one in group]),
        }
        for key, group in groups.items()
    }
    rows = [{"case": one.row["case"], **one.about, **one.row} for group in groups.values() for one in group]
    short = _without_folder([row["case"] for row in rows])
    return Evaluation(
        [{**row, "case": short[row["case"]]} for row in rows],
        reliability,
        summary,
        {key: _median([one.seconds for one in group]) for key, group in groups.items()},
        {key: _all_or_none([one.outlines for one in group]) for key, group in groups.items()},
    )


def _median(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.median(values))


def _all_or_none(values: list[Any]) -> list[Any] | None:
    return None if None in values else values


def _without_folder(cases: Sequence[str]) -> dict[str, str]:
    """By case its path below the folder that all share, so that results name no machine's folders.

    Names that are no absolute paths stay as they are.
    """
    if not all(map(os.path.isabs, cases)):
        return {case: case for case in cases}
    folder = os.path.commonpath([os.path.dirname(case) for case in cases])
    return {case: os.path.relpath(case, folder) for case in cases}


def segment_case(
    arm: Arm,
    case: Mapping[str, Any],
    num_classes: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None,
) -> torch.Tensor:
    """The logits of `detect_case` alone, with its arguments."""
    return detect_case(arm, case, num_classes, device, autocast)[0]


def detect_case(
    arm: Arm,
    case: Mapping[str, Any],
    num_classes: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None,
) -> tuple[torch.Tensor, float | None]:
    """An arm's logits (C, H, W) of a case, on the CPU, and the probability that it shows any foreground.

    The second is None of a network that does not tell it.

    Args:
        arm: its network is in eval mode, on the device.
        case: of `read_case`.
        num_classes: with the background.
        device: of the network.
        autocast: context in which the network runs.

    Raises:
        ValueError: logits of other classes, or that are nan.
    """
    logits, presence = segment_and_detect(arm.network, case["image"], arm.img_size, device, autocast)
    _check_logits(logits, arm.name, case["case"], num_classes)
    return logits, presence


def read_case(dataset: Dataset, index: int) -> dict[str, Any]:
    """A case of the data set.

    Returns:
        image and label as plain tensors, case (its name), patient ("" where unknown), columns (further texts and
        numbers of the datalist) and spacing (None or (sy, sx) in mm).

    Raises:
        ValueError: no label, or one of another size than the image.
    """
    entry, item = getattr(dataset, "data", dataset)[index], dataset[index]
    case = str(item.get("case", entry["image"] if isinstance(entry["image"], str) else index))
    if item.get("label") is None:
        raise ValueError(f"case {case} has no label, which the evaluation needs; add it to data::datalist.")
    image, label = (convert_to_tensor(item[key], track_meta=False) for key in ("image", "label"))
    if image.shape != label.shape:
        raise ValueError(
            f"case {case}: image {tuple(image.shape)} and label {tuple(label.shape)} differ in size (1, H, W)."
        )
    columns = {key: value for key, value in entry.items() if isinstance(value, (str, int, float))}
    return {
        "case": case,
        "patient": "" if entry.get("patient") is None else entry["patient"],
        "columns": {key: value for key, value in columns.items() if key not in (*NO_SUBGROUPS, *MEASURED)},
        "image": image.float(),
        "label": label,
        "spacing": _spacing(entry, image.shape[-2:]),
    }


def _spacing(entry: Mapping[str, Any], shape: Sequence[int]) -> tuple[float, float] | None:
    """Size (sy, sx) in mm of a pixel of the image (H, W)."""
    if entry.get("pixel_mm") is None:
        return None
    pixel = np.broadcast_to(np.asarray(entry["pixel_mm"], dtype=np.float64), 2)
    width, height = entry.get("orig_size") or (shape[1], shape[0])
    return float(pixel[0] * height / shape[0]), float(pixel[1] * width / shape[1])


def _check_logits(logits: torch.Tensor, name: str, case: str, num_classes: int) -> None:
    channels = logit_channels(num_classes)
    if logits.shape[0] != channels:
        raise ValueError(
            f"network {name} gives {logits.shape[0]} channels of logits, expected {channels} for {num_classes} "
            "classes; its checkpoint is for other classes than data::num_classes."
        )
    if torch.isnan(logits).any():
        raise ValueError(
            f"network {name} gives nan logits for case {case}; pass --hardware::precision fp32 or check its checkpoint."
        )
