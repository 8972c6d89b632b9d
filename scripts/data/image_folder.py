"""Images without labels as the config section "data": what configs/pretrain.json learns from."""

from __future__ import annotations

from pathlib import Path

from ..utils.options import check_img_size, check_num_classes
from .datalist import CaseLists, existing_dir
from .datalist_file import check_inside, load_list, read_datalist
from .splits import LISTS, UNLABELED
from .unlabeled_lists import images_without_masks

DATALIST = "dataset.json"


class ImageFolder(CaseLists):
    """The images of a folder and its subfolders, or of a datalist; no label is read.

    Of a datalist the lists training and unlabeled teach, and validation and test do not, so that a student that starts
    from what was learned here can be scored on them.

    Args:
        dataset_dir: folder of the images. [path]
        datalist: JSON file in `dataset_dir`, or an absolute path; null is dataset.json where the folder has one, and
            else all images of the folder and its subfolders. [file name, path, null]
        num_classes: of the logits that no term of the loss reads. [2 or more]
        img_size: side in pixels of the square images that student and teacher get. [multiple of 16]
        allow_outside: take images of a datalist that do not lie in `dataset_dir`. [true, false]

    Raises:
        FileNotFoundError: when the folder, the datalist or an image is missing.
        ValueError: when there is no image, a file is not usable, a mask lies among the images, or an image to learn
            from is a validation or test image too.
    """

    def __init__(
        self,
        dataset_dir: str | Path | None,
        datalist: str | None = None,
        num_classes: int = 2,
        img_size: int = 224,
        allow_outside: bool = False,
    ) -> None:
        check_num_classes(num_classes)
        check_img_size(img_size)
        folder = existing_dir(dataset_dir)
        named = datalist or (DATALIST if (folder / DATALIST).is_file() else None)
        self.datalist = folder / Path(named).expanduser() if named else None
        splits = _listed(self.datalist, folder, allow_outside) if self.datalist else {UNLABELED: _found(folder)}
        if not splits[UNLABELED]:
            raise ValueError(
                f"datalist {self.datalist} has neither training nor unlabeled cases to learn from; pass another "
                "--data::datalist."
            )
        splits = {**dict.fromkeys(LISTS, []), **splits}
        origin = f"data::dataset_dir and the paths in {self.datalist or folder}"
        labels = ["background", *(f"class {index}" for index in range(1, num_classes))]
        super().__init__(splits, folder, origin, labels, num_classes, img_size, check=True, unlabeled_share=1.0)


def _listed(datalist: Path, folder: Path, allow_outside: bool) -> dict[str, list[dict]]:
    """The lists of a datalist without labels; those that teach as one."""
    content = read_datalist(datalist)
    lists = {
        split: [
            {key: value for key, value in item.items() if key != "label"}
            for item in load_list(content, split, datalist, folder)
        ]
        for split in LISTS
    }
    if not allow_outside:
        check_inside(lists, folder, datalist)
    lists[UNLABELED] = lists.pop("training") + lists[UNLABELED]
    return lists


def _found(folder: Path) -> list[dict]:
    return [{"image": str(path)} for path in images_without_masks(folder, "data::dataset_dir")]
