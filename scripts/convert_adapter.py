"""Adapters between the seed's .pth and peft's folder: python -m scripts.convert_adapter SOURCE TARGET [--half].

A .pth file (what fine-tuning writes) becomes a folder that peft's `PeftModel.from_pretrained` loads, and such a folder
becomes a .pth file. The tensors stay the same bit by bit; `teacher::lora_checkpoint` takes both forms. With --half they
are rounded to fp16, half the size, as the shared teacher's are: another teacher by a hair, so round before anything is
distilled from it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .networks.adapters import PEFT_WEIGHTS, Adapter, read_adapter, save_peft_adapter, save_seed_checkpoint
from .networks.lora import DECODER_ONLY

SUFFIX = ".pth"


def convert_adapter(source: Path, target: Path, half: bool = False) -> Adapter:
    """Write the adapter at `source` in the other form to `target`.

    Args:
        source: the seed's .pth, or a peft folder.
        target: a folder for the first, a .pth file for the second; with `half` either for either. Must not be there.
        half: round the tensors to fp16.

    Raises:
        FileNotFoundError: the source is not there.
        FileExistsError: the target is there.
        ValueError: the source is no adapter, or one without LoRA for a folder; the target has the form of the source;
            or fp16 cannot hold a value.
    """
    to_file = target.suffix == SUFFIX
    _check_paths(source, target, half)
    adapter = read_adapter(source, "SOURCE")
    if half:
        adapter = adapter._replace(state=_round(adapter))
    if adapter.module == DECODER_ONLY and not to_file:
        raise ValueError(
            f"SOURCE {source} is a tuned {DECODER_ONLY} without LoRA, which peft has no form for; use it as a {SUFFIX} "
            "file, or "
            "fine-tune with another teacher::module."
        )
    if to_file:
        save_seed_checkpoint(adapter.state, target, adapter.module)
    else:
        save_peft_adapter(adapter.state, target)
    return adapter


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        adapter = convert_adapter(options.source, options.target, options.half)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.target}: {adapter.module}, rank {adapter.rank}, {adapter.num_mask_tokens} mask tokens")
    return 0


def _round(adapter: Adapter) -> dict[str, torch.Tensor]:
    rounded = {key: tensor.half() for key, tensor in adapter.state.items()}
    if lost := [key for key, tensor in rounded.items() if not torch.isfinite(tensor).all()]:
        raise ValueError(f"{adapter.source} has values that fp16 cannot hold, first in {lost[0]}; leave --half out.")
    return rounded


def _check_paths(source: Path, target: Path, half: bool) -> None:
    if not source.exists():
        raise FileNotFoundError(f"SOURCE {source} does not exist; give a {SUFFIX} file or a peft adapter folder.")
    if target.exists():
        raise FileExistsError(f"TARGET {target} already exists; remove it or choose another name.")
    from_folder = source.is_dir() or source.name == PEFT_WEIGHTS
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
    parser.add_argument("target", type=Path, metavar="TARGET", help="the other form; must not exist")
    parser.add_argument("--half", action="store_true", help="round to fp16; TARGET may then have the form of SOURCE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
