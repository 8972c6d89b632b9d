"""The config section "data": lists of cases, checked before the first batch.

`SegmentationData` reads them from a datalist, the JSON of the Medical Segmentation Decathlon, with the lists training,
validation and test, of which a run needs those that it reads, and perhaps a list unlabeled. An item has "image",
"label" (but not in unlabeled) and, optionally, "patient" and other metadata. Paths are relative to the dataset folder.
`GivenCases` gets its lists from a program such as MONAI Label.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

from monai.utils import MetaKeys

from ..utils.digests import array_digest, text_digest
from ..utils.options import check_img_size, check_num_classes
from .classes import check_label_values, foreground_classes, missing_class_notes
from .datalist_file import check_inside, class_names, load_list, read_datalist
from .geometry import Place, flips_to_match
from .readers import read_image, read_mask
from .splits import (
    SPLITS,
    UNLABELED,
    check_identical_files,
    check_listed_once,
    check_patients,
    check_same_pixels,
    map_in_threads,
)
from .unlabeled import check_share

logger = logging.getLogger(__name__)


class CheckedCase(NamedTuple):
    """What the check of a case has seen.

    pixels: a digest of the image's gray values. classes: the foreground classes of its mask; None without a mask.
    """

    pixels: str
    classes: frozenset[int] | None


class CaseLists:
    """Lists of cases: dicts with the absolute paths "image" and "label" and the case's metadata.

    Args:
        splits: the lists training, validation and test, and perhaps unlabeled.
        dataset_dir: folder that the images are in or below.
        origin: where the paths are from, for messages.
        labels: names of the classes, the background first.
        num_classes: number of classes with background.
        img_size: side of the student's square input, in pixels.
        check: decode every file once, see `check_files`; the lists themselves are always checked.
        unlabeled_share: of each training batch; 0 leaves the unlabeled images out.

    `notes` are sentences for whoever reads results: classes that no mask of a list shows, as far as files were checked.

    Raises:
        FileNotFoundError: when an image or a label is missing.
        ValueError: when a patient or an image is in two lists, an image twice in one, or a file is not usable.
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
        unlabeled_share: float = 0.0,
    ) -> None:
        self._splits = splits
        self._origin = origin
        self.dataset_dir = dataset_dir
        self.labels = labels
        self.num_classes = num_classes
        self.img_size = img_size
        self.unlabeled_share = unlabeled_share
        self.notes: list[str] = []
        self._lesion_free = False  # the training list, as far as files were checked
        check_patients(splits)
        self._check_existence()
        check_listed_once(splits)
        check_identical_files(splits)
        if check:
            self.check_files()

    def _with_lesion(self, cases: list[dict]) -> list[dict]:
        """The training cases, of which some show a lesion, as far as files were checked."""
        if self._lesion_free:
            raise ValueError(
                f"none of the {len(cases)} training masks shows a lesion ({self._origin}), so that a network would "
                "learn to find nothing; add images with a lesion to the list training."
            )
        return cases

    @property
    def name(self) -> str:
        return self.dataset_dir.name

    @property
    def training(self) -> list[dict]:
        return self._with_lesion(self._splits["training"])

    @property
    def validation(self) -> list[dict]:
        return self._splits["validation"]

    @property
    def test(self) -> list[dict]:
        return self._splits["test"]

    @property
    def unlabeled(self) -> list[dict]:
        """The images without labels, whether they are trained on or not."""
        return self._splits.get(UNLABELED, [])

    @property
    def sizes(self) -> dict[str, int]:
        """Number of cases by list."""
        return {split: len(items) for split, items in self._splits.items()}

    @property
    def digest(self) -> str:
        """A hash, in hex, of the lists with all that they say of each case; paths below `dataset_dir` without it.

        The list unlabeled counts where it is trained on.
        """
        names = (*SPLITS, UNLABELED) if self.unlabeled_share else SPLITS
        lists = {split: items for split, items in self._splits.items() if split in names}
        text = json.dumps(lists, sort_keys=True, default=str)
        return text_digest(text.replace(json.dumps(f"{self.dataset_dir}{os.sep}")[1:-1], ""), 8)

    def check_files(self) -> None:
        """Decode every image and label once, and warn of classes that a list lacks.

        Raises:
            ValueError: when a file cannot be read, a label has another size than its image or a value outside
                num_classes, or two lists hold images of the same pixels.
        """
        checked = iter(map_in_threads(partial(_check_case, num_classes=self.num_classes), self._items()))
        cases = {split: [next(checked) for _ in items] for split, items in self._splits.items()}
        check_same_pixels(self._splits, [case.pixels for split in self._splits for case in cases[split]])
        masks = {split: [case.classes for case in cases[split] if case.classes is not None] for split in cases}
        occurring = {split: frozenset().union(*classes) for split, classes in masks.items() if classes}
        self._lesion_free = occurring.get("training") == frozenset()
        self.notes = missing_class_notes(occurring, self.labels)
        for note in self.notes:
            logger.warning("%s", note)

    def _items(self) -> list[dict]:
        return [item for items in self._splits.values() for item in items]

    def _check_existence(self) -> None:
        items = self._items()
        for key in ("image", "label"):
            missing = [item[key] for item in items if key in item and not os.path.isfile(item[key])]
            if missing:
                raise FileNotFoundError(
                    f"{key} file {missing[0]} does not exist ({len(missing)} of {len(items)} {key} files are missing); "
                    f"check {self._origin}{_nearest(missing[0])}."
                )


