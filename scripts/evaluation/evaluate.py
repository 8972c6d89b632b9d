"""Evaluation of networks on test cases at their original size: the results of a run.

Each image is resized as in training, the logits are resized back, and the metrics count pixels of the original image. A
teacher gets the images that the student gets and resizes them itself, as it does when it teaches. Several ranks (see
distributed.py) share the cases, and find what one process finds, to the last bit. Writes test_results.txt, metrics.csv
(a row a case and arm), summary.json, visualizations/test_sample_000.png and so on, report.html and report.json, each
file in one step.

Legend: C channels, H W pixels of the original image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from monai.transforms import Resize
from monai.utils import convert_to_tensor
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from ..metrics import AREAS, COUNTS, METRICS, SegmentationMetrics, logits_to_classes
from ..report.findings import compile_report, judged_arm, pick_cases, read_curves
from ..report.panels import SOURCES, draw_panels
from ..report.sections import write_report
from ..run.distributed import naming_lost_ranks
from .calibration import Reliability, logits_to_probabilities
from .results import write_results

AGAIN = (
    "start the evaluation again. After a training, torchrun --max-restarts 3 does it, and configs/evaluate.json with "
    "--student::checkpoint and the run's best_epoch*.pt."
)
NO_SUBGROUPS = ("image", "label", "patient", "pixel_mm", "orig_size")  # of a datalist's entry


class Arm(NamedTuple):
    """What is evaluated: the network, the side of its input in pixels (data::img_size), and what it is called.

    name: `teacher`, `student` (distilled) or `control` in a comparison. seed: of its training.
    """

    name: str
    network: nn.Module
    img_size: int
    seed: int = 0


class Measured(NamedTuple):
    """Of one case by one arm: row, its metrics; about, what else the tables hold; reliability, of its pixels."""

    row: dict[str, Any]
    about: dict[str, Any]
    reliability: Reliability


@dataclass
class Evaluation:
    """What was measured.

    Args:
        rows: one a case, arm and seed: case (the image below the folder that all share), patient, arm, seed, columns of
            the datalist, metrics, areas and counts.
        reliability: of each arm, over its seeds.
        summary: of each arm and seed, see `SegmentationMetrics.summary`.
    """

    rows: list[dict[str, Any]]
    reliability: dict[str, Reliability]
    summary: dict[tuple[str, int], dict[str, float]]


def run_evaluation(
    dataset: Dataset,
    networks: Mapping[str, nn.Module | None],
    output_dir: str | Path,
    num_classes: int,
    device: torch.device | str = "cpu",
    img_size: int = 224,
    num_panels: int = 8,
    autocast: AbstractContextManager | None = None,
    class_names: Sequence[str] = (),
    margin: float = 0.02,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Evaluate networks on a data set and write the results.

    Args:
        dataset: see `evaluate`.
        networks: by name, such as student and teacher; None is passed over.
        output_dir: of the results; curves of a history.csv that lies there go into the report.
        num_classes: with the background.
        device: of the networks.
        img_size: side of the networks' input, data::img_size.
        num_panels: cases to draw, spread evenly over the list.
        autocast: context in which the networks run.
        class_names: of the foreground classes, for the panels.
        margin: mean Dice by which a student may be below its teacher and still count as non-inferior.
        seed: of the training of the student or control, for the tables.

    Returns:
        By network `SegmentationMetrics.summary`: num_cases, means over all cases, and counts of empty masks.

    Raises:
        ValueError: no cases, no network, or a case or network that does not fit.
    """
    seeds = {name: 0 if name == "teacher" else seed for name in networks}  # this run has not trained the teacher
    arms = [Arm(name, network, img_size, seeds[name]) for name, network in networks.items() if network is not None]
    with naming_lost_ranks(AGAIN):
        found = evaluate(dataset, arms, num_classes, device, autocast)
        summary = {name: means for (name, _), means in found.summary.items()}
        if idist.get_rank() == 0:
            output_dir = Path(output_dir)
            draw = CaseDrawer(dataset, arms, num_classes, device, autocast, class_names)
            for i, index in enumerate(
                sorted({int(i) for i in np.linspace(0, len(dataset) - 1, min(num_panels, len(dataset)))})
            ):
                draw(index, output_dir / "visualizations" / f"test_sample_{i:03d}.png")
            write_results(found.rows, summary, output_dir)
            curves = {judged_arm([arm.name for arm in arms]): {str(seed): read_curves(output_dir / "history.csv")}}
            report = compile_report(found.rows, found.reliability, title="Evaluation", curves=curves, margin=margin)
            write_report_with_cases(report, found.rows, draw, output_dir)
        idist.barrier()
    return summary


