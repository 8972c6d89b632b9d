"""Images and their masks in folders as people have them: which file belongs to which, and what is left over.

A case is what the names of an image and its mask have in common. Patterns say where it stands in a name: the image
pattern `{}_0000` and the mask pattern `{}_mask` make a case `scan7` of scan7_0000.png and scan7_mask.png. A mask may
have a further number, as scan7_mask_1.png. In subfolders the case is the path from the folder on.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..utils.passed_over import IN_SUBFOLDERS, why_passed_over

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".nii", ".nii.gz")
IMAGE_DIRS = ("images", "Images", "imagesTr")
MASK_DIRS = ("masks", "Masks", "labels", "Labels", "labelsTr")
CASE = "{}"  # in a pattern
HIDDEN, LINKED = "hidden", "linked folders"  # reasons to pass over a folder
NNUNET_DIR, NNUNET_NAME = "imagesTr", "{}_0000"  # of its first channel
_NUMBER = r"(?:[_\- ]\d+)?"  # of further masks of an image


@dataclass(frozen=True)
class Names:
    """Where images and masks are, and how they are called.

    Args:
        image_dir: below the dataset folder; None looks for one of IMAGE_DIRS.
        mask_dir: likewise, of MASK_DIRS.
        image: pattern of the images' names; None is the case alone, in imagesTr `{}_0000`.
        mask: pattern of the masks' names; None is the case alone.
        recursive: read subfolders too.
        left_out: folders of masks that this bundle has written, and of images without masks.
    """

    image_dir: str | None = None
    mask_dir: str | None = None
    image: str | None = None
    mask: str | None = None
    recursive: bool = False
    left_out: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for option, pattern in (("--image_name", self.image), ("--mask_name", self.mask)):
            if pattern is not None and pattern.count(CASE) != 1:
                raise ValueError(f"{option} must hold {CASE} once, in the place of the case, got {pattern!r}.")


@dataclass
class Pairs:
    """What was found.

    Args:
        images: by case.
        masks: one or more by case, in the order of their names.
        passed_over: why each file that is neither was left out.
    """

    images: dict[str, Path]
    masks: dict[str, list[Path]]
    passed_over: dict[Path, str] = field(default_factory=dict)


def find_pairs(dataset_dir: Path, names: Names) -> Pairs:
    """Every image with its masks.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: no image, two of one name, or an image without a mask; the message names the nearest file and the
            option that helps.
    """
    image_dir, mask_dir = _folders(dataset_dir, names)
    if image_dir == mask_dir and names.mask is None:
        raise ValueError(
            f"{image_dir} is the folder of images and masks; tell them apart with --mask_name '{{}}_mask'."
        )
    image_name = names.image or (NNUNET_NAME if image_dir.name == NNUNET_DIR else CASE)
    mask_name = names.mask or CASE
    left_out = set(names.left_out)
    listing = _Listing(names.recursive)
    stems = listing.stems(image_dir, left_out | ({mask_dir} - {image_dir}))
    mask_stems = {}
    if image_dir == mask_dir:
        mask_stems = {stem: path for stem, path in stems.items() if _case_of(stem, mask_name, _NUMBER)}
        stems = {stem: path for stem, path in stems.items() if stem not in mask_stems}
    images = {}
    for stem, path in stems.items():
        case = _case_of(stem, image_name)
        if case is None:
            listing.passed_over[path] = f"not named {image_name}"
        else:
            images[case] = path
    if not images:
        raise ValueError(_no_image(image_dir, listing.passed_over))
    if image_dir != mask_dir:
        mask_stems = listing.stems(mask_dir, left_out | {image_dir})
    masks, alone = _assign(images, mask_stems, mask_name)
    listing.passed_over.update(dict.fromkeys(alone, "masks without an image"))
    _check_all_have_masks(images, masks, mask_stems, mask_name)
    listing.passed_over.update(_elsewhere(dataset_dir, image_dir, mask_dir, left_out))
    return Pairs(images, masks, listing.passed_over)


def patient_finder(patient_regex: str | None) -> Callable[[str], dict[str, str]]:
    """What finds {"patient": ...} in the name of an image; {} without an expression.

    Raises:
        ValueError: the expression is none; when it is called, the expression does not match.
    """
    try:
        pattern = re.compile(patient_regex) if patient_regex else None
    except re.error as error:
        raise ValueError(f"--patient_regex {patient_regex!r} is no regular expression: {error}.") from None

    def find(name: str) -> dict[str, str]:
        if pattern is None:
            return {}
        match = pattern.search(name)
        if match is None:
            raise ValueError(f"--patient_regex {patient_regex!r} does not match the image name {name!r}.")
        return {"patient": match[1] if match.lastindex else match[0]}

    return find


def folder_images(folder: Path) -> list[Path]:
    """The images right in a folder.

    Raises:
        ValueError: there are none, or two of one name.
    """
    listing = _Listing(recursive=False)
    images = list(listing.stems(folder, ()).values())
    if not images:
        raise ValueError(_no_image(folder, listing.passed_over).replace("pass --recursive", "name these"))
    return images


def folder_cases(dataset_dir: Path, names: Names, patient_regex: str | None = None) -> tuple[list[dict], Pairs]:
    """Cases of folders, without labels; the patient is found in the image's name.

    Raises:
        FileNotFoundError: when a folder is missing.
        ValueError: when an image has no mask or the expression does not match.
    """
    find = patient_finder(patient_regex)
    pairs = find_pairs(dataset_dir, names)
    return [{"image": image, **find(name)} for name, image in pairs.images.items()], pairs


def _folders(dataset_dir: Path, names: Names) -> tuple[Path, Path]:
    """With a mask pattern, images may lie in the dataset folder itself, and masks beside them."""
    beside = names.mask is not None
    image_dir = _folder(dataset_dir, names.image_dir, IMAGE_DIRS, "--image_dir", dataset_dir if beside else None)
    return image_dir, _folder(dataset_dir, names.mask_dir, MASK_DIRS, "--mask_dir", image_dir if beside else None)


def _folder(dataset_dir: Path, given: str | None, usual: tuple[str, ...], option: str, otherwise: Path | None) -> Path:
    folders = [inside(dataset_dir, name, option) for name in ((given,) if given is not None else usual)]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is not None:
        return found
    if given is None and otherwise is not None:
        return otherwise
    there = sorted(path.name for path in dataset_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    near = difflib.get_close_matches(given or usual[0], there, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(there[:5])}." if there else "."
    beside = "" if given else " Images and masks in one folder need --mask_name, such as '{}_mask'."
    raise FileNotFoundError(
        f"{dataset_dir} has no folder {given or ' or '.join(usual)}; name yours with {option}, check --dataset_dir and "
        f"--format{hint}{beside}"
    )


def inside(dataset_dir: Path, given: str | Path, option: str) -> Path:
    """The folder that an option names, from the dataset folder on or as an absolute path.

    Raises:
        ValueError: it does not lie in the dataset folder.
    """
    below = Path(os.path.relpath(dataset_dir / given, dataset_dir))
    if os.pardir in below.parts:
        raise ValueError(f"{option} {given} must be a folder in --dataset_dir {dataset_dir}.")
    return dataset_dir / below


class _Listing:
    """Files of folders by their name without the suffix, and why others are passed over."""

    def __init__(self, recursive: bool) -> None:
        self.recursive = recursive
        self.passed_over: dict[Path, str] = {}

    def stems(self, folder: Path, left_out: Collection[Path]) -> dict[str, Path]:
        """Readable files by their path from the folder on, without the suffix."""
        stems: dict[str, Path] = {}
        files, folders = _files(folder, left_out)
        self.passed_over.update(folders)
        for path in files:
            home = path.parent if self.recursive else folder
            if path.parent != home or path.name.startswith(".") or not path.name.lower().endswith(IMAGE_SUFFIXES):
                self.passed_over[path] = why_passed_over(path, home)
                continue
            stem = stem_of(path.relative_to(folder).as_posix())
            if stem in stems:
                raise ValueError(f"{path} and {stems[stem]} have the same name; expected one file a case.")
            stems[stem] = path
        return stems


def _files(folder: Path, left_out: Collection[Path] = ()) -> tuple[list[Path], dict[Path, str]]:
    """All files of a folder and its subfolders, and the subfolders that are passed over: hidden ones and links."""
    found: list[Path] = []
    passed_over: dict[Path, str] = {}
    for root, names, files in os.walk(folder):
        folders = [path for path in (Path(root, name) for name in sorted(names)) if path not in left_out]
        hidden = [path for path in folders if path.name.startswith(".")]
        linked = [path for path in folders if path not in hidden and path.is_symlink()]
        passed_over |= {**dict.fromkeys(hidden, HIDDEN), **dict.fromkeys(linked, LINKED)}
        names[:] = [path.name for path in folders if path not in passed_over]
        found += [Path(root, name) for name in sorted(files)]
    return found, passed_over


def list_images(folder: Path) -> list[Path]:
    """All image files of a folder and its subfolders, sorted; hidden ones and linked folders are passed over."""
    files = (path for path in _files(folder)[0] if not path.name.startswith("."))
    return sorted(path for path in files if path.name.lower().endswith(IMAGE_SUFFIXES))


def stem_of(name: str) -> str:
    """A file's name or path without its suffix, .nii.gz as a whole."""
    return name[: -len(next(suffix for suffix in IMAGE_SUFFIXES[::-1] if name.lower().endswith(suffix)))]


