"""Stills and loops of every format as gray frames, and the network on them."""

import sys

import nibabel
import numpy as np
import pytest
import torch
from dicom_files import dicom_dataset, region, write_dicom, write_jpeg_dicom
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from PIL import Image

from scripts.data import nifti
from scripts.data.dicom import is_dicom
from scripts.data.readers import read_image
from scripts.data.segment import resize_image, restore_logits
from scripts.inference.frame_files import luma
from scripts.inference.frame_reader import FrameReader
from scripts.inference.frames import FrameInferer, FramesToRowsFirstd, ResizeFramesd
from scripts.utils.hardware import Hardware

WIDTH, HEIGHT, FRAMES = 7, 5, 6
RGB24 = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def gray(rng):
    """uint8 (N, H, W), as DICOM stores it."""
    return rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def color(rng):
    """uint8 (N, H, W, 3), smooth, so that a compression keeps it."""
    return rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def pydicom():
    return pytest.importorskip("pydicom", minversion="3", reason="DICOM needs the extra dicom")


def frames_first(array):
    """(W, H, N[, 3]) -> (N, H, W[, 3])."""
    return np.moveaxis(array, 2, 0).swapaxes(1, 2)


def refusal(path, **options) -> str:
    with pytest.raises(ValueError) as error:
        FrameReader(**options).decode(path)
    assert str(error.value).startswith(f"file {path} ")
    return str(error.value)


# pictures and NIfTI


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_picture_is_one_frame_of_what_a_training_reads(color, tmp_path, mode):
    picture = Image.fromarray(color[0])
    deep = Image.fromarray(color[0, ..., 0].astype(np.uint16) * 100)
    picture = deep if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / "a.png")
    frames, meta = FrameReader().decode(tmp_path / "a.png")
    expected, expected_meta = read_image(tmp_path / "a.png")
    assert frames.shape == (WIDTH, HEIGHT, 1)
    assert np.array_equal(frames[..., 0], expected)
    assert tuple(meta["original_shape"]) == tuple(expected_meta["original_shape"]) == (WIDTH, HEIGHT)


def test_colors_of_a_picture_are_kept_to_look_at(color, tmp_path):
    Image.fromarray(color[0]).save(tmp_path / "a.png")
    pixels, _ = FrameReader().colors(tmp_path / "a.png")
    assert pixels.dtype == np.uint8
    assert np.array_equal(frames_first(pixels)[0], color[0])
    Image.fromarray(np.dstack([color[0], np.full((HEIGHT, WIDTH), 0, np.uint8)])).save(tmp_path / "b.png")
    assert FrameReader().colors(tmp_path / "b.png")[0].max() == 0  # transparent over black
    Image.fromarray(color[0, ..., 0]).save(tmp_path / "c.png")
    assert np.array_equal(
        frames_first(FrameReader().colors(tmp_path / "c.png")[0])[0], np.repeat(color[0, ..., :1], 3, 2)
    )


def test_luma_is_pillows(rng):
    pixels = rng.integers(0, 256, (64, 64, 1, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels[:, :, 0]).convert("L"))
    assert np.array_equal(luma(pixels)[..., 0], expected)
    assert np.abs(luma(pixels / 255)[..., 0] - expected / 255).max() < 0.5 / 255 + 1e-6


