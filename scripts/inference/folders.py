"""The images in a folder, and what of it is passed over."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..data.dicom import is_dicom
from .outputs import is_image

SUBFOLDERS = "in subfolders"
MOST_KINDS = 8  # in a message


class Listing(NamedTuple):
    """Images, files that cannot even be looked at with the reason, and the number of other files by their kind."""

    images: list[Path]
    failures: dict[Path, str]
    passed_over: Counter[str]


def list_folder(folder: Path, recursive: bool = False, leave_out: Path | None = None) -> Listing:
    """The files of a folder, sorted by name, those of a folder before those of its subfolders.

    Links to folders are not followed.

    Args:
        folder: of images.
        recursive: read the subfolders too; otherwise their files are counted.
        leave_out: a folder in it that is not looked at.

    Raises:
        OSError: the folder cannot be read.
    """
    listing = Listing([], {}, Counter())
    unreadable: list[OSError] = []
    leave_out = leave_out and leave_out.resolve()
    for root, folders, names in os.walk(folder, onerror=unreadable.append):
        here = Path(root)
        linked = [name for name in folders if (here / name).is_symlink()]
        hidden = [name for name in folders if name.startswith(".")]
        listing.passed_over.update(["linked folders"] * len(linked) + ["hidden"] * len(hidden))
        folders[:] = sorted(
            name for name in folders if name not in (*linked, *hidden) and (here / name).resolve() != leave_out
        )
        if recursive or here == folder:
            for name in sorted(names):
                _sort_in(here / name, listing)
        else:
            listing.passed_over[SUBFOLDERS] += len(names)
    for error in unreadable:
        if Path(error.filename) == folder:
            raise error
        if recursive:
            listing.failures[Path(error.filename)] = f"folder {error.filename} cannot be read ({error.strerror})"
    return listing


def _sort_in(path: Path, listing: Listing) -> None:
    try:
        kind = other_kind(path)
    except OSError as error:
        listing.failures[path] = f"file {path} cannot be read ({error.strerror}); replace it or take it out."
        return
    if kind:
        listing.passed_over[kind] += 1
    else:
        listing.images.append(path)


def other_kind(path: Path) -> str | None:
    """What a file is that is no image, in words for a count; None of an image.

    Raises:
        FileNotFoundError: it has an image's name, but is a link to nowhere.
        OSError: it cannot be read.
    """
    if path.name.startswith("."):
        return "hidden"
    if not path.is_file() and not path.is_symlink():
        return "of a special kind"  # a socket, a pipe
    if is_image(path):
        path.stat()
        return _kind_of_dicom(path) if is_dicom(path) else None
    return path.suffix.lower() or ("DICOMDIR" if path.name.upper() == "DICOMDIR" else "without an ending")


def _kind_of_dicom(path: Path) -> str | None:
    """The name of what a DICOM file holds, such as a report or a presentation state; None of an image.

    A file that does not say what it is may be an image, and so may every file where pydicom is not installed.
    """
    try:
        from pydicom.filereader import read_file_meta_info

        name = read_file_meta_info(path).MediaStorageSOPClassUID.name
    except Exception:  # pydicom has no error of its own; the reader will say what is wrong
        return None
    is_image_class = "Image" in name or name[:1].isdigit()  # an unknown class has its number for a name
    return None if is_image_class else f"DICOM {name.removesuffix(' Storage')}"


def describe(passed_over: Counter[str]) -> str:
    """Such as "12 passed over: 9 in subfolders, 3 .webp"; "" where nothing was."""
    if not passed_over:
        return ""
    kinds = [f"{number} {kind}" for kind, number in passed_over.most_common(MOST_KINDS)]
    others = passed_over.total() - sum(number for _, number in passed_over.most_common(MOST_KINDS))
    kinds += [f"{others} others"] if others else []
    hint = "; --recursive True reads subfolders too" if SUBFOLDERS in passed_over else ""
    return f"{passed_over.total()} passed over: {', '.join(kinds)}{hint}"
