"""An anchor that readers know: trains nnU-Net v2 (2D, its own plans and trainer) on the lists of a datalist.

    python -m eval.nnunet --output_dir logs/nnunet --dataset_dir data/BUSBRA --python NNUNET_ENV/bin/python \\
        --epochs 50 --iterations 250 [--threads 2] [--test] [--ID VALUE ...]

Writes the lists as a raw data set, runs nnUNetv2_plan_and_preprocess, nnUNetv2_train (fold 0: our lists, not nnU-Net's
random split) and nnUNetv2_predict, and measures the masks of the validation list with the bundle's evaluation:
validation/metrics.csv, for `python -m eval.compare --tables STUDENT.csv nnU-Net=METRICS.csv`, and results.json. With
--test the test list is predicted and measured too, once: test/metrics.csv. A run that was stopped goes on with the same
command, at the epoch where it was. `--python` names the Python of an environment with `pip install nnunetv2`; the
bundle's own environment cannot have it, since its timm is another one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from scripts.utils.files import atomic_path, clear_leftovers, naming_path
from scripts.utils.machine import describe_machine, git_revision, without_folders
from scripts.utils.options import STUDENT, is_whole
from scripts.utils.screen import tell

from ..command_line import parse_run, run_program
from .processes import LOG, TRAIN, NnUnet

if TYPE_CHECKING:  # what imports torch is imported where it is used, so that --help answers at once
    from torch.utils.data import Dataset

    from ..arms import Plan

STATE_FILE, RESULTS_FILE = "nnunet.json", "results.json"
CONFIGURATION, PLANS, FOLD = "2d", "nnUNetPlans", "0"
EPOCHS, ITERATIONS = 1000, 250  # nnU-Net's own
VAL_SHARE = 5  # training iterations for each of validation, as in nnU-Net
CHOSEN = ("epochs", "iterations", "val_iterations", "gpu_memory_target")
DEVICES = ("cpu", "cuda", "mps")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("nnunet", lambda: _run(arguments), kept="whole epochs and masks are kept")


def _run(arguments: list[str]) -> int:
    options, overrides = _parse(arguments)
    _check_folder(options.output_dir)
    settings = {name: getattr(options, name) for name in ("epochs", "iterations", "val_iterations", "threads")}
    nnunet = NnUnet(options.python, options.output_dir, settings, options.workers)
    versions = nnunet.versions()
    from ..arms import Plan

    run = Anchor(options, Plan(options.config_file, overrides, options.output_dir.resolve()), nnunet, versions)
    with naming_path(options.output_dir):
        options.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(options.output_dir / ".lock", timeout=0):
            run.run()
    except Timeout:
        raise ValueError(f"--output_dir {options.output_dir} is in use by another process; wait for its end.") from None
    return 0


def _check_folder(folder: Path) -> None:
    """Refuse a folder with files of others; hidden ones are what a kill at the beginning leaves."""
    if folder.is_dir() and not (folder / STATE_FILE).is_file():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise FileExistsError(f"--output_dir {folder} holds other files; pass a new folder.")
    elif folder.exists() and not folder.is_dir():
        raise FileExistsError(f"--output_dir {folder} is a file; pass a new folder.")


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m eval.nnunet", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="a new folder; the same again to go on")
    parser.add_argument("--python", default=sys.executable, help="of an environment with nnunetv2 (default: this one)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="(default: nnU-Net's own, %(default)s)")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="an epoch (default: its own, %(default)s)")
    parser.add_argument("--val_iterations", type=int, help="an epoch (default: a fifth, as in nnU-Net)")
    parser.add_argument(
        "--gpu_memory_target", type=float, metavar="GB", help="nnU-Net's own option: less makes a smaller batch"
    )
    parser.add_argument("--device", choices=DEVICES, default=DEVICES[0], help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of the computation on the CPU (default: one a core)")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that prepare images beside it (default: %(default)s)"
    )
    parser.add_argument("--test", action="store_true", help="measure the test list too, which is read once")
    options, overrides = parse_run(parser, arguments)
    if options.val_iterations is None:
        options.val_iterations = max(1, options.iterations // VAL_SHARE)
    for name, least in (("epochs", 1), ("iterations", 1), ("val_iterations", 1), ("threads", 1), ("workers", 0)):
        value = getattr(options, name)
        if value is not None and not is_whole(value, least):
            raise ValueError(f"--{name} must be at least {least}, got {value}.")
    if options.gpu_memory_target is not None and not options.gpu_memory_target > 0:
        raise ValueError(f"--gpu_memory_target must be above 0, got {options.gpu_memory_target}.")
    options.command = without_folders(" ".join(["python -m eval.nnunet", *arguments]))
    return options, overrides


class Anchor:
    """One training of nnU-Net and its evaluation, in the order of its steps; each is done once.

    Args:
        options: of the command line.
        plan: of the bundle's configuration.
        nnunet: the installation.
        versions: of it.

    Raises:
        ValueError: lists that cannot be trained on.
    """

    def __init__(self, options: argparse.Namespace, plan: Plan, nnunet: NnUnet, versions: dict[str, str]) -> None:
        from scripts.run.config_check import check_config

        from .raw_data import dataset_name

        self.options, self.plan, self.nnunet, self.versions = options, plan, nnunet, versions
        self.folder = options.output_dir
        parser = plan.workflow(STUDENT, 0).parser
        check_config(parser.config)
        self.data = parser.get_parsed_content("data")
        self.splits = {"training": self.data.training, "validation": self.data.validation}
        if options.test:
            self.splits["test"] = self.data.test
        self.name = dataset_name(self.data.name)
        self.fold = nnunet.of("results") / self.name / f"nnUNetTrainer__{PLANS}__{CONFIGURATION}" / f"fold_{FOLD}"

    def run(self) -> None:
        """Do what is not done yet, and write the results."""
        clear_leftovers(self.folder, deep=True)
        self._begin()
        sizes = ", ".join(f"{len(cases)} {split}" for split, cases in self.splits.items())
        tell(f"{self.data.name}: {sizes} cases; nnU-Net's own messages: {self.folder / LOG}")
        self._prepare()
        self._train()
        for split in ("validation", "test") if self.options.test else ("validation",):
            self._measure(split)
        self._write_results()

    def _begin(self) -> None:
        """Note what the folder is for; refuse another purpose."""
        identity = {
            "lists": self.data.digest,
            "num_classes": self.data.num_classes,
            "nnunetv2": self.versions["nnunetv2"],
            **{name: getattr(self.options, name) for name in CHOSEN},
        }
        path = self.folder / STATE_FILE
        state = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else identity
        changed = [name for name in identity if state.get(name) != identity[name]]
        if changed:
            told = ", ".join(f"{name} {state.get(name)} instead of {identity[name]}" for name in changed)
            raise ValueError(f"{path} was begun with {told}; give its command again, or pass another --output_dir.")
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def _dataset(self, split: str) -> Dataset:
        """A list as the bundle evaluates it: images and labels at their original size."""
        parser = self.plan.workflow(STUDENT, 0, {"test::dataset::data": f"$@data.{split}"}).parser
        return parser.get_parsed_content("test::dataset")

    def _prepare(self) -> None:
        """The raw data set, nnU-Net's plan and its preprocessed images."""
        from .raw_data import write_raw, write_split

        raw, prepared = self.nnunet.of("raw") / self.name, self.nnunet.of("preprocessed") / self.name
        if not raw.is_dir():
            write_raw(raw, self._dataset("training"), self._dataset("validation"), self.data.labels)
        split = prepared / "splits_final.json"  # written last: it says that all is there
        if not split.is_file():
            tell("planning and preprocessing")
            processes = str(max(1, self.options.workers))
            words = ["-d", "1", "-c", CONFIGURATION, "-np", processes, "-npfp", processes]
            target = self.options.gpu_memory_target
            words += ["-gpu_memory_target", str(target)] if target else []
            self.nnunet.run("nnUNetv2_plan_and_preprocess", *words, "--verify_dataset_integrity")
            write_split(split, len(self.splits["training"]), len(self.splits["validation"]))

    def _train(self) -> None:
        options = self.options
        if (self.fold / "checkpoint_final.pth").is_file():
            return
        begun = [self.fold / f"checkpoint_{name}.pth" for name in ("latest", "best")]
        more = ["--c"] if any(path.is_file() for path in begun) else []
        told = "going on with" if more else "training"
        tell(f"{told} {options.epochs} epochs of {options.iterations} iterations on {options.device}")
        self.nnunet.run(TRAIN, "1", CONFIGURATION, FOLD, "-device", options.device, *more)

    def _measure(self, split: str) -> None:
        """The masks of a list and their metrics; a list that was measured is not read again."""
        from scripts.evaluation.results import METRICS_FILE

        from .raw_data import write_images
        from .scoring import missing_masks, write_scores

        folder = self.folder / split
        if (folder / METRICS_FILE).is_file():
            tell(f"the {split} list was measured already: its results are kept")
            return
        dataset = self._dataset(split)
        if not (folder / "images").is_dir():
            write_images(folder / "images", dataset, split)
        if missing_masks(folder / "masks", split, len(dataset)):
            self._predict(folder)
        if missing := missing_masks(folder / "masks", split, len(dataset)):
            told = f"{len(missing)} of {len(dataset)} masks, such as {missing[0]}"
            raise ValueError(f"nnUNetv2_predict has not written {told}; {self.folder / LOG} says why.")
        write_scores(dataset, folder / "masks", split, self.data.num_classes, folder)

    def _predict(self, folder: Path) -> None:
        tell(f"segmenting {folder.name} images")
        workers = str(self.options.workers)
        words = ["-i", str(folder / "images"), "-o", str(folder / "masks"), "-d", "1", "-c", CONFIGURATION, "-f", FOLD]
        words += ["-device", self.options.device, "-npp", workers, "-nps", workers, "--continue_prediction"]
        start = time.monotonic()
        self.nnunet.run("nnUNetv2_predict", *words)
        tell(f"segmented in {time.monotonic() - start:.0f} s")

    def _write_results(self) -> None:
        """The figures of all lists that were measured, with what was trained and on what."""
        from scripts.evaluation.results import METRICS_FILE

        from .scoring import epoch_seconds, read_plan, summarize

        options = self.options
        logs = sorted(self.fold.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
        seconds = epoch_seconds(logs)
        measured = [split for split in ("validation", "test") if (self.folder / split / METRICS_FILE).is_file()]
        results = {
            "command": options.command,
            "revision": git_revision(),
            "machine": describe_machine(options.threads),
            "versions": self.versions,
            "data": {"name": self.data.name, "lists": self.data.digest, **self.data.sizes},
            "plan": read_plan(self.nnunet.of("preprocessed") / self.name / f"{PLANS}.json"),
            "parameters": self.nnunet.ask("parameters", str(self.fold / "checkpoint_final.pth")),
            "training": {
                **{name: getattr(options, name) for name in (*CHOSEN, "device")},
                "seconds": round(sum(seconds.values()), 1),
            },
            "results": {split: summarize(self.folder / split / METRICS_FILE) for split in measured},
        }
        with atomic_path(self.folder / RESULTS_FILE) as partial:
            partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for split, summary in results["results"].items():
            dice = summary["metrics"]["dice"]
            told = f"Dice {dice['mean']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}]"
            tell(f"{split}: {told}, {summary['num_cases']} images")
        tell(f"results: {self.folder / RESULTS_FILE}")


if __name__ == "__main__":
    sys.exit(main())
