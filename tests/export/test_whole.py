"""The whole way: a picture of any size in, the mask and the probability that the bundle finds in it out."""

import json
from functools import partial
from shutil import copy

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, TINY
from PIL import Image

from scripts.data.phantoms import make_phantom
from scripts.data.segment import resize_image, restore_logits
from scripts.export import formats as export_formats
from scripts.export.__main__ import main
from scripts.export.cases import phantom_cases
from scripts.export.check import Check, export_student, refusal
from scripts.export.formats import load_runner, read_student
from scripts.export.metadata import describe
from scripts.export.whole import interpolation, load_whole, resizing, segment_in_torch, write_whole
from scripts.networks.presence import Presence
from scripts.networks.tinyusfm import TinyUSFMSeg

SIZE = 64
SIZES = [(64, 64), (1, 1), (1, 90), (31, 20), (63, 65), (112, 80), (150, 400), (400, 300)]
TOLERANCE = 1e-5  # of a probability
FILE = "student_full.onnx"


@pytest.fixture(autouse=True)
def libraries():
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="exports need the extra export")


def random_student(num_classes=2, calibrated=False):
    """A student that finds something in every phantom; a calibrated one that half of them show nothing."""
    torch.manual_seed(0)
    student = TinyUSFMSeg(num_classes=num_classes, img_size=SIZE, **TINY).eval()
    if not calibrated:
        return student
    with torch.no_grad():
        student.decode_head.conv_seg.bias.fill_(0.2)
        student.presence = Presence(TINY["embed_dim"])
        student.presence.weight.normal_()
        chances = student.detect(torch.cat([case.image for case in phantom_cases(4, SIZE)]))[1].sort().values
        student.presence.threshold.fill_(float(chances[1:3].mean()))
    return student


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Students and the folders of their whole ways, made when they are asked for."""
    made = {}

    def give(**options):
        key = json.dumps(options)
        if key not in made:
            made[key] = random_student(**options), tmp_path_factory.mktemp("whole")
            write_whole(*made[key], describe(made[key][0], options.get("num_classes", 2)))
        return made[key]

    return give


def picture(height, width):
    phantom = Image.fromarray(make_phantom((0, height), 256)[0])
    return np.asarray(phantom.resize((width, height)))


def assert_same(found, expected, shape):
    """Masks may differ only where two classes are equally probable within the tolerance."""
    assert found.mask.shape == shape
    assert found.mask.dtype == np.uint8
    assert found.probability.dtype == np.float32
    assert found.probability.shape == expected.probability.shape
    assert np.abs(found.probability - expected.probability).max() < TOLERANCE
    chances = expected.probability
    chances = np.sort(np.concatenate([1 - chances, chances]) if len(chances) == 1 else chances, axis=0)
    sure = chances[-1] - chances[-2] > 4 * TOLERANCE
    assert sure.mean() > 0.9
    assert np.array_equal(found.mask[sure], expected.mask[sure])


@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize("height, width", [*SIZES, (224, 224), (280, 392), (600, 803)])
def test_matrices_resize_as_monai_and_torch_do(side, height, width):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (height, width), generator=generator) / 255
    rows, columns, sides = (torch.arange(length, dtype=torch.float32) for length in (height, width, side))
    resized = resizing(sides, rows) @ image @ resizing(sides, columns).T
    torch.testing.assert_close(resized, resize_image(image[None], side)[0], rtol=0, atol=1e-5)
    logits = 5 * torch.randn(side, side, generator=generator)
    restored = interpolation(rows, sides) @ logits @ interpolation(columns, sides).T
    expected = restore_logits(logits[None, None], (height, width))[0, 0]
    torch.testing.assert_close(restored, expected, rtol=0, atol=1e-3)
    if (height, width) == (side, side):
        assert torch.equal(resized, image)
        assert torch.equal(restored, logits)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("shape", SIZES)
def test_whole_way_finds_what_the_bundle_finds(written, num_classes, shape):
    student, folder = written(num_classes=num_classes)
    found, expected = load_whole(folder)(picture(*shape)), segment_in_torch(student, picture(*shape))
    assert_same(found, expected, shape)
    assert found.presence is None


def test_calibrated_student_leaves_the_same_masks_empty_and_tells_presence(written):
    student, folder = written(calibrated=True)
    segment = load_whole(folder)
    pictures = [case.picture.numpy() for case in phantom_cases(4, SIZE)]
    for image in pictures:
        found, expected = segment(image), segment_in_torch(student, image)
        assert_same(found, expected, image.shape)
        assert found.presence == pytest.approx(expected.presence, abs=TOLERANCE)
    assert sorted(bool(segment(image).mask.any()) for image in pictures) == [False, False, True, True]


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "busbra_native").is_dir(), reason="the images of BUS-BRA are not here")
def test_shared_student_finds_the_same_masks_in_real_images(tmp_path):
    """In images as they come, and smaller, larger and narrower ones."""
    student = read_student(ROOT / "models" / "model.pt", 224, 2)
    write_whole(student, tmp_path, describe(student, 2))
    segment = load_whole(tmp_path)
    paths = sorted((SHARED / "busbra_native" / "Images").iterdir())[::9]
    for path, scale in zip(
        paths, [(1, 1), (1, 1), (1, 1), (0.3, 0.3), (2.1, 2.1), (1.5, 0.4), (0.2, 1.3)], strict=True
    ):
        image = Image.open(path).convert("L")
        image = np.asarray(image.resize([round(side * factor) for side, factor in zip(image.size, scale)]))
        found, expected = segment(image), segment_in_torch(student, image)
        assert np.array_equal(found.mask, expected.mask)
        assert found.mask.any()
        assert np.abs(found.probability - expected.probability).max() < TOLERANCE


def test_program_keeps_the_whole_way_within_its_limit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_formats, "TinyUSFMSeg", partial(TinyUSFMSeg, **TINY))
    torch.save(random_student().state_dict(), tmp_path / "model.pt")
    call = ["--checkpoint", str(tmp_path / "model.pt"), "--output", str(tmp_path / "out"), "--img_size", str(SIZE)]
    assert main([*call, "--formats", "onnx_full", "--num_images", "2"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {FILE, "export.json"}
    numbers = json.loads((tmp_path / "out" / "export.json").read_text())["formats"]["onnx_full"]
    assert numbers["max_probability_difference"] < TOLERANCE
    assert numbers["limit"] == {"key": "max_probability_difference", "value": 1e-4}
    assert "onnx_full" in capsys.readouterr().out


def test_whole_way_of_other_probabilities_is_refused(written, tmp_path, monkeypatch):
    student, folder = written(num_classes=2)
    cases = phantom_cases(2, SIZE)
    right = load_whole(folder)

    def other(image):
        found = right(image)
        return found._replace(probability=found.probability + np.float32(2e-4))

    measured = Check(student, cases, 2).compare_whole(other)
    assert "onnx_full is refused: max_probability_difference is 0.0002, the limit is 0.0001" in refusal(
        "onnx_full", measured
    )
    measured = Check(student, cases, 2).compare_whole(
        lambda image: right(image)._replace(probability=np.full(1, np.nan))
    )
    assert "max_probability_difference is nan" in refusal("onnx_full", measured)
    monkeypatch.setattr("scripts.export.check.load_whole", lambda folder, threads: other)
    monkeypatch.setitem(
        export_formats.FORMATS,
        "onnx_full",
        export_formats.FORMATS["onnx_full"]._replace(write=lambda s, draft, images, about: copy(folder / FILE, draft)),
    )
    assert list(export_student(student, ["onnx_full"], Check(student, cases, 2), [], tmp_path / "out")) == ["onnx_full"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((9, 9, 3), np.uint8), r"a picture must be gray, \(H, W\), got \(9, 9, 3\); convert it"),
        (np.zeros((1, 9, 9), np.uint8), r"a picture must be gray, \(H, W\), got \(1, 9, 9\); convert it"),
        (np.zeros((9, 9), np.float32), "a picture must be uint8 with 0 for black and 255 for white, got float32"),
        (np.zeros((9, 9), np.uint16), "got uint16; scale and convert it"),
        (np.zeros((0, 9), np.uint8), r"a picture must have a pixel at least, got \(0, 9\)"),
    ],
)
def test_bad_picture_is_refused(written, image, message):
    with pytest.raises(ValueError, match=message):
        load_whole(written(num_classes=2)[1])(image)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((9, 9, 3), np.uint8), "Invalid rank for input: picture Got: 3 Expected: 2"),
        (np.zeros((9, 9), np.float32), r"Unexpected input data type. Actual: \(tensor\(float\)\) .*uint8"),
    ],
)
def test_onnxruntime_itself_refuses_floats_and_colors(written, image, message):
    import onnxruntime

    session = onnxruntime.InferenceSession(written(num_classes=2)[1] / FILE, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match=message):
        session.run(None, {"picture": image})


def test_file_that_is_no_whole_way_is_refused(written, tmp_path):
    import onnx

    folder = written(num_classes=2)[1]
    with pytest.raises(FileNotFoundError, match=f"{FILE} is no file; write it with .* --formats onnx_full"):
        load_whole(tmp_path)
    (tmp_path / FILE).write_text("damaged")
    with pytest.raises(ValueError, match=f"{FILE} does not run as onnx_full .*; write it again"):
        load_whole(tmp_path)
    model = onnx.load(folder / FILE)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="bare.onnx has no metadata of this bundle; write it with"):
        load_whole(tmp_path / "bare.onnx")
    with pytest.raises(ValueError, match="holds the whole way, expected the network; run it with .*load_whole"):
        load_runner("onnx_full", folder, SIZE)
