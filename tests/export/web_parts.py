"""What the tests of the page share: students and their pages, libraries that npm has installed, and a page's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import CHROMIUM
from conftest import ROOT, TINY

from scripts.export.cases import phantom_cases
from scripts.export.metadata import describe
from scripts.export.names import ONNX_FULL
from scripts.export.web.packages import VERSIONS
from scripts.export.web.write import write_page
from scripts.export.whole import write_whole
from scripts.inference.export_sums import record_sums
from scripts.networks.tinyusfm import TinyUSFMSeg

SIZE = 64
NODE_MODULES = Path(os.environ.get("NODE_MODULES", ROOT / "node_modules"))
FILES = (
    "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "onnxruntime-web/dist/ort.jspi.bundle.min.mjs",
    "onnxruntime-web/dist/ort-wasm-simd-threaded.jspi.wasm",
    "dicom-parser/dist/dicomParser.min.js",
    "dicom-parser/LICENSE",
)


LEAST_DICE = 0.999
ENGINE = "app.engine.found || !document.getElementById('trouble').hidden"
NEEDS_BROWSER = (
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(
        not all((NODE_MODULES / name).is_file() for name in FILES),
        reason="onnxruntime-web and dicom-parser are not installed: see docs/web.md, or set NODE_MODULES",
    ),
)

# a video of 20 frames, made and opened in the page
RECORD = """new Promise(async resolve => {
  const canvas = document.createElement("canvas"), size = {width: 160, height: 120};
  Object.assign(canvas, size);
  const context = canvas.getContext("2d"), parts = [];
  const recorder = new MediaRecorder(canvas.captureStream(20), {mimeType: "video/webm"});
  recorder.ondataavailable = event => parts.push(event.data);
  recorder.onstop = () => app.addFiles([new File(parts, "loop.webm", {type: "video/webm"})]).then(resolve);
  recorder.start();
  for (let i = 0; i < 20; i++) {
    context.fillStyle = "#888"; context.fillRect(0, 0, 160, 120);
    context.fillStyle = "#111"; context.fillRect(20 + 4 * i, 40, 30, 30);
    await new Promise(done => setTimeout(done, 60));
  }
  recorder.stop();
})"""


def stand_in_packages(folder: Path) -> Path:
    """A folder node_modules whose libraries are short texts."""
    for name in FILES:
        path = folder / "node_modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"stands for {name}")
    for name, version in VERSIONS.items():
        about = {"name": name, "version": version}
        (folder / "node_modules" / name / "package.json").write_text(json.dumps(about))
    return folder / "node_modules"


def random_student(num_classes: int = 2) -> TinyUSFMSeg:
    """One that finds something in the half of a phantom."""
    torch.manual_seed(0)
    student = TinyUSFMSeg(num_classes=num_classes, img_size=SIZE, **TINY).eval()
    with torch.no_grad():
        student.decode_head.conv_seg.bias -= student(phantom_cases(1, SIZE)[0].image).median()
    return student


def write_whole_way(student: TinyUSFMSeg, folder: Path, class_names: list[str]) -> None:
    write_whole(student, folder, describe(student, len(class_names) + 1, class_names, "0" * 64))
    record_sums(folder, [ONNX_FULL])


def write_folder(student: TinyUSFMSeg, folder: Path, class_names: list[str]) -> Path:
    """The page of a student, with its ONNX file beside it to compare with."""
    write_whole_way(student, folder, class_names)
    write_page(folder, NODE_MODULES)
    return folder


def mask_of(runs: list[int], shape: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) of run lengths: value, count, value, count, ..."""
    return np.repeat(np.array(runs[::2], np.uint8), runs[1::2]).reshape(shape)


def open_files(page, *paths):
    page.choose("#input", paths)
    page.wait(f"document.querySelectorAll('#files li').length === {len(paths)}")
    page.wait("![...document.querySelectorAll('#files small')].some(n => /opening|waiting/.test(n.textContent))")


def found(page):
    """What the page would save as JSON, by file."""
    return {file["file"]: file for file in page.run("app.measurements()")["files"]}


def mask(file, frame=0):
    return mask_of(file["frames"][frame]["mask_runs"], (file["height"], file["width"]))


def dice(a, b):
    total = (a > 0).sum() + (b > 0).sum()
    return 2 * ((a > 0) & (a == b)).sum() / total if total else 1


def click(page, selector):
    box = page.run(
        f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector({selector!r}).getBoundingClientRect())"
    )
    page.drag([box])