def _case_of(stem: str, pattern: str, number: str = "") -> str | None:
    """The case of a stem, with the folders before its name; None where the name does not follow the pattern."""
    folder, slash, name = stem.rpartition("/")
    before, after = map(re.escape, pattern.split(CASE))
    match = re.fullmatch(f"{before}(.+?){after}{number}", name)
    return f"{folder}{slash}{match[1]}" if match else None


def _assign(
    images: Mapping[str, Path], mask_stems: Mapping[str, Path], pattern: str
) -> tuple[dict[str, list[Path]], list[Path]]:
    """The masks of each case, and the masks of none."""
    masks, alone = defaultdict(list), []
    for stem, path in mask_stems.items():
        case = next(
            (case for case in (_case_of(stem, pattern), _case_of(stem, pattern, _NUMBER)) if case in images), ""
        )
        if case:
            masks[case].append(path)
        else:
            alone.append(path)
    return dict(masks), alone


def _no_image(folder: Path, passed_over: Mapping[Path, str]) -> str:
    """The message on a folder; only what was passed over in it is known."""
    below = [path for path, reason in passed_over.items() if reason == IN_SUBFOLDERS and not path.name.startswith(".")]
    below = [path for path in below if path.name.lower().endswith(IMAGE_SUFFIXES)]
    if below:
        return f"folder {folder} holds no image right in it, but {len(below)} in its subfolders; pass --recursive."
    named = [reason for reason in passed_over.values() if reason.startswith("not named")]
    linked = [path.name for path, reason in passed_over.items() if reason == LINKED]
    if linked and not named:
        return f"folder {folder} holds no image, and its link {linked[0]} is not followed; move its files here."
    if named:
        return f"folder {folder} holds {len(named)} images, all {named[0]}; pass the right --image_name."
    return f"folder {folder} holds no image; expected {', '.join(IMAGE_SUFFIXES)}."


