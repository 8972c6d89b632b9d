"""The data sets of the organs: their lists, cut to a number of training images, and the joint list of all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.data.datalist_file import load_list, read_datalist
from scripts.data.joined import Source, read_source
from scripts.data.splits import SPLITS
from scripts.data.unlabeled_lists import spoiled_images
from scripts.evaluation.robustness import spread_indices
from scripts.make_datalist import build
from scripts.utils.digests import json_digest
from scripts.utils.files import atomic_path, clear_leftovers
from scripts.utils.screen import tell

JOINT = "joint"  # the set of all sets
DATALIST = "dataset.json"
REMEDY = "pass another --output_dir, or the options and sets that it was begun with"


@dataclass(frozen=True)
class OrganSet:
    """A data set whose students are trained.

    Args:
        name: of its folder; JOINT for the set of all sets.
        dataset_dir: of its images.
        datalist: with the lists that are used.
        names: of its classes, the background first.
        sizes: number of images by list.
        left_out: training images that look like one of validation or test.
    """

    name: str
    dataset_dir: Path
    datalist: Path
    names: tuple[str, ...]
    sizes: dict[str, int]
    left_out: int = 0


def read_sets(folders: Sequence[Path]) -> list[Source]:
    """The data sets of some folders.

    Raises:
        FileNotFoundError: a folder without its datalist.
        ValueError: two sets of one name, one that is called JOINT, a list that is no datalist, or that has no training
            or validation images.
    """
    for folder in folders:
        if not (folder / DATALIST).is_file():
            raise FileNotFoundError(
                f"--sets {folder} holds no {DATALIST}; build it with python -m scripts.make_datalist, or name another "
                "folder."
            )
    sources = [read_source(folder / DATALIST) for folder in folders]
    name, count = Counter(source.name for source in sources).most_common(1)[0]
    if count > 1:
        raise ValueError(f"two of --sets are called {name}, after their folders; name each once, or rename a folder.")
    for source in sources:
        if source.name == JOINT:
            raise ValueError(f"a set of --sets is called {JOINT}, as the set of all sets is here; rename its folder.")
        lacks = [split for split in ("training", "validation") if not source.lists[split]]
        if lacks:
            raise ValueError(f"--sets {source.datalist} has no {lacks[0]} images; leave it out, or split it anew.")
    return sources


def write_lists(source: Source, num_images: int, output_dir: Path) -> OrganSet:
    """A set's lists as they are used; what is there stays as it is.

    Training images that look like a validation or test image are left out, of the others `num_images` are kept, spread
    evenly over the list. Paths are absolute.

    Args:
        source: the set.
        num_images: of the training list, at most.
        output_dir: of the program; the list is written to lists/NAME in it.

    Raises:
        ValueError: the list there was made of another one, or with another number; no training image is left.
    """
    path = output_dir / "lists" / source.name / DATALIST
    origin = json_digest([str(source.datalist.resolve()), source.names, source.lists, num_images])
    content = read_datalist(path) if path.is_file() else _make_lists(source, num_images, origin)
    if content.get("origin") != origin:
        raise ValueError(f"{path} was made of other lists or another --num_images; {REMEDY}.")
    if not path.is_file():
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    sizes = {split: len(content[split]) for split in SPLITS}
    folder = source.datalist.resolve().parent
    return OrganSet(source.name, folder, path, tuple(source.names), sizes, content["left_out"])


def _make_lists(source: Source, num_images: int, origin: str) -> dict[str, Any]:
    held_out = {item["image"]: split for split in ("validation", "test") for item in source.lists[split]}
    spoiled = spoiled_images([item["image"] for item in source.lists["training"]], held_out)
    kept = [item for item in source.lists["training"] if item["image"] not in spoiled]
    if not kept:
        raise ValueError(f"every training image of {source.datalist} looks like one of validation or test; split anew.")
    if spoiled:
        tell(f"{source.name}: {len(spoiled)} training images look like one of validation or test, and are left out")
    lists = {**{split: source.lists[split] for split in SPLITS}, "training": spread(kept, num_images)}
    labels = {str(index): name for index, name in enumerate(source.names)}
    return {"name": source.name, "labels": labels, "origin": origin, "left_out": len(spoiled), **lists}


def spread(items: Sequence[dict], most: int) -> list[dict]:
    """At most so many of the items, spread evenly over the list."""
    return [items[index] for index in spread_indices(len(items), most)]


def joint_classes(sets: Sequence[Source | OrganSet]) -> dict[str, list[int]]:
    """By set the joint class of each of its foreground classes; all are apart, in the order of the sets.

    Raises:
        ValueError: one set alone, or a class name that two sets share.
    """
    if len(sets) < 2:
        raise ValueError(
            f"--joint needs two sets or more, got {', '.join(one.name for one in sets)}; add one to --sets, or leave "
            "--joint out."
        )
    owners: dict[str, str] = {}
    for one in sets:
        for name in one.names[1:]:
            if name in owners:
                raise ValueError(
                    f"{owners[name]} and {one.name} both have a class {name}, and each organ needs classes of its own "
                    f"for --joint; rename it in the labels of one {DATALIST}, or leave --joint out."
                )
            owners[name] = one.name
    names = list(owners)
    return {one.name: [1 + names.index(name) for name in one.names[1:]] for one in sets}


def write_joint(sets: Sequence[OrganSet], classes: Mapping[str, Sequence[int]], output_dir: Path) -> OrganSet:
    """The joint list of all sets, by `scripts.make_datalist --join`; what is there stays as it is.

    Args:
        sets: of `write_lists`.
        classes: of `joint_classes`.
        output_dir: of the program; list and masks are written to joint in it.

    Raises:
        ValueError: the list there is of other sets, or the lists cannot be joined.
    """
    names = ("background", *(name for one in sets for name in one.names[1:]))
    folder = output_dir / JOINT
    path = folder / DATALIST
    if not path.is_file():
        tell(f"joint list: {', '.join(names[1:])}")
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        maps = [f"{name}: {','.join(f'{i}={c}' for i, c in enumerate(own, 1))}" for name, own in classes.items()]
        places = ["--dataset_dir", str(folder), "--output", str(path), "--clean_masks", "masks", "--overwrite"]
        lists = ["--join", *(str(one.datalist) for one in sets), "--labels", ",".join(names), "--map", *maps]
        build([*places, *lists])
    for split in SPLITS:
        if _images(path, folder, split) != [i for one in sets for i in _images(one.datalist, one.dataset_dir, split)]:
            raise ValueError(f"{path} was made of other sets; {REMEDY}.")
    sizes = {split: sum(one.sizes[split] for one in sets) for split in SPLITS}
    return OrganSet(JOINT, folder, path, names, sizes, sum(one.left_out for one in sets))


def _images(datalist: Path, folder: Path, split: str) -> list[str]:
    """The files of a list's images."""
    return [os.path.realpath(item["image"]) for item in load_list(read_datalist(datalist), split, datalist, folder)]
