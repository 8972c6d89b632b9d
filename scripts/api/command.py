"""The command `sam_tinyusfm`: doors to the bundle's programs, which get the options that follow as they are.

    sam_tinyusfm segment FOLDER -o masks
    sam_tinyusfm train shared_teacher.json from_scratch.json --data::dataset_dir data/mine

A program reads the bundle's configs and weights where the bundle lies, and writes into the current folder: logs/ and,
after a training, models/model.pt.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from ..utils.files import BUNDLE_ROOT, CONFIGS

SHARED_STUDENT = BUNDLE_ROOT / "models" / "model.pt"
SHARED_TEACHER = BUNDLE_ROOT / "models" / "teacher" / "lite_medsam_busbra.pth"
# by door: its program and what it does; a door whose program this bundle lacks is not there
PROGRAMS = {
    "datalist": ("scripts.make_datalist", "find images and masks, and split them by patient"),
    "check": ("scripts.check_data", "look at a data set, and suggest settings"),
    "preflight": ("eval.preflight", "ask whether a teacher is better than a student that had none"),
    "robustness": ("eval.robustness", "measure what changes of the images cost"),
    "compare": ("eval.compare", "train students with and without the teacher, and compare them"),
    "settings": ("scripts.settings", "explain the settings"),
    "export": ("scripts.export", "write a student as ONNX, OpenVINO and other formats"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code of the program."""
    doors, words = _doors(), list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage(doors))
        return 0
    if words[0] not in doors:
        print(f"sam_tinyusfm: unknown command {words[0]!r}; expected one of {', '.join(doors)}.", file=sys.stderr)
        return 2
    return doors[words[0]][0](words[1:])


def _doors() -> dict[str, tuple[Callable[[list[str]], int], str]]:
    """What each door opens, and what it is for."""
    programs = {
        name: (partial(_run_program, module), about) for name, (module, about) in PROGRAMS.items() if _is_there(module)
    }
    return {
        "segment": (_segment, "write masks, overlays and a table of the lesions of a folder of images"),
        "train": (partial(_train, "train"), "distil a teacher into a student, or fine-tune a teacher"),
        "evaluate": (partial(_train, "evaluate"), "read the test list with a trained student"),
        **programs,
    }


def _is_there(module: str) -> bool:
    path = BUNDLE_ROOT / Path(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def _usage(doors: dict[str, tuple[Callable, str]]) -> str:
    lines = [f"  {name:<12}{about}" for name, (_, about) in doors.items()]
    return "\n".join(["usage: sam_tinyusfm COMMAND ...", "", *lines, "", "sam_tinyusfm COMMAND --help explains more."])


def _segment(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="sam_tinyusfm segment",
        description="Masks, overlays and lesions.csv of an image or a folder of images.",
        epilog="Further options are ids of configs/inference.json, such as --recursive True --resume True: "
        "sam_tinyusfm settings inference explains them.",
        allow_abbrev=False,
    )
    parser.add_argument("path", help="an image or a folder of images: PNG, JPEG, BMP, TIFF, NIfTI, DICOM")
    parser.add_argument("-o", "--output", required=True, help="folder of the outputs")
    parser.add_argument("--checkpoint", default=str(SHARED_STUDENT), help="a trained student; else the shared one")
    own, ids = _split(words, ("--output", "--checkpoint", "--help"))
    options = parser.parse_args(own)
    if {"--dataset_dir", "--output_dir"} & _named(ids):
        parser.error("pass the folders as FOLDER and -o OUT.")
    paths = {"--dataset_dir": options.path, "--output_dir": options.output, "--checkpoint": options.checkpoint}
    places = [word for name, path in paths.items() for word in (name, _as_path(path))]
    return _run_bundle(["run", "--config_file", str(CONFIGS / "inference.json"), *places, *ids])


def _as_path(text: str) -> str:
    """A path that monai.bundle leaves as it is: it makes a number of 2024 and runs what follows a dollar sign."""
    return text if os.path.isabs(text) else os.path.join(".", text)


def _train(kind: str, words: list[str]) -> int:
    """Run train.json with overlays, of which those of configs/ need no folder; an evaluation is an overlay too."""
    own, ids = _split(words, ("--help",))
    parser = argparse.ArgumentParser(
        prog=f"sam_tinyusfm {kind}",
        description=f"{kind.capitalize()} as configs/train.json says it, with overlays.",
        epilog="Further options are ids of configs/train.json, such as --data::dataset_dir data/mine: "
        "sam_tinyusfm settings explains them.",
    )
    parser.add_argument("overlays", nargs="*", help="JSON files of configs/, such as from_scratch.json, or your own")
    names = parser.parse_args(own).overlays
    missing = [name for name in names if not (Path(name).is_file() or (CONFIGS / name).is_file())]
    if missing:
        parser.error(f"config file {missing[0]} does not exist, neither here nor in {CONFIGS}.")
    overlays = [str(Path(name) if Path(name).is_file() else CONFIGS / name) for name in names]
    last = [str(CONFIGS / "evaluate.json")] if kind == "evaluate" else []
    paths = [str(CONFIGS / "train.json"), *overlays, *last]
    if _takes_shared_teacher(overlays) and "--teacher::lora_checkpoint" not in _named(ids):
        ids = [*ids, "--teacher::lora_checkpoint", str(SHARED_TEACHER)]
    run_id = "evaluating" if kind == "evaluate" else "training"
    return _run_bundle(["run", run_id, "--config_file", repr(paths), *ids])


def _takes_shared_teacher(overlays: Sequence[str]) -> bool:
    """Whether the adapter of the overlays is the shared one, which lies in the bundle and not in the current folder."""
    adapters = [adapter for path in overlays if (adapter := _adapter(path)) is not None]
    return adapters[-1:] == [_adapter(CONFIGS / "shared_teacher.json")]


def _adapter(overlay: str | Path) -> str | None:
    """The adapter that an overlay names; None where it names none, or is no JSON, which the training refuses."""
    try:
        return json.loads(Path(overlay).read_text(encoding="utf-8")).get("teacher::lora_checkpoint")
    except (ValueError, AttributeError, OSError):
        return None


def _split(words: Sequence[str], own: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a door itself, and the ids with their values, in whatever order they come.

    Args:
        words: of the command line.
        own: the door's long options.
    """
    rest, ids, left = [], [], iter(words)
    for word in left:
        if word.startswith("--") and word.partition("=")[0] not in own:
            ids += [word] if "=" in word else [word, *islice(left, 1)]
        else:
            rest.append(word)
    return rest, ids


def _named(words: Sequence[str]) -> set[str]:
    """The options among words, also those of --option=value."""
    return {word.partition("=")[0].replace("#", "::") for word in words}


def _run_bundle(words: list[str]) -> int:
    """Run `python -m monai.bundle` with what it would find by itself in the bundle's folder."""
    files = {"--meta_file": CONFIGS / "metadata.json", "--logging_file": CONFIGS / "logging.conf"}
    more = [word for name, path in files.items() if name not in _named(words) for word in (name, str(path))]
    return _run_program("monai.bundle", [*words, *more])


def _run_program(module: str, words: list[str]) -> int:
    """Run a module as `python -m` does, in this process; its packages `scripts` and `eval` are the bundle's."""
    sys.path.insert(0, str(BUNDLE_ROOT))
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return _exit_code(stop)
    return 0


def _exit_code(stop: SystemExit) -> int:
    if isinstance(stop.code, str):
        print(stop.code, file=sys.stderr)
        return 1
    return stop.code or 0
