"""The contact sheet: images of a data set with the outlines of their masks, as JPEGs inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.splits import SPLITS
from ..report.page import as_percent, as_text
from ..utils.outlines import draw_outlines
from .cases import Seen, read_gray, read_mask
from .survey import Survey

SIDE, QUALITY = 200, 82  # pixels of a picture's longer side, and of JPEG
EACH = 6  # pictures of a group


def contact_sheet(survey: Survey) -> str:
    """Groups of pictures: spread over the lists, the smallest and largest lesions, those farthest from the middle."""
    groups = {title: ones for title, ones in _groups(survey).items() if ones}
    return "".join(
        f'<h3>{title}</h3><div class="sheet">{"".join(_figure(survey, one) for one in ones)}</div>'
        for title, ones in groups.items()
    )


def _groups(survey: Survey) -> dict[str, list[Seen]]:
    shown = [one for split in SPLITS for one in survey.with_lesion(split)]
    by_area = sorted(shown, key=_area)
    free = [one for one in survey.seen if one.lesions and not one.lesions.shares]
    by_offset = sorted(shown, key=lambda one: -abs(one.lesions.center[1] - 0.5))
    several = len(shown) > 2 * EACH
    return {
        "Spread over the lists": _spread(survey.seen, 2 * EACH),
        "Smallest lesions": by_area[:EACH] if several else [],
        "Largest lesions": by_area[: -EACH - 1 : -1] if several else [],
        "Farthest from the middle": by_offset[:EACH] if several else [],
        "Without a lesion": _spread(free, EACH),
        "Darkest and brightest": _ends(survey.seen, lambda one: one.brightness) if several else [],
    }


def _spread(ones: Sequence[Seen], number: int) -> list[Seen]:
    return [ones[index] for index in sorted({int(i) for i in np.linspace(0, len(ones) - 1, number)})] if ones else []


def _ends(ones: Sequence[Seen], key: Callable[[Seen], float]) -> list[Seen]:
    order = sorted(ones, key=key)
    return [*order[: EACH // 2], *order[-(EACH // 2) :]]


def _area(one: Seen) -> float:
    return sum(one.lesions.shares.values())


def _figure(survey: Survey, one: Seen) -> str:
    name = as_text(survey.name(one.item["image"]))
    told = f"{one.split}, lesion {as_percent(_area(one))}" if one.lesions else f"{one.split}, no mask"
    picture = draw_case(one, survey.num_classes)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
    source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    size = f'width="{picture.width}" height="{picture.height}"'
    image = f'<img src="{source}" alt="{name}" {size} loading="lazy">'
    return f"<figure>{image}<figcaption>{name}<small>{told}</small></figcaption></figure>"


def draw_case(one: Seen, num_classes: int) -> Image.Image:
    """An image, at most SIDE pixels wide and high, with the outline of its mask."""
    gray = read_gray(Path(one.item["image"]))[0]
    scale = min(1.0, SIDE / max(gray.shape))
    size = [max(1, round(scale * side)) for side in gray.shape[::-1]]
    small = Image.fromarray(np.round(255 * gray).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    pixels = np.repeat(np.asarray(small)[..., None], 3, axis=2)
    if one.lesions and one.lesions.shares:
        mask = read_mask(Path(one.item["label"]), Path(one.item["image"]), gray.shape, num_classes)
        pixels = draw_outlines(pixels, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)))
    return Image.fromarray(pixels)
