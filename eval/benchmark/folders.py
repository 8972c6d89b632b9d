"""Segmenting a folder and a loop with configs/inference.json: milliseconds an image and frames a second, by engine.

    python -m eval.benchmark.folders --images data/BUSBRA/Images [--earlier PATH] [--output folders.json]

The folder has --count images (those of --images, repeated; phantoms without it) and runs on one thread; the loop has
--frames frames of 800 x 600 pixels and runs on two. Masks, overlays and lesions.csv are written. --earlier is the
folder of an earlier version of this bundle, which is run in turn with this one, so that a busy machine is as busy for
both. CPU seconds are of all threads; on a busy machine they, and the ratios, say more than the time. An engine whose
export is not there yet writes it before it is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from scripts.utils.files import BUNDLE_ROOT

from ..command_line import parse_overrides, run_program

EARLIER = "earlier"
ENGINES = ("torch", "onnx", "openvino")
LOOP = (800, 600)  # columns and rows
RUN = Path(__file__).with_name("folder_run.py")


class Task(NamedTuple):
    """What is segmented, its images or frames, and the threads of the run."""

    name: str
    path: Path
    count: int
    threads: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("benchmark", lambda: _run(*_parser().parse_known_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark.folders", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a folder of pictures; phantoms otherwise")
    parser.add_argument("--count", type=int, default=200, help="images of the folder")
    parser.add_argument("--frames", type=int, default=100, help="frames of the loop")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument(
        "--earlier", type=Path, metavar="PATH", help="the folder of an earlier version, to compare with"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the median counts")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.epilog = "Further options are ids of configs/inference.json, for all runs: --checkpoint PATH."
    return parser


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    for name in ("count", "frames", "repeats"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    overrides = {"hardware::gpu_ids": [], "checkpoint": str(BUNDLE_ROOT / "models" / "model.pt")}
    overrides = {**overrides, **parse_overrides(rest)}
    bundles = dict.fromkeys(options.engines, BUNDLE_ROOT)
    if options.earlier:
        if not (options.earlier / "configs" / "inference.json").is_file():
            raise FileNotFoundError(f"--earlier {options.earlier} is no bundle; pass the folder of an earlier version.")
        bundles = {EARLIER: options.earlier, **bundles}
    if "checkpoint" in overrides:  # each run is in its own bundle
        overrides["checkpoint"] = str(Path(overrides["checkpoint"]).resolve())
    with TemporaryDirectory(prefix="folders-") as work:
        folder = Path(work)
        tasks = [
            Task("image", write_folder(folder / "images", options.images, options.count), options.count, 1),
            Task("frame", write_loop(folder / "loop.nii", options.images, options.frames), options.frames, 2),
        ]
        figures = {task.name: measure(task, bundles, options.repeats, overrides, folder) for task in tasks}
    for name, rows in figures.items():
        print_rows(name, rows)
    if options.output:
        options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def write_folder(folder: Path, images: Path | None, count: int) -> Path:
    """A folder of `count` links to the pictures of another one, or of phantoms."""
    folder.mkdir()
    for number, path in enumerate(islice(cycle(_pictures(folder.with_name("phantoms"), images)), count)):
        (folder / f"{number:04d}{path.suffix}").symlink_to(path.resolve())
    return folder


def _pictures(place: Path, images: Path | None) -> list[Path]:
    from PIL import Image

    from scripts.data.phantoms import make_phantom
    from scripts.inference.outputs import PICTURES

    if images is not None:
        found = sorted(path for path in images.iterdir() if path.suffix.lower() in PICTURES)
        if not found:
            raise ValueError(f"--images {images} holds no picture; pass a folder of PNG or JPEG files.")
        return found
    place.mkdir(exist_ok=True)
    for number in range(8):
        Image.fromarray(make_phantom(number, 360)[0]).save(place / f"{number}.png")
    return sorted(place.iterdir())


def write_loop(path: Path, images: Path | None, count: int) -> Path:
    """A NIfTI loop of a picture that drifts to the right, no two frames alike."""
    import nibabel
    import numpy as np

    from scripts.data.pictures import open_picture

    with open_picture(_pictures(path.with_name("phantoms"), images)[0]) as picture:
        still = np.asarray(picture.convert("L").resize(LOOP)).T
    frames = np.stack([np.roll(still, number, axis=0) for number in range(count)], axis=-1)
    nibabel.save(nibabel.Nifti1Image(frames[:, :, None], np.eye(4)), path)
    return path


def measure(
    task: Task, bundles: dict[str, Path], repeats: int, overrides: dict[str, Any], work: Path
) -> dict[str, dict[str, float]]:
    """Milliseconds of an image or a frame, `ms` and `cpu_ms`, by engine; one untimed run of each goes first."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in bundles}
    for number in range(repeats + 1):
        for name, bundle in bundles.items():
            engine = {} if name == EARLIER else {"engine": name}
            output = {"dataset_dir": str(task.path), "output_dir": str(work / f"{task.name}-{name}-{number}")}
            figures = run_once(bundle, {**overrides, **engine, **output}, task.threads)
            print(f"{task.name} {name}: {1000 * figures['seconds'] / task.count:.1f} ms", file=sys.stderr, flush=True)
            runs[name] += [figures] if number else []
    keys = {"ms": "seconds", "cpu_ms": "cpu_seconds"}
    return {
        name: {key: 1000 * median(run[of] for run in all_runs) / task.count for key, of in keys.items()}
        for name, all_runs in runs.items()
    }


def run_once(bundle: Path, overrides: dict[str, Any], threads: int) -> dict[str, float]:
    """The figures of one run in a process of its own.

    Raises:
        ValueError: it failed; the message is its last line.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, str(RUN), json.dumps(overrides), str(threads)]
    done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the run in {bundle} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def print_rows(unit: str, rows: dict[str, dict[str, float]]) -> None:
    """A table: an engine a line, with the ratio of the earlier version to it where that was run."""
    print(f"\n{unit:<10}{'ms':>8}{'a second':>10}{'CPU ms':>8}{'earlier /':>11}{'CPU':>7}")
    earlier = rows.get(EARLIER)
    for name, row in rows.items():
        ratios = [f"{earlier[key] / row[key]:.2f}" if earlier else "-" for key in ("ms", "cpu_ms")]
        print(f"{name:<10}{row['ms']:>8.1f}{1000 / row['ms']:>10.1f}{row['cpu_ms']:>8.1f}{ratios[0]:>11}{ratios[1]:>7}")


if __name__ == "__main__":
    sys.exit(main())