def evaluate(
    dataset: Dataset,
    arms: Sequence[Arm],
    num_classes: int,
    device: torch.device | str = "cpu",
    autocast: AbstractContextManager | None = None,
) -> Evaluation:
    """Measure all arms on every case in one pass over the list, which the ranks share; all of them get the whole.

    Args:
        dataset: gives image (1, H, W) in [0, 1], label (1, H, W) class indices, both at their original size, and case,
            the path of the image. The entries of its `data` (or the items, where it has none) may hold patient, columns
            for subgroups, and pixel_mm: one number or (row, column), in mm, of the image as it is or, with orig_size
            (W, H), of an image of that size.
        arms: their networks are put in eval mode. Each returns logits, or a named tuple with `logits`, from
            (1, 1, img_size, img_size).
        num_classes: with the background.
        device: of the networks.
        autocast: context in which the networks run.

    Raises:
        ValueError: no cases, no arm, or a case or network that does not fit.
    """
    if not arms:
        raise ValueError("networks holds no network to evaluate, expected at least one such as student.")
    if len(dataset) == 0:
        raise ValueError(
            "the data set to evaluate has no cases, expected at least one; check the list test in data::datalist."
        )
    for arm in arms:
        arm.network.to(device).eval()
    share = range(idist.get_rank(), len(dataset), idist.get_world_size())
    measured = []
    for index in tqdm(share, "Evaluating", leave=False, disable=idist.get_rank() > 0 or None):
        case = _read_case(dataset, index)
        measured += [(index, _measure(arm, case, num_classes, device, autocast)) for arm in arms]
    everyone = (
        [pair for pairs in idist.all_gather(measured) for pair in pairs] if idist.get_world_size() > 1 else measured
    )
    return _put_together([one for _, one in sorted(everyone, key=lambda pair: pair[0])], arms, num_classes)


def _measure(
    arm: Arm,
    case: Mapping[str, Any],
    num_classes: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None,
) -> Measured:
    logits = _segment(arm, case, num_classes, device, autocast)
    row = SegmentationMetrics(num_classes).add(
        case["case"], logits_to_classes(logits[None])[0], case["label"], case["spacing"]
    )
    reliability = Reliability()
    row["ece"] = reliability.add(logits_to_probabilities(logits), case["label"])
    about = {"patient": case["patient"], "arm": arm.name, "seed": arm.seed, **case["columns"]}
    return Measured(row, about, reliability)


def _put_together(measured: Sequence[Measured], arms: Sequence[Arm], num_classes: int) -> Evaluation:
    """What was measured of each case, in the order of the data set, as one evaluation: arm by arm."""
    reliability = {arm.name: Reliability() for arm in arms}
    groups: dict[tuple[str, int], list[Measured]] = {(arm.name, arm.seed): [] for arm in arms}
    for one in measured:
        reliability[one.about["arm"]].merge(one.reliability)
        groups[one.about["arm"], one.about["seed"]].append(one)
    summary = {key: SegmentationMetrics(num_classes, [one.row for one in own]).summary() for key, own in groups.items()}
    found = [{"case": one.row["case"], **one.about, **one.row} for own in groups.values() for one in own]
    short = _without_folder([row["case"] for row in found])
    return Evaluation([{**row, "case": short[row["case"]]} for row in found], reliability, summary)


def _without_folder(cases: Sequence[str]) -> dict[str, str]:
    """Absolute paths below the folder that they share, so that results name no machine's folders; other names as
    they are.
    """
    if not all(map(os.path.isabs, cases)):
        return {case: case for case in cases}
    folder = os.path.commonpath([os.path.dirname(case) for case in cases])
    return {case: os.path.relpath(case, folder) for case in cases}


