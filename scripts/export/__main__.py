"""Export a trained student to formats that run without this bundle, each checked against torch in fp32.

    python -m scripts.export --checkpoint models/model.pt --output models/export --dataset_dir data/BUSBRA
    python -m scripts.export --checkpoint models/model.pt --output models/export --formats onnx openvino

Without --formats it writes every format that this processor runs. The folder gets the files and export.json with what
was measured on images of --split. int8 is calibrated on images of the training list. Without --dataset_dir both are
generated phantoms.

A format that differs from torch by more than its limit is refused: its file is not kept, and the program ends with 1.
onnx_full holds the whole way, from a gray picture of any size to its mask, and web is a page that runs it in a browser;
the other formats hold the bare network. The page is made of two libraries that npm installs:

    npm install onnxruntime-web@1.30.0 dicom-parser@1.8.21
    python -m scripts.export --checkpoint models/model.pt --output page --formats web

`whole.load_whole` and `formats.load_runner` run them in other programs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..data.splits import SPLITS
from ..run.errors import run_program
from ..utils.digests import file_digest
from ..utils.options import check_img_size, check_num_classes
from .names import ALL_FORMATS, EXPORT_RECORD, FORMAT_FILES


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    return run_program("export", lambda: _export(options))


def _export(options: argparse.Namespace) -> int:
    try:
        chosen, refusals = _run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    for reason in refusals.values():
        print(f"export: {reason}", file=sys.stderr)
    kept = [format for format in chosen if format not in refusals]
    if kept:
        print(f"wrote {options.output}: {', '.join(kept)}; the numbers are in {EXPORT_RECORD}")
    return 1 if refusals else 0


def _run(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """The formats and, of those that were refused, the reasons. Checks every argument before anything is written."""
    # imported here, so that --help answers without torch
    from ..inference.lesions import foreground_names
    from .cases import read_cases
    from .check import Check, export_student
    from .formats import choose_formats, read_student

    chosen = choose_formats(options.formats, options.node_modules)
    _check_output(options.output, options.overwrite)
    if options.num_images < 1:
        raise ValueError(f"--num_images must be at least 1, got {options.num_images}.")
    check_img_size(options.img_size, id="--img_size")
    check_num_classes(options.num_classes, "--num_classes")
    class_names = foreground_names(options.num_classes, options.class_names)
    student = read_student(options.checkpoint, options.img_size, options.num_classes)
    cases, calibration, source = read_cases(
        options.dataset_dir,
        options.datalist,
        options.split,
        options.num_images,
        options.img_size,
        options.num_classes,
        options.allow_outside,
    )
    print(f"checking on {len(cases)} images: {source}")
    about = {
        "checkpoint": options.checkpoint.name,
        "checkpoint_sha256": file_digest(options.checkpoint),
        "class_names": class_names,
        "checked_on": source,
    }
    check = Check(student, cases, options.num_classes)
    images = [case.image for case in calibration]
    return chosen, export_student(student, chosen, check, images, options.output.resolve(), about, options.node_modules)


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.resolve().parent.is_dir():
        raise FileNotFoundError(f"--output {output} lies in no existing folder; create it first.")
    if not output.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"--output {output} exists; choose another folder, or pass --overwrite to replace an export."
        )
    exported = {EXPORT_RECORD, *(name for names in FORMAT_FILES.values() for name in names)}
    foreign = sorted({path.name for path in output.iterdir()} - exported) if output.is_dir() else [output.name]
    if foreign:
        raise FileExistsError(
            f"--output {output} is no earlier export, since {foreign[0]} is not of one; choose another folder."
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.export", description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained student")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    parser.add_argument(
        "--formats", nargs="+", default=[ALL_FORMATS], help=f"of {', '.join(FORMAT_FILES)}; all of them if left out"
    )
    parser.add_argument("--dataset_dir", help="images to check on; generated phantoms if left out")
    parser.add_argument("--datalist", default="dataset.json")
    parser.add_argument("--allow_outside", action="store_true", help="take images that lie outside of --dataset_dir")
    parser.add_argument("--split", choices=SPLITS, default="validation", help="the list to check on")
    parser.add_argument("--num_images", type=int, default=128, help="to check on, and to calibrate on")
    parser.add_argument("--img_size", type=int, default=224, help="of the student, in pixels")
    parser.add_argument("--num_classes", type=int, default=2, help="with background")
    parser.add_argument("--class_names", nargs="+", help="without background, for the metadata of the files")
    parser.add_argument(
        "--node_modules", type=Path, default=Path("node_modules"), help="where npm has installed the libraries of web"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    return parser


if __name__ == "__main__":
    sys.exit(main())