@pytest.mark.parametrize(
    "shape", [(WIDTH, HEIGHT), (WIDTH, HEIGHT, 1), (WIDTH, HEIGHT, FRAMES), (WIDTH, HEIGHT, 1, FRAMES)]
)
@pytest.mark.parametrize("kind", ["gray", "rgb24", "vector"])
def test_nifti_of_every_shape_gives_frames(color, tmp_path, shape, kind, monkeypatch):
    monkeypatch.setattr(nifti, "MIN_SIDE", HEIGHT)
    count = int(np.prod(shape[2:]))
    stored = np.moveaxis(color[:count], 0, 2).swapaxes(0, 1)  # (W, H, N, 3)
    if kind == "gray":
        array, expected = stored[..., 0], stored[..., 0] / 255
    else:
        expected = luma(stored) / 255
        array = np.ascontiguousarray(stored).view(RGB24)[..., 0] if kind == "rgb24" else stored
    if kind == "vector":
        shape = shape if len(shape) > 2 else (*shape, 1)
        array = array.reshape(*shape, *([1] * (4 - len(shape))), 3)
    else:
        array = array.reshape(shape)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([0.1, 0.2, 1, 1])), tmp_path / "a.nii.gz")
    frames, meta = FrameReader().decode(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(frames, expected, atol=1e-6)
    assert tuple(meta["original_shape"]) == shape
    assert np.allclose(meta["affine"], np.diag([0.1, 0.2, 1, 1]))
    pixels, _ = FrameReader().colors(tmp_path / "a.nii.gz")
    assert np.array_equal(pixels, stored if kind != "gray" else np.repeat(stored[..., :1], 3, -1))


@pytest.mark.parametrize(
    "shape, dtype, message",
    [
        ((4, 5, 2, 3), np.uint8, r"has shape \(4, 5, 2, 3\); expected an image \(W, H\), a loop \(W, H, N\), or RGB"),
        ((4, 5, 1, 1, 2), np.uint8, r"has shape \(4, 5, 1, 1, 2\); expected an image"),
        ((4, 5), np.complex64, "has pixels of type complex64; expected gray or RGB"),
    ],
)
def test_nifti_that_is_no_image_is_refused(tmp_path, shape, dtype, message):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, dtype), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match=f"file .*a.nii {message}"):
        FrameReader().decode(tmp_path / "a.nii")


@pytest.mark.parametrize(
    "affine, units, expected",
    [
        (np.diag([0.1, 0.2, 1, 1]), "mm", (0.1, 0.2)),
        (np.diag([0.1, 0.2, 1, 1]), "unknown", (0.1, 0.2)),
        (np.diag([1e-4, 2e-4, 1, 1]), "meter", (0.1, 0.2)),
        (np.array([[0, 0.2, 0, 5], [-0.1, 0, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1]]), "unknown", (0.2, 0.1)),  # swapped
        (np.eye(4), "mm", (1, 1)),
        (np.eye(4), "unknown", None),
        (None, "unknown", None),
    ],
)
def test_size_of_a_nifti_pixel_is_in_mm(tmp_path, affine, units, expected):
    image = nibabel.Nifti1Image(np.zeros((4, 5), np.uint8), affine)
    image.header.set_xyzt_units(units)
    nibabel.save(image, tmp_path / "a.nii")
    _, meta = FrameReader().decode(tmp_path / "a.nii")
    assert ("spacing_mm" in meta) == (expected is not None)
    if expected:
        np.testing.assert_allclose(meta["spacing_mm"], expected, rtol=1e-5)


