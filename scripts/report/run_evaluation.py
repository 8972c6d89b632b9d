"""An evaluation with its report: the last step of a training, or a run of its own with configs/evaluate.json.

Writes test_results.txt, metrics.csv (a row a case and arm), summary.json, visualizations/test_sample_000.png and so on,
report.html and report.json, each file in one step. Several ranks (see run/distributed.py) share the cases, and rank 0
writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ..evaluation.evaluate import Arm, Evaluation, evaluate, read_case, segment_case
from ..evaluation.results import write_results
from ..metrics import logits_to_classes
from ..run.distributed import naming_lost_ranks
from ..run.history import read_curves
from ..utils.options import ARMS, STUDENT, TEACHER, chosen_probes
from ..utils.screen import tell
from .cases import draw_pictures, importance, judged_arm
from .findings import compile_report
from .networks import describe_networks
from .panels import draw_panels
from .robustness import probe_arms
from .summary import probe_text, summary_text
from .write import write_report

RESTART_ADVICE = (
    "start the evaluation again. After a training, torchrun --max-restarts 3 does it, and configs/evaluate.json with "
    "--student::checkpoint and the run's best_epoch*.pt."
)


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
    notes: Sequence[str] = (),
    probes: str | Sequence[str] = (),
    data_name: str = "",
) -> dict[str, dict[str, float]]:
    """Evaluate networks on a data set, write the results and print a summary.

    Args:
        dataset: see `evaluate`.
        networks: by name, such as student and teacher; None is passed over.
        output_dir: of the results; curves of a history.csv that lies there go into the report.
        num_classes: with the background.
        device: of the networks.
        img_size: side of the networks' input, data::img_size.
        num_panels: cases to draw, spread evenly over the list.
        autocast: context in which the networks run.
        class_names: of the foreground classes.
        margin: mean Dice by which a student may be below its teacher and still count as non-inferior.
            [0 or more]
        seed: of the training of the student or control, for the tables.
        notes: on the data, for the results and the report.
        probes: changes of the images whose cost is measured too, a list of names or "all"; docs/robustness.md has
            them. All of them take 19 times as long as the evaluation.
            [list of names or "all"]
        data_name: of the data set, for the report.

    Returns:
        By network `SegmentationMetrics.summary`: num_cases, means over all cases, and counts of empty masks.

    Raises:
        ValueError: no cases, no network, or a case or network that does not fit.
    """
    probes = chosen_probes("final_evaluation::probes", probes)
    seeds = {name: 0 if name == TEACHER else seed for name in networks}  # this run has not trained the teacher
    arms = [Arm(name, network, img_size, seeds[name]) for name, network in networks.items() if network is not None]
    with naming_lost_ranks(RESTART_ADVICE):
        measured = evaluate(dataset, arms, num_classes, device, autocast, with_outlines=True)
        summary = {name: means for (name, _), means in measured.summary.items()}
        problems: list[str] = []
        probed = probe_arms(problems, dataset, arms, num_classes, device, autocast, probes) if probes else None
        if idist.get_rank() == 0:
            draw = CaseDrawer(dataset, arms, num_classes, device, autocast, class_names)
            draw_samples(draw, len(dataset), num_panels, Path(output_dir) / "visualizations")
            notes, title = [*notes, *problems], f"Evaluation on {data_name}" if data_name else "Evaluation"
            write_results(measured.rows, summary, Path(output_dir), class_names, notes)
            curves = {judged_arm(summary): {str(seed): read_curves(output_dir)}}
            report = compile_report(measured.rows, measured.reliability, title, curves, margin, problems=notes)
            report = add_cases(report, measured, arms, dataset, num_classes, device, data_name, class_names)
            report["probes"] = probed
            path = write_report(report, output_dir)
            if probed:
                tell(probe_text(probed))
            tell(summary_text(report, path))
        idist.barrier()
    return summary


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
        names = [name for name in (TEACHER, judged_arm(list(by_name))) if name in by_name]
        self.shown = {name if name in ARMS else STUDENT: by_name[name] for name in names}
        self.dataset, self.num_classes, self.class_names = dataset, num_classes, class_names
        self.device, self.autocast = device, autocast

    def __call__(self, index: int, path: Path) -> Path:
        """Draw a case of the data set as one row; returns the path of the PNG."""
        case = read_case(self.dataset, index)
        masks = {"label": case["label"]}
        for name, arm in self.shown.items():
            logits = segment_case(arm, case, self.num_classes, self.device, self.autocast)
            masks[name] = logits_to_classes(logits[None])[0]
        row = {name: mask[0].numpy() for name, mask in {"image": case["image"], **masks}.items()}
        return draw_panels([{**row, "title": Path(case["case"]).name}], path, self.num_classes, self.class_names)


def draw_samples(draw: CaseDrawer, num_cases: int, num_panels: int, folder: Path) -> None:
    """Draw `num_panels` cases, spread evenly over the list, as test_sample_000.png and so on."""
    indices = sorted({int(index) for index in np.linspace(0, num_cases - 1, min(num_panels, num_cases))})
    for i, index in enumerate(indices):
        draw(index, folder / f"test_sample_{i:03d}.png")


def add_cases(
    report: Mapping[str, Any],
    measured: Evaluation,
    arms: Sequence[Arm],
    dataset: Dataset,
    num_classes: int,
    device: torch.device | str = "cpu",
    data_name: str = "",
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """A report with pictures of its cases, and what is known of the data set and the networks.

    Args:
        report: of `findings.compile_report`.
        measured: of `evaluate` with outlines.
        arms: that were measured.
        dataset: that they were measured on.
        num_classes: with the background.
        device: of the networks.
        data_name: of the data set.
        class_names: of the foreground classes.
    """
    return {
        **report,
        "data": {"name": data_name, "classes": list(class_names)},
        "networks": describe_networks(arms, measured, device),
        "pictures": draw_pictures(dataset, measured, importance(report), num_classes, class_names),
    }
