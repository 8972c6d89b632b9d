"""Exported students compared with eager fp32 torch, and the export that keeps those within their limit.

Legend: B batch, C classes, H W pixels; H = W = img_size at both ends of a format.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.segment import restore_logits
from ..inference.export_sums import SUMS, read_sums, record_sums
from ..metrics import SegmentationMetrics, logits_to_classes
from ..networks.tinyusfm import TinyUSFMSeg
from ..utils.files import clear_leftovers, own_folder
from ..utils.libraries import library
from ..utils.options import logit_channels
from .cases import Case
from .formats import FORMATS, LOGIT_LIMIT, PROBABILITY_LIMIT, Runner, Setup, find_format, load_runner, torch_runner
from .metadata import describe
from .names import EXPORT_RECORD, INPUT, OUTPUT, PRESENCE
from .whole import Found, WholeRunner, load_whole, segment_in_torch


class Predictions(NamedTuple):
    """What a runner gives on all cases.

    outputs: of each case, logits (1, 1 or C, img_size, img_size), or of the whole way probabilities (1 or C, H, W).
    masks: (1, H, W) class indices at the original size. dice: mean over cases. ms: median time of an image.
    """

    outputs: list[torch.Tensor]
    masks: list[torch.Tensor]
    dice: float
    ms: float


class Check:
    """Compares formats with eager fp32 torch on the same cases.

    Dice is computed as in evaluation/evaluate.py: logits are resized bilinearly to the label, and the mean is over
    foreground classes and cases.

    Args:
        student: trained, on the CPU; put in eval mode.
        cases: at least one.
        num_classes: with the background.
    """

    def __init__(self, student: TinyUSFMSeg, cases: Sequence[Case], num_classes: int) -> None:
        self.student, self.cases = student, cases
        self.setup = Setup(student.img_size, num_classes, torch.get_num_threads())
        self.threshold = None if student.presence is None else float(student.presence.threshold)
        self.expected = self.run(torch_runner(student.eval(), self.setup.threads))

    @cached_property
    def expected_whole(self) -> Predictions:
        """The predictions of the whole way in torch, computed when a whole format is compared first."""
        return self.run_whole(partial(segment_in_torch, self.student))

    def run(self, runner: Runner) -> Predictions:
        """The predictions of a runner, one image at a time."""

        def restore(logits: torch.Tensor, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
            return logits, logits_to_classes(restore_logits(logits, case.label.shape[-2:]))[0]

        return self._run(lambda case: runner(case.image), restore)

    def run_whole(self, runner: WholeRunner) -> Predictions:
        """The predictions of a whole way, on each image in 8 bits at its own size."""

        def as_tensors(found: Found, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.from_numpy(found.probability), torch.from_numpy(found.mask)[None]

        return self._run(lambda case: runner(case.picture.numpy()), as_tensors)

    def _run(self, call: Callable[[Case], Any], finish: Callable[[Any, Case], tuple]) -> Predictions:
        """The predictions of a call, of which the time is taken; `finish` makes output and mask of what it gives."""
        call(self.cases[0])  # the first calls are slower
        scores, outputs, masks, times = SegmentationMetrics(self.setup.num_classes), [], [], []
        for case in self.cases:
            start = time.perf_counter()
            given = call(case)
            times.append(1000 * (time.perf_counter() - start))
            output, mask = finish(given, case)
            outputs.append(output)
            masks.append(mask)
            scores.add(case.name, mask, case.label)
        return Predictions(outputs, masks, scores.summary()["dice"], median(times))

    def compare(self, runner: Runner) -> dict[str, float]:
        """How a runner differs from torch.

        Returns:
            max_logit_difference: absolute, over the pixels of all cases; nan when a logit is not finite.
            mask_difference: share of pixels of another class, mean over cases.
            torch_dice, dice, dice_change: of torch, of the runner, and the runner's less torch's.
            ms: median time of an image.
        """
        return _difference(LOGIT_LIMIT.key, self.run(runner), self.expected)

    def compare_whole(self, runner: WholeRunner) -> dict[str, float]:
        """How a whole way differs from `whole.segment_in_torch`.

        Masks can differ only where a probability is as near to its threshold as `max_probability_difference`.

        Returns:
            As `compare`, with max_probability_difference in the place of the logits'.
        """
        return _difference(PROBABILITY_LIMIT.key, self.run_whole(runner), self.expected_whole)


def _difference(key: str, actual: Predictions, expected: Predictions) -> dict[str, float]:
    """What `Check.compare` returns; `key` names the largest difference of the outputs."""
    outputs = [float((a - b).abs().max()) for a, b in zip(actual.outputs, expected.outputs)]
    masks = [float((a != b).float().mean()) for a, b in zip(actual.masks, expected.masks)]
    return {
        key: max(outputs) if all(map(math.isfinite, outputs)) else math.nan,
        "mask_difference": float(np.mean(masks)),
        "torch_dice": expected.dice,
        "dice": actual.dice,
        "dice_change": actual.dice - expected.dice,
        "ms": actual.ms,
    }


def refusal(format: str, measured: Mapping[str, float]) -> str | None:
    """Why a format is not kept, with the numbers and the limit; None when it is within its limit."""
    row = find_format(format)
    largest = PROBABILITY_LIMIT if row.is_whole else LOGIT_LIMIT
    key, value = row.limit if math.isfinite(measured[largest.key]) else largest
    if abs(measured[key]) <= value:  # not so for nan
        return None
    return (
        f"{format} is refused: {key} is {measured[key]:.3g}, the limit is {value:g} ({largest.key} "
        f"{measured[largest.key]:.3g}, mean Dice {measured['torch_dice']:.4f} in torch and "
        f"{measured['dice']:.4f} in {format}); choose another format"
        f"{' or more images (--num_images)' if 'int8' in format else ''}."
    )


def export_student(
    student: TinyUSFMSeg,
    formats: Sequence[str],
    check: Check,
    calibration: Sequence[torch.Tensor],
    output: Path,
    about: Mapping[str, object] | None = None,
    node_modules: Path = Path("node_modules"),
) -> dict[str, str]:
    """Write a student in several formats, check each, and keep those within their limit. Prints a line for each.

    The folder appears complete and in one step. When every format is refused, it does not appear.

    Args:
        student: trained, on the CPU, in eval mode.
        formats: keys of FORMATS that can be written.
        check: of the same student.
        calibration: images (1, 1, img_size, img_size) in [0, 1] for int8.
        output: folder to make; one that is there is replaced.
        about: what the record says besides, such as the checkpoint. `class_names` and `checkpoint_sha256` go into the
            metadata of the files too.
        node_modules: folder with the libraries of formats that are packed.

    Returns:
        The reason by refused format.
    """
    about = dict(about or {})
    metadata = describe(student, check.setup.num_classes, about.get("class_names"), about.get("checkpoint_sha256"))
    _print_head(check.expected)
    clear_leftovers(output.parent)
    with own_folder(output) as folder:
        draft = folder / "new"
        draft.mkdir()
        measured = {
            format: _write(format, student, draft, calibration, check, metadata, node_modules) for format in formats
        }
        refusals = {format: reason for format, numbers in measured.items() if (reason := refusal(format, numbers))}
        kept = {format: numbers for format, numbers in measured.items() if format not in refusals}
        if kept:
            _finish(draft, kept, {**about, **_record(check, kept)})
            _replace(draft, output, folder / "old")
    return refusals


def _write(
    format: str,
    student: TinyUSFMSeg,
    draft: Path,
    calibration: Sequence[torch.Tensor],
    check: Check,
    metadata: Mapping[str, object],
    node_modules: Path,
) -> dict[str, float]:
    """Write a format into the draft; what `check` measures of it, and the bytes of its files."""
    row = FORMATS[format]
    files = [draft / name for name in row.files]
    if not files[0].exists():  # else another format has written it
        row.write(student, draft, calibration, metadata)
        record_sums(draft, row.made_of or row.files)
    if row.pack:
        row.pack(draft, node_modules)
        record_sums(draft, row.files)
    img_size, num_classes, threads = check.setup
    if row.is_whole:
        numbers = check.compare_whole(load_whole(draft, threads))
    else:
        numbers = check.compare(load_runner(format, draft, img_size, threads, num_classes))
    numbers["bytes"] = sum(file.stat().st_size for file in files)
    _print_row(format, numbers)
    return numbers


def _print_head(expected: Predictions) -> None:
    print(
        f"{'format':<14}{'difference':>12}{'pixels':>10}{'torch Dice':>12}{'Dice':>9}"
        f"{'change':>10}{'ms/image':>10}{'MB':>8}"
    )
    print(f"{'torch':<14}{'':>22}{expected.dice:>12.4f}{'':>19}{expected.ms:>10.1f}")


def _print_row(format: str, numbers: Mapping[str, float]) -> None:
    largest = next(value for key, value in numbers.items() if key.startswith("max_"))  # of logits or probabilities
    print(
        f"{format:<14}{largest:>12.2e}{numbers['mask_difference']:>10.3%}"
        f"{numbers['torch_dice']:>12.4f}{numbers['dice']:>9.4f}{numbers['dice_change']:>+10.5f}"
        f"{numbers['ms']:>10.1f}{numbers['bytes'] / 1e6:>8.1f}"
    )


def _record(check: Check, kept: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
    """What export.json says of the kept formats."""
    size, num_classes, threads = check.setup
    channels = logit_channels(num_classes)
    needs = dict.fromkeys(["torch", "safetensors", *(name for format in kept for name in FORMATS[format].needs)])
    return {
        "img_size": size,
        "num_classes": num_classes,
        "input": f"{INPUT} (B, 1, {size}, {size}) float32 in [0, 1]",
        "output": f"{OUTPUT} (B, {channels}, {size}, {size}) float32, unnormalized",
        **_presence_record(check.threshold),
        "num_images": len(check.cases),
        "threads": threads,
        "torch": {"dice": check.expected.dice, "ms": check.expected.ms},
        "formats": {
            format: {"files": FORMATS[format].files, **numbers, "limit": FORMATS[format].limit._asdict()}
            for format, numbers in kept.items()
        },
        "versions": {name: library(name).__version__ for name in needs},
    }


def _presence_record(threshold: float | None) -> dict[str, object]:
    """What export.json says of a calibrated student; nothing of others."""
    if threshold is None:
        return {}
    meaning = f"{PRESENCE} (B,) float32, probability that an image shows any foreground"
    rule = f"the mask of an image below {threshold:.6g} is empty: all foreground is below the background in its logits"
    return {"presence": f"{meaning}; {rule}", "presence_threshold": threshold}


def _finish(draft: Path, kept: Iterable[str], record: Mapping[str, object]) -> None:
    """Leave the files of the kept formats and the record in the draft, flushed to the disk."""
    names = {name for format in kept for name in FORMATS[format].files}
    for path in draft.iterdir():
        if path.name not in (*names, EXPORT_RECORD):
            path.unlink()
    record = {**record, SUMS: {name: sum for name, sum in read_sums(draft).items() if name in names}}
    (draft / EXPORT_RECORD).write_text(json.dumps(record, indent=4) + "\n", encoding="utf-8")
    for path in draft.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def _replace(draft: Path, output: Path, old: Path) -> None:
    """Put the draft in the place of the output. What was there goes to `old`, and comes back when that fails."""
    if output.exists():
        os.replace(output, old)
    try:
        os.replace(draft, output)
    except OSError:
        if old.exists():
            os.replace(old, output)
        raise