class SegmentationData(CaseLists):
    """The cases of a datalist.

    Args:
        dataset_dir: folder of the dataset; its name is the dataset's name in the run folder. [path]
        datalist: JSON file in `dataset_dir`, or an absolute path. [file name or path]
        num_classes: number of classes; the background counts. [2 or more]
        img_size: side in pixels of the square images that student and teacher get; the teacher resizes them to its own.
            [multiple of 16]
        check: decode every file once, see `check_files`; the lists themselves are always checked. [true, false]
        allow_outside: take images and labels that do not lie in `dataset_dir`, directly or through a link. Otherwise
            such a path is refused: a datalist from somebody else could read any file. [true, false]
        unlabeled_share: share of each training batch that is drawn from the list unlabeled; these images bring the
            teacher's terms of the loss alone. 0 leaves them out. [0 to below 1]

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
        allow_outside: bool = False,
        unlabeled_share: float = 0.0,
    ) -> None:
        check_share(unlabeled_share)
        check_num_classes(num_classes)
        check_img_size(img_size)
        folder = existing_dir(dataset_dir)
        self.datalist = folder / Path(datalist).expanduser()
        content = read_datalist(self.datalist)
        labels = class_names(content.get("labels"), num_classes, self.datalist)
        splits = {split: load_list(content, split, self.datalist, folder) for split in SPLITS}
        if unlabeled := load_list(content, UNLABELED, self.datalist, folder):
            splits[UNLABELED] = unlabeled
        self._keys = sorted(content)
        if not any(splits.values()):
            raise ValueError(self._lacks("training"))
        if unlabeled_share and not unlabeled:
            raise ValueError(
                f"data::unlabeled_share is {unlabeled_share}, but datalist {self.datalist} has no unlabeled cases; add "
                "them with python -m scripts.make_datalist --unlabeled DIR, or pass --data::unlabeled_share 0."
            )
        if not allow_outside:
            check_inside(splits, folder, self.datalist)
        origin = f"data::dataset_dir and the paths in {self.datalist}"
        super().__init__(splits, folder, origin, labels, num_classes, img_size, check, unlabeled_share)
        if unlabeled_share:
            share = f"data::unlabeled_share {unlabeled_share:g}"
            self.notes.append(
                f"Trained with images without labels too, drawn from a list of {len(unlabeled)} ({share})."
            )

    @property
    def training(self) -> list[dict]:
        """The training cases.

        Raises:
            ValueError: there are none, or none shows a lesion. Only a training needs them, so only here; likewise the
                validation cases.
        """
        return self._with_lesion(self._needed("training"))

    @property
    def validation(self) -> list[dict]:
        """The validation cases."""
        return self._needed("validation")

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

    def _needed(self, split: str) -> list[dict]:
        if not self._splits[split]:
            raise ValueError(self._lacks(split))
        return self._splits[split]

    def _lacks(self, split: str) -> str:
        reason = "an empty list" if split in self._keys else f"only the keys {', '.join(self._keys)}"
        return (
            f"datalist {self.datalist} has no {split} cases: expected a list {split!r}, found {reason}; build one with "
            "python -m scripts.make_datalist."
        )


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
        labels, folder = class_names(None, num_classes), _common_folder([*training, *validation])
        super().__init__(splits, folder, "the studies in MONAI Label", labels, num_classes, img_size, check=True)


def _check_case(item: dict, num_classes: int) -> CheckedCase:
    image, image_meta = read_image(item["image"])
    pixels = array_digest(image, str(image.shape))
    if "label" not in item:
        return CheckedCase(pixels, None)
    mask, mask_meta = read_mask(item["label"])
    flips_to_match(
        Place.read(item["image"], image.shape, image_meta.get(MetaKeys.AFFINE), image_meta),
        Place.read(item["label"], mask.shape, mask_meta.get(MetaKeys.AFFINE), mask_meta),
    )
    check_label_values(mask, num_classes, item["label"])
    return CheckedCase(pixels, foreground_classes(mask, num_classes))


def _nearest(path: str) -> str:
    """The file of the most similar name in a missing file's folder, as the end of a message."""
    folder, name = os.path.split(path)
    there = {other.lower(): other for other in os.listdir(folder)} if os.path.isdir(folder) else {}
    near = difflib.get_close_matches(name.lower(), there, 1)
    return f"; the nearest file there is {there[near[0]]}" if near else ""


def _common_folder(cases: list[dict]) -> Path:
    """The folder that all images are in or below."""
    return Path(os.path.commonpath([os.path.dirname(case["image"]) for case in cases]))


def existing_dir(dataset_dir: str | Path | None) -> Path:
    """The folder that `data::dataset_dir` names.

    Raises:
        FileNotFoundError: there is none.
        ValueError: nothing is named.
    """
    if not dataset_dir:
        raise ValueError(f"data::dataset_dir is required, got {dataset_dir!r}; pass --data::dataset_dir PATH.")
    path = Path(dataset_dir).expanduser().resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"data::dataset_dir {path} is no folder; pass --data::dataset_dir PATH.")
    return path
