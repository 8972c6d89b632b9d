"""Generated B-mode phantoms of breast lesions with exact masks, for trainings and tests that need no data.

Scatterers (complex Gaussian, weighted by the tissue's echogenicity) are blurred by a point spread function that widens
away from the focus; their envelope is Rayleigh distributed (fully developed speckle, Wagner et al. 1983,
doi:10.1109/T-SU.1983.31404) and is log-compressed. Tissue lies in wavy layers: skin, fat with septa, gland, fat,
muscle. Attenuation inside a lesion gives its posterior shadow or enhancement. Fat lobules, ducts and contact shadows
are dark too and are no lesions, so that a threshold does not find the lesions.

Lengths are fractions of the image side, echogenicity and attenuation are in dB; images are (H, W), row 0 at the skin.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from ..utils.files import clear_leftovers, own_folder

_VERSION = 1  # of the generator: another version is another data set


def make_phantom(seed: int | Sequence[int], size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H, W) and lesion mask uint8 (H, W) of 0 and 1, the same for the same seed.

    Args:
        seed: one number, or several that are mixed.
        size: side of the square image in pixels, at least 32.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}.")
    rng = np.random.default_rng(seed)
    echo, gland_top, gland_bottom = _tissue(rng, size)
    echo = _with_distractors(rng, echo, gland_top, gland_bottom)
    echo, mask, loss = _with_lesions(rng, echo, gland_top, gland_bottom)
    power = _speckle(rng, 10 ** (echo / 20))
    level = 10 * np.log10(power + 1e-5) - loss + _gain(rng, size) - _contact_shadows(rng, size)
    gray = np.clip(level / rng.uniform(48, 62) + rng.uniform(0.5, 0.62), 0, 1) ** rng.uniform(1.0, 1.4)
    return (gray * 255).astype(np.uint8), mask.astype(np.uint8)


def _noise(rng: np.random.Generator, size: int, height: float, width: float) -> np.ndarray:
    """Smooth noise (H, W) of about unit variance with features of the given height and width."""
    rows, cols = (max(4, round(1 / length) + 3) for length in (height, width))
    coarse = rng.standard_normal((rows, cols)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) * 1.3


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth (H, 1) and lateral position (1, W) of the pixel centers in [0, 1]."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[:, None], line[None]


def _ridges(noise: np.ndarray, width: float) -> np.ndarray:
    """Thin curves in [0, 1] along the zeros of a noise."""
    return np.exp(-((noise / width) ** 2))


def _tissue(rng: np.random.Generator, size: int) -> tuple[np.ndarray, float, float]:
    """Echogenicity (H, W) in dB, and the mean depths between which the gland lies."""
    depth, _ = _axes(size)
    skin, fat, gland, retro = np.cumsum(
        [rng.uniform(0.03, 0.05), rng.uniform(0.1, 0.22), rng.uniform(0.3, 0.42), rng.uniform(0.04, 0.09)]
    )
    bend = _noise(rng, size, 0.6, 0.35) * 0.022 + _noise(rng, size, 0.15, 0.12) * 0.008
    depth_bent = depth + bend * np.clip((depth - 0.02) / 0.12, 0, 1)

    fat_echo = -11 + 2 * _noise(rng, size, 0.05, 0.1)
    septa = _ridges(_noise(rng, size, 0.07, 0.2), 0.1) * np.clip(_noise(rng, size, 0.2, 0.2) + 0.4, 0, 1)
    gland_echo = 0.5 + 2.2 * _noise(rng, size, 0.04, 0.1) + 1.5 * _noise(rng, size, 0.02, 0.04)
    gland_echo = gland_echo - 5 * np.clip(_noise(rng, size, 0.12, 0.3), 0, 1.2)
    muscle = -11 + 3 * _noise(rng, size, 0.018, 0.25) + 3 * _noise(rng, size, 0.06, 0.3)
    layers = [(skin, fat_echo + 17 * septa), (fat, gland_echo), (gland, fat_echo + 12 * septa), (retro, muscle)]
    echo = np.full((size, size), 4.0, dtype=np.float32) - 5 * np.exp(-(((depth - 0.02) / 0.008) ** 2))
    for top, layer in layers:
        below = 1 / (1 + np.exp(-(depth_bent - top) / 0.005))
        echo = echo + below * (layer - echo)
    for top in (gland, retro):  # fasciae
        patchy = np.clip(_noise(rng, size, 0.3, 0.15) * 0.6 + 0.5, 0, 1)
        echo = echo + rng.uniform(8, 15) * patchy * np.exp(-(((depth_bent - top) / 0.006) ** 2))
    return echo, float(fat), float(gland)


def _blob(rng: np.random.Generator, size: int, center: tuple, radii: tuple, roughness: float) -> np.ndarray:
    """Level set (H, W) of an irregular ellipse: distance / radius, below 1 inside.

    Args:
        center: depth and lateral position.
        radii: along depth and along the lateral axis, before the tilt.
        roughness: 0 for an ellipse; lobes and spicules grow with it.
    """
    depth, lateral = _axes(size)
    tilt = rng.normal(0, 0.25)
    down, right = depth - center[0], lateral - center[1]
    v = (down * np.cos(tilt) - right * np.sin(tilt)) / radii[0]
    u = (down * np.sin(tilt) + right * np.cos(tilt)) / radii[1]
    angles = np.linspace(-np.pi, np.pi, 361)
    border = np.ones_like(angles)
    for order in range(2, 11):
        border += roughness * rng.normal(0, 1 / order**1.1) * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    return np.hypot(u, v) / np.interp(np.arctan2(v, u), angles, np.clip(border, 0.45, 1.6))


def _inside(level: np.ndarray, softness: float) -> np.ndarray:
    """Soft membership in [0, 1] of a level set."""
    return 1 / (1 + np.exp(np.clip((level - 1) / softness, -30, 30)))


def _with_distractors(rng: np.random.Generator, echo: np.ndarray, top: float, bottom: float) -> np.ndarray:
    """Fat lobules and ducts: dark structures in the gland that are no lesions."""
    size = len(echo)
    for _ in range(rng.integers(1, 4)):
        center = rng.uniform(top + 0.02, bottom), rng.uniform(0, 1)
        lobule = _inside(_blob(rng, size, center, (rng.uniform(0.02, 0.05), rng.uniform(0.05, 0.13)), 0.1), 0.1)
        echo = echo + lobule * (rng.uniform(-11, -8) - echo)
    ducts = _ridges(_noise(rng, size, 0.12, 0.35), 0.06) * (_noise(rng, size, 0.3, 0.3) > 0.9)
    depth, _ = _axes(size)
    return echo - 12 * gaussian_filter(ducts, 0.004 * size) * ((depth > top) & (depth < bottom))


def _with_lesions(
    rng: np.random.Generator, echo: np.ndarray, top: float, bottom: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Echogenicity with one lesion, rarely two; their mask (bool); the loss in dB they cause below them."""
    size = len(echo)
    mask = np.zeros(echo.shape, dtype=bool)
    loss = np.zeros_like(echo)
    for _ in range(1 + (rng.random() < 0.12)):
        radii, roughness = (rng.uniform(0.06, 0.17), rng.uniform(0.08, 0.24)), rng.uniform(0.03, 0.32)
        center = rng.uniform(top + 0.3 * radii[0], max(top + 0.1, bottom - 0.8 * radii[0])), rng.uniform(0.2, 0.8)
        level = _blob(rng, size, center, radii, roughness)
        inside = _inside(level, rng.uniform(0.02, 0.09))
        texture = _noise(rng, size, 0.06, 0.08) * rng.uniform(1, 3)
        rim = np.exp(-(((level - 1.15) / 0.12) ** 2)) * rng.uniform(0, 7)  # echogenic halo
        echo = echo + rim
        echo = echo + inside * (rng.uniform(-26, -16) + texture - echo)
        mask |= level < 1
        path = np.cumsum(inside, axis=0) / size  # length of the beam inside the lesion
        loss += gaussian_filter1d(path, 0.012 * size, axis=1) * (rng.uniform(35, 95) if rng.random() < 0.45 else -30)
    return echo, mask, loss


