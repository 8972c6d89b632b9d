"""Evaluation of networks on test cases at their original size: the results of a run.

Each image is resized as in training, the logits are resized back, and the metrics count pixels of the original image. Writes
test_results.txt, metrics.csv (a row a case and network), summary.json and visualizations/test_sample_000.png and so on, each
file in one step.

Legend: C channels, H W pixels of the original image.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Resize
from monai.utils import convert_to_tensor
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from .files import atomic_path
from .metrics import COUNTS, METRICS, SegmentationMetrics, logits_to_classes
from .panels import draw_panels

logger = logging.getLogger(__name__)

NUM_WORST = 5
UNITS = {"hd95": "hd95 (pixels)", "hd95_mm": "hd95 (mm)"}


def run_evaluation(
    dataset: Dataset,
    networks: Mapping[str, nn.Module | None],
    output_dir: str | Path,
    num_classes: int,
    device: torch.device | str = "cpu",
    img_size: int | Mapping[str, int] = 224,
    num_panels: int = 8,
    autocast: AbstractContextManager | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, dict[str, float]]:
    """Evaluate networks on a data set and write the results.

    Args:
        dataset: gives image (1, H, W) in [0, 1], label (1, H, W) class indices, both at their original size, and case, the
            path of the image. The entries of its `data` (or the items, where it has none) may hold patient, and pixel_mm: one number
            or (row, column), in mm, of the image as it is or, with orig_size (W, H), of an image of that size.
        networks: by name, such as student and teacher, put in eval mode; None is passed over. Each returns logits, or a named
            tuple with `logits`, from (1, 1, img_size, img_size).
        output_dir: of the results.
        num_classes: with the background.
        device: of the networks.
        img_size: side of the networks' input; a mapping gives one to each network.
        num_panels: cases to draw, spread evenly over the list; of the networks student and teacher, or else of the first.
        autocast: context in which the networks run.
        class_names: of the foreground classes, for the panels.

    Returns:
        By network `SegmentationMetrics.summary`: num_cases, means over all cases, and counts of empty masks.

    Raises:
        ValueError: no cases, no network, or a case or network that does not fit.
    """
    networks = {name: network.to(device).eval() for name, network in networks.items() if network is not None}
    if not networks:
        raise ValueError("networks holds no network to evaluate, expected at least one such as student.")
    if len(dataset) == 0:
        raise ValueError("the data set to evaluate has no cases, expected at least one; check the list test in data::datalist.")
    sizes = {name: img_size[name] if isinstance(img_size, Mapping) else img_size for name in networks}
    output_dir = Path(output_dir)
    scores = {name: SegmentationMetrics(num_classes) for name in networks}
    chosen = {int(index) for index in np.linspace(0, len(dataset) - 1, min(num_panels, len(dataset)))}
    patients, panels = {}, []
    for index in tqdm(range(len(dataset)), "Evaluating", leave=False, disable=None):
        case = _read_case(dataset, index)
        patients[case["case"]] = case["patient"]
        masks = {}
        for name, network in networks.items():
            with autocast or nullcontext():
                logits = predict(network, case["image"], sizes[name], device)
            _check_logits(logits, name, case["case"], num_classes)
            masks[name] = logits_to_classes(logits[None])[0].cpu()
            scores[name].add(case["case"], masks[name], case["label"], case["spacing"])
        if index in chosen:
            panels.append(_panel(case, masks))
    for i, panel in enumerate(panels):  # after the last case, so that a bad one leaves no half results
        draw_panels([panel], output_dir / "visualizations" / f"test_sample_{i:03d}.png", num_classes, class_names)
    return _write_results(scores, patients, output_dir)


@torch.inference_mode()
def predict(network: nn.Module, image: torch.Tensor, img_size: int, device: torch.device | str) -> torch.Tensor:
    """Logits (C, H, W), float32, of an image (1, H, W) in [0, 1], through the network's (1, 1, img_size, img_size)."""
    resize = Resize((img_size, img_size), mode="bilinear", anti_aliasing=True)  # as preprocessing in configs/train.json
    logits = network(convert_to_tensor(resize(image), track_meta=False)[None].to(device))
    logits = getattr(logits, "logits", logits).float()
    return nn.functional.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)[0]


