"""Exported files are checked before they are run: the sums of export.json, or a checksum of their own."""

import zipfile
from importlib.util import find_spec
from shutil import copy, copytree

import pytest
import torch
from conftest import TINY

from scripts.export.formats import FORMATS, load_runner
from scripts.export.metadata import describe
from scripts.export.names import FORMAT_FILES
from scripts.inference.export_sums import read_sums, record_sums
from scripts.networks.tinyusfm import TinyUSFMSeg

pytest_plugins = "tiny_exports"
pytestmark = pytest.mark.usefixtures("tiny_networks")
SIZE = 64
# openvino_bf16 runs the files of openvino, where it can, and test_whole.py has the whole way
FORMS = [name for name in FORMAT_FILES if name not in ("openvino_bf16", "onnx_full", "web")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A random student in every format whose libraries are installed."""
    student, folder = TinyUSFMSeg(img_size=SIZE, **TINY).eval(), tmp_path_factory.mktemp("export")
    for format in FORMS:
        if all(map(find_spec, FORMATS[format].needs)):
            if not (folder / FORMAT_FILES[format][0]).exists():
                FORMATS[format].write(student, folder, [torch.rand(1, 1, SIZE, SIZE)], describe(student, 2))
            record_sums(folder, FORMAT_FILES[format])
    return folder


def need(format):
    for module in FORMATS[format].needs:
        pytest.importorskip(module, reason=f"{format} needs the extra export")


@pytest.mark.parametrize("format", FORMS)
def test_one_flipped_bit_of_an_exported_file_is_found(exported, tmp_path, caplog, format):
    need(format)
    load_runner(format, exported, SIZE)
    assert "no checksum" not in caplog.text
    for name in FORMAT_FILES[format]:
        folder = tmp_path / name
        copytree(exported, folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 64
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{folder / name} is damaged: .*write it again with python -m scripts"):
            load_runner(format, folder, SIZE)


@pytest.mark.parametrize("format", ["safetensors", "torchscript", "onnx", "openvino"])
def test_file_outside_of_an_export_is_checked_where_it_can_be(exported, tmp_path, caplog, format):
    need(format)
    for name in FORMAT_FILES[format]:
        copy(exported / name, tmp_path)
    load_runner(format, tmp_path, SIZE)
    assert ("has no checksum" in caplog.text) == (format in ("onnx", "openvino"))
    path = tmp_path / FORMAT_FILES[format][-1]
    (tmp_path / f"{path.name}.sha256").write_text(f"{'0' * 64}  {path.name}\n")
    with pytest.raises(ValueError, match=f"{path} is not the file whose SHA-256 is in {path.name}.sha256"):
        load_runner(format, tmp_path, SIZE)


def test_torchscript_is_checked_by_its_own_archive(exported, tmp_path):
    path = tmp_path / "student.ts"
    content = bytearray((exported / path.name).read_bytes())
    with zipfile.ZipFile(exported / path.name) as archive:  # the file's middle may be padding, which nothing reads
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        middle = archive.read(entry)[entry.file_size // 2 :][:64]
    content[content.index(middle)] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"export {path} is damaged, in its entry"):
        load_runner("torchscript", path, SIZE)


def test_torchscript_that_is_not_finite_is_refused(tmp_path):
    student = TinyUSFMSeg(img_size=SIZE, **TINY).eval()
    with torch.no_grad():
        student.decode_head.conv_seg.bias.fill_(torch.nan)
    torch.jit.script(student).save(tmp_path / "student.ts")
    with pytest.raises(ValueError, match="not finite .* first in decode_head.conv_seg.bias"):
        load_runner("torchscript", tmp_path, SIZE)


def test_sums_are_added_to_those_that_are_there(tmp_path):
    assert read_sums(tmp_path) == {}
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
        record_sums(tmp_path, [name])
    assert list(read_sums(tmp_path)) == ["a", "b"]


def test_damaged_record_is_named(tmp_path):
    (tmp_path / "export.json").write_text("{")
    with pytest.raises(ValueError, match=r"export.json is damaged .*; copy or download it again, or write it again"):
        read_sums(tmp_path)
