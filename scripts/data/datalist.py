"""The config section "data": a decathlon datalist, checked before the first batch.

The datalist is the JSON of the Medical Segmentation Decathlon that monai.data.load_decathlon_datalist reads, with the
lists training, validation and test. An item has "image", "label" and, optionally, "patient" and other metadata.
Paths are relative to the dataset directory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from monai.data import load_decathlon_datalist

from .readers import read_image, read_mask
from .transforms import check_label_values

SPLITS = ("training", "validation", "test")


class SegmentationData:
    """Lists of a dataset's cases: dicts with the absolute paths "image" and "label" and the case's metadata.

    Args:
        dataset_dir: folder of the dataset; its name is the dataset's name in the run folder.
        datalist: JSON file in `dataset_dir`, or an absolute path.
        num_classes: number of classes with background.
        img_size: side of the student's square input, in pixels.
        check: decode every file once, see `check_files`; the lists themselves are always checked.
        cases: lists "training" and "validation" of dicts with the absolute paths "image" and "label", used in the place
            of a datalist and its folder, as MONAI Label gives them; there are no test cases then.

    Raises:
        FileNotFoundError: when the folder, the datalist, an image or a label is missing.
        ValueError: when the datalist, a split, a file or an argument is not usable; the message names the fix.
    """

    def __init__(
        self,
        dataset_dir: str | Path | None,
        datalist: str = "dataset.json",
        num_classes: int = 2,
        img_size: int = 224,
        check: bool = True,
        cases: dict[str, list[dict]] | None = None,
    ) -> None:
        _check_num_classes(num_classes)
        _check_img_size(img_size)
        self.num_classes = num_classes
        self.img_size = img_size
        self.cases = cases
        if cases is None:
            self.dataset_dir = _existing_dir(dataset_dir)
            self.datalist = self.dataset_dir / Path(datalist).expanduser()
            content = _read_json(self.datalist)
        else:
            self.dataset_dir = _common_folder(cases)
            self.datalist, content = "MONAI Label's studies", {}
        self.labels = _class_names(content.get("labels"), num_classes, self.datalist)
        self._splits = {
            split: self._load(content, split) if cases is None else cases.get(split, []) for split in SPLITS
        }
        check_patients(self._splits)
        self._check_existence()
        check_identical_files(self._splits)
        if check:
            self.check_files()

    @property
    def name(self) -> str:
        return self.dataset_dir.name

    @property
    def training(self) -> list[dict]:
        return self._splits["training"]

    @property
    def validation(self) -> list[dict]:
        return self._splits["validation"]

    @property
    def test(self) -> list[dict]:
        """The test cases, all with labels; a list without them is refused here, since only an evaluation needs it. Of
        given `cases` there are none: they are not evaluated.
        """
        if self.cases is not None:
            return self._splits["test"]
        if not self._splits["test"]:
            raise ValueError(
                f"datalist {self.datalist} has no test cases, expected a list 'test'; add one to evaluate."
            )
        unlabeled = [item["image"] for item in self._splits["test"] if "label" not in item]
        if unlabeled:
            raise ValueError(
                f"test case {unlabeled[0]} in datalist {self.datalist} has no label ({len(unlabeled)} of "
                f"{len(self._splits['test'])} have none), expected one to evaluate; add its 'label' path or take it "
                "out of "
                "the list 'test': configs/inference.json segments images without labels."
            )
        return self._splits["test"]

    @property
    def digest(self) -> str:
        """A hash, in hex, of the lists with all that they say of each case; paths below `dataset_dir` without it."""
        text = json.dumps(self._splits, sort_keys=True, default=str).replace(
            json.dumps(f"{self.dataset_dir}{os.sep}")[1:-1], ""
        )
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def check_files(self) -> None:
        """Decodes every image and label once.

        Raises:
            ValueError: when a file cannot be read, a label has another size than its image or a value outside
                num_classes.
        """
        items = [item for split in SPLITS for item in self._splits[split]]
        _in_threads(lambda item: _check_case(item, self.num_classes), items)

    def _load(self, content: dict, split: str) -> list[dict]:
        if not content.get(split):
            if split == "test":
                return []
            found = "an empty list" if split in content else f"only the keys {', '.join(sorted(content))}"
            raise ValueError(
                f"datalist {self.datalist} has no {split} cases: expected a list {split!r}, found {found}; "
                "build one with python -m scripts.make_datalist."
            )
        for number, item in enumerate(content[split]):
            _check_item(item, f"item {number} of {split} in {self.datalist}", label_required=split != "test")
        return load_decathlon_datalist(self.datalist, data_list_key=split, base_dir=self.dataset_dir)

    def _check_existence(self) -> None:
        items = [item for split in SPLITS for item in self._splits[split]]
        for key in ("image", "label"):
            missing = [item[key] for item in items if key in item and not os.path.isfile(item[key])]
            if missing:
                raise FileNotFoundError(
                    f"{key} file {missing[0]} does not exist ({len(missing)} of {len(items)} {key} files are missing); "
                    f"check data::dataset_dir and the paths in {self.datalist}."
                )


def check_patients(splits: dict[str, list[dict]]) -> None:
    """Refuses a patient in two splits. An item without "patient" is its own patient.

    Raises:
        ValueError: naming the patients.
    """
    found = defaultdict(set)
    for split, items in splits.items():
        for item in items:
            if item.get("patient") is not None:
                found[str(item["patient"])].add(split)
    shared = sorted(patient for patient, where in found.items() if len(where) > 1)
    if shared:
        where = " and ".join(split for split in splits if split in found[shared[0]])
        raise ValueError(
            f"{len(shared)} patients are in two splits ({where}): {_some(shared)}; expected each patient in one split: "
            "build the datalist with python -m scripts.make_datalist."
        )


def check_identical_files(splits: dict[str, list[dict]]) -> None:
    """Refuses an image that is in two splits, under one name or as a byte-identical copy.

    Raises:
        ValueError: naming the first two files.
    """
    of_path = {str(item["image"]): split for split, items in splits.items() for item in items}
    for split, items in splits.items():
        for item in items:
            if of_path[str(item["image"])] != split:
                raise ValueError(_twice(item["image"], split, item["image"], of_path[str(item["image"])]))
    for group in identical_files(of_path):
        other = next((path for path in group if of_path[path] != of_path[group[0]]), None)
        if other is not None:
            raise ValueError(_twice(group[0], of_path[group[0]], other, of_path[other]))


def identical_files(paths: Iterable[str]) -> list[list[str]]:
    """Groups of two or more byte-identical files; only files of equal size are read."""
    by_size = _grouped(paths, os.path.getsize)
    same_size = [path for group in by_size if len(group) > 1 for path in group]
    digests = dict(zip(same_size, _in_threads(_digest, same_size)))
    return [group for group in _grouped(same_size, digests.get) if len(group) > 1]


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _grouped(paths: Iterable[str], key: Callable) -> list[list[str]]:
    groups = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return list(groups.values())


def _twice(first: str, split: str, second: str, other: str) -> str:
    return (
        f"image {first} ({split}) and image {second} ({other}) are the same file in two splits; expected each image in "
        "one split: build the datalist with python -m scripts.make_datalist (of studies in MONAI Label remove one)."
    )


def _in_threads(function: Callable, items: list) -> list:
    """Results in order; the first failure ends the rest."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            return list(pool.map(function, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _check_case(item: dict, num_classes: int) -> None:
    image, _ = read_image(item["image"])
    if "label" not in item:
        return
    mask, _ = read_mask(item["label"])
    if mask.shape != image.shape:
        raise ValueError(
            f"label {item['label']} has size {mask.shape} (width, height) and image {item['image']} {image.shape}; "
            "expected equal sizes: correct the mask or the pair in data::datalist."
        )
    check_label_values(mask, num_classes, item["label"])


