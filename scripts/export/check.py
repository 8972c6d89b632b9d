"""The student in forms that run without this bundle, each checked against eager fp32 torch before it is kept.

    python -m scripts.export --checkpoint models/model.pt --output models/export --dataset_dir data/BUSBRA
    python -m scripts.export --checkpoint models/model.pt --output models/export --dataset_dir data/BUSBRA --forms onnx
    openvino

Without --forms it writes every form that this processor runs.

The folder gets the files of the forms and export.json with what was measured on images of `--split`; int8 is calibrated
on images of the training list. Without --dataset_dir both are generated phantoms. A form that differs from torch by
more than its limit is refused: its file is not kept, and the program ends with 1. `forms.load_runner` runs a form in
other programs.

Legend: B batch, C classes, H W pixels; H = W = img_size at both ends of a form.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged, Resize
from monai.utils import convert_to_tensor
from torch.nn import functional as F

from ..data.datalist import SPLITS, SegmentationData
from ..data.dataset import ViewDataset
from ..data.phantoms import make_phantom
from ..data.readers import GrayImageReader, MaskReader
from ..data.transforms import LabelToClassesd, ToRowsFirstd
from ..metrics import SegmentationMetrics, logits_to_classes
from ..networks.tinyusfm import TinyUSFMSeg, load_trained_student, logit_channels
from .formats import FORMS, INPUT, LOGITS, OUTPUT, RECORD, Runner, Setup, find_form, library, load_runner, torch_runner

PHANTOM_SIZE = 256  # pixels, before the resize to img_size
CHECKED, CALIBRATION = 0, 1  # first seeds of the phantoms
ALL = "all"


class Case(NamedTuple):
    """name, image (1, 1, img_size, img_size) in [0, 1], label (1, H, W) class indices at the image's original size."""

    name: str
    image: torch.Tensor
    label: torch.Tensor


class Predictions(NamedTuple):
    """Of all cases: logits (1, 1 or C, img_size, img_size), masks (1, H, W) at the original size, mean Dice, median
    ms.
    """

    logits: list[torch.Tensor]
    masks: list[torch.Tensor]
    dice: float
    ms: float


class Check:
    """Holds forms against eager fp32 torch on the same cases.

    Dice is counted as in evaluation.py: logits are resized bilinearly to the label; mean over foreground classes and
    cases.

    Args:
        student: trained, on the CPU; put in eval mode.
        cases: at least one.
        num_classes: with the background.
    """

    def __init__(self, student: TinyUSFMSeg, cases: Sequence[Case], num_classes: int) -> None:
        self.cases = cases
        self.setup = Setup(student.img_size, num_classes, torch.get_num_threads())
        self.expected = self.run(torch_runner(student.eval(), self.setup.threads))

    def run(self, runner: Runner) -> Predictions:
        """What a runner says of the cases, one image at a time."""
        runner(self.cases[0].image)  # the first calls are slower
        scores, logits, masks, times = SegmentationMetrics(self.setup.num_classes), [], [], []
        for case in self.cases:
            start = time.perf_counter()
            logits.append(runner(case.image))
            times.append(1000 * (time.perf_counter() - start))
            resized = F.interpolate(logits[-1], size=case.label.shape[-2:], mode="bilinear", align_corners=False)
            masks.append(logits_to_classes(resized)[0])
            scores.add(case.name, masks[-1], case.label)
        return Predictions(logits, masks, scores.summary()["dice"], median(times))

    def compare(self, runner: Runner) -> dict[str, float]:
        """How a runner differs from torch.

        Returns:
            max_logit_difference: absolute, over the pixels of all cases; nan when a logit is not finite.
                mask_difference: share
            of pixels of another class, mean over cases. torch_dice, dice, dice_change: the last is the runner's less
            torch's. ms: median time of an image.
        """
        found, expected = self.run(runner), self.expected
        logits = [float((a - b).abs().max()) for a, b in zip(found.logits, expected.logits)]
        masks = [float((a != b).float().mean()) for a, b in zip(found.masks, expected.masks)]
        return {
            "max_logit_difference": max(logits) if all(map(math.isfinite, logits)) else math.nan,
            "mask_difference": float(np.mean(masks)),
            "torch_dice": expected.dice,
            "dice": found.dice,
            "dice_change": found.dice - expected.dice,
            "ms": found.ms,
        }


def refusal(form: str, measured: Mapping[str, float]) -> str | None:
    """Why a form is not kept: the numbers and the limit; None when it is within."""
    key, value = find_form(form).limit if math.isfinite(measured["max_logit_difference"]) else LOGITS
    if abs(measured[key]) <= value:  # not so for nan
        return None
    return (
        f"{form} is refused: {key} is {measured[key]:.3g}, the limit is {value:g} (max_logit_difference "
        f"{measured['max_logit_difference']:.3g}, mean Dice {measured['torch_dice']:.4f} in torch and "
        f"{measured['dice']:.4f} in "
        f"{form}); choose another form{' or more images (--num_images)' if 'int8' in form else ''}."
    )


