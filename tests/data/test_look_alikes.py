"""Pictures that look alike, and pictures that do not."""

import json

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from png_files import write_png16
from scipy.ndimage import gaussian_filter

from scripts.data.look_alikes import look_alikes, picture_hash


def picture(seed: int) -> Image.Image:
    noise = gaussian_filter(np.random.default_rng(seed).random((120, 160)), 4)
    return Image.fromarray(np.uint8(255 * (noise - noise.min()) / np.ptp(noise)))


@pytest.fixture
def originals(tmp_path):
    paths = [tmp_path / f"{seed}.png" for seed in range(4)]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    return paths


@pytest.mark.parametrize("quality", [30, 90])
def test_jpeg_of_a_picture_looks_like_it(originals, tmp_path, quality):
    picture(2).convert("RGB").save(tmp_path / "anew.jpg", quality=quality)
    assert look_alikes([*originals, tmp_path / "anew.jpg"]) == [[2, 4]]


def test_other_formats_sizes_and_bit_depths_of_a_picture_look_like_it(originals, tmp_path):
    half = picture(1).resize((80, 60))
    half.save(tmp_path / "half.bmp")
    deep = np.asarray(picture(1)).astype(np.uint16) * 200
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    assert look_alikes([*originals, tmp_path / "half.bmp", tmp_path / "deep.tif"]) == [[1, 4, 5]]


def test_different_pictures_do_not_look_alike(originals):
    assert look_alikes(originals) == []


def test_unreadable_picture_is_named(originals, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"none")
    with pytest.raises(ValueError, match="bad.png cannot be read as an image: .*; replace it or take it out"):
        look_alikes([*originals, tmp_path / "bad.png"])


def test_postscript_behind_a_png_name_is_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ValueError, match="a.png cannot be read as an image: its content is no PNG"):
        picture_hash(tmp_path / "a.png")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["busbra", "breast_external"])
def test_no_two_breast_images_of_different_patients_look_alike(name):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the shared data set {name} is not there")
    content = json.loads((folder / "dataset.json").read_text())
    items = [item for split in ("training", "validation", "test") for item in content.get(split, [])]
    assert look_alikes([folder / item["image"] for item in items]) == []


def test_colors_of_sixteen_bits_that_would_be_lost_are_refused(tmp_path):
    write_png16(tmp_path / "a.png", np.stack([np.asarray(picture(0))] * 3, axis=-1))
    with pytest.raises(ValueError, match="a.png has colors of 16 bits, but uses at most 14 of them; save it with 8"):
        picture_hash(tmp_path / "a.png")
