"""What is opened at all: an explicit list of formats, and no more pixels than the limit."""

import ast
import struct
import zlib

import nibabel
import numpy as np
import pytest
from conftest import ROOT
from dicom_files import dicom_dataset
from PIL import Image, ImageDraw

from scripts.data.readers import read_image, read_mask
from scripts.data.refusals import LIMIT_VARIABLE
from scripts.inference.frame_reader import FrameReader

READERS = [read_image, read_mask, FrameReader().decode, FrameReader().colors]


def picture():
    drawn = Image.new("RGB", (40, 30), "gray")
    ImageDraw.Draw(drawn).ellipse((5, 5, 20, 20), fill="white")
    return drawn


def eps(path):
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n")


def psd(path):
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, 30, 40, 8, 1)
    path.write_bytes(header + struct.pack(">IIIH", 0, 0, 0, 0) + bytes(30 * 40))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["EPS", "PSD", "GIF", "WEBP", "PPM", "ICO", "TGA"])
def test_other_formats_behind_a_common_name_are_refused(tmp_path, kind, read):
    path = tmp_path / "a.png"
    {"EPS": eps, "PSD": psd}.get(kind, lambda p: picture().save(p, kind))(path)
    with pytest.raises(ValueError, match="a.png cannot be read as an image: its content is no PNG, JPEG, BMP or TIFF;"):
        read(path)


def test_every_open_of_pillow_names_its_formats():
    unnamed = []
    for path in sorted(path for top in ("scripts", "eval") for path in (ROOT / top).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                unnamed += [path] if not any(word.arg == "formats" for word in node.keywords) else []
    assert unnamed == []


# sizes that headers claim


def claim_png(path, width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0))


def claim_tiff(path, width, height):
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 9)]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", 0))


def claim_bmp(path, width, height):
    path.write_bytes(b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0))


def claim_nifti(path, width, height):
    header = nibabel.Nifti1Header()
    header.set_data_shape((width, height, 1))
    path.write_bytes(header.binaryblock + bytes(4))


CLAIMS = {"png": claim_png, "tif": claim_tiff, "bmp": claim_bmp, "nii": claim_nifti}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("size", [(32000, 32000), (25000, 24000)])  # Pillow raises for the first one alone
@pytest.mark.parametrize("suffix", CLAIMS)
def test_size_that_a_header_claims_is_refused_before_memory_is_taken(tmp_path, suffix, size, read):
    path = tmp_path / f"a.{suffix}"
    CLAIMS[suffix](path, *size)
    assert path.stat().st_size < 1024
    message = r"a.\w+ claims (more than )?\d+ megapixels; expected at most 500 megapixels: .* BUNDLE_MAX_MEGAPIXELS"
    with pytest.raises(ValueError, match=message):
        read(path)


def test_frames_that_a_dicom_claims_are_counted(tmp_path):
    pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
    dataset = dicom_dataset(np.zeros((2, 4, 6), np.uint8))
    dataset.NumberOfFrames = 10**8
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ValueError, match="a.dcm claims 2400 megapixels; expected at most 500"):
        FrameReader().decode(tmp_path / "a.dcm")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "nii", "nii.gz", "dcm"])
def test_one_variable_sets_the_limit_of_every_format(tmp_path, suffix, read, monkeypatch):
    path, pixels = tmp_path / f"a.{suffix}", np.zeros((200, 300), np.uint8)
    if suffix == "dcm":
        if read in (read_image, read_mask):
            pytest.skip("trainings read no DICOM")
        pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")
        dicom_dataset(pixels).save_as(path, enforce_file_format=True)
    elif suffix.startswith("nii"):
        nibabel.save(nibabel.Nifti1Image(pixels.T, np.eye(4)), path)
    else:
        Image.fromarray(pixels).save(path)
    read(path)
    monkeypatch.setenv(LIMIT_VARIABLE, "0.05")
    with pytest.raises(
        ValueError, match="expected at most 0.05 megapixels: replace it, or set the environment variable"
    ):
        read(path)
    monkeypatch.setenv(LIMIT_VARIABLE, "0.06")
    read(path)


@pytest.mark.parametrize("value", ["none", "0", "-1", "nan"])
def test_limit_that_is_no_number_is_refused(tmp_path, value, monkeypatch):
    picture().save(tmp_path / "a.png")
    monkeypatch.setenv(LIMIT_VARIABLE, value)
    with pytest.raises(ValueError, match=f"is not read, since BUNDLE_MAX_MEGAPIXELS is '{value}'; expected a positive"):
        read_image(tmp_path / "a.png")


def test_large_picture_within_the_limit_is_read_without_a_warning(tmp_path, recwarn):
    Image.new("1", (10000, 9500)).save(tmp_path / "a.png")  # Pillow's own limit is 89 megapixels
    assert read_image(tmp_path / "a.png")[0].shape == (10000, 9500)
    assert not [warning for warning in recwarn if "bomb" in str(warning.message)]