def _segment(
    arm: Arm,
    case: Mapping[str, Any],
    num_classes: int,
    device: torch.device | str,
    autocast: AbstractContextManager | None,
) -> torch.Tensor:
    """An arm's logits (C, H, W) of a case, on the CPU, after a look at them."""
    with autocast or nullcontext():
        logits = predict(arm.network, case["image"], arm.img_size, device).cpu()
    _check_logits(logits, arm.name, case["case"], num_classes)
    return logits


@torch.inference_mode()
def predict(network: nn.Module, image: torch.Tensor, img_size: int, device: torch.device | str) -> torch.Tensor:
    """Logits (C, H, W), float32, of an image (1, H, W) in [0, 1], through the network's (1, 1, img_size, img_size)."""
    resize = Resize((img_size, img_size), mode="bilinear", anti_aliasing=True)  # as preprocessing in configs/train.json
    logits = network(convert_to_tensor(resize(image), track_meta=False)[None].to(device))
    logits = getattr(logits, "logits", logits).float()
    return nn.functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)[0]


def _read_case(dataset: Dataset, index: int) -> dict[str, Any]:
    """Image and label of a case as plain tensors, its name, patient ("" where unknown), further columns of the datalist
    (texts and numbers), and spacing (None or (sy, sx) in mm).
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
    columns = {
        key: value for key, value in entry.items() if isinstance(value, (str, int, float)) and key not in NO_SUBGROUPS
    }
    return {
        "case": case,
        "patient": "" if entry.get("patient") is None else entry["patient"],
        "columns": {
            key: value
            for key, value in columns.items()
            if key not in ("case", "arm", "seed", *METRICS, *AREAS, *COUNTS)
        },
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
    channels = 1 if num_classes == 2 else num_classes
    if logits.shape[0] != channels:
        raise ValueError(
            f"network {name} gives {logits.shape[0]} channels of logits, expected {channels} for {num_classes} "
            "classes; "
            "its checkpoint is for other classes than data::num_classes."
        )
    if torch.isnan(logits).any():
        raise ValueError(
            f"network {name} gives nan logits for case {case}; pass --hardware::precision fp32 or check its checkpoint."
        )


class CaseDrawer:
    """Draws cases with the masks of the teacher and of `judged_arm`; of several seeds the first is drawn.

    Args:
        dataset: as `evaluate`'s, and the other arguments too.
        class_names: of the foreground classes.
    """

    def __init__(
        self,
        dataset: Dataset,
        arms: Sequence[Arm],
        num_classes: int,
        device: torch.device | str,
        autocast: AbstractContextManager | None,
        class_names: Sequence[str] = (),
    ) -> None:
        by_name = {arm.name: arm for arm in reversed(arms)}
        judged = judged_arm(list(by_name))
        self.shown = {
            name if name in SOURCES else "student": by_name[name] for name in ("teacher", judged) if name in by_name
        }
        self.dataset, self.num_classes, self.class_names = dataset, num_classes, class_names
        self.device, self.autocast = device, autocast

    def __call__(self, index: int, path: Path) -> Path:
        """Draw a case of the data set as one row; returns the path of the PNG."""
        case = _read_case(self.dataset, index)
        masks = {"label": case["label"]}
        for name, arm in self.shown.items():
            masks[name] = logits_to_classes(_segment(arm, case, self.num_classes, self.device, self.autocast)[None])[0]
        row = {name: mask[0].numpy() for name, mask in {"image": case["image"], **masks}.items()}
        return draw_panels([{**row, "title": Path(case["case"]).name}], path, self.num_classes, self.class_names)


def write_report_with_cases(
    report: dict[str, Any], rows: Sequence[Mapping[str, Any]], draw: CaseDrawer, output_dir: Path
) -> Path:
    """Write report.html and report.json with panels of the best, median and worst cases; returns the path of the HTML.

    Args:
        report: of `findings.compile_report`.
        rows: of `Evaluation`; the order of an arm's cases is the data set's.
        draw: of the same data set.
        output_dir: of the files.
    """
    with TemporaryDirectory() as folder:
        panels = []
        for picked in pick_cases(rows):
            path = draw(picked.index, Path(folder) / f"{len(panels)}.png")
            panels.append({"group": picked.group, "title": picked.title, "png": path})
        return write_report(report, panels, output_dir)
