"""The config section "data": lists of cases, checked before the first batch.

`SegmentationData` reads them from a datalist, the JSON of the Medical Segmentation Decathlon that
monai.data.load_decathlon_datalist reads, with the lists training, validation and test. An item has "image", "label"
and, optionally, "patient" and other metadata. Paths are relative to the dataset folder. `GivenCases` gets its lists
from a program such as MONAI Label.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from monai.data import load_decathlon_datalist
from monai.utils import MetaKeys

from ..utils.digests import text_digest
from ..utils.options import check_img_size, check_num_classes
from .geometry import Place, flips_to_match
from .readers import read_image, read_mask
from .splits import SPLITS, check_identical_files, check_patients, map_in_threads
from .transforms import check_label_values


class CaseLists:
    """Lists of cases: dicts with the absolute paths "image" and "label" and the case's metadata.

    Args:
        splits: the lists training, validation and test.
        dataset_dir: folder that the images are in or below.
        origin: where the paths are from, for messages.
        labels: names of the classes, the background first.
        num_classes: number of classes with background.
        img_size: side of the student's square input, in pixels.
        check: decode every file once, see `check_files`; the lists themselves are always checked.

    Raises:
        FileNotFoundError: when an image or a label is missing.
        ValueError: when a patient or an image is in two lists, or a file is not usable.
    """

    def __init__(
        self,
        splits: dict[str, list[dict]],
        dataset_dir: Path,
        origin: str,
        labels: list[str],
        num_classes: int,
        img_size: int,
        check: bool,
    ) -> None:
        self._splits = splits
        self._origin = origin
        self.dataset_dir = dataset_dir
        self.labels = labels
        self.num_classes = num_classes
        self.img_size = img_size
        check_patients(splits)
        self._check_existence()
        check_identical_files(splits)
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
        return self._splits["test"]

    @property
    def digest(self) -> str:
        """A hash, in hex, of the lists with all that they say of each case; paths below `dataset_dir` without it."""
        text = json.dumps(self._splits, sort_keys=True, default=str)
        return text_digest(text.replace(json.dumps(f"{self.dataset_dir}{os.sep}")[1:-1], ""), 8)

    def check_files(self) -> None:
        """Decode every image and label once.

        Raises:
            ValueError: when a file cannot be read, a label has another size than its image or a value outside
                num_classes.
        """
        map_in_threads(partial(_check_case, num_classes=self.num_classes), self._items())

    def _items(self) -> list[dict]:
        return [item for split in SPLITS for item in self._splits[split]]

    def _check_existence(self) -> None:
        items = self._items()
        for key in ("image", "label"):
            missing = [item[key] for item in items if key in item and not os.path.isfile(item[key])]
            if missing:
                raise FileNotFoundError(
                    f"{key} file {missing[0]} does not exist ({len(missing)} of {len(items)} {key} files are missing); "
                    f"check {self._origin}."
                )


class SegmentationData(CaseLists):
    """The cases of a datalist.

    Args:
        dataset_dir: folder of the dataset; its name is the dataset's name in the run folder. [path]
        datalist: JSON file in `dataset_dir`, or an absolute path. [file name or path]
        num_classes: number of classes; the background counts. [2 or more]
        img_size: side in pixels of the square images that student and teacher get; the teacher resizes them to its own.
            [multiple of 16]
        check: decode every file once, see `check_files`; the lists themselves are always checked.

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
    ) -> None:
        check_num_classes(num_classes)
        check_img_size(img_size)
        folder = _existing_dir(dataset_dir)
        self.datalist = folder / Path(datalist).expanduser()
        content = _read_json(self.datalist)
        labels = _class_names(content.get("labels"), num_classes, self.datalist)
        splits = {split: _load(content, split, self.datalist, folder) for split in SPLITS}
        origin = f"data::dataset_dir and the paths in {self.datalist}"
        super().__init__(splits, folder, origin, labels, num_classes, img_size, check)

    @property
    def test(self) -> list[dict]:
        """The test cases, all with labels.

        Raises:
            ValueError: there are none, or one has no label. Only an evaluation needs them, so only here.
        """
        cases = self._splits["test"]
        if not cases:
            raise ValueError(
                f"datalist {self.datalist} has no test cases, expected a list 'test'; add one to evaluate."
            )
        unlabeled = [item["image"] for item in cases if "label" not in item]
        if unlabeled:
            raise ValueError(
                f"test case {unlabeled[0]} in datalist {self.datalist} has no label ({len(unlabeled)} of {len(cases)} "
                "have none), expected one to evaluate; add its 'label' path or take it out of the list 'test': "
                "configs/inference.json segments images without labels."
            )
        return cases