def test_affine_of_a_nifti_counts_where_its_pixel_sizes_differ(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((4, 5), np.uint8), np.diag([0.1, 0.2, 1, 1]))
    image.header["pixdim"][1:3] = 1  # as some programs leave it
    nibabel.save(image, tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").header.get_zooms() == (1, 1)
    np.testing.assert_allclose(FrameReader().decode(tmp_path / "a.nii")[1]["spacing_mm"], (0.1, 0.2), rtol=1e-5)


# DICOM


def test_gray_still_and_loop(pydicom, gray, tmp_path):
    frames, meta = FrameReader().decode(write_dicom(tmp_path / "loop.dcm", gray, FrameTime=40))
    np.testing.assert_allclose(frames_first(frames), gray / 255, atol=1e-6)
    assert frames.dtype == np.float32
    assert tuple(meta["original_shape"]) == (WIDTH, HEIGHT, FRAMES)
    assert meta["frame_time_ms"] == 40
    frames, meta = FrameReader().decode(write_dicom(tmp_path / "still.dcm", gray[0]))
    np.testing.assert_allclose(frames_first(frames)[0], gray[0] / 255, atol=1e-6)
    assert tuple(meta["original_shape"]) == (WIDTH, HEIGHT)
    assert "frame_time_ms" not in meta
    assert "spacing_mm" not in meta


@pytest.mark.parametrize("loop", [False, True])
def test_rgb_and_ybr_give_the_same_gray(pydicom, color, tmp_path, loop):
    from pydicom.pixels import convert_color_space

    color = color if loop else color[0]
    ybr = convert_color_space(color, "RGB", "YBR_FULL")
    rgb_frames, _ = FrameReader().decode(write_dicom(tmp_path / "rgb.dcm", color, "RGB"))
    ybr_frames, _ = FrameReader().decode(write_dicom(tmp_path / "ybr.dcm", ybr, "YBR_FULL"))
    stored = color if loop else color[None]
    np.testing.assert_allclose(frames_first(rgb_frames), luma(stored) / 255, atol=1e-6)
    assert np.abs(rgb_frames - ybr_frames).max() < 3 / 255
    pixels, _ = FrameReader().colors(tmp_path / "rgb.dcm")
    assert np.array_equal(frames_first(pixels), stored)
    assert np.abs(frames_first(FrameReader().colors(tmp_path / "ybr.dcm")[0]).astype(int) - stored).max() <= 2


@pytest.mark.parametrize(
    "pixels, photometric, bits, expected",
    [
        (np.array([[0, 255]], np.uint8), "MONOCHROME1", None, [1, 0]),
        (np.array([[0, 4095]], np.uint16), "MONOCHROME2", 12, [0, 1]),
        (np.array([[0, 255]], np.uint16), "MONOCHROME2", 8, [0, 1]),
        (np.array([[0, 1023]], np.uint16), "MONOCHROME1", 10, [1, 0]),
        (np.array([[-100, 300]], np.int16), "MONOCHROME2", None, [0, 1]),
        (np.array([[-100, 300]], np.int16), "MONOCHROME1", None, [1, 0]),
    ],
)
def test_gray_values_are_scaled_by_their_bits(pydicom, tmp_path, pixels, photometric, bits, expected):
    frames, _ = FrameReader().decode(write_dicom(tmp_path / "a.dcm", pixels, photometric, bits=bits))
    assert frames[:, 0, 0].tolist() == expected


def test_palette_is_looked_up(pydicom, tmp_path):
    dataset = dicom_dataset(np.array([[0, 1]], np.uint8), "PALETTE COLOR")
    for number, name in enumerate(("Red", "Green", "Blue")):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [2, 0, 8])
        setattr(dataset, f"{name}PaletteColorLookupTableData", bytes([0, 100 + number]))
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    pixels, _ = FrameReader().colors(tmp_path / "a.dcm")
    assert frames_first(pixels)[0, 0].tolist() == [[0, 0, 0], [100, 101, 102]]


@pytest.mark.parametrize("mode", ["gray", "color"])
def test_jpeg_is_decoded(pydicom, tmp_path, mode):
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((64, 48), 3)
    pixels = np.asarray(picture.convert("L") if mode == "gray" else picture)
    frames, meta = FrameReader().decode(write_jpeg_dicom(tmp_path / "a.dcm", pixels))
    assert tuple(meta["original_shape"]) == (64, 48)
    assert np.abs(frames_first(frames)[0] - np.asarray(picture.convert("L")) / 255).mean() < 0.02


def test_rle_is_decoded(pydicom, gray, tmp_path):
    from pydicom.uid import RLELossless

    dataset = dicom_dataset(gray)
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_allclose(frames_first(FrameReader().decode(tmp_path / "a.dcm")[0]), gray / 255, atol=1e-6)


