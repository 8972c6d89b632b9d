"""What an exported file says of itself, and the check that it fits the code that runs it.

It is one JSON text under the name of KEY: in metadata_props of ONNX, in rt_info of OpenVINO, as an extra file of
TorchScript, in the header of safetensors. `describe` makes it for all of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..inference.export_sums import REMEDY
from ..inference.lesions import foreground_names
from ..networks.tinyusfm import TinyUSFMSeg
from ..utils.files import bundle_version
from ..utils.options import logit_channels
from .names import INPUT, KEY, MASK, OUTPUT, PICTURE, PRESENCE, PROBABILITY

logger = logging.getLogger(__name__)

EXTRA_FILE = f"{KEY}.json"  # of TorchScript
LAYOUT = 1  # of the metadata; another one is not read
NETWORK, WHOLE_WAY = "network", "whole way"  # what a file holds
VALUES = {NETWORK: ("float32", [0, 1]), WHOLE_WAY: ("uint8", [0, 255])}  # that go in: type, black and white
HALF = 0.5  # probability above which a pixel of two classes is foreground
MARGIN, FEATURES = "margin", "margin and features"  # what a presence is calibrated on


def describe(
    student: TinyUSFMSeg,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    checkpoint_sha256: str | None = None,
) -> dict[str, Any]:
    """What every exported file of a student says; `network_text` and `whole_text` add what a format differs in.

    Args:
        student: that is exported.
        num_classes: with the background.
        class_names: without the background, as `foreground_names` takes them.
        checkpoint_sha256: SHA-256 of the file of the weights, in hex; None where there is no file.

    Raises:
        ValueError: there are more or fewer names than classes.
    """
    presence = student.presence
    return {
        "layout": LAYOUT,
        "version": bundle_version(),
        "checkpoint_sha256": checkpoint_sha256,
        "img_size": student.img_size,
        "classes": ["background", *foreground_names(num_classes, class_names)],
        "thresholds": {
            "probability": HALF if num_classes == 2 else None,  # several classes: the most probable one
            "presence": None if presence is None else float(presence.threshold),
        },
        "calibration": {
            "temperature": 1.0,
            "presence": None if presence is None else FEATURES if presence.weight[1:].any() else MARGIN,
            "int8_images": None,
        },
    }


def network_text(about: Mapping[str, Any], int8_images: int | None = None) -> str:
    """The metadata of a bare network, as JSON.

    Args:
        about: from `describe`.
        int8_images: that int8 was calibrated on; None of other types.
    """
    size, classes = about["img_size"], len(about["classes"])
    outputs = {OUTPUT: ["B", logit_channels(classes), size, size], PRESENCE: ["B"]}
    about = {**about, "calibration": {**about["calibration"], "int8_images": int8_images}}
    return _text(about, NETWORK, {INPUT: ["B", 1, size, size]}, outputs)


def whole_text(about: Mapping[str, Any]) -> str:
    """The metadata of the whole way, as JSON.

    Args:
        about: from `describe`.
    """
    outputs = {MASK: ["H", "W"], PROBABILITY: [logit_channels(len(about["classes"])), "H", "W"], PRESENCE: [1]}
    return _text(about, WHOLE_WAY, {PICTURE: ["H", "W"]}, outputs)


def _text(about: Mapping[str, Any], holds: str, inputs: Mapping, outputs: Mapping) -> str:
    """The JSON text of a file, with its inputs and outputs as shapes by name."""
    kind, values = VALUES[holds]
    calibrated = about["thresholds"]["presence"] is not None
    outputs = {name: shape for name, shape in outputs.items() if calibrated or name != PRESENCE}
    return json.dumps({**about, "holds": holds, "inputs": inputs, "type": kind, "range": values, "outputs": outputs})


def check_metadata(
    text: str | None, path: Path, holds: str, img_size: int | None = None, num_classes: int | None = None
) -> dict[str, Any] | None:
    """The metadata of a file that fits this code and a program's settings.

    A bare network without metadata is one of version 0.7.0 or before, or of another program: it is taken, and a warning
    says that it was not checked. None is then returned.

    Args:
        text: that the file has under KEY; None or empty where it has none.
        path: of the file, for messages.
        holds: NETWORK or WHOLE_WAY.
        img_size: that the program runs it with; None takes any.
        num_classes: likewise.

    Raises:
        ValueError: the metadata are damaged or of another layout, or say something else than the program expects.
    """
    if not text:
        if holds == WHOLE_WAY:
            raise ValueError(
                f"{path} has no metadata of this bundle; write it with python -m scripts.export --formats onnx_full."
            )
        warn_undescribed(path)
        return None
    try:
        about = json.loads(text)
        _check_layout(about, path)
        _check_values(about, path, holds)
        _check_settings(about, path, img_size, num_classes)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has damaged metadata ({type(error).__name__}: {error}); {REMEDY}.") from None
    return about


@cache
def warn_undescribed(path: Path) -> None:
    """Say once that a file does not tell what it takes."""
    logger.warning(
        "%s has no metadata (it is of version 0.7.0 or before, or of another program), so its range, size and classes "
        "are not checked; write it again with python -m scripts.export",
        path,
    )


def _check_layout(about: Mapping[str, Any], path: Path) -> None:
    if about["layout"] != LAYOUT:
        raise ValueError(
            f"{path} has metadata of layout {about['layout']}, but this version reads layout {LAYOUT}; run it with "
            f"version {about.get('version')} of the bundle, or write it again with python -m scripts.export."
        )


def _check_values(about: Mapping[str, Any], path: Path, holds: str) -> None:
    if about["holds"] != holds:
        remedy = {NETWORK: "scripts.export.whole.load_whole", WHOLE_WAY: "scripts.export.formats.load_runner"}[holds]
        raise ValueError(f"{path} holds the {about['holds']}, expected the {holds}; run it with {remedy}.")
    values = about["type"], about["range"]
    if values != VALUES[holds]:
        kinds = (f"{kind} from {low} to {high}" for kind, (low, high) in (values, VALUES[holds]))
        raise ValueError(f"{path} takes {next(kinds)}, but this version gives {next(kinds)}; {REMEDY}.")


def _check_settings(about: Mapping[str, Any], path: Path, img_size: int | None, num_classes: int | None) -> None:
    size, classes = about["img_size"], len(about["classes"])
    if img_size not in (None, size):
        raise ValueError(f"{path} takes images of {size} x {size} pixels, but img_size is {img_size}; pass {size}.")
    if num_classes not in (None, classes):
        raise ValueError(
            f"{path} segments {classes} classes with the background, but num_classes is {num_classes}; pass {classes}."
        )
