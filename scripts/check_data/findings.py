"""What stands out in a data set: faults that a training refuses, warnings, and notes; and its figures list by list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.classes import missing_class_notes
from ..data.lesion_free import FLAG, lesion_free_notes
from ..data.look_alikes import describe_group, is_across
from ..data.notes import patient_notes, some
from ..data.prior import position_notes, spread_of
from ..data.splits import LISTS, SPLITS, TRAINED_ON, UNLABELED
from ..utils.screen import plural
from .cases import SPECK, Refused, Seen
from .survey import Survey

ERROR, WARNING, NOTE = "error", "warning", "note"
FLAT = 0.02  # standard deviation of gray values (0 to 1): five gray levels of 256; there is nothing to see
# Of the mean gray value (0 to 1): a third of what the probes darker and brighter of docs/robustness.md change.
BRIGHTNESS_APART = 0.1
PATCH = 16  # pixels a side, of the student; a smaller lesion lies within one patch
SMALL_SHARE = 0.05  # of the lesions, from which on their smallness is told
NO_COLUMNS = ("image", "label", "patient", FLAG)  # keys of an item that are no column of values to count
MAX_VALUES = 8  # of a column; the report's subgroups take as many


class Finding(NamedTuple):
    """A sentence, and the images that it is about.

    level: ERROR (a training refuses it, or its figures would be too good), WARNING or NOTE. cases: paths from the
    dataset folder on.
    """

    level: str
    text: str
    cases: Sequence[str] = ()


def find_all(survey: Survey, img_size: int) -> list[Finding]:
    """All findings, the errors first.

    Args:
        survey: of the data set.
        img_size: side of the images in a training.
    """
    parts = (_list_findings, _file_findings, _alike_findings, _lesion_findings, _image_findings)
    found = [finding for part in parts for finding in part(survey)] + _size_findings(survey, img_size)
    return sorted(found, key=lambda finding: (ERROR, WARNING, NOTE).index(finding.level))


def _list_findings(survey: Survey) -> list[Finding]:
    counts = survey.num_images
    found = [Finding(ERROR, fault) for fault in survey.faults]
    if not any(counts.values()):
        found.append(Finding(ERROR, f"{survey.datalist} lists no images; build it with scripts.make_datalist."))
    elif not counts["training"] and counts[UNLABELED]:
        found.append(Finding(WARNING, "No image has a mask: these images can pretrain a backbone, no more."))
    elif not counts["training"]:
        found.append(Finding(ERROR, "The list training is empty: these lists can be evaluated on, not trained on."))
    if counts["training"]:
        found += [_empty_list(split) for split in ("validation", "test") if not counts[split]]
    items = [item for split in SPLITS for item in survey.lists[split]]
    return found + [Finding(WARNING, _sentence(note)) for note in patient_notes(items)]


def _empty_list(split: str) -> Finding:
    if split == "validation":
        return Finding(
            ERROR,
            "The list validation is empty: a training chooses its best epoch on it; deal images out anew with "
            "scripts.make_datalist.",
        )
    return Finding(
        ERROR,
        "The list test is empty, and a training ends with an evaluation on it; deal images out anew with "
        'scripts.make_datalist, or add a file with {"final_evaluation": null} to --config_file.',
    )


def _sentence(note: str) -> str:
    """A note of scripts/data as a sentence."""
    text = note.removeprefix("warning: ")
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _file_findings(survey: Survey) -> list[Finding]:
    missing = [one for one in survey.refused if one.is_missing]
    broken = [one for one in survey.refused if not one.is_missing]
    found = []
    for ones, what in ((missing, "are missing"), (broken, "cannot be used")):
        if ones:
            told = f"Files of {plural(len(ones), 'item')} {what}, such as: {ones[0].reason}"
            found.append(Finding(ERROR, told, _names(survey, ones)))
    return found


def _alike_findings(survey: Survey) -> list[Finding]:
    across = [group for group in survey.alike if is_across(group)]
    within = [group for group in survey.alike if not is_across(group)]
    named = [describe_group([(survey.name(image), split) for image, split in group]) for group in across]
    found = []
    if across:
        told = (
            f"Images of two lists look alike (groups: {len(across)}): {some(named, '; ')}. Figures on them would "
            "be too good: move each group to one list, or build the datalist anew."
        )
        found.append(Finding(ERROR, told, [survey.name(image) for group in across for image, _ in group]))
    if within:
        told = f"Images of one list look alike (groups: {len(within)}): they count as often as they are there."
        found.append(Finding(NOTE, told, [survey.name(image) for group in within for image, _ in group]))
    return found


def _lesion_findings(survey: Survey) -> list[Finding]:
    masked = {split: [one for one in survey.of(split) if one.lesions] for split in SPLITS}
    shown = {split: [frozenset(one.lesions.shares) for one in ones] for split, ones in masked.items() if ones}
    found = []
    if shown.get("training") and not any(shown["training"]):
        told = "No training image shows a lesion: a network would learn to find nothing; add images with a lesion."
        found.append(Finding(ERROR, told))
    occurring = {split: frozenset().union(*classes) for split, classes in shown.items()}
    found += [Finding(WARNING, note) for note in missing_class_notes(occurring, survey.labels)]
    found += [Finding(WARNING, _sentence(note)) for note in position_notes(_centers(masked["training"]))]
    free = lesion_free_notes([classes for split in shown.values() for classes in split])
    found += [Finding(NOTE, _sentence(note)) for note in free]
    if shown.get("training") and all(shown["training"]):
        told = (
            "Every training image shows a lesion: a network that never saw an image without one finds one in each. Add "
            "such images with scripts.make_datalist --lesion_free, if yours will meet them (docs/data.md)."
        )
        found.append(Finding(NOTE, told))
    specks = [one for ones in masked.values() for one in ones if one.lesions.specks]
    if specks:
        told = (
            f"Masks of {plural(len(specks), 'image')} have isolated parts of at most {SPECK} pixels, which may be "
            "slips of the pen and can decide the HD95 of their image."
        )
        found.append(Finding(NOTE, told, _names(survey, specks)))
    return found


def _image_findings(survey: Survey) -> list[Finding]:
    found = []
    flat = [one for one in survey.seen if one.contrast < FLAT]
    if flat:
        told = f"{_images_that(flat, 'hold')} one gray value almost everywhere: look at them."
        found.append(Finding(WARNING, told, _names(survey, flat)))
    medians = {split: float(np.median([one.brightness for one in survey.of(split)])) for split in _filled(survey)}
    for split, median in medians.items():
        if split not in TRAINED_ON and abs(median - medians.get("training", median)) > BRIGHTNESS_APART:
            found.append(
                Finding(
                    WARNING,
                    f"The images of {split} have a median brightness of {median:.2f}, those of training "
                    f"{medians['training']:.2f}: such a change alone can cost Dice (docs/robustness.md).",
                )
            )
    return found


def _size_findings(survey: Survey, img_size: int) -> list[Finding]:
    ones = [one for split in SPLITS for one in survey.with_lesion(split)]
    small = [one for one in ones if min(diameters(one, img_size)) < PATCH]
    if len(small) < max(1, SMALL_SHARE * len(ones)):
        return []
    told = (
        f"{_images_that(small, 'show')} a lesion that is smaller than a patch of the student, of {len(ones)} with a "
        f"lesion: below {PATCH} pixels across at {img_size} pixels a side."
    )
    return [Finding(WARNING, told, _names(survey, small))]


def _images_that(ones: Sequence[Seen], verb: str) -> str:
    """Such as "1 image shows" or "2 images show"."""
    return f"{plural(len(ones), 'image')} {verb}{'s' if len(ones) == 1 else ''}"


def diameters(one: Seen, img_size: int) -> list[float]:
    """Of each class of an image, the diameter in pixels of a circle of its area, resized to `img_size`."""
    return [2 * img_size * float(np.sqrt(share / np.pi)) for share in one.lesions.shares.values()]


def _names(survey: Survey, ones: Iterable[Seen | Refused]) -> list[str]:
    return [survey.name(one.item["image"]) for one in ones]


def _centers(ones: Iterable[Seen]) -> list:
    return [one.lesions.center for one in ones]


def _filled(survey: Survey) -> list[str]:
    """The lists with an image that can be used."""
    return [split for split in LISTS if survey.of(split)]


def list_figures(survey: Survey) -> dict[str, dict[str, Any]]:
    """By list, of those with images: counts, and medians and ranges of size, brightness and lesion."""
    return {split: _figures(survey, split) for split, number in survey.num_images.items() if number}


def _figures(survey: Survey, split: str) -> dict[str, Any]:
    seen = survey.of(split)
    masked, shown = [one for one in seen if one.lesions], survey.with_lesion(split)
    patients = {str(item["patient"]) for item in survey.lists[split] if item.get("patient") is not None}
    spread = spread_of(_centers(masked))
    return {
        "images": survey.num_images[split],
        "refused": sum(one.split == split for one in survey.refused),
        "patients": len(patients) or None,
        "with_lesion": len(shown),
        "without_lesion": len(masked) - len(shown),
        "with_pixel_mm": sum("pixel_mm" in item for item in survey.lists[split]),
        "width": spans([one.size[0] for one in seen]),
        "height": spans([one.size[1] for one in seen]),
        "brightness": spans([one.brightness for one in seen]),
        "lesion_share": spans([sum(one.lesions.shares.values()) for one in shown]),
        "classes": _classes(survey, shown),
        "kinds": dict(Counter(one.kind for one in seen).most_common()),
        "position": spread._asdict() if spread else None,
    }


def _classes(survey: Survey, shown: Sequence[Seen]) -> dict[str, dict[str, Any]]:
    """By class how many images show it, and on which share of the image."""
    by_class = {
        name: [one.lesions.shares[index] for one in shown if index in one.lesions.shares]
        for index, name in enumerate(survey.labels)
        if index
    }
    return {name: {"images": len(shares), "share": spans(shares)} for name, shares in by_class.items()}


def spans(values: Sequence[float]) -> dict[str, float] | None:
    """Smallest, median and largest; None of nothing."""
    if not len(values):
        return None
    return {"min": float(np.min(values)), "median": float(np.median(values)), "max": float(np.max(values))}


def columns(survey: Survey) -> dict[str, dict[str, dict[str, Any]]]:
    """By column of the datalist, such as device, and value: images by list, and the median brightness.

    Columns of more than MAX_VALUES values are left out, and those of one value for all.
    """
    pairs = [(split, item) for split, items in survey.lists.items() for item in items]
    names = dict.fromkeys(key for _, item in pairs for key in item if key not in NO_COLUMNS)
    brightness = {one.item["image"]: one.brightness for one in survey.seen}
    tables = {}
    for name in names:
        values = [item.get(name) for _, item in pairs]
        if not all(isinstance(value, (str, int, float, type(None))) for value in values):
            continue
        groups: dict[str, list[tuple[str, dict]]] = {}
        for value, pair in zip(values, pairs):
            groups.setdefault("unknown" if value in (None, "") else str(value), []).append(pair)
        if name == "device" or 1 < len(groups) <= MAX_VALUES:
            tables[name] = {value: _value_row(groups[value], brightness) for value in sorted(groups)}
    return tables


def _value_row(pairs: Sequence[tuple[str, dict]], brightness: dict[str, float]) -> dict[str, Any]:
    known = [brightness[item["image"]] for _, item in pairs if item["image"] in brightness]
    return {
        "images": dict(Counter(split for split, _ in pairs)),
        "brightness": float(np.median(known)) if known else None,
    }
