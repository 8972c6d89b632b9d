"""Overlays: the outline of each mask on its image, a PNG of a still and a GIF of a loop.

Legend: H rows, W columns, N frames. Masks are class indices.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, SaveImaged
from PIL import Image, ImageColor
from PIL.GifImagePlugin import getdata, getheader

from ..data.geometry import FRAME_TIME
from ..utils.outlines import OUTLINE_COLORS, draw_outlines, outlines
from .frame_reader import FrameReader
from .masks import image_path, shown_mask
from .outputs import overlay_path, refuse_existing
from .writer import OutputWriter

MAX_LOOP_SIDE = 512  # pixels of a loop's longer side
DEFAULT_FRAME_MS = 100.0  # where the file does not say how long a frame lasts
MIN_FRAME_MS = 20.0  # viewers show no shorter frame
PALETTE_FRAMES = 8  # of a loop in colors, which its palette is made of
COMPRESS_LEVEL = 3  # of a PNG: a third of the time of 6, Pillow's, and 6 % smaller
NEAREST = Image.Resampling.NEAREST


class SaveImageOverlayd(SaveImaged):
    """Writes the overlay of a mask in one step and keeps its path as the item "pred_overlay" for the key "pred".

    Needs the image in its colors and at its original size: the network's copy is gray and small. The reader may hold
    it, see `FrameDecoder.hold`; else it is read once more. Loops are at most MAX_LOOP_SIDE pixels wide and high. It is
    a SaveImaged for the reason that SaveImageMaskd is.

    Args:
        keys: what ToStoredShaped gives, with the metadata of the image (`filename_or_obj`).
        reader: reads the image to look at.
        output_dir: made when the first overlay is written.
        overwrite: replace an overlay that is already there.
        dataset_dir: folder of the images, whose subfolders the overlays keep; None has none.
        allow_missing_keys: pass over keys that are not there.
        writer: draws and writes the overlays; None does so at once.

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
        writer: OutputWriter | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.writer = writer or OutputWriter()
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
        frame_ms = max(MIN_FRAME_MS, float(meta.get(FRAME_TIME, DEFAULT_FRAME_MS)))
        self.writer.submit(partial(self._write, path, pixels, masks, frame_ms), pixels.nbytes + masks.nbytes)
        return path

    def _write(self, path: Path, pixels: np.ndarray, masks: np.ndarray, frame_ms: float) -> None:
        """Write the overlay of pixels (W, H, N, 3) and masks (W, H, N)."""
        with self.writer.draft(path) as draft:
            if pixels.shape[2] == 1:
                drawn = draw_outlines(pixels[:, :, 0].swapaxes(0, 1), masks[:, :, 0].T)
                Image.fromarray(drawn).save(draft, compress_level=COMPRESS_LEVEL)
            else:
                _save_loop(pixels, masks, frame_ms, draft)


def _save_loop(pixels: np.ndarray, masks: np.ndarray, milliseconds: float, path: Path) -> None:
    """Write every frame: Image.save would join frames that are equal. One that is as the last one takes a single pixel.

    Args:
        pixels: (W, H, N, 3).
        masks: (W, H, N).
        milliseconds: that a frame lasts. GIF counts hundredths of a second; the loop as a whole keeps its time.
        path: of the GIF.
    """
    count = pixels.shape[2]
    ends = [round(milliseconds * n / 10) for n in range(count + 1)]
    palette, before = LoopPalette(pixels, int(masks.max(initial=0))), b""
    with open(path, "wb") as file:
        for n in range(count):
            drawn = palette.draw(pixels[:, :, n], masks[:, :, n])
            same = before == (before := drawn.tobytes())
            header = [] if n else getheader(drawn, info={"loop": 0})[0]
            shown = drawn.crop((0, 0, 1, 1)) if same else drawn
            duration = 10 * (ends[n + 1] - ends[n])
            file.writelines([*header, *getdata(shown, duration=duration, include_color_table=True)])
        file.write(b";")  # the end of a GIF


class LoopPalette:
    """One palette for all frames of a loop: shades of gray, or colors of some frames, and those of the outlines.

    A palette of its own for every frame would take longer than the network.

    Args:
        pixels: (W, H, N, 3).
        num_outlines: classes without the background.
    """

    def __init__(self, pixels: np.ndarray, num_outlines: int) -> None:
        outline_colors = [ImageColor.getrgb(color) for color in OUTLINE_COLORS[:num_outlines]]
        self.shades = 256 - len(outline_colors)
        self.picture = None if _is_gray(pixels) else self._most_common(pixels)
        ramp = np.rint(np.linspace(0, 255, self.shades)).astype(np.uint8)
        colors = np.repeat(ramp, 3).tolist() if self.picture is None else self.picture.getpalette()
        colors = (colors + [0] * 768)[: 3 * self.shades]
        self.colors = [*colors, *np.ravel(outline_colors).astype(int).tolist()]

    def _most_common(self, pixels: np.ndarray) -> Image.Image:
        """A picture with the most common colors of a few frames as its palette."""
        frames = [_shrunk(pixels[:, :, n]) for n in np.linspace(0, pixels.shape[2] - 1, PALETTE_FRAMES).astype(int)]
        together = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames]))
        return together.quantize(self.shades, dither=Image.Dither.NONE)

    def draw(self, pixels: np.ndarray, mask: np.ndarray) -> Image.Image:
        """The overlay of pixels (W, H, 3) and a mask (W, H), in mode P, at most MAX_LOOP_SIDE pixels wide and high."""
        if self.picture is None:
            shades = np.asarray(_shrunk(pixels[..., 0]))
            indices = np.rint(np.arange(256) * ((self.shades - 1) / 255)).astype(np.uint8)[shades]
        else:
            indices = np.array(_shrunk(pixels).quantize(palette=self.picture, dither=Image.Dither.NONE))
        size = indices.shape[::-1]
        mask = mask.T if mask.shape == size else np.asarray(Image.fromarray(mask.T).resize(size, NEAREST))
        for number, box, line in outlines(mask):
            indices[box][line] = self.shades + (number - 1) % len(OUTLINE_COLORS)
        drawn = Image.fromarray(indices).convert("P")
        drawn.putpalette(self.colors)
        return drawn


def _is_gray(pixels: np.ndarray) -> bool:
    """Whether the three colors of (W, H, N, 3) are equal everywhere."""
    return pixels.strides[-1] == 0 or all(np.array_equal(pixels[..., 0], pixels[..., color]) for color in (1, 2))


def _shrunk(pixels: np.ndarray) -> Image.Image:
    """Pixels (W, H) or (W, H, 3) as a picture of at most MAX_LOOP_SIDE pixels a side."""
    frame = Image.fromarray(np.ascontiguousarray(pixels.swapaxes(0, 1)))
    frame.thumbnail((MAX_LOOP_SIDE, MAX_LOOP_SIDE))
    return frame