@pytest.mark.parametrize(
    "tags, expected",
    [
        ({"regions": [(0.01, 0.02)]}, (0.1, 0.2)),
        ({"regions": [(0.01, -0.02), (0.01, 0.02)]}, (0.1, 0.2)),
        ({"regions": [(0.01, 0.02), (0.010001, 0.019999)]}, (0.1, 0.2)),
        ({"regions": [(0.01, 0.02), (0.5, 0.5, 4)]}, (0.1, 0.2)),  # the second is in seconds
        ({"regions": [(0.01, 0.02), (0.03, 0.02, 3, 2)]}, (0.1, 0.2)),  # the second is an M-mode
        ({"regions": [(0.01, 0.02)], "PixelSpacing": [9, 9]}, (0.1, 0.2)),
        ({"regions": [(0.01, 0.02), (0.02, 0.02)]}, None),
        ({"regions": [(0.01, 0.02, 4)], "PixelSpacing": [0.4, 0.3]}, (0.3, 0.4)),  # rows first
        ({"regions": [(0, 0)]}, None),
        ({"PixelSpacing": [0, 0]}, None),
        ({}, None),
    ],
)
def test_size_of_a_dicom_pixel_is_that_of_its_regions(pydicom, gray, tmp_path, tags, expected):
    tags = dict(tags)
    if "regions" in tags:
        tags["SequenceOfUltrasoundRegions"] = [region(*numbers) for numbers in tags.pop("regions")]
    _, meta = FrameReader().decode(write_dicom(tmp_path / "a.dcm", gray[0], **tags))
    assert ("spacing_mm" in meta) == (expected is not None)
    if expected:
        assert meta["spacing_mm"].tolist() == pytest.approx(expected)
        assert np.diag(meta["affine"]).tolist() == pytest.approx([-expected[0], -expected[1], 1, 1])


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_other_modality_is_refused_unless_it_is_asked_for(pydicom, gray, tmp_path, modality):
    path = write_dicom(tmp_path / "a.dcm", gray[0], modality=modality)
    message = refusal(path)
    assert f"has the modality {modality}, expected US" in message
    assert f"pass --modalities \"['US', '{modality}']\"" in message
    assert FrameReader(["US", modality]).decode(path)[0].shape == (WIDTH, HEIGHT, 1)


def test_modalities_are_a_list():
    with pytest.raises(ValueError, match=r"modalities must be a list such as \['US'\], got 'US'"):
        FrameReader("US")


def test_dicom_without_pixels_is_refused(pydicom, gray, tmp_path):
    dataset = dicom_dataset(gray[0])
    del dataset.PixelData
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "is DICOM without pixel data (Ultrasound Image Storage); take it out of the folder" in refusal(
        tmp_path / "a.dcm"
    )


def test_broken_dicom_is_refused(pydicom, gray, tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"none")
    assert "cannot be read as an image (InvalidDicomError" in refusal(tmp_path / "a.dcm")
    path = write_dicom(tmp_path / "b.dcm", gray)
    path.write_bytes(path.read_bytes()[:-60])
    assert "cannot be read as an image" in refusal(path)


def test_transfer_syntax_that_nothing_decodes_is_named(pydicom, gray, tmp_path, monkeypatch):
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import MPEG4HP41, JPEGLSLossless

    for syntax in (MPEG4HP41, JPEGLSLossless):
        dataset = dicom_dataset(gray[0])
        dataset.file_meta.TransferSyntaxUID, dataset.PixelData = syntax, encapsulate([b"none"])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(tmp_path / f"{syntax.keyword}.dcm", enforce_file_format=True)
    message = refusal(tmp_path / "MPEG4HP41.dcm")
    assert f"has the transfer syntax {MPEG4HP41.name}, which pydicom does not decode; save it uncompressed" in message
    monkeypatch.setattr(get_decoder(JPEGLSLossless), "_available", {})
    message = refusal(tmp_path / "JPEGLSLossless.dcm")
    assert f"has the transfer syntax {JPEGLSLossless.name}, whose decoder is missing: " in message
    assert "install one of them" in message


