"""The cases of a report one by one: their figures, and pictures with the outlines of all masks.

Pictures are parts of report.json, so that the page can be made anew from it alone.

Legend: H rows, W columns.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..evaluation.case_table import CaseTable
from ..evaluation.evaluate import Evaluation, read_case
from ..evaluation.outlines import trace_outlines
from ..utils.options import ARMS

LABEL = "label"  # of the ground truth among the outlines
LENGTHS = ("hd95_mm", "hd95")  # the first that all rows have is told
PICTURE_BYTES = 3_300_000  # of all pictures in report.json
LEAST_BYTES = 5_000  # of a picture: below it a lesion can hardly be seen
SIDES = (480, 384, 320, 256, 224, 192, 160, 128)  # of a picture, the first that fits
QUALITY = 80  # of its JPEG
DIGITS = 4  # after the point


def list_cases(table: CaseTable, columns: Sequence[str], failures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A dict a case: case, patient, columns (texts and numbers of the datalist), label_area in pixels (None where it is
    unknown), failed (names of arms), and by arm the means over its seeds of dice and of hd95 or hd95_mm.

    Args:
        table: of all arms.
        columns: of the datalist, to tell.
        failures: of `list_failures`.
    """
    length = next((name for name in LENGTHS if all(name in row for row in table.all_rows)), None)
    metrics = {name: _means(table, name) for name in ("dice", length) if name}
    failed: dict[str, list[str]] = {}
    for failure in failures:
        failed.setdefault(failure["case"], []).append(failure["arm"])
    cases = []
    for i, (case, row) in enumerate(table.first.items()):
        cases.append(
            {
                "case": case,
                "patient": row.get("patient"),
                "columns": {name: row[name] for name in columns if row.get(name) not in (None, "")},
                "label_area": row.get("label_area"),
                "failed": list(dict.fromkeys(failed.get(case, []))),
                **{name: {arm: values[i] for arm, values in arms.items()} for name, arms in metrics.items()},
            }
        )
    return cases


def _means(table: CaseTable, name: str) -> dict[str, list[float]]:
    return {arm: table.values(arm, name).mean(axis=0).round(DIGITS).tolist() for arm in arms_in_order(table.runs)}


def arms_in_order(arms: Collection[str]) -> list[str]:
    """Teacher, control and student first."""
    return sorted(arms, key=lambda arm: ARMS.index(arm) if arm in ARMS else len(ARMS))


def judged_arm(arms: Collection[str]) -> str:
    """Whose cases are ranked and drawn: the student's, or else the control's, the teacher's, any other's."""
    return next((name for name in reversed(ARMS) if name in arms), next(iter(arms)))


def draw_pictures(
    dataset: Dataset, measured: Evaluation, names: Sequence[str], num_classes: int, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """The part `pictures` of a report.

    Args:
        dataset: that was evaluated.
        measured: of `evaluate` with outlines.
        names: of the cases, the most important first; the last ones are left out where there are too many.
        num_classes: with the background.
        class_names: of the foreground classes.

    Returns:
        seeds (the one of each arm whose masks are shown), classes, and cases: by name image (a data URI), size (W, H)
        of the image itself, and by source (label and arms) the outlines of each class, see `trace_outlines`.
    """
    outlines = {arm: (seed, lines) for (arm, seed), lines in measured.outlines.items() if lines is not None}
    arm, seed = next(iter(measured.outlines))
    order = [row["case"] for row in measured.rows if (row["arm"], row["seed"]) == (arm, seed)]
    indices, left, cases = {case: index for index, case in enumerate(order)}, PICTURE_BYTES, {}
    share = max(LEAST_BYTES, PICTURE_BYTES // len(order))
    for name in names:
        masks = {arm: lines[indices[name]] for arm, (_, lines) in outlines.items()}
        picture = _draw(read_case(dataset, indices[name]), masks, num_classes, share)
        left -= len(picture["image"]) + sum(len(line) for lines in picture["outlines"].values() for line in lines)
        if left < 0:
            break
        cases[name] = picture
    return {"seeds": {arm: seed for arm, (seed, _) in outlines.items()}, "classes": list(class_names), "cases": cases}


def _draw(case: Mapping[str, Any], masks: Mapping[str, Any], num_classes: int, share: int) -> dict[str, Any]:
    """One picture of about `share` bytes, as text."""
    label = trace_outlines(case["label"][0].numpy(), num_classes)
    outlines = {LABEL: label, **{arm: masks[arm] for arm in arms_in_order(masks)}}
    room = share - sum(len(line) for lines in outlines.values() for line in lines)
    pixels = (case["image"][0].clamp(0, 1) * 255).round().byte().numpy()  # (H, W)
    data = base64.b64encode(_encode(pixels, 3 * room // 4)).decode()
    return {"image": f"data:image/jpeg;base64,{data}", "size": [*pixels.shape[::-1]], "outlines": outlines}


def _encode(pixels: np.ndarray, budget: int) -> bytes:
    """Gray uint8 pixels (H, W) as a JPEG, at the largest of SIDES that fits, or else at the smallest."""
    picture, data = Image.fromarray(pixels), b""
    for side in SIDES:
        if data and side >= max(picture.size):  # this size was tried
            continue
        small, file = picture.copy(), io.BytesIO()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        small.save(file, "JPEG", quality=QUALITY, optimize=True)
        data = file.getvalue()
        if len(data) <= budget:
            break
    return data


def importance(report: Mapping[str, Any]) -> list[str]:
    """Names of all cases: those that the page shows at once, failures, and then from the worst to the best.

    Args:
        report: of `compile_report`.
    """
    shown = [one["case"] for one in report["picked"]] + [failure["case"] for failure in report["failures"]]
    return list(dict.fromkeys([*shown, *(case["case"] for case in worst_first(report["cases"]))]))


def worst_first(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cases in the order of the Dice of `judged_arm`."""
    return sorted(cases, key=lambda case: case["dice"][judged_arm(case["dice"])])


def short_name(case: Any) -> str:
    """The file's name without its folders."""
    return Path(str(case)).name
