"""Files that a listing leaves out: how many, and why. Nothing is passed over without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

IN_SUBFOLDERS = "in subfolders"


def why_passed_over(path: Path, folder: Path) -> str:
    """What keeps a file of a folder out of a list of images: where it lies, that it is hidden, or its suffix."""
    if path.parent != folder:
        return IN_SUBFOLDERS
    if path.name.startswith("."):
        return "hidden"
    return path.suffix.lower() or "without a suffix"


def describe_passed_over(reasons: Iterable[str]) -> str:
    """Such as "12 passed over: 9 in subfolders, 3 .webp", the most frequent first; "" where there is nothing.

    Args:
        reasons: one a file, of `why_passed_over` or in words that go on from a number, such as "masks without an
            image".
    """
    counts = Counter(reasons)
    if not counts:
        return ""
    parts = [f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    return f"{counts.total()} passed over: {', '.join(parts)}"