class GivenCases(CaseLists):
    """The cases of a program that has lists of its own, such as MONAI Label's studies. There are no test cases.

    Args:
        training: dicts with the absolute paths "image" and "label".
        validation: likewise.
        num_classes: number of classes with background.
        img_size: side of the student's square input, in pixels.

    Raises:
        FileNotFoundError: when an image or a label is missing.
        ValueError: when both lists are empty, an image is in both, or a file or an argument is not usable.
    """

    def __init__(self, training: list[dict], validation: list[dict], num_classes: int = 2, img_size: int = 224) -> None:
        check_num_classes(num_classes)
        check_img_size(img_size)
        if not training and not validation:
            raise ValueError("training and validation are empty, expected at least one case; label a study first.")
        splits = {"training": training, "validation": validation, "test": []}
        labels, folder = _class_names(None, num_classes), _common_folder([*training, *validation])
        super().__init__(splits, folder, "the studies in MONAI Label", labels, num_classes, img_size, check=True)


def _load(content: dict[str, Any], split: str, datalist: Path, dataset_dir: Path) -> list[dict]:
    """One list of a datalist, with absolute paths. A missing test list is empty."""
    if not content.get(split):
        if split == "test":
            return []
        reason = "an empty list" if split in content else f"only the keys {', '.join(sorted(content))}"
        raise ValueError(
            f"datalist {datalist} has no {split} cases: expected a list {split!r}, found {reason}; "
            "build one with python -m scripts.make_datalist."
        )
    for number, item in enumerate(content[split]):
        _check_item(item, f"item {number} of {split} in {datalist}", label_required=split != "test")
    return load_decathlon_datalist(datalist, data_list_key=split, base_dir=dataset_dir)


def _check_item(item: Any, place: str, label_required: bool) -> None:
    if isinstance(item, str) and not label_required:  # the decathlon's test lists are bare paths
        return
    if not isinstance(item, dict) or not isinstance(item.get("image"), str):
        raise ValueError(f"{place} must be an object with an 'image' path, got {item!r}; correct data::datalist.")
    if not isinstance(item.get("label", "" if not label_required else None), str):
        raise ValueError(f"{place} must have a 'label' path, got {item!r}; correct data::datalist.")


def _check_case(item: dict, num_classes: int) -> None:
    image, image_meta = read_image(item["image"])
    if "label" not in item:
        return
    mask, mask_meta = read_mask(item["label"])
    flips_to_match(
        Place.read(item["image"], image.shape, image_meta.get(MetaKeys.AFFINE), image_meta),
        Place.read(item["label"], mask.shape, mask_meta.get(MetaKeys.AFFINE), mask_meta),
    )
    check_label_values(mask, num_classes, item["label"])


def _common_folder(cases: list[dict]) -> Path:
    """The folder that all images are in or below."""
    return Path(os.path.commonpath([os.path.dirname(case["image"]) for case in cases]))


def _existing_dir(dataset_dir: str | Path | None) -> Path:
    if not dataset_dir:
        raise ValueError(f"data::dataset_dir is required, got {dataset_dir!r}; pass --data::dataset_dir PATH.")
    path = Path(dataset_dir).expanduser().resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"data::dataset_dir {path} is no folder; pass --data::dataset_dir PATH.")
    return path


def _read_json(path: Path) -> dict[str, Any]:
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


def _class_names(labels: dict[str, str] | None, num_classes: int, datalist: Path | None = None) -> list[str]:
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