def export_student(
    student: TinyUSFMSeg,
    forms: Sequence[str],
    check: Check,
    calibration: Sequence[torch.Tensor],
    output: Path,
    about: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """Write a student in several forms, check each, and keep those within their limit; a line a form is printed.

    The folder appears complete and in one step, or, when every form is refused, not at all.

    Args:
        student: trained, on the CPU, in eval mode.
        forms: keys of FORMS that are written.
        check: of the same student.
        calibration: images (1, 1, img_size, img_size) in [0, 1] for int8.
        output: folder to make; one that is there is replaced.
        about: what the record says besides, such as the checkpoint.

    Returns:
        By refused form the reason.
    """
    _print_head(check.expected)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
        draft = Path(folder) / "new"
        draft.mkdir()
        measured = {form: _written(form, student, draft, calibration, check) for form in forms}
        refusals = {form: reason for form, numbers in measured.items() if (reason := refusal(form, numbers))}
        kept = {form: numbers for form, numbers in measured.items() if form not in refusals}
        if kept:
            _finish(draft, kept, {**(about or {}), **_record(check, kept)})
            _replace(draft, output, Path(folder) / "old")
    return refusals


def _written(
    form: str, student: TinyUSFMSeg, draft: Path, calibration: Sequence[torch.Tensor], check: Check
) -> dict[str, float]:
    """What `check` finds of a form that is now in the draft, and the bytes of its files."""
    files = [draft / name for name in FORMS[form].files]
    if not files[0].exists():  # else another form has written it
        FORMS[form].write(student, draft, calibration)
    img_size, num_classes, threads = check.setup
    numbers = check.compare(load_runner(form, draft, img_size, threads, num_classes))
    numbers["bytes"] = sum(file.stat().st_size for file in files)
    _print_row(form, numbers)
    return numbers


def _print_head(expected: Predictions) -> None:
    print(
        f"{'form':<14}{'logit diff':>12}{'pixels':>10}{'torch Dice':>12}{'Dice':>9}"
        f"{'change':>10}{'ms/image':>10}{'MB':>8}"
    )
    print(f"{'torch':<14}{'':>22}{expected.dice:>12.4f}{'':>19}{expected.ms:>10.1f}")


def _print_row(form: str, numbers: Mapping[str, float]) -> None:
    print(
        f""
        f"{form:<14}{numbers['max_logit_difference']:>12.2e}{numbers['mask_difference']:>10.3%}{numbers['torch_dice']:>12.4f}"
        f"{numbers['dice']:>9.4f}{numbers['dice_change']:>+10.5f}{numbers['ms']:>10.1f}{numbers['bytes'] / 1e6:>8.1f}"
    )


def _record(check: Check, kept: Mapping[str, Mapping[str, float]]) -> dict[str, object]:
    """What export.json says of the kept forms."""
    size, num_classes, threads = check.setup
    channels = logit_channels(num_classes)
    needs = dict.fromkeys(["torch", "safetensors", *(name for form in kept for name in FORMS[form].needs)])
    return {
        "img_size": size,
        "num_classes": num_classes,
        "input": f"{INPUT} (B, 1, {size}, {size}) float32 in [0, 1]",
        "output": f"{OUTPUT} (B, {channels}, {size}, {size}) float32, unnormalized",
        "num_images": len(check.cases),
        "threads": threads,
        "torch": {"dice": check.expected.dice, "ms": check.expected.ms},
        "forms": {
            form: {"files": FORMS[form].files, **numbers, "limit": FORMS[form].limit._asdict()}
            for form, numbers in kept.items()
        },
        "versions": {name: library(name).__version__ for name in needs},
    }


def _finish(draft: Path, kept: Iterable[str], record: Mapping[str, object]) -> None:
    """Leaves the files of the kept forms and the record in the draft, flushed to the disk."""
    names = {name for form in kept for name in FORMS[form].files}
    for path in draft.iterdir():
        if path.name not in names:
            path.unlink()
    (draft / RECORD).write_text(json.dumps(record, indent=4) + "\n", encoding="utf-8")
    for path in draft.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def _replace(draft: Path, output: Path, old: Path) -> None:
    """The draft takes the place of the output; what was there goes to `old`, or comes back when that fails."""
    if output.exists():
        os.replace(output, old)
    try:
        os.replace(draft, output)
    except OSError:
        if old.exists():
            os.replace(old, output)
        raise


def phantom_cases(count: int, img_size: int, first_seed: int = CHECKED) -> list[Case]:
    """Generated phantoms as cases, the same for the same arguments."""
    phantoms = [make_phantom((first_seed, number), PHANTOM_SIZE) for number in range(count)]
    return [
        _case(f"phantom {number}", torch.from_numpy(image)[None] / 255, torch.from_numpy(label)[None], img_size)
        for number, (image, label) in enumerate(phantoms)
    ]


def dataset_cases(items: Sequence[Mapping], count: int, img_size: int, num_classes: int) -> list[Case]:
    """`count` cases spread evenly over a list of `SegmentationData`, or all when it has fewer."""
    keys = ["image", "label"]
    transform = Compose(
        [
            LoadImaged("image", reader=GrayImageReader),
            LoadImaged("label", reader=MaskReader),
            EnsureChannelFirstd(keys),
            ToRowsFirstd(keys),
            LabelToClassesd("label", num_classes),
            EnsureTyped(keys, track_meta=False),
        ]
    )
    chosen = [items[int(index)] for index in np.linspace(0, len(items) - 1, min(count, len(items)))]
    dataset = ViewDataset(chosen, transform, cache=False)
    return [_case(item["case"], item["image"], item["label"], img_size) for item in dataset]


def _case(name: str, image: torch.Tensor, label: torch.Tensor, img_size: int) -> Case:
    resize = Resize((img_size, img_size), mode="bilinear", anti_aliasing=True)  # as preprocessing in configs/train.json
    return Case(name, convert_to_tensor(resize(image), track_meta=False)[None], label)


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        refusals = _run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    for reason in refusals.values():
        print(f"export: {reason}", file=sys.stderr)
    kept = [form for form in options.forms if form not in refusals]
    if kept:
        print(f"wrote {options.output}: {', '.join(kept)}; the numbers are in {RECORD}")
    return 1 if refusals else 0


def _run(options: argparse.Namespace) -> dict[str, str]:
    """Checks every argument before anything is written."""
    options.forms = _chosen_forms(options.forms)
    _check_output(options.output, options.overwrite)
    if options.num_images < 1:
        raise ValueError(f"--num_images must be at least 1, got {options.num_images}.")
    network = TinyUSFMSeg(num_classes=options.num_classes, img_size=options.img_size)
    student = load_trained_student(network, options.checkpoint)
    cases, calibration, source = _read_cases(options)
    print(f"checking on {len(cases)} images: {source}")
    about = {
        "checkpoint": options.checkpoint.name,
        "checkpoint_sha256": hashlib.sha256(options.checkpoint.read_bytes()).hexdigest(),
        "checked_on": source,
    }
    check = Check(student, cases, options.num_classes)
    return export_student(
        student, options.forms, check, [case.image for case in calibration], options.output.resolve(), about
    )


def _chosen_forms(names: Sequence[str]) -> list[str]:
    """The forms of these names; all of them, less those that this processor does not run, for ALL."""
    written = [name for name, form in FORMS.items() if form.write]
    for name in names:
        if name not in written and list(names) != [ALL]:
            raise ValueError(f"--forms must be {ALL}, or of {', '.join(written)}, got {name!r}.")
    chosen = written if list(names) == [ALL] else list(names)
    for module in dict.fromkeys(module for name in chosen for module in FORMS[name].needs):
        library(module)
    if chosen is not written:
        return chosen
    lacking = {name: lacks for name in written if (lacks := FORMS[name].lacks())}
    for name, lacks in lacking.items():
        print(f"{name} is left out: this processor has no {lacks}")
    return [name for name in written if name not in lacking]


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.resolve().parent.is_dir():
        raise FileNotFoundError(f"--output {output} lies in no existing folder; create it first.")
    if not output.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"--output {output} exists; choose another folder, or pass --overwrite to replace an export."
        )
    ours = {RECORD, *(name for form in FORMS.values() for name in form.files)}
    foreign = sorted({path.name for path in output.iterdir()} - ours) if output.is_dir() else [output.name]
    if foreign:
        raise FileExistsError(
            f"--output {output} is no earlier export, since {foreign[0]} is not of one; choose another folder."
        )


