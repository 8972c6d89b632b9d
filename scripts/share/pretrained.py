"""The student as a torch network with `from_pretrained`, `save_pretrained` and `push_to_hub` of huggingface_hub.

    network = StudentForSegmentation.from_pretrained("FOLDER or OWNER/NAME")

`PyTorchModelHubMixin` would load with strict=False and looks at no checksum. So its methods that read and write weights
are replaced by the bundle's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin

from ..inference.lesions import foreground_names
from ..networks.student import MODEL_NAMES, STUDENT_SIZES, TEST_SIZE, student_of_file
from ..networks.tinyusfm import TinyUSFMSeg
from ..utils.options import check_choice
from ..utils.weight_files import save_safetensors
from .model_card import LIBRARY, TAGS, TASK, usage
from .pretrained_files import WEIGHTS, check_fits, find_pretrained, read_config

TEMPLATE = f"---\n{{{{ card_data }}}}\n---\n\n# TinyUSFM for ultrasound\n\n{usage('OWNER/NAME')}"


class StudentForSegmentation(
    TinyUSFMSeg,
    PyTorchModelHubMixin,
    library_name=LIBRARY,
    pipeline_tag=TASK,
    tags=list(TAGS),
    model_card_template=TEMPLATE,
):
    """Logits (B, 1 or C, H, W) of ultrasound images (B, 1, H, W) in [0, 1]; H = W = img_size. See `TinyUSFMSeg`.

    Args:
        model_name: the size of the network.
        num_classes: with the background; 2 gives one logit channel.
        img_size: H and W in pixels, a multiple of 16.
        class_names: without the background; None calls one class lesion.

    Raises:
        ValueError: an argument out of range, or more or fewer names than classes.
    """

    def __init__(
        self,
        model_name: str = MODEL_NAMES[0],
        num_classes: int = 2,
        img_size: int = 224,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if model_name != TEST_SIZE:
            check_choice("model_name", model_name, MODEL_NAMES)
        super().__init__(num_classes, img_size, **STUDENT_SIZES[model_name]._asdict())
        self.class_names = foreground_names(num_classes, class_names)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> StudentForSegmentation:
        """A trained student, in eval mode.

        Args:
            pretrained_model_name_or_path: a folder that `save_pretrained` or python -m scripts.share hub has written,
                or OWNER/NAME of a model on the hub.
            force_download: load it from the hub although it is in the cache.
            token: of the hub.
            cache_dir: of huggingface_hub.
            local_files_only: ask no hub.
            revision: branch, tag or commit on the hub.
            model_kwargs: `map_location`, a device; arguments of this class that shall be those of the weights.

        Raises:
            FileNotFoundError: there is no such folder, or a file is missing in it.
            OSError: the hub does not give it, or cannot be reached.
            ValueError: a file is damaged or not a student's, or the weights do not fit the config.
        """
        folder = find_pretrained(
            pretrained_model_name_or_path,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        return super().from_pretrained(folder, **{**read_config(folder), **model_kwargs})

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: torch.device | str = "cpu",
        **model_kwargs: Any,
    ) -> StudentForSegmentation:
        """What the mixin calls, with the folder as model_id."""
        trained, model = student_of_file(Path(model_id) / WEIGHTS), cls(**model_kwargs)
        check_fits(model_id, model_kwargs, _settings(trained))
        model.load_state_dict(trained.state_dict())
        return model.to(map_location).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        state = {key: tensor.cpu() for key, tensor in self.state_dict().items()}
        save_safetensors(state, save_directory / WEIGHTS)


def _settings(student: TinyUSFMSeg) -> dict[str, Any]:
    """The keys of config.json that follow from weights."""
    sizes = {size.embed_dim: name for name, size in STUDENT_SIZES.items()}
    channels = student.decode_head.conv_seg.out_channels
    return {
        "model_name": sizes[student.backbone.embed_dim],
        "num_classes": max(2, channels),
        "img_size": student.img_size,
    }