def _read_case(dataset: Dataset, index: int) -> dict[str, Any]:
    """Image and label of a case as plain tensors, its name, patient ("" where unknown) and spacing (None or (sy, sx) in mm)."""
    entry, item = getattr(dataset, "data", dataset)[index], dataset[index]
    case = str(item.get("case", entry["image"] if isinstance(entry["image"], str) else index))
    if item.get("label") is None:
        raise ValueError(f"case {case} has no label, which the evaluation needs; add it to data::datalist.")
    image, label = (convert_to_tensor(item[key], track_meta=False) for key in ("image", "label"))
    if image.shape != label.shape:
        raise ValueError(f"case {case}: image {tuple(image.shape)} and label {tuple(label.shape)} differ in size (1, H, W).")
    return {
        "case": case,
        "patient": entry.get("patient", ""),
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
            f"network {name} gives {logits.shape[0]} channels of logits, expected {channels} for {num_classes} classes; "
            "its checkpoint is for other classes than data::num_classes."
        )
    if torch.isnan(logits).any():
        raise ValueError(f"network {name} gives nan logits for case {case}; pass --hardware::precision fp32 or check its checkpoint.")


def _panel(case: Mapping[str, Any], masks: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What `draw_panels` draws of a case."""
    drawn = {name: masks[name] for name in ("teacher", "student") if name in masks} or {"student": next(iter(masks.values()))}
    row = {name: mask[0].numpy() for name, mask in {"image": case["image"], "label": case["label"], **drawn}.items()}
    return {**row, "title": Path(case["case"]).name}


def _write_results(
    scores: Mapping[str, SegmentationMetrics], patients: Mapping[str, Any], output_dir: Path
) -> dict[str, dict[str, float]]:
    summary = {name: score.summary() for name, score in scores.items()}
    contents = {
        "metrics.csv": _table(scores, patients),
        "summary.json": json.dumps(summary, indent=4) + "\n",
        "test_results.txt": results_text(summary, {name: score.cases for name, score in scores.items()}),
    }
    for name, content in contents.items():
        with atomic_path(output_dir / name) as partial:
            partial.write_text(content, encoding="utf-8", newline="")
    logger.info("results in %s\n%s", output_dir, contents["test_results.txt"])
    return summary


def _table(scores: Mapping[str, SegmentationMetrics], patients: Mapping[str, Any]) -> str:
    """A row a case and network; hd95_mm is blank where the size of a pixel is unknown."""
    rows = [{"network": name, "patient": patients[row["case"]], **row} for name, score in scores.items() for row in score.cases]
    names = dict.fromkeys(key for row in rows for key in row)
    first = ["case", "patient", "network"]
    measured = [key for key in names if key not in first and key not in COUNTS]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*first, *measured, *COUNTS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def results_text(summary: Mapping[str, Mapping[str, float]], cases: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The readable results: a column a network with means and counts, then the worst cases by Dice."""
    names = list(summary)
    shared = [key for key in summary[names[0]] if key != "num_cases" and key not in COUNTS]
    ordered = [key for key in (*METRICS[:2], "hd95_mm", *METRICS[2:]) if key in shared]
    ordered += [key for key in shared if key not in ordered]
    lines = [f"{summary[names[0]]['num_cases']} cases at their original size", "", _line("mean over all cases", names)]
    lines += [_line(UNITS.get(key, key), [f"{summary[name][key]:.4f}" for name in names]) for key in ordered]
    lines += ["", _line("masks without a pixel (of a class)", names)]
    lines += [_line(key.replace("_", " "), [str(summary[name][key]) for name in names]) for key in COUNTS]
    lines += ["one empty: Dice 0, HD95 the image diagonal; both empty: Dice 1, HD95 0. No case is left out."]
    for name in names:
        worst = sorted(cases[name], key=lambda row: row["dice"])[:NUM_WORST]
        lines += ["", f"worst by Dice, {name}", *(f"  {row['dice']:.4f}  {row['case']}" for row in worst)]
    return "\n".join(lines) + "\n"


def _line(title: str, values: Sequence[str]) -> str:
    return f"{title:<36}" + "".join(f"{value:>12}" for value in values)
