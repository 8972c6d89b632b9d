"""The page's section on whole images: lesions detected, images left empty, and the risk of the confident masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.case_table import FAILED_DICE, CaseTable
from ..evaluation.detection import detection_figures, risk_coverage
from .page import arm_legend, arm_name, as_interval, as_number, as_percent, as_plot, as_plots, as_table
from .plots import arm_style, risk_plot

MEASURES = {"sensitivity": "Sensitivity", "specificity": "Specificity", "auc": "AUC of presence"}
NO_DETECTION = "Confidences of the masks were not recorded."
ONE_KIND = """<p class="note">The list has images with a lesion alone, or without one alone: there is no image-level
sensitivity and specificity. A datalist may hold images without a lesion.</p>"""
DETECTION_NOTE = """<p class="note">Of whole images [95 % interval over patients]: sensitivity is the share of images
with a lesion whose mask is not empty, wherever its pixels lie. Specificity is the share of images without a lesion
whose mask is empty. AUC is of the presence probability, where the student is calibrated (python -m eval.presence).
</p>"""
RISK_NOTE = f"""<p class="note">Images in the order of the confidence of their masks, the most confident first. Coverage
is the share of the images that is kept, risk the mean of 1 - Dice of those, failures the share of those with a Dice
below {FAILED_DICE:g}. Where the line falls to the left, low confidence finds the poor masks.</p>"""


def measure_detection(table: CaseTable, arm: str) -> dict[str, Any]:
    """The part of an arm: `images` and `risk`, None where they cannot be told."""
    return {"images": detection_figures(table, arm), "risk": risk_coverage(table, arm)}


def render_detection(detection: Mapping[str, Mapping[str, Any]]) -> str:
    """Two tables and a plot, arms side by side; "" where no arm has either.

    Args:
        detection: by arm, see `measure_detection`.
    """
    images = {arm: part["images"] for arm, part in detection.items() if part.get("images")}
    risks = {arm: part["risk"] for arm, part in detection.items() if part.get("risk")}
    if not images and not risks:
        return ""
    return (_render_images(images) if images else ONE_KIND) + (_render_risks(risks) if risks else "")


def _render_images(images: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [title, *(as_interval(one[name]) if one.get(name) else "–" for one in images.values())]
        for name, title in MEASURES.items()
    ]
    rows += [
        ["Detected, of those with a lesion", *(_count(one, "detected", "with_lesion") for one in images.values())],
        ["Left empty, of those without", *(_count(one, "left_empty", "without") for one in images.values())],
    ]
    columns = ["Images", *map(arm_name, images)]
    return as_table("Images with and without a lesion", columns, {"": rows}) + DETECTION_NOTE


def _count(one: Mapping[str, Any], name: str, of: str) -> str:
    """Such as "81 of 90"; over several seeds all their images."""
    return f"{as_number(one.get(name), 0)} of {as_number(one[of] * one.get('num_seeds', 1), 0)}"


def _render_risks(risks: Mapping[str, Mapping[str, Any]]) -> str:
    names = ", ".join(arm_style(arm).name for arm in risks)
    plot = as_plot("Risk over coverage", risk_plot(risks, f"mean of 1 - Dice over coverage: {names}"))
    groups = {arm_style(arm).name: _risk_rows(risk["points"]) for arm, risk in risks.items()}
    columns = ["Coverage", "Confidence at least", "Mean of 1 - Dice", "Failures"]
    return arm_legend(risks) + as_plots([plot]) + as_table("Risk of the confident masks", columns, groups) + RISK_NOTE


def _risk_rows(points: Sequence[Mapping[str, float]]) -> list[list[str]]:
    return [
        [as_percent(p["coverage"]), as_number(p["confidence"]), as_number(p["risk"]), as_percent(p["failures"])]
        for p in points
    ]
