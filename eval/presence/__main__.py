"""Teach a trained student to say that an image shows nothing: calibrates its presence probability, without training it.

    python -m eval.presence --config_file configs/train.json --dataset_dir data/BUSBRA \\
        --checkpoint models/model.pt --output models/model_presence.pt [--keep 0.95] [--ID VALUE ...]

The validation list must hold images with and without a lesion. The output is the same student with its presence and a
threshold: the mask of an image below it is left empty, wherever the file is used. The threshold keeps --keep of the
images with a lesion. What is printed holds for patients that a fit did not see. docs/inference.md says how it is used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.utils.options import STUDENT
from scripts.utils.screen import tell, track

from ..command_line import parse_run, run_program

if TYPE_CHECKING:  # what imports torch is imported where it is used, so that --help answers at once
    from torch import nn
    from torch.utils.data import Dataset

    from scripts.evaluation.presence import Calibration, Images

LISTS = ("validation", "test", "training")
SUFFIXES = (".pt", ".pth", ".safetensors")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("presence", lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    options, overrides = _parse(arguments)
    from scripts.evaluation.presence import calibrate
    from scripts.run.config_check import check_config

    from ..arms import Plan, build_arm

    plan = Plan(options.config_file, overrides, Path("logs/presence").resolve())
    parser = plan.workflow(STUDENT, 0, {"test::dataset::data": f"$@data.{options.list}"}).parser
    check_config(parser.config)
    data, dataset = parser.get_parsed_content("data"), parser.get_parsed_content("test::dataset")
    arm = build_arm(plan, STUDENT, 0, str(options.checkpoint))
    network = arm.network.to(parser.get_parsed_content("device")).eval()
    images = look(network, dataset, arm.img_size)
    found = calibrate(images, options.keep, options.evidence)
    tell(f"{data.name}, {options.list} list\n{describe(found, images, options.keep)}")
    write(network, found, options.output)
    tell(f"wrote {options.output}")
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.presence", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained student")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .pt or .safetensors")
    parser.add_argument("--keep", type=float, default=0.95, help="share of the lesions to keep (default: %(default)s)")
    parser.add_argument("--evidence", choices=("margin", "features"), help="the better of both when left out")
    parser.add_argument("--list", choices=LISTS, default=LISTS[0], help="of the datalist (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    options, overrides = parse_run(parser, arguments)
    _check_files(options)
    return options, overrides


def _check_files(options: argparse.Namespace) -> None:
    if not options.checkpoint.is_file():
        raise FileNotFoundError(f"--checkpoint {options.checkpoint} does not exist.")
    if options.output.suffix not in SUFFIXES:
        raise ValueError(f"--output {options.output} must end with {', '.join(SUFFIXES)}.")
    if options.output.exists():
        if options.output.samefile(options.checkpoint):
            raise ValueError(f"--output {options.output} is the --checkpoint itself; choose another file.")
        if not options.overwrite:
            raise FileExistsError(f"--output {options.output} exists; choose another file, or pass --overwrite.")


def look(network: nn.Module, dataset: Dataset, img_size: int) -> Images:
    """What a student finds in every image of a list, in float32.

    Args:
        network: in eval mode, on its device.
        dataset: see `evaluate`.
        img_size: side of the network's input.
    """
    import numpy as np
    import torch

    from scripts.data.segment import resize_image
    from scripts.evaluation.case_table import patient_key
    from scripts.evaluation.evaluate import read_case
    from scripts.evaluation.presence import Images

    inputs, shown, patients = [], [], []
    device = next(network.parameters()).device
    for index in track(range(len(dataset)), "Reading", len(dataset)):
        case = read_case(dataset, index)
        with torch.inference_mode():
            image = resize_image(case["image"], img_size)[None].to(device)
            inputs.append(network.presence_inputs(image)[0].double().cpu().numpy())
        shown.append(bool(case["label"].any()))
        patients.append(patient_key(case))
    return Images(np.array(inputs).reshape(len(inputs), -1), np.array(shown, dtype=bool), patients)


def describe(found: Calibration, images: Images, keep: float) -> str:
    """What the program prints.

    Args:
        found: of `calibrate`.
        images: that it was fitted to.
        keep: share of the lesions to keep.
    """
    from scripts.evaluation.case_table import FEW_PATIENTS
    from scripts.evaluation.detection import area_under_curve
    from scripts.utils.screen import plural

    shown, values = images.shown, found.probabilities
    without = {patient for patient, one in zip(images.patients, shown) if not one}
    kept, emptied = values[shown] >= found.threshold, values[~shown] < found.threshold
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in found.losses.items())
    lines = [
        f"{len(shown)} images, {shown.sum()} with a lesion and {(~shown).sum()} without; patients left out in turn:",
        f"evidence: {found.evidence} (log loss {losses})",
        f"AUC {area_under_curve(values, shown):.3f}",
        f"threshold {found.threshold:.4f}, to keep {keep:.0%} of the lesions: kept {kept.sum()} of {len(kept)}, "
        f"left empty {emptied.sum()} of {len(emptied)} without a lesion",
    ]
    if len(without) < FEW_PATIENTS:
        lines.append(f"warning: images without a lesion of {plural(len(without), 'patient')} alone; do not rely on it")
    return "\n".join(lines)


def write(network: nn.Module, found: Calibration, path: Path) -> None:
    """Write the student with its presence, whole or not at all; the network has it too afterwards."""
    import torch

    from scripts.handlers.checkpoints import save_atomically
    from scripts.utils.weight_files import SAFETENSORS, save_safetensors

    presence = network.add_presence()
    presence.weight.copy_(torch.from_numpy(found.weight))
    presence.bias.fill_(found.bias)
    presence.threshold.fill_(found.threshold)
    state = {key: tensor.cpu() for key, tensor in network.state_dict().items()}
    save = save_safetensors if path.suffix == SAFETENSORS else save_atomically
    save(state, path)


if __name__ == "__main__":
    sys.exit(main())
