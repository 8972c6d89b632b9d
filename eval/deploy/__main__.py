"""DICOM SEG of every ultrasound image in a folder of DICOM series, as an application of MONAI Deploy.

    python -m eval.deploy --input DICOM --output MASKS [--model model.ts]

It needs `pip install monai-deploy-app-sdk` (4.0) beside the bundle with its extra dicom. The masks are those of
configs/inference.json. docs/inference.md says more.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.utils.files import BUNDLE_ROOT
from scripts.utils.screen import tell

from ..command_line import run_program

if TYPE_CHECKING:
    from .application import Found

# what MONAI Deploy's runner sets
VARIABLES = {"input": "HOLOSCAN_INPUT_PATH", "output": "HOLOSCAN_OUTPUT_PATH", "model": "HOLOSCAN_MODEL_PATH"}


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    return run_program("deploy", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    _check(options)
    os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "ERROR")  # it tells of every step
    try:
        from .application import segment_series
    except ImportError as error:
        raise ValueError(
            f"MONAI Deploy cannot be imported ({error}); run pip install monai-deploy-app-sdk==4.0.0 '.[dicom]'"
        ) from None
    found = segment_series(options.input, options.output, options.model)
    tell(f"wrote {len(found.written)} DICOM SEG into {options.output}")
    _name_failures(found)
    return 0


def _name_failures(found: Found) -> None:
    """Refuse to end well where images gave no mask.

    Raises:
        ValueError: some failed, or there were none.
    """
    if found.failures:
        raise ValueError("\n".join(found.failures.values()))
    if not found.written:
        raise ValueError("--input holds no DICOM series of the modality US; give the folder of the series.")


def _check(options: argparse.Namespace) -> None:
    if not options.input.is_dir():
        raise FileNotFoundError(f"--input {options.input} is no folder; give the folder of the DICOM series.")
    if not options.model.exists():
        raise FileNotFoundError(f"--model {options.model} does not exist; leave it out for the bundle's own student.")
    if options.model.is_dir() and options.model.resolve() != BUNDLE_ROOT:
        raise ValueError(f"--model {options.model} is another bundle; run python -m eval.deploy in its folder.")
    if options.output.is_file() or any(options.output.rglob("*_mask.dcm")):
        raise FileExistsError(f"--output {options.output} holds masks, or is a file; give another folder.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.deploy", description=__doc__.splitlines()[0])
    texts = {"input": "folder of DICOM series", "output": "folder for the masks", "model": "TorchScript of the bundle"}
    for name, text in texts.items():
        variable = VARIABLES[name]
        default = os.environ.get(variable) or (BUNDLE_ROOT if name == "model" else None)
        parser.add_argument(
            f"-{name[0]}",
            f"--{name}",
            type=Path,
            default=default and Path(default),
            required=default is None,
            help=f"{text}; {variable} of the environment" + ("; the bundle itself" if name == "model" else ""),
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
