"""Overlays: the outline of each mask on its image, a PNG of a still and a GIF of a loop.

Legend: H rows, W columns, N frames. Masks are class indices.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, SaveImaged
from PIL import Image
from PIL.GifImagePlugin import getdata, getheader

from ..data.geometry import FRAME_TIME
from ..utils.files import atomic_path
from ..utils.outlines import draw_outlines
from .frame_reader import FrameReader
from .masks import image_path, shown_mask
from .outputs import overlay_path, refuse_existing

MAX_LOOP_SIDE = 512  # pixels of a loop's longer side
DEFAULT_FRAME_MS = 100.0  # where the file does not say how long a frame lasts
MIN_FRAME_MS = 20.0  # viewers show no shorter frame


class SaveOverlayd(SaveImaged):
    """Writes the overlay of a mask in one step and keeps its path as the item "pred_overlay" for the key "pred".

    Reads the image once more, in its colors and at its original size: the network's copy is gray and small. Loops are
    at most MAX_LOOP_SIDE pixels wide and high. It is a SaveImaged for the reason that SaveMaskd is.

    Args:
        keys: what ToStoredShaped gives, with the metadata of the image (`filename_or_obj`).
        reader: reads the image to look at.
        output_dir: made when the first overlay is written.
        overwrite: replace an overlay that is already there.
        dataset_dir: folder of the images, whose subfolders the overlays keep; None has none.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        FileExistsError: an overlay is already there and overwrite is false.
        WriteError: the disk or the folder refuses it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        reader: FrameReader,
        output_dir: str | Path,
        overwrite: bool = False,
        dataset_dir: str | Path | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.reader = reader
        self.output_dir = Path(output_dir)
        self.overwrite = overwrite
        self.dataset_dir = dataset_dir

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[f"{key}_overlay"] = str(self._save(image_path(d[key]), d[key]))
        return d

    def _save(self, image: Path, mask: torch.Tensor) -> Path:
        pixels, meta = self.reader.colors(image)  # (W, H, N, 3)
        masks = shown_mask(mask)  # (W, H, N)
        path = overlay_path(image, self.output_dir, pixels.shape[2] > 1, self.dataset_dir)
        if not self.overwrite:
            refuse_existing(path)
        frames = [_frame(pixels[:, :, n], masks[:, :, n]) for n in range(pixels.shape[2])]
        with atomic_path(path) as partial:
            if len(frames) == 1:
                frames[0].save(partial)
            else:
                _save_loop(frames, max(MIN_FRAME_MS, float(meta.get(FRAME_TIME, DEFAULT_FRAME_MS))), partial)
        return path


def _frame(pixels: np.ndarray, mask: np.ndarray) -> Image.Image:
    """The overlay of pixels (W, H, 3) and a mask (W, H)."""
    return Image.fromarray(draw_outlines(pixels.swapaxes(0, 1), mask.T))


def _save_loop(frames: list[Image.Image], milliseconds: float, path: Path) -> None:
    """Write every frame: Image.save would join frames that are equal. One that is as the last one takes a single pixel.

    Args:
        frames: of one size.
        milliseconds: that a frame lasts. GIF counts hundredths of a second; the loop as a whole keeps its time.
        path: of the GIF.
    """
    ends = [round(milliseconds * n / 10) for n in range(len(frames) + 1)]
    pixels, drawn = b"", None
    with open(path, "wb") as file:
        for n, frame in enumerate(frames):
            frame.thumbnail((MAX_LOOP_SIDE, MAX_LOOP_SIDE))
            same = pixels == (pixels := frame.tobytes())
            drawn = drawn.crop((0, 0, 1, 1)) if same else frame.convert("P", palette=Image.Palette.ADAPTIVE)
            header = [] if n else getheader(drawn, info={"loop": 0})[0]
            duration = 10 * (ends[n + 1] - ends[n])
            file.writelines([*header, *getdata(drawn, duration=duration, include_color_table=True)])
        file.write(b";")  # the end of a GIF