def _speckle(rng: np.random.Generator, amplitude: np.ndarray) -> np.ndarray:
    """Echo power (H, W) of scatterers with this amplitude: Rayleigh speckle, blurred least at the focus, and then
    averaged over little more than one speckle, as a scanner's compounding does."""
    size = len(amplitude)
    grain = (size / 256) ** 0.5 * rng.uniform(0.85, 1.25)
    waves = rng.standard_normal((2, size, size), dtype=np.float32) * amplitude
    sharp, wide = (_unit_blur(waves, 0.75 * grain, lateral * grain) for lateral in (1.1, 2.2))
    depth, _ = _axes(size)
    away = np.clip(np.abs(depth - rng.uniform(0.3, 0.55)) / 0.5, 0, 1)
    power = ((sharp * np.sqrt(1 - away) + wide * np.sqrt(away)) ** 2).sum(axis=0)
    return gaussian_filter(power, (rng.uniform(0.4, 1.0) * grain, rng.uniform(0.6, 1.5) * grain))


def _unit_blur(waves: np.ndarray, axial: float, lateral: float) -> np.ndarray:
    """Gaussian blur that keeps the variance of white noise."""
    return gaussian_filter(waves, (0, axial, lateral)) * np.sqrt(4 * np.pi * axial * lateral)


