"""Build a datalist (decathlon JSON) from a BUS-BRA download or from plain folders of images and masks.

    python -m scripts.make_datalist --dataset_dir BUSBRA --output BUSBRA/dataset.json
    python -m scripts.make_datalist --dataset_dir MYDATA --output MYDATA/dataset.json --format folders

`busbra` reads Images/bus_XXXX-s.png, Masks/mask_XXXX-s.png and bus_data.csv with patient, pathology and more for each
case. `folders` reads images/ and masks/ (or labels/) with equal file names before the suffix. --patient_regex finds
the patient in that name: its first group, or the whole match. Without it every image is its own patient.

Splits are by patient, and stratified by pathology where it is known. Patients that share a byte-identical image stay
together. BUS-BRA's official valid_* folds are not used: they put the left and the right breast of one patient into
training and validation. Paths in the datalist are relative to the dataset folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .data.splits import SPLITS, check_identical_files, check_patients, identical_files
from .run.errors import run_program
from .utils.files import atomic_path
from .utils.options import check_num_classes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nii", ".nii.gz")
_BUSBRA_COLUMNS = {"Pathology": "pathology", "BIRADS": "birads", "Device": "device", "Side": "side"}


def busbra_cases(dataset_dir: Path) -> list[dict]:
    """Cases of a BUS-BRA download with patient, pathology, birads, device and side from bus_data.csv.

    Raises:
        FileNotFoundError: when Images/, Masks/ or bus_data.csv is missing.
        ValueError: when the table lacks a column or an image, or an image has no mask.
    """
    table = dataset_dir / "bus_data.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist; expected a BUS-BRA download, or pass --format folders.")
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = {row["ID"]: row for row in reader} if "ID" in (reader.fieldnames or []) else {}
    missing = sorted({"ID", "Case"} - set(reader.fieldnames or []))
    if missing:
        raise ValueError(f"{table} has no column {', '.join(missing)}; expected BUS-BRA's ID and Case.")
    pairs = _pairs(dataset_dir, ("Images",), ("Masks",), lambda stem: stem.replace("bus_", "mask_", 1))
    unlisted = [stem for stem, _, _ in pairs if stem not in rows]
    if unlisted:
        raise ValueError(f"image {unlisted[0]} has no row in {table} ({len(unlisted)} images have none); add its row.")
    return [_case(image, label, rows[stem]) for stem, image, label in pairs]


def _case(image: str, label: str, row: dict) -> dict:
    if not row["Case"]:
        raise ValueError(f"bus_data.csv has no Case (patient) for {row['ID']}; add it.")
    metadata = {name: row[column] for column, name in _BUSBRA_COLUMNS.items() if row.get(column)}
    if metadata.get("birads", "").isdecimal():
        metadata["birads"] = int(metadata["birads"])
    patient = int(row["Case"]) if row["Case"].isdecimal() else row["Case"]
    return {"image": image, "label": label, "patient": patient, **metadata}


def folder_cases(dataset_dir: Path, patient_regex: str | None = None) -> list[dict]:
    """Cases of images/ and masks/ (or labels/); the patient is found in the image's stem, or is the stem.

    Raises:
        FileNotFoundError: when a folder is missing.
        ValueError: when an image has no mask or the expression does not match.
    """
    try:
        pattern = re.compile(patient_regex or "^.*$")
    except re.error as error:
        raise ValueError(f"--patient_regex {patient_regex!r} is no regular expression: {error}.") from None
    cases = []
    for stem, image, label in _pairs(dataset_dir, ("images", "Images"), ("masks", "Masks", "labels", "Labels")):
        match = pattern.search(stem)
        if match is None:
            raise ValueError(f"--patient_regex {patient_regex!r} does not match the image name {stem!r}.")
        cases.append({"image": image, "label": label, "patient": match[1] if match.lastindex else match[0]})
    return cases


def _pairs(
    dataset_dir: Path, image_dirs: tuple[str, ...], mask_dirs: tuple[str, ...], mask_stem: Callable[[str], str] = str
) -> list[tuple[str, str, str]]:
    """(stem, image, mask) of every image, paths relative to the dataset folder."""
    images = _files(_first_dir(dataset_dir, image_dirs))
    masks = _files(_first_dir(dataset_dir, mask_dirs))
    if not images:
        raise ValueError(
            f"folder {_first_dir(dataset_dir, image_dirs)} holds no image; expected {', '.join(IMAGE_SUFFIXES)}."
        )
    without = [path for stem, path in images.items() if mask_stem(stem) not in masks]
    if without:
        raise ValueError(
            f"image {without[0]} has no mask {mask_stem(_stem(without[0]))}.* ({len(without)} of {len(images)} images "
            "have none); add the masks or remove the images."
        )
    relative = {stem: path.relative_to(dataset_dir).as_posix() for stem, path in images.items()}
    return [(stem, relative[stem], masks[mask_stem(stem)].relative_to(dataset_dir).as_posix()) for stem in relative]


def _first_dir(dataset_dir: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (dataset_dir / name).is_dir():
            return dataset_dir / name
    raise FileNotFoundError(f"{dataset_dir} has no folder {' or '.join(names)}; check --dataset_dir and --format.")


def _stem(path: Path) -> str:
    return path.name[: -len(next(suffix for suffix in IMAGE_SUFFIXES[::-1] if path.name.lower().endswith(suffix)))]


def _files(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.name.lower().endswith(IMAGE_SUFFIXES):
            if _stem(path) in files:
                raise ValueError(f"{path} and {files[_stem(path)]} have the same name; expected one file a case.")
            files[_stem(path)] = path
    return files


def split_by_patient(cases: list[dict], dataset_dir: Path, val: float, test: float, seed: int) -> dict[str, list[dict]]:
    """The three splits. Every patient is in one of them, and so are patients that share a byte-identical image.

    Patients are shuffled and dealt out pathology by pathology, each to the split that lacks most of its share.

    Args:
        cases: with "image" relative to `dataset_dir`, "patient" and, optionally, "pathology".
        dataset_dir: folder of the dataset.
        val: fraction of the patients for validation.
        test: fraction of the patients for the test.
        seed: of the shuffling.

    Raises:
        ValueError: when the fractions leave no training or a split that was asked for is empty.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(f"--val must be above 0, --test at least 0 and their sum below 1, got {val} and {test}.")
    groups = _groups(cases, dataset_dir)
    rng = np.random.default_rng(seed)
    order = sorted(rng.permutation(len(groups)), key=lambda index: str(groups[index][0].get("pathology")))
    splits: dict[str, list[dict]] = {split: [] for split in SPLITS}
    shares, counts = np.array([1 - val - test, val, test]), np.zeros(3)
    for dealt, index in enumerate(order, start=1):
        needy = int(np.argmax(shares * dealt - counts))
        counts[needy] += 1
        splits[SPLITS[needy]] += groups[index]
    empty = [split for split in SPLITS if not splits[split] and (split != "test" or test > 0)]
    if empty:
        raise ValueError(
            f"{len(cases)} images of {len(groups)} separate patients leave the split {empty[0]} empty; "
            "expected at least one patient in each: add cases or change --val and --test."
        )
    return {split: sorted(items, key=lambda item: item["image"]) for split, items in splits.items()}


