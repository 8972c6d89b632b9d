"""A student as the Hugging Face Hub knows it, config.json and model.safetensors: in a folder here, or on the hub.

Nothing here needs torch. `pretrained.py` makes a network of the files, `api/student.py` an engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .model_card import hub_library

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # names of the hub
KEYS = ("model_name", "num_classes", "img_size", "class_names")  # of CONFIG
CHECKPOINTS = (".pt", ".pth", ".safetensors")
REMEDY = "expected what save_pretrained or python -m scripts.share hub writes"


def is_repository(name: str | Path) -> bool:
    """Whether a text is OWNER/NAME of a model on the hub; what lies in a folder here, or would, is a path."""
    text = str(name)
    is_path = isinstance(name, Path) or Path(text).exists() or ("/" in text and Path(text).parent.is_dir())
    return (
        not is_path
        and not text.lower().endswith(CHECKPOINTS)
        and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text) is not None
    )


def find_pretrained(source: str | Path, **options: Any) -> Path:
    """The folder of a student: the one that is named, or the hub's, in the cache of huggingface_hub.

    Args:
        source: a folder, or OWNER/NAME of a model on the hub.
        options: of `huggingface_hub.snapshot_download`, such as revision and local_files_only.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing in it.
        ImportError: huggingface_hub is not installed.
        OSError: the hub does not give it, or cannot be reached.
    """
    folder = Path(source)
    if not folder.is_dir():
        if not is_repository(source):
            raise FileNotFoundError(f"{source} is neither a folder nor OWNER/NAME of a model on the Hugging Face Hub.")
        folder = _download(str(source), options)
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{source} has no {' and no '.join(missing)}; {REMEDY}.")
    return folder


def _download(repo: str, options: Mapping[str, Any]) -> Path:
    hub, errors = hub_library(), hub_library("huggingface_hub.errors")
    try:
        return Path(hub.snapshot_download(repo, allow_patterns=[CONFIG, WEIGHTS], **options))
    except (OSError, errors.HTTPError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise OSError(
            f"{repo} is no folder here, and the Hugging Face Hub does not give it ({reason}); correct the name, check "
            "the connection and HF_HUB_OFFLINE, or pass a folder."
        ) from None


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says of a student: model_name, num_classes, img_size and class_names.

    Raises:
        ValueError: it is no JSON, or not that of a student.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); copy or download it again.") from None
    missing = [key for key in KEYS if key not in config] if isinstance(config, dict) else list(KEYS)
    if missing:
        raise ValueError(f"{path} is not that of a student, since it has no {', '.join(missing)}; {REMEDY}.")
    return {key: config[key] for key in KEYS}


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json, sorted, as huggingface_hub does."""
    (folder / CONFIG).write_text(json.dumps(dict(config), sort_keys=True, indent=2), encoding="utf-8", newline="\n")


def check_fits(folder: str | Path, config: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse weights that are not those that config.json, or the caller, describes.

    Args:
        folder: of both, for the message.
        config: what is said of them.
        found: what the weights have, by the same keys.

    Raises:
        ValueError: naming the first difference.
    """
    for key, value in found.items():
        if config[key] != value:
            raise ValueError(
                f"{folder}: {key} is {config[key]!r} by {CONFIG} or the call, but the weights in {WEIGHTS} have "
                f"{value!r}; take both files from one student, and pass no {key}."
            )