def test_missing_pydicom_is_named_with_its_extra(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "is DICOM, which needs the extra dicom" in refusal(tmp_path / "a.dcm")


def test_dicom_is_recognized_by_its_first_bytes(tmp_path):
    for name, content in (("IM_0001", bytes(128) + b"DICM"), ("notes", b"x" * 200), ("DICOMDIR", bytes(128) + b"DICM")):
        (tmp_path / name).write_bytes(content)
    assert is_dicom(tmp_path / "IM_0001")
    assert is_dicom("no/such.DCM")
    assert not is_dicom(tmp_path / "notes")
    assert not is_dicom(tmp_path / "DICOMDIR")
    assert not is_dicom(tmp_path / "none")


# the network on frames


def test_rows_come_first_and_back():
    affine = torch.diag(torch.tensor([0.1, 0.2, 3, 1], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, WIDTH, HEIGHT, FRAMES), affine=affine)
    transform = FramesToRowsFirstd("image")
    turned = transform({"image": image})
    assert torch.equal(turned["image"].as_tensor(), image.as_tensor().swapaxes(1, 2))
    place = affine @ torch.tensor([1.0, 2, 3, 1]).double()
    assert torch.equal(turned["image"].affine @ torch.tensor([2.0, 1, 3, 1]).double(), place)
    back = transform.inverse(turned)["image"]
    assert torch.equal(back.as_tensor(), image.as_tensor())
    assert torch.equal(back.affine, image.affine)


@pytest.mark.parametrize("size", [(96, 200), (40, 100), (50, 60), (64, 64)])
def test_frames_are_resized_and_restored_as_an_evaluation_does_it(size):
    torch.manual_seed(0)
    affine = torch.diag(torch.tensor([0.1, 0.2, 1, 1], dtype=torch.float64))
    frames = MetaTensor(torch.rand(1, *size, 3), affine=affine, meta={"filename_or_obj": "a"})
    resize = ResizeFramesd("image", 64)
    prepared = resize({"image": frames})["image"]
    each = frames.as_tensor().unbind(-1)
    assert torch.equal(prepared.as_tensor(), torch.stack([resize_image(frame, 64) for frame in each], -1))
    assert prepared.meta["filename_or_obj"] == "a"
    torch.testing.assert_close(prepared.pixdim[:2], torch.tensor([0.1 * size[0] / 64, 0.2 * size[1] / 64]).double())
    back = resize.inverse({"image": prepared})["image"]
    expected = [restore_logits(frame[None], size)[0] for frame in prepared.as_tensor().unbind(-1)]
    assert torch.equal(back.as_tensor(), torch.stack(expected, -1))
    torch.testing.assert_close(back.affine, frames.affine)
    assert not back.applied_operations


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_inferer_gives_the_networks_logits_of_each_frame(count, channels):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, channels, 3, padding=1)
    batches = []
    network.register_forward_hook(lambda module, inputs, logits: batches.append(len(inputs[0])))
    images = MetaTensor(torch.rand(1, 1, 16, 16, count), meta={"filename_or_obj": "a"})
    with torch.no_grad():
        logits = FrameInferer(Hardware([], "fp32"), frames=2)(images, network)
        sizes = list(batches)
        expected = torch.stack([network(images.as_tensor()[..., n]) for n in range(count)], dim=-1)
    assert logits.shape == (1, channels, 16, 16, count)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.as_tensor(), expected, rtol=0, atol=1e-6)
    assert sizes == [2] * (count // 2) + [1] * (count % 2)
    assert logits.meta["filename_or_obj"] == "a"


def test_inferer_runs_in_bf16():
    network, images = torch.nn.Conv2d(1, 1, 3, padding=1), torch.rand(1, 1, 16, 16, 2)
    with torch.no_grad():
        fp32, bf16 = (FrameInferer(Hardware([], precision))(images, network) for precision in ("fp32", "bf16"))
    assert bf16.dtype == torch.float32
    assert 1e-6 < (fp32 - bf16).abs().max() < 0.05


def test_reader_in_monai_gives_frames_with_their_metadata(pydicom, gray, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", gray, SequenceOfUltrasoundRegions=[region(0.01, 0.02)])
    item = Compose([LoadImaged("image", reader=FrameReader()), EnsureChannelFirstd("image")])({"image": path})
    assert item["image"].shape == (1, WIDTH, HEIGHT, FRAMES)
    assert item["image"].meta["filename_or_obj"] == str(path)
    assert torch.as_tensor(item["image"].meta["spacing_mm"]).tolist() == pytest.approx([0.1, 0.2])