def _groups(cases: list[dict], dataset_dir: Path) -> list[list[dict]]:
    """Cases that belong together: of one patient, or of patients that share a byte-identical image."""
    root = {str(case["patient"]): str(case["patient"]) for case in cases}

    def find(patient: str) -> str:
        while root[patient] != patient:
            patient = root[patient]
        return patient

    patient_of = {str(dataset_dir / case["image"]): str(case["patient"]) for case in cases}
    for copies in identical_files(patient_of):
        for path in copies[1:]:
            root[find(patient_of[path])] = find(patient_of[copies[0]])
    groups = defaultdict(list)
    for case in cases:
        groups[find(str(case["patient"]))].append(case)
    return list(groups.values())


def make_datalist(splits: dict[str, list[dict]], name: str, labels: list[str]) -> dict:
    """Content of the JSON file, with the names of the classes, the background first."""
    return {
        "name": name,
        "description": "split by patient with scripts.make_datalist",
        "tensorImageSize": "2D",
        "modality": {"0": "US"},
        "labels": {str(index): label for index, label in enumerate(labels)},
        **{f"num{split.capitalize()}": len(splits[split]) for split in SPLITS},
        **splits,
    }


def write_json(content: dict, output: Path) -> None:
    """Write the file in one step: complete or not at all."""
    with atomic_path(output) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    return run_program("make_datalist", lambda: _make(options))


def _make(options: argparse.Namespace) -> int:
    try:
        splits = _run(options)
    except (ValueError, OSError) as error:
        print(f"make_datalist: {error}", file=sys.stderr)
        return 1
    for split in SPLITS:
        patients = len({str(case["patient"]) for case in splits[split]})
        print(f"{split}: {len(splits[split])} images of {patients} patients")
    print(f"wrote {options.output}; use it with")
    print(f"  --data::dataset_dir {options.dataset_dir} --data::datalist {options.output.resolve()}")
    return 0


def _run(options: argparse.Namespace) -> dict[str, list[dict]]:
    if not options.dataset_dir.is_dir():
        raise FileNotFoundError(f"--dataset_dir {options.dataset_dir} is no folder.")
    if options.output.exists() and not options.overwrite:
        raise ValueError(f"--output {options.output} exists; pass --overwrite to replace it.")
    if not options.output.resolve().parent.is_dir():
        raise FileNotFoundError(f"--output {options.output} lies in no existing folder; create it first.")
    labels = _class_names(options.num_classes, options.labels)
    if options.format == "busbra":
        cases = busbra_cases(options.dataset_dir)
    else:
        cases = folder_cases(options.dataset_dir, options.patient_regex)
    splits = split_by_patient(cases, options.dataset_dir, options.val, options.test, options.seed)
    absolute = {
        split: [{**case, "image": str(options.dataset_dir / case["image"])} for case in items]
        for split, items in splits.items()
    }
    check_patients(absolute)
    check_identical_files(absolute)
    write_json(make_datalist(splits, options.name or options.dataset_dir.resolve().name, labels), options.output)
    return splits


def _class_names(num_classes: int, labels: str | None) -> list[str]:
    check_num_classes(num_classes, "--num_classes")
    if labels is None:
        names = ["lesion"] if num_classes == 2 else [f"class {index}" for index in range(1, num_classes)]
        return ["background", *names]
    if len(labels.split(",")) != num_classes:
        raise ValueError(f"--labels must name {num_classes} classes with background, comma separated, got {labels!r}.")
    return [label.strip() for label in labels.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.make_datalist", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--format", choices=("busbra", "folders"), default="busbra")
    parser.add_argument("--num_classes", type=int, default=2, help="with background")
    parser.add_argument("--labels", help="class names from background on, comma separated")
    parser.add_argument("--name", help="name of the data set; the folder's name if left out")
    parser.add_argument("--patient_regex", help="finds the patient in an image's name (folders)")
    parser.add_argument("--val", type=float, default=0.1, help="fraction of the patients")
    parser.add_argument("--test", type=float, default=0.2, help="fraction of the patients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
