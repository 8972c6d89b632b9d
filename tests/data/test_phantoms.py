import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, label

from scripts.data import phantoms
from scripts.data.datalist import SegmentationData
from scripts.data.phantoms import make_phantom, write_phantom_dataset

SMALL = {"num_training": 3, "num_validation": 2, "num_test": 1, "size": 64}


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_phantom_is_an_8_bit_image_with_a_lesion_mask():
    image, mask = make_phantom(0, 128)
    assert image.shape == mask.shape == (128, 128) and image.dtype == mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}


def test_the_same_seed_gives_the_same_phantom():
    first, again, other = make_phantom((3, 1), 64), make_phantom((3, 1), 64), make_phantom((3, 2), 64)
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_lesions_are_darker_than_their_surroundings_and_of_clinical_size():
    contrast, areas = [], []
    for seed in range(20):
        image, mask = make_phantom(seed, 128)
        around = (gaussian_filter(mask.astype(float), 8) > 0.2) & (mask == 0)
        contrast.append(image[around].mean() - image[mask > 0].mean())
        areas.append(mask.mean())
        assert 1 <= label(mask)[1] <= 3
    assert np.mean(np.array(contrast) > 5) >= 0.9
    assert min(areas) > 0.005 and max(areas) < 0.3


def test_a_threshold_does_not_find_the_lesions():
    """The best threshold of each smoothed image, chosen with its mask, stays below Dice 0.6 on average."""
    best = []
    for seed in range(12):
        image, mask = make_phantom(seed, 128)
        smooth = gaussian_filter(image.astype(float), 1.5)
        dark = [smooth < level for level in range(5, 150, 5)]
        best.append(max(2 * (d & (mask > 0)).sum() / (d.sum() + mask.sum()) for d in dark))
    assert np.mean(best) < 0.6


def test_speckle_is_rayleigh_before_compounding():
    """Mean over standard deviation of a Rayleigh amplitude is 1.91, of its power 1; averaging raises both."""
    rng = np.random.default_rng(0)
    waves = phantoms._unit_blur(rng.standard_normal((2, 256, 256), dtype=np.float32), 1.0, 2.0)
    amplitude = np.hypot(*waves)
    assert waves.var() == pytest.approx(1, abs=0.1)
    assert amplitude.mean() / amplitude.std() == pytest.approx(1.91, abs=0.08)
    neighbors = np.corrcoef(amplitude[:, 1:].ravel(), amplitude[:, :-1].ravel())[0, 1]
    assert neighbors > 0.7  # correlated over the speckle's width


def test_a_phantom_dataset_passes_every_check(tmp_path):
    folder = write_phantom_dataset(tmp_path / "phantoms", **SMALL)
    data = SegmentationData(folder)
    assert (len(data.training), len(data.validation), len(data.test)) == (3, 2, 1)
    assert data.labels == ["background", "lesion"] and data.name == "phantoms"
    assert set(np.unique(np.asarray(Image.open(data.test[0]["label"])))) == {0, 255}
    assert [path.name for path in tmp_path.iterdir()] == ["phantoms"]


def test_the_same_settings_are_reused_and_reproducible(tmp_path):
    folder = write_phantom_dataset(tmp_path / "a", **SMALL)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_phantom_dataset(folder, **SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (tmp_path / "b").mkdir()  # an empty folder is taken
    assert files(write_phantom_dataset(tmp_path / "b", **SMALL)) == files(folder)


def test_another_content_is_refused_and_left_alone(tmp_path):
    folder = write_phantom_dataset(tmp_path / "a", **SMALL)
    before = files(folder)
    with pytest.raises(ValueError, match="holds something else than these phantoms .*choose another dataset_dir"):
        write_phantom_dataset(folder, **SMALL, seed=1)
    assert files(folder) == before
    (folder / "images" / "phantom_0000.png").unlink()
    with pytest.raises(ValueError, match="holds something else"):
        write_phantom_dataset(folder, **SMALL)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(phantoms, "make_phantom", fail)
    with pytest.raises(KeyboardInterrupt):
        write_phantom_dataset(tmp_path / "a", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_faster_second_process_wins(tmp_path, monkeypatch):
    write = phantoms._write_files

    def write_twice(folder, content):
        monkeypatch.setattr(phantoms, "_write_files", write)
        write_phantom_dataset(tmp_path / "a", **SMALL)
        write(folder, content)

    monkeypatch.setattr(phantoms, "_write_files", write_twice)
    assert (
        len(json.loads((write_phantom_dataset(tmp_path / "a", **SMALL) / "dataset.json").read_text())["training"]) == 3
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("argument", ["num_training", "num_validation", "num_test"])
def test_an_empty_split_is_refused(tmp_path, argument):
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        write_phantom_dataset(tmp_path / "a", **{**SMALL, argument: 0})


def test_a_tiny_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="size must be at least 32 pixels, got 16"):
        make_phantom(0, 16)
    with pytest.raises(ValueError, match="size must be at least 32 pixels, got 16"):
        write_phantom_dataset(tmp_path / "a", **{**SMALL, "size": 16})
    assert list(tmp_path.iterdir()) == []
