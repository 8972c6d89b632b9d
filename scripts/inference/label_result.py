"""The masks that MONAI Label's writer keeps whole."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from .certainty import CERTAINTY
from .masks import original_shape
from .outputs import VOLUMES

IMAGE_PATH, EXTENSION = "image_path", "result_extension"  # of the request, in MONAI Label's items
RESULT = "result"  # for the client, likewise
LOSSY = (".jpg", ".jpeg")
PLAIN = re.compile(r"(\.[A-Za-z0-9]+)+")


class LabelResultd(MapTransform):
    """Masks as MONAI Label's writer (0.8.5) keeps them whole. Items of other programs are left as they are.

    The writer uses ITK and the format of the image. Two formats would damage a mask:

    - JPEG changes its values. So PNG is asked for, unless the client wants another format.
    - A NIfTI image (W, H) loses its position and pixel size. So its mask becomes (W, H, 1).

    It sends the item "result" to the client as it is: here it holds the rows of lesions.csv on certainty, for each
    frame and class.

    Args:
        keys: uint8 masks as ToStoredShaped gives them; MONAI Label gets them without their channel.
        class_names: of the foreground.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        ValueError: the client asks for an extension that is none, such as a path.
    """

    def __init__(
        self, keys: KeysCollection, class_names: Sequence[str] = ("lesion",), allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.class_names = tuple(class_names)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        d = dict(data)
        path, wanted = str(d.get(IMAGE_PATH, "")).lower(), d.get(EXTENSION)
        if wanted and not PLAIN.fullmatch(str(wanted)):
            raise ValueError(f"{EXTENSION} must be an extension such as .png or .nii.gz, got {wanted!r}.")
        if path.endswith(LOSSY) and not wanted:
            d[EXTENSION] = ".png"
        if IMAGE_PATH in d and CERTAINTY in d:
            d[RESULT] = {**d.get(RESULT, {}), CERTAINTY: d[CERTAINTY].rows(self.class_names)}
        for key in self.key_iterator(d):
            if IMAGE_PATH in d:
                d[key] = d[key][0]  # (1, W, H[, N]) -> (W, H[, N])
            if path.endswith(VOLUMES) and len(original_shape(d[key])) == 2:
                d[key] = d[key].unsqueeze(-1)  # (W, H) -> (W, H, 1)
        return d
