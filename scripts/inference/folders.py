"""The images in a folder, and what of it is passed over."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from ..data.dicom import is_dicom
from ..utils.passed_over import IN_SUBFOLDERS, describe_passed_over, why_passed_over
from ..utils.screen import printable
from .outputs import LESIONS_FILE, RUN_FILE, is_image

ENHANCED_ULTRASOUND = "Enhanced US Volume"  # the one class of ultrasound images without Image in its name


class Listing(NamedTuple):
    """What is in a folder.

    images: that can be tried. failures: files that cannot even be looked at, with the reason. dicom: names of DICOM
    files without an image, by what they hold. passed_over: what each other file is, in words for a count.
    """

    images: list[Path]
    failures: dict[Path, str]
    dicom: dict[str, list[str]]
    passed_over: list[str]


def list_folder(folder: Path, recursive: bool = False, leave_out: Path | None = None) -> Listing:
    """The files of a folder, sorted by name, those of a folder before those of its subfolders.

    Links to folders are not followed, and folders in it with the outputs of a run are left out.

    Args:
        folder: of images.
        recursive: read the subfolders too; otherwise their files are counted.
        leave_out: a folder in it that is not looked at.

    Raises:
        ValueError: the folder cannot be read.
    """
    listing = Listing([], {}, defaultdict(list), [])
    unreadable: list[OSError] = []
    leave_out = leave_out and leave_out.resolve()
    for root, folders, names in os.walk(folder, onerror=unreadable.append):
        here = Path(root)
        linked = [name for name in folders if (here / name).is_symlink()]
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = sorted(
            name for name in folders if name not in (*linked, *hidden) and (here / name).resolve() != leave_out
        )
        outputs = [name for name in folders if _holds_outputs(here / name)]
        folders[:] = [name for name in folders if name not in outputs]
        for kind, found in {"linked folders": linked, "hidden": hidden, "outputs of a run": outputs}.items():
            listing.passed_over.extend([kind] * len(found))
        if recursive or here == folder:
            for name in sorted(names):
                _sort_in(here / name, listing)
        else:
            listing.passed_over.extend([IN_SUBFOLDERS] * len(names))
    for error in unreadable:
        if Path(error.filename) == folder:
            raise ValueError(f"folder {folder} cannot be read ({error.strerror}); let this user read it.")
        if recursive:
            listing.failures[Path(error.filename)] = f"folder {error.filename} cannot be read ({error.strerror})"
    return listing


def _holds_outputs(folder: Path) -> bool:
    """Whether an earlier run has written into a folder: its masks and overlays are no images."""
    try:
        return all((folder / name).is_file() for name in (RUN_FILE, LESIONS_FILE))
    except OSError:  # of a folder that cannot be read, which the walk names
        return False


def _sort_in(path: Path, listing: Listing) -> None:
    try:
        kind = other_kind(path)
        held = None if kind else _held_by_dicom(path)
    except OSError as error:
        listing.failures[path] = f"file {path} cannot be read ({error.strerror}); replace it or take it out."
        return
    if kind:
        listing.passed_over.append(kind)
    elif held:
        listing.dicom[held].append(path.name)
    else:
        listing.images.append(path)


def other_kind(path: Path) -> str | None:
    """What a file is that is no image, in words for a count; None of an image.

    Raises:
        FileNotFoundError: it has an image's name, but is a link to nowhere.
        OSError: it cannot be read.
    """
    if path.name.startswith("."):
        return why_passed_over(path, path.parent)
    if not path.is_file() and not path.is_symlink():
        return "of a special kind"  # a socket, a pipe
    if is_image(path):
        path.stat()
        return None
    return "DICOMDIR" if path.name.upper() == "DICOMDIR" else why_passed_over(path, path.parent)


def _held_by_dicom(path: Path) -> str | None:
    """What a DICOM file holds that is no image, such as a report or a presentation state; None of an image.

    A file that does not say what it is may be an image, and so may every file where pydicom is not installed.
    """
    if not is_dicom(path):
        return None
    try:
        from pydicom.filereader import read_file_meta_info

        name = read_file_meta_info(path).MediaStorageSOPClassUID.name
    except Exception:  # pydicom has no error of its own; the reader will say what is wrong
        return None
    kind = name.removesuffix(" Storage")
    # an unknown class has its number for a name
    return None if "Image" in kind or kind == ENHANCED_ULTRASOUND or kind[:1].isdigit() else kind


def describe(listing: Listing) -> str:
    """Such as "3 passed over: 2 .webp, 1 DICOM Basic Text SR (report.dcm)"; "" where nothing was."""
    reasons = list(listing.passed_over)
    for kind, names in listing.dicom.items():
        more = "" if len(names) == 1 else " and others"
        reasons += [f"DICOM {kind} ({printable(names[0])}{more})"] * len(names)
    hint = "; --recursive True reads subfolders too" if IN_SUBFOLDERS in reasons else ""
    return printable(f"{describe_passed_over(reasons)}{hint}")
