"""DICOM in the page: the pixels and sizes that the bundle's own reader gives, or a sentence."""

import numpy as np
import pytest
from dicom_files import dicom_dataset, region, write_dicom, write_jpeg_dicom
from web_parts import LEAST_DICE, NEEDS_BROWSER, dice, found, mask, open_files

from scripts.data.dicom import decode_dicom
from scripts.data.phantoms import make_phantom
from scripts.data.regions import spacing_of
from scripts.export.whole import load_whole

pytest.importorskip("pydicom", reason="DICOM needs the extra dicom")
pytest_plugins = "web_fixtures"
pytestmark = [pytest.mark.slow, *NEEDS_BROWSER]

SYNTAX = "1.2.840.10008.1.2"
RLE = f"{SYNTAX}.5"
PHANTOM = make_phantom((2, 0), 128)[0][:96]
COLOR = np.stack([PHANTOM, PHANTOM // 2 + 40, 255 - PHANTOM], axis=-1)
LOOP = np.stack([np.roll(PHANTOM, 9 * frame, axis=1) for frame in range(3)])
DEEP = PHANTOM.astype(np.uint16) * 9


def compress(path, syntax):
    """Write a file anew in another transfer syntax."""
    from pydicom import dcmread

    dataset = dcmread(path)
    dataset.compress(syntax)
    dataset.save_as(path, enforce_file_format=True)


def write_palette(path, most_green=65535):
    dataset = dicom_dataset(PHANTOM, "PALETTE COLOR")
    for number, color in enumerate(("Red", "Green", "Blue")):
        most = most_green if color == "Green" else 65535
        table = np.minimum(np.arange(256) * (257 - 60 * number), most).astype("<u2")
        setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{color}PaletteColorLookupTableData", table.tobytes())
    dataset.save_as(path, enforce_file_format=True)


def write_planar(path):
    dataset = dicom_dataset(COLOR, "RGB")
    dataset.PlanarConfiguration, dataset.PixelData = 1, COLOR.transpose(2, 0, 1).tobytes()
    dataset.save_as(path, enforce_file_format=True)


def write_implicit(path):
    dataset = dicom_dataset(PHANTOM)
    dataset.file_meta.TransferSyntaxUID = SYNTAX
    dataset.save_as(path, enforce_file_format=True)


def grays(path):
    """What the bundle reads of a file, as pictures (H, W) of 8 bits, and its metadata."""
    pixels, meta = decode_dicom(path)
    if pixels.ndim == 4:
        scale = 1 if pixels.dtype == np.uint8 else 255
        pixels = np.round((scale * pixels) @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    if pixels.dtype != np.uint8:
        pixels = np.round(255 * pixels).astype(np.uint8)
    return pixels.transpose(2, 1, 0), meta  # (W, H, N) -> (N, H, W)


def test_dicom_has_the_masks_and_areas_of_the_bundle(page, folder, tmp_path):
    write_dicom(tmp_path / "plain.dcm", PHANTOM, SequenceOfUltrasoundRegions=[region(0.02, 0.03)])
    write_dicom(tmp_path / "spacing.dcm", PHANTOM, PixelSpacing=[0.3, 0.2])
    left, right = region(0.02, 0.02, box=(0, 0, 63, 95)), region(0.05, 0.05, box=(64, 0, 127, 95))
    write_dicom(tmp_path / "two.dcm", PHANTOM, SequenceOfUltrasoundRegions=[left, right])
    write_dicom(tmp_path / "outside.dcm", PHANTOM, SequenceOfUltrasoundRegions=[region(0.02, 0.02, box=(0, 0, 9, 9))])
    write_dicom(tmp_path / "doppler.dcm", PHANTOM, SequenceOfUltrasoundRegions=[region(0.02, 0.02, units=4)])
    write_dicom(tmp_path / "inverted.dcm", PHANTOM, "MONOCHROME1")
    write_dicom(tmp_path / "color.dcm", COLOR, "RGB")
    write_dicom(tmp_path / "ybr.dcm", COLOR, "YBR_FULL")
    write_dicom(tmp_path / "twelve.dcm", DEEP, bits=12)
    write_dicom(tmp_path / "overlay.dcm", DEEP | 0x8000, bits=12)
    write_dicom(tmp_path / "sixteen.dcm", DEEP)
    write_dicom(tmp_path / "signed.dcm", DEEP.astype(np.int16) - 500)
    write_dicom(tmp_path / "window.dcm", DEEP, bits=12, WindowCenter=900, WindowWidth=1500)
    write_planar(tmp_path / "planar.dcm")
    write_implicit(tmp_path / "implicit.dcm")
    write_palette(tmp_path / "palette.dcm")
    write_palette(tmp_path / "palette_dark_green.dcm", 255)
    for name, pixels in (("rle.dcm", PHANTOM), ("rle16.dcm", DEEP)):
        write_dicom(tmp_path / name, pixels)
        compress(tmp_path / name, RLE)
    write_jpeg_dicom(tmp_path / "jpeg.dcm", PHANTOM)
    write_jpeg_dicom(tmp_path / "jpeg_color.dcm", COLOR)
    paths = sorted(tmp_path.glob("*.dcm"))
    open_files(page, *paths)
    files, segment = found(page), load_whole(folder)
    assert page.run("[...document.querySelectorAll('#files .refused small')].map(note => note.textContent)") == []
    for path in paths:
        expected, meta = grays(path)
        lossy = path.stem.startswith(("jpeg", "ybr"))
        score = dice(mask(files[path.name]), segment(expected[0]).mask)
        assert score >= (0.97 if lossy else LEAST_DICE), path.name
        (row,) = files[path.name]["frames"][0]["classes"]
        spacing = spacing_of(mask(files[path.name]).T == 1, meta)
        assert (row["pixel_width_mm"], row["pixel_height_mm"]) == (pytest.approx(spacing) if spacing else (None, None))


@pytest.mark.parametrize("syntax", [None, RLE])
def test_loop_is_segmented_frame_by_frame(page, folder, tmp_path, syntax):
    write_dicom(tmp_path / "loop.dcm", LOOP, FrameTime=40)
    if syntax:
        compress(tmp_path / "loop.dcm", syntax)
    open_files(page, tmp_path / "loop.dcm")
    assert not page.run("document.getElementById('timeline').hidden")
    page.run("app.actions.run()")
    page.wait("app.session.studies[0].results.size === 3")
    for frame, gray in enumerate(LOOP):
        expected = load_whole(folder)(gray).mask
        assert dice(mask(found(page)["loop.dcm"], frame), expected) >= LEAST_DICE


def damaged(path):
    write_dicom(path, PHANTOM)
    path.write_bytes(path.read_bytes()[:-4000])


def other_syntax(path, syntax):
    from pydicom.encaps import encapsulate

    dataset = dicom_dataset(PHANTOM)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([b"\0" * 64])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)


def without_pixels(path):
    dataset = dicom_dataset(PHANTOM)
    del dataset.PixelData
    dataset.save_as(path, enforce_file_format=True)


def test_dicom_that_cannot_be_read_is_told_in_a_sentence(page, tmp_path):
    damaged(tmp_path / "cut.dcm")
    without_pixels(tmp_path / "report.dcm")
    write_dicom(tmp_path / "ct.dcm", PHANTOM, modality="CT")
    write_dicom(tmp_path / "sigmoid.dcm", DEEP, WindowCenter=9, WindowWidth=9, VOILUTFunction="SIGMOID")
    for name, number in (("j2k.dcm", 90), ("mpeg.dcm", 102), ("no_jpeg.dcm", 50)):
        other_syntax(tmp_path / name, f"{SYNTAX}.4.{number}")
    (tmp_path / "zeros.dcm").write_bytes(bytes(200))
    reasons = {
        "cut.dcm": "is damaged",
        "report.dcm": "is DICOM without pixel data",
        "ct.dcm": "has the modality CT, expected US. The student has seen ultrasound alone",
        "sigmoid.dcm": "has a window of the function SIGMOID",
        "j2k.dcm": "is stored as JPEG 2000, which this page does not decode. Save it uncompressed",
        "mpeg.dcm": "is stored as a video (MPEG or H.26x)",
        "no_jpeg.dcm": "cannot be read as a picture",
        "zeros.dcm": "is no DICOM file, or is damaged",
    }
    open_files(page, *(tmp_path / name for name in reasons))
    told = page.run(
        "[...document.querySelectorAll('#files li')].map(item => [item.querySelector('b').textContent, "
        "item.querySelector('small').textContent])"
    )
    for name, text in told:
        assert reasons[name].lower() in text.lower(), name
    assert found(page) == {}
