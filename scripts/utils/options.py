"""Choices that several parts of the bundle share, and the checks that all of them use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# the networks that are compared: the frozen teacher, the student without a teacher, and the distilled student
ARMS = TEACHER, CONTROL, STUDENT = ("teacher", "control", "student")
# where the teacher's outputs come from, see cache/cached_teacher.py
ONLINE, REPLAY, WARP = MODES = ("online", "replay", "warp")
# which of the student's features the teacher's embedding is compared with: the neck's stride-16 level, or the last
# block's output
NECK, BACKBONE = STUDENT_FEATURES = ("neck", "backbone")
# what every pixel of a label holds where an image has none
NO_LABEL = -1
# changes of an image that an evaluation can look at, see evaluation/probes.py
PROBES = (
    *("left", "right", "shallow", "deep", "smaller", "larger"),
    *("darker", "brighter", "low_contrast", "high_contrast", "fading", "rising"),
    *("borders", "sector", "text", "calipers", "jpeg", "speckle"),
)


def check_choice(id: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices.

    Args:
        id: config id, for the message.
        value: that was given.
        choices: that are allowed.

    Raises:
        ValueError: naming the choices.
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{id} must be one of {', '.join(choices)}, got {value!r}.")


def chosen_probes(id: str, value: Any) -> tuple[str, ...]:
    """The names of PROBES that a setting asks for, in their order.

    Args:
        id: config id, for the message.
        value: a list of names, or "all"; empty is none.

    Raises:
        ValueError: no list, or a name that no probe has.
    """
    if value == "all":
        return PROBES
    if not isinstance(value, (list, tuple)):
        raise ValueError(f'{id} must be "all" or a list of probes, got {value!r}.')
    for name in value:
        check_choice(id, name, PROBES)
    return tuple(name for name in PROBES if name in value)


def is_whole(value: Any, low: int) -> bool:
    """Whether a value is an integer of at least `low`; a truth value is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def check_num_classes(num_classes: int, id: str = "data::num_classes") -> None:
    """Refuse a number of classes that does not count the background and one class at least.

    Raises:
        ValueError: naming the id.
    """
    if not is_whole(num_classes, 2):
        raise ValueError(f"{id} must be an integer of at least 2 (the background counts), got {num_classes!r}.")


def check_img_size(img_size: int, multiple: int = 16, id: str = "data::img_size") -> None:
    """Refuse a side in pixels that is no positive multiple of what the network needs.

    Raises:
        ValueError: naming the id.
    """
    if not is_whole(img_size, multiple) or img_size % multiple:
        raise ValueError(f"{id} must be a positive multiple of {multiple}, got {img_size!r}.")


def logit_channels(num_classes: int) -> int:
    """One logit channel for two classes, else one a class."""
    return 1 if num_classes == 2 else num_classes


def repeated_views(mode: str, views: int) -> int | None:
    """Views of each image that come back in turn: `views` in replay; None in the other modes, where each epoch has its
    own.

    Raises:
        ValueError: an unknown mode, or a number of views that is not positive.
    """
    check_choice("distillation::mode", mode, MODES)
    if not is_whole(views, 1):
        raise ValueError(f"distillation::views must be a positive integer, got {views!r}.")
    return views if mode == REPLAY else None
