"""Build a datalist (decathlon JSON) from a BUS-BRA download or from plain folders of images and masks.

    python -m scripts.make_datalist --dataset_dir BUSBRA --output BUSBRA/dataset.json
    python -m scripts.make_datalist --dataset_dir MYDATA --output MYDATA/dataset.json --format folders
    python -m scripts.make_datalist --dataset_dir BUSI --output BUSI/dataset.json --format folders --recursive \\
        --mask_name '{}_mask' --clean_masks clean_masks

`busbra` reads Images/bus_XXXX-s.png, Masks/mask_XXXX-s.png and bus_data.csv with patient, pathology and more for each
case. `folders` reads images/ and masks/ (or labels/, or nnU-Net's imagesTr/ and labelsTr/); options name other folders
and other names, see data/folders.py. --patient_regex finds the patient in an image's name, with the subfolders before
it: its first group, or the whole match. Without it patients are not told apart, and every image counts as one.

Splits are by patient, and stratified by pathology where it is known. Patients whose images look alike, such as one
picture in two encodings, stay together. BUS-BRA's official valid_* folds are not used: they put the left and the right
breast of one patient into training and validation. Paths in the datalist are relative to the dataset folder.

--lesion_free adds images without a lesion, and --join makes one list of several. Images without masks go into a list
unlabeled (--unlabeled DIR). --from DATALIST adds them to a datalist that is there; with --fewer_labels 0.2 most of its
labels are taken away, to measure what they bring. docs/data.md explains all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .data.busbra import busbra_cases
from .data.classes import missing_class_notes, named_classes
from .data.datalist_file import load_list, read_datalist
from .data.folders import Names, Pairs, folder_cases, inside
from .data.joined import check_lists_apart, class_tables, join_lists, parse_maps, read_source
from .data.lesion_free import (
    MASK_DIR,
    NOTHING,
    black_mask,
    check_some_lesion,
    lesion_free_cases,
    lesion_free_notes,
    mask_paths,
    place_of_folder,
    relative_path,
)
from .data.look_alikes import alike_in_lists, describe_group, is_across, look_alikes
from .data.mask_files import Examined, clean_mask, examine, parse_colors, read_masks
from .data.notes import alike_notes, passed_over_notes, patient_notes, some
from .data.prior import position_notes
from .data.splits import LISTS, check_patients, identical_files, split_by_patient
from .data.unlabeled_lists import add_options, changed_datalist, find_unlabeled
from .run.errors import run_program
from .utils.files import atomic_path


def make_datalist(splits: dict[str, list[dict]], name: str, labels: list[str]) -> dict:
    """Content of the JSON file, with the names of the classes, the background first."""
    return {
        "name": name,
        "description": "split by patient with scripts.make_datalist",
        "tensorImageSize": "2D",
        "modality": {"0": "US"},
        "labels": {str(index): label for index, label in enumerate(labels)},
        **{f"num{split.capitalize()}": len(items) for split, items in splits.items()},
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


def build(arguments: Sequence[str]) -> tuple[dict[str, list[dict]], list[str]]:
    """For other programs: as `main`, but returns the lists and remarks, and raises its ValueError or OSError."""
    return _run(_parser().parse_args(arguments))


def _make(options: argparse.Namespace) -> int:
    try:
        if options.check:
            print(*_check(options.check, options.dataset_dir), sep="\n")
            return 0
        splits, remarks = _change(options) if options.source or options.fewer_labels is not None else _run(options)
    except (ValueError, OSError) as error:
        print(f"make_datalist: {error}", file=sys.stderr)
        return 1
    for split in splits:
        patients = {str(case["patient"]) for case in splits[split] if "patient" in case}
        print(f"{split}: {len(splits[split])} images" + (f" of {len(patients)} patients" if patients else ""))
    print(*remarks, sep="\n", end="\n" if remarks else "")
    print(f"wrote {options.output}; use it with")
    outside = _leads_out(options.dataset_dir, splits)
    allow = " --data::allow_outside true" if outside else ""
    print(f"  --data::dataset_dir {options.dataset_dir} --data::datalist {options.output.resolve()}{allow}")
    return 0


def _check(datalist: Path, dataset_dir: Path) -> list[str]:
    """That no two lists of a datalist hold images that look alike, a ValueError where they do; where lesions lie."""
    content = read_datalist(datalist)
    lists = {split: load_list(content, split, datalist, dataset_dir) for split in LISTS}
    across = [describe_group(group) for group in alike_in_lists(lists) if is_across(group)]
    if across:
        raise ValueError(
            f"{datalist} has images that look alike in two lists (groups: {len(across)}): {some(across, '; ')}; move "
            "each group to one list, or build the datalist anew with --output."
        )
    num_classes = max(2, len(content.get("labels") or {}))
    centers = [examine([Path(item["label"])], num_classes).center for item in lists["training"]]
    told = f"{datalist}: no images of different lists look alike"
    return [told, *(f"warning: {note}" for note in position_notes(centers))]


def _change(options: argparse.Namespace) -> tuple[dict[str, list[dict]], list[str]]:
    """As `_run`, from a datalist that is there."""
    _check_output(options)
    content, remarks = changed_datalist(options)
    lists = {split: load_list(content, split, options.source, options.dataset_dir) for split in LISTS}
    write_json(content, options.output)
    return {split: items for split, items in lists.items() if items}, remarks


def _check_output(options: argparse.Namespace) -> None:
    if not options.dataset_dir.is_dir():
        raise FileNotFoundError(f"--dataset_dir {options.dataset_dir} is no folder.")
    if options.output.exists() and not options.overwrite:
        raise ValueError(f"--output {options.output} exists; pass --overwrite to replace it.")
    if not options.output.resolve().parent.is_dir():
        raise FileNotFoundError(f"--output {options.output} lies in no existing folder; create it first.")


def _run(options: argparse.Namespace) -> tuple[dict[str, list[dict]], list[str]]:
    """The lists as they were written, and what the user should know of them."""
    _check_output(options)
    clean_dir = _clean_dir(options)
    return _join(options, clean_dir) if options.join else _split(options, clean_dir)


def _split(options: argparse.Namespace, clean_dir: Path | None) -> tuple[dict[str, list[dict]], list[str]]:
    """`_run` for one data set."""
    if options.map:
        raise ValueError("--map goes with --join alone; a set's own classes are those of its masks: leave it out.")
    names = named_classes(options.num_classes, options.labels)
    colors = parse_colors(options.mask_colors, options.num_classes)
    cases, pairs = _find_cases(options, clean_dir)
    masks = [pairs.masks[case] for case in pairs.images]
    images = list(pairs.images.values())
    examined = read_masks(images, masks, options.num_classes, colors, clean_dir is not None)
    labels = [paths[0] if one.ready else clean_dir / f"{c}.png" for c, paths, one in zip(pairs.images, masks, examined)]
    poor = {label: paths for label, paths, one in zip(labels, masks, examined) if not one.ready}
    makers = {label: partial(clean_mask, paths, options.num_classes, colors) for label, paths in poor.items()}
    free = lesion_free_cases(options.lesion_free, options.dataset_dir, options.patient_regex, images)
    images += [case["image"] for case in free]
    black = mask_paths([case["image"] for case in free], clean_dir) if free else []
    makers |= {path: partial(black_mask, case["image"]) for path, case in zip(black, free)}
    _check_written([options.output, *makers], pairs)
    cases = [_relative(case, label, options.dataset_dir) for case, label in zip([*cases, *free], [*labels, *black])]
    alike = look_alikes(images)
    together = _identical(images) if options.ignore_look_alikes else alike
    splits = split_by_patient(cases, together, options.val, options.test, options.seed)
    check_patients(splits)
    unlabeled, left_out = find_unlabeled(options.unlabeled, options.dataset_dir, splits, options.patient_regex)
    by_image = dict(zip((case["image"] for case in cases), [*examined, *[NOTHING] * len(free)]))
    shown = {split: [by_image[item["image"]] for item in items] for split, items in splits.items()}
    lists = {**splits, **unlabeled}
    notes = _write(options, lists, names, shown, makers)
    return lists, [
        *([f"{len(poor)} masks written to {clean_dir}"] if poor else []),
        *(
            [f"{len(free)} images of --lesion_free added, black masks written to {clean_dir / MASK_DIR}"]
            if free
            else []
        ),
        *passed_over_notes(pairs.passed_over, options.dataset_dir),
        *alike_notes(cases, alike, options.ignore_look_alikes),
        *patient_notes(cases),
        *left_out,
        *notes,
    ]


def _find_cases(options: argparse.Namespace, clean_dir: Path | None) -> tuple[list[dict], Pairs]:
    """Images with masks; lesion-free ones are not among them."""
    if options.lesion_free and clean_dir is None:
        raise ValueError("--lesion_free needs --clean_masks DIR, a folder in --dataset_dir for the black masks.")
    if options.format == "busbra":
        return busbra_cases(options.dataset_dir)
    left_out = [place_of_folder(folder, options.dataset_dir) for folder in options.lesion_free]
    left_out += [clean_dir] if clean_dir else []
    names = (options.image_dir, options.mask_dir, options.image_name, options.mask_name, options.recursive)
    return folder_cases(options.dataset_dir, Names(*names, tuple(left_out)), options.patient_regex)


def _join(options: argparse.Namespace, clean_dir: Path | None) -> tuple[dict[str, list[dict]], list[str]]:
    """`_run` for several datalists."""
    of_folders = ("image_dir", "mask_dir", "image_name", "mask_name", "recursive", "patient_regex", "mask_colors")
    of_folders += ("unlabeled",)
    given = next((name for name in of_folders if getattr(options, name)), None)
    if given is not None:
        raise ValueError(f"--{given} goes not with --join, which takes datalists as they are; leave it out.")
    sources, free = ([read_source(Path(path)) for path in paths] for paths in (options.join, options.lesion_free))
    labels = [label.strip() for label in options.labels.split(",")] if options.labels else None
    names, tables = class_tables(sources, parse_maps(options.map), labels)
    shares = (options.val, options.test, options.seed)
    joined = join_lists(sources, free, tables, names, options.dataset_dir, clean_dir, shares)
    alike = look_alikes([options.dataset_dir / item["image"] for items in joined.lists.values() for item in items])
    notes = check_lists_apart(joined.lists, alike, options.ignore_look_alikes)
    options.num_classes = len(names)
    notes += _write(options, joined.lists, names, joined.examined, joined.masks)
    cases = [item for items in joined.lists.values() for item in items]
    written = [f"{len(joined.masks)} masks written to {clean_dir}"] if joined.masks else []
    return joined.lists, [*written, *patient_notes(cases, joined=True), *notes]


def _write(
    options: argparse.Namespace,
    lists: dict[str, list[dict]],
    names: list[str],
    examined: dict[str, list[Examined]],
    masks: dict[Path, Callable[[], np.ndarray]],
) -> list[str]:
    """Write masks and datalist; what their masks tell."""
    shown = {split: [one.classes for one in facts] for split, facts in examined.items() if facts}
    check_some_lesion(shown.get("training", []), "the list training")
    for path, make in masks.items():
        _write_mask(make(), options.num_classes, path)
    name = options.name or options.dataset_dir.resolve().name
    write_json(make_datalist(lists, name, names), options.output)
    occurring = {split: frozenset().union(*classes) for split, classes in shown.items()}
    return [
        *lesion_free_notes([classes for split in shown.values() for classes in split]),
        *(f"warning: {note}" for note in missing_class_notes(occurring, names)),
        *(f"warning: {note}" for note in position_notes([one.center for one in examined.get("training", [])])),
    ]


def _check_written(written: list[Path], pairs: Pairs) -> None:
    """Refuse to write over an image or a mask of the user, also through a link or one that was passed over."""
    pictures = [path for path in pairs.passed_over if path.suffix.lower() == ".png"]
    files = (*pairs.images.values(), *(path for paths in pairs.masks.values() for path in paths), *pictures)
    sources = {path.resolve() for path in files}
    over = next((path for path in written if path.resolve() in sources), None)
    if over is not None:
        option = "--output" if over is written[0] else "--clean_masks"
        raise ValueError(f"{option} would write over {over}, a file of your data; name another place with {option}.")


def _identical(images: list[Path]) -> list[list[int]]:
    """Groups of byte-identical images, as indices; a training refuses them in two lists."""
    index = {str(path): number for number, path in enumerate(images)}
    return [[index[path] for path in group] for group in identical_files(index)]


def _relative(case: dict, label: Path, dataset_dir: Path) -> dict:
    image = case.pop("image")
    paths = {"image": image, "label": label}
    return {**{key: relative_path(path, dataset_dir) for key, path in paths.items()}, **case}


def _write_mask(mask, num_classes: int, path: Path) -> None:
    """As PNG; two classes as 0 and 255, which can be looked at."""
    with atomic_path(path) as partial_path:
        Image.fromarray(mask * 255 if num_classes == 2 else mask).save(partial_path)


def _leads_out(dataset_dir: Path, splits: dict[str, list[dict]]) -> bool:
    """Whether a path or a link leads to files outside of the folder, which trainings refuse unless they are told."""
    folder = dataset_dir.resolve()
    items = [item for items in splits.values() for item in items]
    paths = [folder / item[key] for item in items for key in ("image", "label") if key in item]
    return not all(Path(os.path.realpath(path)).is_relative_to(folder) for path in paths)


def _clean_dir(options: argparse.Namespace) -> Path | None:
    if options.clean_masks is None:
        return None
    folder = inside(options.dataset_dir, options.clean_masks, "--clean_masks")
    if folder.is_dir() and any(folder.iterdir()) and not options.overwrite:
        raise ValueError(f"--clean_masks {folder} is not empty; pass --overwrite to replace the masks in it.")
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.make_datalist", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset_dir", type=Path, required=True)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--output", type=Path, help="datalist to write")
    task.add_argument(
        "--check",
        type=Path,
        metavar="DATALIST",
        help="only look for look-alikes in two of its lists, and where its lesions lie",
    )
    parser.add_argument("--join", nargs="+", default=[], metavar="DATALIST", help="make one list of several")
    parser.add_argument("--map", nargs="+", default=[], metavar="'SET: 1=0,2=1'", help="classes of a joined set")
    parser.add_argument(
        "--lesion_free",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of images without a lesion; lists in --join",
    )
    parser.add_argument("--format", choices=("busbra", "folders"), default="busbra")
    parser.add_argument("--num_classes", type=int, default=2, help="with background")
    parser.add_argument("--labels", help="class names from background on, comma separated")
    parser.add_argument("--name", help="name of the data set; the folder's name if left out")
    parser.add_argument("--val", type=float, default=0.1, help="fraction of the patients")
    parser.add_argument("--test", type=float, default=0.2, help="fraction of the patients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--ignore_look_alikes", action="store_true", help="split images that look alike; identical not")
    parser.add_argument(
        "--clean_masks",
        metavar="DIR",
        help="folder in --dataset_dir for masks that cannot be used as they are: several of one image are merged, "
        "colors become class values, JPEG masks black and white",
    )
    parser.add_argument("--mask_colors", help="color of each class, such as 000000,ff0000, the background first")
    folders = parser.add_argument_group("of --format folders")
    folders.add_argument("--image_dir", help="folder of the images in --dataset_dir")
    folders.add_argument("--mask_dir", help="folder of the masks, may be the same")
    folders.add_argument("--image_name", help="pattern of their names without suffix, such as '{}_0000'")
    folders.add_argument("--mask_name", help="likewise, such as '{}_mask'")
    folders.add_argument("--recursive", action="store_true", help="read subfolders too")
    folders.add_argument("--patient_regex", help="finds the patient in an image's name")
    add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