def _gain(rng: np.random.Generator, size: int) -> np.ndarray:
    """Gain (H, W) in dB: the scanner's setting, its error over depth, and the transducer's over the lateral axis."""
    depth, lateral = _axes(size)
    over_depth = rng.uniform(-9, 0) * depth**2 + 2.5 * np.sin(
        2 * np.pi * (depth * rng.uniform(0.6, 1.4) + rng.random())
    )
    over_lateral = rng.uniform(-7, 0) * np.abs(2 * lateral - 1) ** 3
    return rng.uniform(-5, 3) + over_depth + over_lateral


def _contact_shadows(rng: np.random.Generator, size: int) -> np.ndarray:
    """Loss (H, W) in dB under poor contact, ligaments and the nipple: vertical bands that start at some depth."""
    depth, lateral = _axes(size)
    loss = np.zeros((size, size), dtype=np.float32)
    for _ in range(rng.integers(0, 4)):
        lean = rng.normal(0, 0.08)
        band = np.exp(-(((lateral - rng.uniform(0, 1) - lean * depth) / rng.uniform(0.015, 0.07)) ** 2))
        loss += rng.uniform(4, 13) * band / (1 + np.exp(-(depth - rng.uniform(0.02, 0.3)) / 0.03))
    return loss


def write_phantom_dataset(
    dataset_dir: str | Path,
    num_training: int = 48,
    num_validation: int = 8,
    num_test: int = 8,
    seed: int = 0,
    size: int = 256,
) -> Path:
    """Writes images/, labels/ (0 and 255) and dataset.json, one patient for each phantom; returns the folder.

    The folder appears complete or not at all. One that holds the same phantoms already is left as it is.

    Args:
        dataset_dir: folder to create.
        num_training: phantoms of the training list; likewise num_validation and num_test.
        seed: of the whole set.
        size: side of the square images in pixels.

    Raises:
        ValueError: when the folder holds anything else, a split is empty or the size too small.
    """
    counts = {"training": num_training, "validation": num_validation, "test": num_test}
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f"num_{split} must be at least 1, got {count}.")
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}.")
    target = Path(dataset_dir).expanduser().resolve()
    content = _datalist(counts, {"version": _VERSION, "seed": seed, "size": size})
    if _is_complete(target, content):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target.parent)
    with own_folder(target) as folder:
        draft = folder / "new"
        draft.mkdir()
        _write_files(draft, content)
        try:
            if target.is_dir():
                target.rmdir()  # _is_complete found it empty
            os.replace(draft, target)
        except OSError:
            if not _is_complete(target, content):  # else another process was faster
                raise
    return target


def _datalist(counts: dict[str, int], settings: dict) -> dict:
    """Content of dataset.json; names are numbered through all splits, and the number is the phantom's second seed."""
    numbers = iter(range(sum(counts.values())))
    splits = {split: [_entry(next(numbers)) for _ in range(count)] for split, count in counts.items()}
    return {
        "name": "phantoms",
        "description": "generated B-mode breast phantoms with hypoechoic lesions; no patient data",
        "licence": "Apache-2.0, as the program that generates it",
        "tensorImageSize": "2D",
        "modality": {"0": "US"},
        "labels": {"0": "background", "1": "lesion"},
        "phantoms": settings,
        **{f"num{split.capitalize()}": count for split, count in counts.items()},
        **splits,
    }


def _entry(number: int) -> dict:
    name = f"phantom_{number:04d}.png"
    return {"image": f"images/{name}", "label": f"labels/{name}", "patient": f"phantom_{number:04d}"}


def _entries(content: dict) -> list[dict]:
    return [entry for split in ("training", "validation", "test") for entry in content[split]]


def _is_complete(target: Path, content: dict) -> bool:
    """Whether the folder holds these phantoms; False when it is missing or empty.

    Raises:
        ValueError: when it holds anything else.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    entries = _entries(content)
    try:
        same = json.loads((target / "dataset.json").read_text(encoding="utf-8")) == content
    except (OSError, ValueError):
        same = False
    if not same or not all((target / entry[key]).is_file() for entry in entries for key in ("image", "label")):
        raise ValueError(
            f"folder {target} holds something else than these phantoms ({content['phantoms']}, {len(entries)} cases); "
            "choose another dataset_dir or delete the folder."
        )
    return True


def _write_files(folder: Path, content: dict) -> None:
    settings, entries = content["phantoms"], _entries(content)
    for name in ("images", "labels"):
        (folder / name).mkdir()

    def write(number: int) -> None:
        image, mask = make_phantom((settings["seed"], number), settings["size"])
        Image.fromarray(image).save(folder / entries[number]["image"])
        Image.fromarray(mask * 255).save(folder / entries[number]["label"])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(write, range(len(entries))))
    (folder / "dataset.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