def _read_cases(options: argparse.Namespace) -> tuple[list[Case], list[Case], str]:
    """Cases to check on, cases to calibrate on, and what they are."""
    size, count = options.img_size, options.num_images
    if options.dataset_dir is None:
        source = "generated phantoms, since no --dataset_dir is given; they say little about real images"
        return phantom_cases(count, size), phantom_cases(count, size, CALIBRATION), source
    try:
        data = SegmentationData(options.dataset_dir, options.datalist, options.num_classes, size)
        items = getattr(data, options.split)
    except (ValueError, OSError) as error:  # it names config ids
        raise ValueError(str(error).replace("--data::", "--").replace("data::", "--")) from None
    chosen = [dataset_cases(cases, count, size, options.num_classes) for cases in (items, data.training)]
    return *chosen, f"list {options.split} of {data.name}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained student")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    forms = ", ".join(name for name, form in FORMS.items() if form.write)
    parser.add_argument("--forms", nargs="+", default=[ALL], help=f"of {forms}; all of them if left out")
    parser.add_argument("--dataset_dir", help="images to check on; generated phantoms if left out")
    parser.add_argument("--datalist", default="dataset.json")
    parser.add_argument("--split", choices=SPLITS, default="validation", help="the list to check on")
    parser.add_argument("--num_images", type=int, default=128, help="to check on, and to calibrate on")
    parser.add_argument("--img_size", type=int, default=224, help="of the student, in pixels")
    parser.add_argument("--num_classes", type=int, default=2, help="with background")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    return parser


if __name__ == "__main__":
    sys.exit(main())
