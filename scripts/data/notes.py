"""What `scripts.make_datalist` tells beside the lists: what was passed over, look-alikes, patients.

Needs neither torch nor MONAI.
"""

from __future__ import annotations

from pathlib import Path

from ..utils.passed_over import describe_passed_over

MAX_NAMED = 5


def some(names: list[str], between: str = ", ") -> str:
    """The first names, and how many more there are."""
    return between.join([*names[:MAX_NAMED], *([f"and {len(names) - MAX_NAMED} more"] if names[MAX_NAMED:] else [])])


def passed_over_notes(passed_over: dict[Path, str], dataset_dir: Path) -> list[str]:
    """How many files were left out and why, and masks without an image."""
    summary = describe_passed_over(passed_over.values())
    alone = [path.relative_to(dataset_dir).as_posix() for path, why in passed_over.items() if why.startswith("masks")]
    return [summary] * bool(summary) + [f"masks without an image: {some(alone)}"] * bool(alone)


def alike_notes(cases: list[dict], alike: list[list[int]], ignored: bool) -> list[str]:
    """Of images that look alike and are not of one known patient."""
    names = [
        " = ".join(cases[index]["image"] for index in group)
        for group in alike
        if len({str(cases[index].get("patient", cases[index]["image"])) for index in group}) > 1
    ]
    place = "may be in two lists" if ignored else "stay in one list"
    told = f"{'warning: ' * ignored}images that look alike {place} (groups: {len(names)}): {some(names, '; ')}"
    return [told] if names else []


def patient_notes(cases: list[dict], joined: bool = False) -> list[str]:
    """A warning where a case names no patient; of a joined list, the sets that do not name them."""
    without = [case for case in cases if "patient" not in case]
    if not without:
        return []
    remedy = "find them in the file names with --patient_regex"
    if joined:
        remedy = f"add patient to the items of {some(sorted({case['set'] for case in without}))}"
    return [f"warning: patients were not told apart, so one patient may be in two lists; {remedy}"]
