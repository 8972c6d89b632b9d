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

Images without masks go into a further list, unlabeled (--unlabeled DIR). --from DATALIST adds them to a datalist that
is there. With --fewer_labels 0.2 most of its labels are taken away, to measure what they bring.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .data.busbra import busbra_cases
from .data.classes import default_names, missing_class_notes
from .data.datalist_file import load_list, read_datalist
from .data.folders import Names, Pairs, folder_cases, inside
from .data.look_alikes import look_alikes
from .data.mask_files import Color, check_one_color, check_places, clean_mask, examine, parse_colors
from .data.splits import LISTS, TRAINED_ON, check_patients, identical_files, map_in_threads, split_by_patient
from .data.unlabeled_lists import add_options, changed_datalist, find_unlabeled
from .run.errors import run_program
from .utils.files import atomic_path
from .utils.options import check_num_classes
from .utils.passed_over import describe_passed_over

MAX_NAMED = 5


def read_masks(
    images: Sequence[Path], masks: Sequence[Sequence[Path]], num_classes: int, colors: Sequence[Color], clean: bool
) -> tuple[list[bool], list[frozenset[int]]]:
    """Of each image, whether its mask can stay as it is, and the foreground classes that it shows.

    Args:
        images: their files.
        masks: of each image.
        num_classes: with the background.
        colors: see `clean_mask`.
        clean: whether masks that cannot stay are going to be written anew.

    Raises:
        ValueError: a mask that is none, or that would have to be written anew.
    """

    def read(image: Path, paths: Sequence[Path]) -> tuple[bool, frozenset[int]]:
        ready, shown = examine(paths, num_classes, colors)
        check_places(image, paths, ready)
        return ready, shown

    try:
        facts = map_in_threads(lambda pair: read(*pair), list(zip(images, masks)))
    except ValueError as error:  # it names config ids
        raise ValueError(str(error).replace("data::", "--")) from None
    poor = [paths for paths, (ready, _) in zip(masks, facts) if not ready]
    if poor and not clean:
        several = [paths for paths in poor if len(paths) > 1]
        names = ", ".join(path.name for path in (several or poor)[0])
        what = (
            f"{len(several)} of {len(masks)} images have several masks ({names})"
            if several
            else (f"{len(poor)} of {len(masks)} masks are colored or compressed ({names})")
        )
        raise ValueError(f"{what}; pass --clean_masks DIR to write one mask of class values for each of them there.")
    if num_classes == 2 and not colors:
        check_one_color(poor)
    return [ready for ready, _ in facts], [classes for _, classes in facts]


