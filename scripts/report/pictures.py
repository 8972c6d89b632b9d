"""Panels as pictures inside the report: as they are while there is room, otherwise recompressed or left out."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .page import as_text, scrolling

MIN_PANEL_BYTES = 4_000
# tried in turn until a panel fits: side relative to the original, JPEG quality
RECOMPRESSIONS = [(scale, quality) for scale in (1, 0.8, 0.6, 0.45, 0.3, 0.2) for quality in (90, 80, 65)]
PANEL_GROUPS = ("best", "median", "worst")
RECOMPRESSED = "Recompressed to keep the report below 5 MB."


def embed_panels(panels: Sequence[Mapping[str, Any]], budget: int) -> list[dict[str, str]]:
    """Group and HTML of each panel; together they take at most `budget` bytes."""
    pictures = []
    for i, panel in enumerate(panels):
        share = (budget - sum(len(one["html"].encode()) for one in pictures)) // (len(panels) - i)
        pictures.append({"group": str(panel.get("group") or "other"), "html": _embed(panel, share)})
    return pictures


def _embed(panel: Mapping[str, Any], budget: int) -> str:
    """A panel as a figure of at most `budget` bytes, or a sentence on why it is not there."""
    path = Path(panel["png"])
    group, title = str(panel.get("group") or ""), str(panel.get("title") or path.stem)
    head = f'<figure class="panel"><figcaption>{as_text(title)}'
    alt = as_text(f"{group} case {title}: input, ground truth, predictions, overlay and differences".strip())
    try:
        data, kind, (width, height) = fit_picture(path, 3 * (budget - len((head + alt + title).encode()) - 600) // 4)
    except (OSError, ValueError) as error:
        return f'<p class="missing">{as_text(title)} is not shown: {as_text(error)}</p>'
    note = "" if kind == "png" else f' <span class="note">{RECOMPRESSED}</span>'
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image = f'<img src="{source}" alt="{alt}" width="{width}" height="{height}">'
    return f"{head}{note}</figcaption>{scrolling(image, f'Panel of {title}')}</figure>"


def fit_picture(path: Path, budget: int) -> tuple[bytes, str, tuple[int, int]]:
    """Bytes of a PNG, "png" and its size (W, H); above the budget of a JPEG, made smaller until it fits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no PNG that can be read, or does not fit at any size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; draw it again.")
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture = picture.convert("RGBA")
    except (OSError, SyntaxError):
        raise ValueError(f"{path.name} is no PNG that can be read; draw it again.") from None
    if len(data) <= budget:
        return data, "png", picture.size
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    for scale, quality in RECOMPRESSIONS if budget >= MIN_PANEL_BYTES else ():
        size = [max(1, round(scale * side)) for side in flat.size]
        small = flat.resize(size, Image.Resampling.LANCZOS) if scale < 1 else flat
        file = io.BytesIO()
        small.save(file, "JPEG", quality=quality, subsampling=0)  # as many colors as pixels, for thin outlines
        if file.tell() <= budget:
            return file.getvalue(), "jpeg", small.size
    raise ValueError(
        f"{path.name} of {len(data):,} bytes does not fit into the {max(budget, 0):,} bytes left; pass fewer panels."
    )
