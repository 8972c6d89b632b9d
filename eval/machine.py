"""What a run ran on, as results tell it: `scripts.machine`, and commands without the folders of the machine."""

from __future__ import annotations

import re

from scripts.machine import describe_machine, git_revision, list_versions

__all__ = ["describe_machine", "git_revision", "list_versions", "without_folders"]

FOLDERS = re.compile(r"(?<![\w.~])~?/(?:[^\s/:;,'\"()]+/)+")


def without_folders(text: str) -> str:
    """The text with absolute paths cut to their last part."""
    return FOLDERS.sub("", text)
