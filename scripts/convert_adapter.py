"""Convert an adapter between a .pth file and peft's folder: python -m scripts.convert_adapter SOURCE TARGET [--half].

A .pth file has the keys of the reference implementation (MedFM). Fine-tuning writes one. It becomes a folder that
peft's `PeftModel.from_pretrained` loads, and such a folder becomes a .pth file. `teacher::lora_checkpoint` takes both.

The tensors stay the same bit by bit. With --half they are rounded to fp16, half the size, as the shared teacher's are.
The teacher changes a little by that, so round before anything is distilled from it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .run.errors import run_program

if TYPE_CHECKING:
    import torch

    from .networks.adapters import Adapter

SUFFIX = ".pth"


def convert_adapter(source: Path, target: Path, half: bool = False) -> Adapter:
    """Write the adapter at `source` to `target`, in the other format.

    Args:
        source: a .pth file, or a peft folder.
        target: a folder for the first, a .pth file for the second; with `half` either for either. Must not be there.
        half: round the tensors to fp16.

    Raises:
        FileNotFoundError: the source is not there.
        FileExistsError: the target is there.
        ValueError: the source is no adapter, or one without LoRA for a folder; the target has the format of the source;
            or fp16 cannot hold a value.
    """
    # imported here, so that --help answers without torch
    from .networks.adapters import PEFT_WEIGHTS, read_adapter, save_checkpoint_file, save_peft_adapter
    from .networks.lora_names import DECODER_ONLY

    _check_paths(source, target, source.is_dir() or source.name == PEFT_WEIGHTS, half)
    adapter = read_adapter(source, "SOURCE")
    if half:
        adapter = adapter._replace(state=_round(adapter))
    if target.suffix == SUFFIX:
        save_checkpoint_file(adapter.state, target, adapter.module, adapter.base)
    elif adapter.module == DECODER_ONLY:
        raise ValueError(
            f"SOURCE {source} is a tuned {DECODER_ONLY} without LoRA, which peft has no format for; use it as a "
            f"{SUFFIX} file, or fine-tune with another teacher::module."
        )
    else:
        save_peft_adapter(adapter.state, target, adapter.base)
    return adapter


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    return run_program("convert_adapter", lambda: _convert(options))


def _convert(options: argparse.Namespace) -> int:
    try:
        adapter = convert_adapter(options.source, options.target, options.half)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.target}: {adapter.module}, rank {adapter.rank}, {adapter.num_mask_tokens} mask tokens")
    return 0


def _round(adapter: Adapter) -> dict[str, torch.Tensor]:
    rounded = {key: tensor.half() for key, tensor in adapter.state.items()}
    if overflowing := [key for key, tensor in rounded.items() if not tensor.isfinite().all()]:
        raise ValueError(
            f"{adapter.source} has values that fp16 cannot hold, first in {overflowing[0]}; leave --half out."
        )
    return rounded


def _check_paths(source: Path, target: Path, from_folder: bool, half: bool) -> None:
    if not source.exists():
        raise FileNotFoundError(f"SOURCE {source} does not exist; give a {SUFFIX} file or a peft adapter folder.")
    if target.exists():
        raise FileExistsError(f"TARGET {target} already exists; remove it or choose another name.")
    if from_folder != (target.suffix == SUFFIX) and not half:
        expected = (
            f"file that ends in {SUFFIX}, since SOURCE is a peft folder"
            if from_folder
            else "folder, since SOURCE is a file"
        )
        raise ValueError(f"TARGET must be a {expected}; got {target}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.convert_adapter", description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a .pth file or a peft adapter folder")
    parser.add_argument("target", type=Path, metavar="TARGET", help="the other format; must not exist")
    parser.add_argument("--half", action="store_true", help="round to fp16; TARGET may then have the format of SOURCE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
