"""Writes the page: one HTML file with the student, the libraries and an example whose mask is known.

The student is the whole way in ONNX (`whole.py`). The page runs it in a browser on its example first, and says so where
it finds another mask than Python.

Surprise: the libraries come compressed and in base64, since a page opened from a file may load no other file.
"""

from __future__ import annotations

import base64
import gzip
import json
from html import escape
from pathlib import Path
from shutil import copyfile
from string import Template
from typing import Any

import numpy as np

from ...data.phantoms import make_phantom
from ...inference.confidence import LOW_CONFIDENCE, NEAR_ODDS
from ...utils.outlines import OUTLINE_COLORS
from ..metadata import WHOLE_WAY, check_metadata
from ..names import KEY, ONNX_FULL, PAGE
from ..onnx_files import read_metadata
from ..whole import load_whole
from .packages import find_packages
from .scripts import inline, join_modules, source_hash

SOURCE = Path(__file__).parent / "page"
EXAMPLE_SEED, EXAMPLE_SIZE = (0, 11), 256  # of the phantom
POLICY = (
    "default-src 'none'; script-src {scripts} blob: 'wasm-unsafe-eval'; worker-src blob:; style-src {style}; "
    "img-src blob: data:; media-src blob:; base-uri 'none'; form-action 'none'"
)


def write_page(folder: Path, node_modules: Path) -> None:
    """Write the page, and the licenses of its libraries, into a folder that holds the whole way in ONNX.

    Args:
        folder: of the ONNX file.
        node_modules: in which npm has installed the libraries.

    Raises:
        FileNotFoundError: a library or the ONNX file is not there.
    """
    packages = find_packages(node_modules)
    model = folder / ONNX_FULL
    about = check_metadata(read_metadata(model), model, WHOLE_WAY)
    blocks = {
        "model": model.read_bytes(),
        "ort-cpu": packages.cpu[0].read_bytes(),
        "wasm-cpu": packages.cpu[1].read_bytes(),
        "ort-gpu": packages.gpu[0].read_bytes(),
        "wasm-gpu": packages.gpu[1].read_bytes(),
        "example": np.ascontiguousarray(example_picture()).tobytes(),
        "license-texts": "\n\n".join(path.read_text("utf-8") for path in packages.licenses.values()).encode(),
    }
    settings = _settings(about, load_whole(folder)(example_picture()).mask)
    (folder / PAGE).write_text(_html(blocks, settings, packages.dicom.read_text("utf-8")), encoding="utf-8")
    for name, path in packages.licenses.items():
        copyfile(path, folder / name)


def example_picture() -> np.ndarray:
    """The picture (H, W), uint8, that the page checks itself with."""
    return make_phantom(EXAMPLE_SEED, EXAMPLE_SIZE)[0]


def runs(mask: np.ndarray) -> list[int]:
    """The run lengths of a mask, row by row: value, count, value, count, ... page/masks.js has the same."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=-1 - int(flat[0])))
    counts = np.diff(np.append(starts, flat.size))
    return np.column_stack([flat[starts], counts]).ravel().tolist()


def _settings(about: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """What page/main.js reads."""
    return {
        KEY: about,
        "colors": OUTLINE_COLORS,
        "low_confidence": LOW_CONFIDENCE,
        "near_odds": NEAR_ODDS,
        "example": {"height": mask.shape[0], "width": mask.shape[1], "runs": runs(mask)},
    }


def _about_student(about: dict[str, Any]) -> str:
    weights = about["checkpoint_sha256"]
    classes = ", ".join(about["classes"][1:])
    return f"Student: {classes}. Version {about['version']}. Weights {weights[:12] if weights else 'of no file'}."


def _html(blocks: dict[str, bytes], settings: dict[str, Any], dicom: str) -> str:
    """The text of the page."""
    style = inline((SOURCE / "style.css").read_text(encoding="utf-8"))
    script, worker = inline(join_modules(SOURCE, "main.js")), (SOURCE / "worker.js").read_bytes()
    packed = {name: base64.b64encode(gzip.compress(data, 6, mtime=0)).decode() for name, data in blocks.items()}
    data = "\n".join(f'<script type="text/plain" id="{name}">{text}</script>' for name, text in packed.items())
    values = {
        "policy": POLICY.format(
            scripts=" ".join(source_hash(text) for text in (inline(dicom), script)), style=source_hash(style)
        ),
        "style": style,
        "data": data,
        "worker": base64.b64encode(gzip.compress(worker, 6, mtime=0)).decode(),
        # in a script element, "<" could begin a tag
        "settings": json.dumps(settings).replace("<", "\\u003c"),
        "dicom": dicom,
        "student": escape(_about_student(settings[KEY])),
        "script": script,
    }
    return Template((SOURCE / "page.html").read_text(encoding="utf-8")).substitute(values)