def make_datalist(splits: dict[str, list[dict]], name: str, labels: list[str]) -> dict:
    """Content of the JSON file, with the names of the classes, the background first."""
    return {
        "name": name,
        "description": "split by patient with scripts.make_datalist",
        "tensorImageSize": "2D",
        "modality": {"0": "US"},
        "labels": {str(index): label for index, label in enumerate(labels)},
        **{f"num{split.capitalize()}": len(splits[split]) for split in splits},
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
        if options.check:
            print(_check(options.check, options.dataset_dir))
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


def _check(datalist: Path, dataset_dir: Path) -> str:
    """That no two lists of a datalist hold images that look alike; a ValueError where they do."""
    content = read_datalist(datalist)
    lists = {split: load_list(content, split, datalist, dataset_dir) for split in LISTS}
    places = [(item["image"], split) for split, items in lists.items() for item in items]
    groups = [[places[index] for index in group] for group in look_alikes([image for image, _ in places])]
    lists_of = [{split for _, split in group} for group in groups]
    named = [" = ".join(f"{image} ({split})" for image, split in group) for group in groups]
    across = [name for name, names in zip(named, lists_of) if len(names) > 1 and names != TRAINED_ON]
    if across:
        raise ValueError(
            f"{datalist} has images that look alike in two lists (groups: {len(across)}): {_some(across, '; ')}; move "
            "each group to one list, or build the datalist anew with --output."
        )
    return f"{datalist}: no images of different lists look alike"


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
    names = _class_names(options.num_classes, options.labels)
    colors = parse_colors(options.mask_colors, options.num_classes)
    clean_dir = _clean_dir(options)
    if options.format == "busbra":
        cases, pairs = busbra_cases(options.dataset_dir)
    else:
        folders = Names(
            *(options.image_dir, options.mask_dir, options.image_name, options.mask_name, options.recursive), clean_dir
        )
        cases, pairs = folder_cases(options.dataset_dir, folders, options.patient_regex)
    masks = [pairs.masks[case] for case in pairs.images]
    images = list(pairs.images.values())
    ready, classes = read_masks(images, masks, options.num_classes, colors, clean_dir is not None)
    labels = [paths[0] if ok else clean_dir / f"{case}.png" for case, paths, ok in zip(pairs.images, masks, ready)]
    _check_written([options.output, *(label for label, ok in zip(labels, ready) if not ok)], pairs)
    cases = [_relative(case, label, options.dataset_dir) for case, label in zip(cases, labels)]
    alike = look_alikes(images)
    together = _identical(images) if options.ignore_look_alikes else alike
    splits = split_by_patient(cases, together, options.val, options.test, options.seed)
    check_patients(splits)
    unlabeled, left_out = find_unlabeled(options.unlabeled, options.dataset_dir, splits, options.patient_regex)
    lists = {**splits, **unlabeled}
    for path, paths in ((label, paths) for label, paths, ok in zip(labels, masks, ready) if not ok):
        _write_mask(clean_mask(paths, options.num_classes, colors), options.num_classes, path)
    write_json(make_datalist(lists, options.name or options.dataset_dir.resolve().name, names), options.output)
    by_image = {case["image"]: shown for case, shown in zip(cases, classes)}
    shown = {split: {c for item in items for c in by_image[item["image"]]} for split, items in splits.items() if items}
    return lists, [
        *([f"{len(ready) - sum(ready)} masks written to {clean_dir}"] if not all(ready) else []),
        *_passed_over_notes(pairs.passed_over, options.dataset_dir),
        *_alike_notes(cases, alike, options.ignore_look_alikes),
        *_patient_notes(cases),
        *left_out,
        *(f"warning: {note}" for note in missing_class_notes(shown, names)),
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
    return {**{key: path.relative_to(dataset_dir).as_posix() for key, path in paths.items()}, **case}


def _write_mask(mask, num_classes: int, path: Path) -> None:
    """As PNG; two classes as 0 and 255, which can be looked at."""
    with atomic_path(path) as partial_path:
        Image.fromarray(mask * 255 if num_classes == 2 else mask).save(partial_path)


def _passed_over_notes(passed_over: dict[Path, str], dataset_dir: Path) -> list[str]:
    summary = describe_passed_over(passed_over.values())
    alone = [path.relative_to(dataset_dir).as_posix() for path, why in passed_over.items() if why.startswith("masks")]
    return [summary] * bool(summary) + [f"masks without an image: {_some(alone)}"] * bool(alone)


def _alike_notes(cases: list[dict], alike: list[list[int]], ignored: bool) -> list[str]:
    """Of images that look alike and are not of one known patient."""
    names = [
        " = ".join(cases[index]["image"] for index in group)
        for group in alike
        if len({str(cases[index].get("patient", cases[index]["image"])) for index in group}) > 1
    ]
    place = "may be in two lists" if ignored else "stay in one list"
    told = f"{'warning: ' * ignored}images that look alike {place} (groups: {len(names)}): {_some(names, '; ')}"
    return [told] if names else []


def _patient_notes(cases: list[dict]) -> list[str]:
    if all("patient" in case for case in cases):
        return []
    return [
        "warning: patients were not told apart, so one patient may be in two lists; find them in the file names with "
        "--patient_regex"
    ]


def _leads_out(dataset_dir: Path, splits: dict[str, list[dict]]) -> bool:
    """Whether a link leads to files outside of the folder, which trainings refuse unless they are told."""
    folder = dataset_dir.resolve()
    paths = [
        dataset_dir / item[key]
        for items in splits.values()
        for item in items
        for key in ("image", "label")
        if key in item
    ]
    return not all(Path(os.path.realpath(path)).is_relative_to(folder) for path in paths)


def _some(names: list[str], between: str = ", ") -> str:
    return between.join([*names[:MAX_NAMED], *([f"and {len(names) - MAX_NAMED} more"] if names[MAX_NAMED:] else [])])


def _class_names(num_classes: int, labels: str | None) -> list[str]:
    check_num_classes(num_classes, "--num_classes")
    if labels is None:
        return ["background", "lesion"] if num_classes == 2 else default_names(num_classes)
    if len(labels.split(",")) != num_classes:
        raise ValueError(f"--labels must name {num_classes} classes with background, comma separated, got {labels!r}.")
    return [label.strip() for label in labels.split(",")]


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
    task.add_argument("--check", type=Path, metavar="DATALIST", help="only look for look-alikes in two of its lists")
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
