"""The libraries of the page, from a folder in which npm has installed them. None of them is part of this bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from ...utils.libraries import library
from ..names import LICENSES

VERSIONS = {"onnxruntime-web": "1.30.0", "dicom-parser": "1.8.21"}  # that the tests run
INSTALL = "npm install " + " ".join(f"{name}@{version}" for name, version in VERSIONS.items())
_DIST, _WASM = "onnxruntime-web/dist", "ort-wasm-simd-threaded"


class Packages(NamedTuple):
    """Files of the page, by what they are for.

    cpu, gpu: script and WebAssembly of ONNX Runtime, for every browser and for those with WebGPU.
    dicom: the script of dicom-parser.
    licenses: of both, by the name that they get.
    """

    cpu: tuple[Path, Path]
    gpu: tuple[Path, Path]
    dicom: Path
    licenses: dict[str, Path]


def find_packages(node_modules: Path) -> Packages:
    """The libraries in a folder `node_modules`.

    onnxruntime-web brings no text of its license. It is that of the Python package onnxruntime, of which it is built.

    Args:
        node_modules: the folder that npm makes.

    Raises:
        FileNotFoundError: a library is not installed there, or its version has other files.
        ImportError: onnxruntime is not installed.
    """
    versions = {name: _version(node_modules, name) for name in VERSIONS}
    runtime = Path(library("onnxruntime").__file__).parent
    license, notices, dicom_license = LICENSES
    packages = Packages(
        (node_modules / _DIST / "ort.wasm.bundle.min.mjs", node_modules / _DIST / f"{_WASM}.wasm"),
        (node_modules / _DIST / "ort.jspi.bundle.min.mjs", node_modules / _DIST / f"{_WASM}.jspi.wasm"),
        node_modules / "dicom-parser" / "dist" / "dicomParser.min.js",
        {
            license: runtime / "LICENSE",
            notices: runtime / "ThirdPartyNotices.txt",
            dicom_license: node_modules / "dicom-parser" / "LICENSE",
        },
    )
    for path in (*packages.cpu, *packages.gpu, packages.dicom, *packages.licenses.values()):
        if not path.is_file():
            installed = ", ".join(f"{name} {version}" for name, version in versions.items())
            raise FileNotFoundError(f"{path} is no file, with {installed}; the page is made of others: {INSTALL}")
    return packages


def _version(node_modules: Path, name: str) -> str:
    about = node_modules / name / "package.json"
    try:
        return str(json.loads(about.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError, TypeError):
        raise FileNotFoundError(
            f"--node_modules {node_modules} holds no {name}; run {INSTALL}, and pass the folder node_modules that it "
            "makes."
        ) from None