def _check_all_have_masks(
    images: Mapping[str, Path], masks: Mapping[str, list[Path]], mask_stems: Mapping[str, Path], pattern: str
) -> None:
    without = [case for case in images if case not in masks]
    if not without:
        return
    folder, slash, name = without[0].rpartition("/")
    wanted = f"{folder}{slash}{pattern.replace(CASE, name)}"
    near = _nearest(wanted, mask_stems)
    hint = f"; the nearest is {mask_stems[near].name}" if near else ""
    remedy = _better_patterns(images, mask_stems, stem_of(images[without[0]].name), near) if near else ""
    raise ValueError(
        f"image {images[without[0]]} has no mask {wanted}.* ({len(without)} of {len(images)} images have none){hint}; "
        f"{remedy or 'add the masks or remove the images'}."
    )


def _nearest(name: str, stems: Collection[str]) -> str | None:
    """The shortest that begins with the name, or else the most similar."""
    longer = [stem for stem in stems if stem.startswith(name)]
    return min(longer, key=len) if longer else next(iter(difflib.get_close_matches(name, stems, 1, 0)), None)


def _better_patterns(images: Mapping[str, Path], mask_stems: Mapping[str, Path], image: str, mask: str) -> str:
    """The options that give every image a mask; "" where these two names do not tell any."""
    name = mask.rpartition("/")[2]
    for candidate in (name, re.sub(f"{_NUMBER}$", "", name)):
        part = difflib.SequenceMatcher(None, image, candidate, autojunk=False).find_longest_match()
        patterns = [text[:at] + CASE + text[at + part.size :] for text, at in ((image, part.a), (candidate, part.b))]
        cases = {_case_of(stem_of(path.name), patterns[0]) for path in images.values()}
        masks = [stem.rpartition("/")[2] for stem in mask_stems]
        known = {_case_of(stem, patterns[1], number) for stem in masks for number in ("", _NUMBER)}
        if part.size and None not in cases and cases <= known:
            options = [(name, value) for name, value in zip(("--image_name", "--mask_name"), patterns) if value != CASE]
            return "pass " + " ".join(f"{option} '{value}'" for option, value in options)
    return ""


def _elsewhere(dataset_dir: Path, image_dir: Path, mask_dir: Path, left_out: Collection[Path]) -> dict[Path, str]:
    """Images in other folders of the data set, such as imagesTs."""
    if dataset_dir in (image_dir, mask_dir):
        return {}
    others = [
        path
        for path in sorted(dataset_dir.iterdir())
        if path.is_dir() and path not in left_out and not (path.name.startswith(".") or path.is_symlink())
    ]
    return {
        file: f"in {folder.name}"
        for folder in others
        for file in _files(folder, {*left_out, image_dir, mask_dir})[0]
        if not {image_dir, mask_dir} & set(file.parents) and file.name.lower().endswith(IMAGE_SUFFIXES)
    }