def _some(names: list[str], count: int = 10) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _check_item(item: dict, where: str, label_required: bool) -> None:
    if isinstance(item, str) and not label_required:  # the decathlon's test lists are bare paths
        return
    if not isinstance(item, dict) or not isinstance(item.get("image"), str):
        raise ValueError(f"{where} must be an object with an 'image' path, got {item!r}; correct data::datalist.")
    if not isinstance(item.get("label", "" if not label_required else None), str):
        raise ValueError(f"{where} must have a 'label' path, got {item!r}; correct data::datalist.")


def _common_folder(cases: dict[str, list[dict]]) -> Path:
    """The folder that all images are in or below."""
    return Path(os.path.commonpath([os.path.dirname(item["image"]) for items in cases.values() for item in items]))


def _existing_dir(dataset_dir: str | Path | None) -> Path:
    if not dataset_dir:
        raise ValueError(f"data::dataset_dir is required, got {dataset_dir!r}; pass --data::dataset_dir PATH.")
    path = Path(dataset_dir).expanduser().resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"data::dataset_dir {path} is no folder; pass --data::dataset_dir PATH.")
    return path


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise FileNotFoundError(
            f"data::datalist {path} does not exist; build one with python -m scripts.make_datalist or pass "
            "--data::datalist NAME."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"data::datalist {path} is not readable JSON: {error}; correct it or build a new one."
        ) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(split, []), list) for split in SPLITS):
        raise ValueError(f"data::datalist {path} must be an object with the lists {', '.join(SPLITS)}.")
    return content


def _class_names(labels: dict | None, num_classes: int, datalist: Path) -> list[str]:
    """Names by class index, from {"0": "background", "1": "lesion"}; "class 1" where the datalist names none."""
    if not labels:
        return ["background", *(f"class {index}" for index in range(1, num_classes))]
    if not isinstance(labels, dict) or not all(str(key).isdecimal() for key in labels):
        raise ValueError(
            f'labels in {datalist} must map class index to name, as {{"0": "background"}}, got {labels!r}.'
        )
    names = {0: "background", **{int(key): str(name) for key, name in labels.items()}}
    if set(names) != set(range(num_classes)):
        raise ValueError(
            f"data::num_classes is {num_classes}, but {datalist} names {max(names) + 1} classes "
            f"({', '.join(names[index] for index in sorted(names))}); pass --data::num_classes {max(names) + 1}."
        )
    return [names[index] for index in range(num_classes)]


def _check_num_classes(num_classes: int) -> None:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"data::num_classes must be an integer of at least 2 (with background), got {num_classes!r}.")


def _check_img_size(img_size: int) -> None:
    if isinstance(img_size, bool) or not isinstance(img_size, int) or img_size < 16 or img_size % 16:
        raise ValueError(f"data::img_size must be a positive multiple of 16, got {img_size!r}.")
