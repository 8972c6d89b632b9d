"""Several datalists as one, with their own splits: paths from one folder, patients told apart, classes of one meaning.

Each item gets the key "set", the name of its data set's folder, and its patient the same name in front. Lists without
masks ("unlabeled") stay such a list. Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .datalist_file import class_names, load_list, read_datalist
from .lesion_free import FLAG, NOTHING, black_mask, mask_paths, relative_path
from .look_alikes import describe_group, is_across
from .mask_files import Examined, check_places, clean_mask, examine
from .notes import some
from .splits import LISTS, SPLITS, UNLABELED, check_listed_once, check_patients, map_in_threads, split_by_patient

SET = "set"
Lists = dict[str, list[dict]]


@dataclass(frozen=True)
class Source:
    """A data set to join.

    Args:
        name: of its folder.
        datalist: its file.
        names: of its classes, the background first.
        lists: its items with absolute paths.
    """

    name: str
    datalist: Path
    names: list[str]
    lists: Lists

    @property
    def labeled(self) -> bool:
        """Whether an item has a mask."""
        return any("label" in item for items in self.lists.values() for item in items)


@dataclass
class Joined:
    """What was joined.

    Args:
        lists: items with paths from the dataset folder.
        names: of the classes, the background first.
        examined: by list what each mask shows.
        masks: what makes each mask that is to be written, by its path.
    """

    lists: Lists
    names: list[str]
    examined: dict[str, list[Examined]]
    masks: dict[Path, Callable[[], np.ndarray]] = field(default_factory=dict)


def read_source(datalist: Path) -> Source:
    """A data set's lists.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no datalist, or all its lists are empty.
    """
    if datalist.is_dir():
        raise ValueError(f"{datalist} is a folder; name the datalist in it, such as {datalist / 'dataset.json'}.")
    content, folder = read_datalist(datalist), datalist.resolve().parent
    labels = content.get("labels")
    names = class_names(labels, len(labels) if isinstance(labels, dict) and labels else 2, datalist)
    lists = {split: load_list(content, split, datalist, folder) for split in LISTS}
    if not any(lists.values()):
        raise ValueError(f"{datalist} has no images in the lists {', '.join(LISTS)}.")
    return Source(folder.name, datalist, names, lists)


def parse_maps(texts: Sequence[str]) -> dict[str, dict[int, int]]:
    """Class values by set, of texts such as "usgra: 1=0,2=0".

    Raises:
        ValueError: a text of another form, or a set named twice.
    """
    maps: dict[str, dict[int, int]] = {}
    for text in texts:
        match = re.fullmatch(r"\s*([^:]+?)\s*:\s*(\d+\s*=\s*\d+(?:\s*,\s*\d+\s*=\s*\d+)*)\s*", text)
        if match is None or match[1] in maps:
            raise ValueError(f"--map must be of the form 'SET: 1=0,2=1', once for each set, got {text!r}.")
        pairs = [[int(number) for number in pair.split("=")] for pair in match[2].split(",")]
        maps[match[1]] = {0: 0, **dict(pairs)}
    return maps


def class_tables(
    sources: Sequence[Source], maps: Mapping[str, Mapping[int, int]], labels: Sequence[str] | None
) -> tuple[list[str], dict[str, np.ndarray | None]]:
    """Names of the joint classes, and by set the joint class of each of its own; None where they are the same.

    Raises:
        ValueError: class names differ and nothing is said of them, or a map names an unknown set or class.
    """
    labeled = [source for source in sources if source.labeled]
    names = list(labels or (labeled[0].names if labeled else sources[0].names))
    unknown = [name for name in maps if name not in {source.name for source in labeled}]
    if unknown:
        there = ", ".join(source.name for source in labeled)
        raise ValueError(f"--map names the set {unknown[0]}, which is not joined with masks; sets are {there}.")
    tables = {}
    for source in labeled:
        table = maps.get(source.name, {})
        if not table and source.names != names:
            fix = ",".join(f"{index}=0" for index in range(1, len(source.names)))
            raise ValueError(
                f"{source.name} has the classes {', '.join(source.names)}, but the joint list has {', '.join(names)}; "
                f"say what each is there, such as --map '{source.name}: {fix}' (0 is the background), or name all "
                "classes with --labels."
            )
        tables[source.name] = _table(source, table, names) if table else None
    return names, tables


def _table(source: Source, table: Mapping[int, int], names: Sequence[str]) -> np.ndarray | None:
    own = range(len(source.names))
    if set(table) != set(own) or not all(0 <= value < len(names) for value in table.values()):
        raise ValueError(
            f"--map of {source.name} must give each of its classes 1..{len(own) - 1} ({', '.join(source.names[1:])}) "
            f"one of 0..{len(names) - 1} ({', '.join(names)}), got {dict(table)}."
        )
    values = np.array([table[index] for index in own], np.uint8)
    return None if len(own) == len(names) and (values == np.arange(len(own))).all() else values


def join_lists(
    sources: Sequence[Source],
    lesion_free: Sequence[Source],
    tables: Mapping[str, np.ndarray | None],
    names: list[str],
    dataset_dir: Path,
    clean_dir: Path | None,
    shares: tuple[float, float, int],
) -> Joined:
    """The joint lists; nothing is written yet.

    Args:
        sources: sets whose masks count.
        lesion_free: sets whose images show no lesion, whatever masks they have.
        tables: of `class_tables`.
        names: of the joint classes.
        dataset_dir: that paths start from.
        clean_dir: for masks of other class values, and black ones.
        shares: of validation and test, and the seed, for lesion-free sets of one list.

    Raises:
        ValueError: two sets of one name, masks to write and no folder for them, or a mask that is none.
    """
    _check_names([*sources, *lesion_free])
    needs = [source.name for source in lesion_free] + [name for name, table in tables.items() if table is not None]
    if needs and clean_dir is None:
        raise ValueError(f"masks of {', '.join(needs)} are written anew; pass --clean_masks DIR, a folder for them.")
    joined = Joined({key: [] for key in LISTS}, names, {split: [] for split in SPLITS})
    for source in sources:
        for key in LISTS:
            items = [_labeled(item, source, tables.get(source.name), joined, clean_dir) for item in source.lists[key]]
            joined.lists[key] += [_relative(item, source.name, dataset_dir) for item in items]
            if key in SPLITS:
                joined.examined[key] += _examined(source, source.lists[key], tables.get(source.name), len(names))
    for source in lesion_free:
        for split, items in _black(source, joined, clean_dir, shares).items():
            joined.lists[split] += [_relative(item, source.name, dataset_dir) for item in items]
            joined.examined[split] += [NOTHING] * len(items)
    joined.lists = {key: items for key, items in joined.lists.items() if items or key in SPLITS}
    return joined


def _check_names(sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two of the joined sets are called {twice}, after their folders; rename one of the folders.")


def _labeled(
    item: dict, source: Source, table: np.ndarray | None, joined: Joined, clean_dir: Path | None
) -> dict[str, Any]:
    """The item, with the path of its mask of joint class values, if that is another."""
    if table is None or "label" not in item:
        return item
    label = Path(item["label"])
    path = clean_dir / source.name / f"{Path(item['image']).stem}.png"
    if path in joined.masks:
        path = path.with_stem(f"{path.stem}_{len(joined.masks)}")
    joined.masks[path] = partial(_mapped, label, len(source.names), table)
    return {**item, "label": str(path)}


def _mapped(label: Path, num_classes: int, table: np.ndarray) -> np.ndarray:
    return table[clean_mask([label], num_classes)]


def _examined(source: Source, items: Sequence[dict], table: np.ndarray | None, num_classes: int) -> list[Examined]:
    """What the masks of a list show, in joint classes."""
    paths = [Path(item["label"]) for item in items if "label" in item]
    try:
        seen = map_in_threads(lambda path: examine([path], len(source.names)), paths)
    except ValueError as error:  # it names config ids
        raise ValueError(str(error).replace("data::num_classes", f"labels of {source.datalist}")) from None
    unready = [path for path, one in zip(paths, seen) if not one.ready]
    if unready and table is None:
        raise ValueError(f"mask {unready[0]} cannot be used as it is; build the list of {source.name} anew first.")
    if table is None:
        return seen
    classes = [frozenset(int(table[c]) for c in one.classes) - {0} for one in seen]
    return [one._replace(classes=shown, center=one.center if shown else None) for one, shown in zip(seen, classes)]


def _black(source: Source, joined: Joined, clean_dir: Path, shares: tuple[float, float, int]) -> Lists:
    """The lists of a lesion-free set, each item with the path of a black mask; a set of one list is split."""
    filled = [key for key in LISTS if source.lists[key]]
    lists = {split: list(source.lists[split]) for split in SPLITS}
    if len(filled) == 1:
        try:
            lists = split_by_patient(source.lists[filled[0]], [], *shares)
        except ValueError as error:
            raise ValueError(f"{source.datalist}: {error}") from None
    else:
        lists["training"] += source.lists[UNLABELED]
    images = [Path(item["image"]) for items in lists.values() for item in items]
    masks = dict(zip(map(str, images), mask_paths(images, clean_dir)))
    for image, mask in masks.items():
        check_places(Path(image), (), ready=False)
        joined.masks[mask] = partial(black_mask, Path(image))
    return {
        split: [{**item, "label": str(masks[str(Path(item["image"]))]), FLAG: True} for item in items]
        for split, items in lists.items()
    }


def _relative(item: dict, name: str, dataset_dir: Path) -> dict:
    paths = {key: relative_path(Path(item[key]), dataset_dir) for key in ("image", "label") if key in item}
    patient = {} if item.get("patient") is None else {"patient": f"{name}:{item['patient']}"}
    rest = {key: value for key, value in item.items() if key not in ("image", "label", "patient")}
    return {**paths, SET: name, **patient, **rest}


def check_lists_apart(lists: Lists, groups: Sequence[Sequence[int]], ignored: bool) -> list[str]:
    """Notes on images that look alike in two lists; unlabeled images count as training images, as for patients.

    Args:
        lists: joint.
        groups: indices of images that look alike, list by list.
        ignored: tell them in a warning.

    Raises:
        ValueError: there are some, and they are not to be ignored; a patient in two lists, or an image twice in one.
    """
    check_listed_once(lists)
    check_patients(lists)
    places = [(item["image"], split) for split, items in lists.items() for item in items]
    placed = [[places[index] for index in group] for group in groups]
    across = [describe_group(group) for group in placed if is_across(group)]
    if not across:
        return []
    told = f"images that look alike are in two lists (groups: {len(across)}): {some(across, '; ')}"
    if not ignored:
        raise ValueError(f"{told}; take one of each group out of its list, or pass --ignore_look_alikes.")
    return [f"warning: {told}"]
