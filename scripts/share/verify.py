"""Checks of a bundle before it is shared, without a network: python -m scripts.verify.

Follows the model zoo's verify_bundle: necessary files and keys, metadata against its schema, changelog, input and
output of the network, properties of the workflows, TorchScript. It adds what the model zoo does not check: that the
weights are the student's, that both files of them agree, and that inference writes masks.
"""

from __future__ import annotations

import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from PIL import Image

from ..data.phantoms import write_phantom_dataset
from ..networks.student import load_trained_student
from ..networks.weights import read_state_dict
from ..run.errors import find_user_error
from ..run.workflow import build_workflow
from .bundle import METADATA, read_metadata, tracked_files
from .manifest import BUNDLE_ROOT, MANIFEST, read_manifest
from .model_card import find_results

WEIGHTS, SAFE_WEIGHTS = "models/model.pt", "models/model.safetensors"
TRAIN_CONFIG, INFERENCE_CONFIG, SCHEMA = "configs/train.json", "configs/inference.json", "eval/schema.json"
SHARED_TEACHER_CONFIG = "configs/shared_teacher.json"
NECESSARY = (
    "LICENSE",
    METADATA,
    TRAIN_CONFIG,
    INFERENCE_CONFIG,
    "configs/logging.conf",
    WEIGHTS,
    SCHEMA,
    "docs/data_license.txt",
)
KEYS = {
    TRAIN_CONFIG: ("bundle_root", "device", "dataset_dir"),
    INFERENCE_CONFIG: ("bundle_root", "device", "network_def", "inferer", "output_dir"),
}
KINDS = {
    "": (".json", ".py", ".md", ".txt", ".toml", ".cff", ".conf"),
    "docs/": (".ipynb", ".png", ".sbatch"),
    "models/": (".pt", ".pth", ".safetensors"),
    "model.safetensors": (".safetensors",),
    "scripts/export/web/page/": (".css", ".html", ".js"),
}  # suffixes of the files of any folder, and of these
MAX_FILE_BYTES = 25_000_000  # the model zoo's limit for a file


def print_checks() -> int:
    """Print a line for each check of this bundle; 0, or 1 when one has failed."""
    failed = 0
    for name, reason in verify(BUNDLE_ROOT):
        failed += reason is not None
        print(f"{'ok' if reason is None else 'FAILED':<7} {name}" + (f": {reason}" if reason else ""), flush=True)
    print(f"{failed} of {len(CHECKS)} checks failed" if failed else f"all {len(CHECKS)} checks passed")
    return 1 if failed else 0


def verify(root: Path) -> Iterator[tuple[str, str | None]]:
    """Name of each check, and why it has failed; None where it has not.

    Args:
        root: of the bundle; its scripts must be the ones that are imported.
    """
    for name, check in CHECKS.items():
        try:
            with _quiet():
                check(root)
        except Exception as error:  # whatever MONAI or the bundle raises is the reason
            reason = str(find_user_error(error) or error).strip().split("\n")[0]
            yield name, reason or type(error).__name__
        else:
            yield name, None


def check_files(root: Path) -> None:
    """Every necessary file is there and not empty.

    The model card is docs/README.md, or README.md on the Hugging Face Hub.
    """
    card = "docs/README.md" if (root / "docs" / "README.md").is_file() else "USAGE.md"
    empty = [
        name
        for name in (*NECESSARY, "README.md", card)
        if not (root / name).is_file() or not (root / name).stat().st_size
    ]
    if empty:
        raise ValueError(f"{', '.join(empty)} missing or empty.")


def check_kinds(root: Path) -> None:
    """No shared file is of an unknown kind, such as an image of a patient or a pickle, or too large."""
    names = _shared_files(root)
    foreign = [name for name in names if not _is_allowed(name)]
    if foreign:
        raise ValueError(
            f"{foreign[0]} is of a kind that no bundle needs ({len(foreign)} files are); take it out of git."
        )
    large = [name for name in names if (root / name).stat().st_size > MAX_FILE_BYTES]
    if large:
        raise ValueError(
            f"{large[0]} has {(root / large[0]).stat().st_size} bytes, more than the model zoo's {MAX_FILE_BYTES}."
        )


def _shared_files(root: Path) -> list[str]:
    """Names of the files that are shared, from the list of a shared bundle or from git."""
    return list(read_manifest(root)) if (root / MANIFEST).is_file() else tracked_files(root)


def _is_allowed(name: str) -> bool:
    suffixes = [suffix for folder, kinds in KINDS.items() if name.startswith(folder) for suffix in kinds]
    return name == "LICENSE" or Path(name).suffix in suffixes


def check_license(root: Path) -> None:
    """LICENSE is the Apache License, and the metadata name it."""
    if "Apache License" not in (root / "LICENSE").read_text(encoding="utf-8"):
        raise ValueError("LICENSE is not the Apache License.")
    if "Apache-2.0" not in read_metadata(root)["copyright"]:
        raise ValueError(f"copyright of {METADATA} does not name the license of LICENSE, Apache-2.0.")


def check_metadata(root: Path) -> None:
    """The metadata follow MONAI's schema, which lies in the bundle."""
    if not (root / SCHEMA).is_file():  # or it would be downloaded
        raise FileNotFoundError(f"{SCHEMA} is not there.")
    verify_metadata(meta_file=str(root / METADATA), filepath=str(root / SCHEMA))


def check_version(root: Path) -> None:
    """The version is a.b.c, in the changelog, and the same in pyproject.toml and CITATION.cff."""
    metadata = read_metadata(root)
    version = metadata["version"]
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"version of {METADATA} must be such as 1.2.3, got {version!r}.")
    if not metadata.get("changelog", {}).get(version):
        raise ValueError(f"changelog of {METADATA} says nothing of the version {version}.")
    for name, line in (("pyproject.toml", f'version = "{version}"'), ("CITATION.cff", f"version: {version}")):
        if line not in (root / name).read_text(encoding="utf-8").splitlines():
            raise ValueError(f"{name} has another version than {METADATA}, {version}.")


def check_results(root: Path) -> None:
    """The metadata's figures are those of a report in eval/results that is shared too."""
    name, _ = find_results(root, read_metadata(root).get("eval_metrics", {}))
    if f"eval/results/{name}.json" not in _shared_files(root):
        raise ValueError(f"eval/results/{name}.json is not shared, since git does not track it; git add it.")


def check_keys(root: Path) -> None:
    """Every config can be read, and train.json and inference.json have the ids that MONAI's programs look for."""
    configs = {
        f"configs/{path.name}": ConfigParser.load_config_file(path)
        for path in sorted((root / "configs").glob("*.json"))
    }
    for name, keys in KEYS.items():
        missing = [key for key in keys if key not in configs[name]]
        if missing:
            raise ValueError(f"{name} has no {', '.join(missing)}.")


def check_weights(root: Path) -> None:
    """model.pt holds a student's finite weights, MONAI Label finds it, and model.safetensors holds the same."""
    first = min((root / "models").glob("*.pt"), key=lambda path: len(path.name)).name
    if first != Path(WEIGHTS).name:
        raise ValueError(f"models/{first} has a shorter name than {WEIGHTS}, and MONAI Label would take it.")
    state = read_state_dict(root / WEIGHTS, WEIGHTS)
    load_trained_student(_inference(root).network_def, root / WEIGHTS)
    _check_same(state, read_state_dict(root / SAFE_WEIGHTS, SAFE_WEIGHTS))


def _check_same(state: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    differing = state.keys() ^ other.keys() or {name for name in state if not torch.equal(state[name], other[name])}
    if differing:
        first = min(differing)
        raise ValueError(
            f"{SAFE_WEIGHTS} differs from {WEIGHTS}, first in {first}; write both with python -m eval.publish."
        )


def check_shapes(root: Path) -> None:
    """The network takes and gives what the metadata say."""
    verify_net_in_out(
        "network_def", str(root / METADATA), str(root / INFERENCE_CONFIG), device="cpu", bundle_root=str(root)
    )


def check_training(root: Path) -> None:
    """The training has every property of a MONAI workflow, with the teacher that is shared and generated phantoms."""
    with tempfile.TemporaryDirectory() as folder:
        phantoms = write_phantom_dataset(Path(folder) / "phantoms", 2, 1, 1, size=64)
        overrides = {"data::dataset_dir": str(phantoms), "training::num_workers": 0, "teacher::cache_dir": folder}
        _check_properties(_workflow(root, (TRAIN_CONFIG, SHARED_TEACHER_CONFIG), "training", "train", overrides))


def check_torchscript(root: Path) -> None:
    """The weights can be exported to TorchScript, and segment the same there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ts"
        ckpt_export(
            "network_def",
            path,
            str(root / WEIGHTS),
            str(root / METADATA),
            str(root / INFERENCE_CONFIG),
            bundle_root=str(root),
        )
        exported = torch.jit.load(path, map_location="cpu").eval()
    student = load_trained_student(_inference(root).network_def, root / WEIGHTS).eval()
    image = torch.rand(1, 1, student.img_size, student.img_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = float((exported(image) - student(image)).abs().max())
    if not difference < 1e-4:
        raise ValueError(f"the TorchScript module's logits differ by {difference:.3g} from the network's.")


def check_inference(root: Path) -> None:
    """Inference has every property of a MONAI workflow, and writes masks of phantoms at their size."""
    with tempfile.TemporaryDirectory() as folder:
        images = write_phantom_dataset(Path(folder) / "phantoms", 1, 1, 1, size=96) / "images"
        flow = _inference(root, dataset_dir=str(images), output_dir=f"{folder}/masks")
        _check_properties(flow)
        flow.run()
        masks = [Image.open(path, formats=["PNG"]).size for path in sorted(Path(folder, "masks").glob("*_mask.png"))]
    if masks != [(96, 96)] * 3:
        raise ValueError(f"three phantoms of 96 x 96 pixels gave masks of {masks}.")


def _check_properties(flow: ConfigWorkflow) -> None:
    missing = flow.check_properties()
    if missing:
        raise ValueError(f"the workflow lacks the properties {', '.join(missing)}.")


def _inference(root: Path, **overrides: Any) -> ConfigWorkflow:
    return _workflow(root, (INFERENCE_CONFIG,), "run", "infer", overrides)


def _workflow(
    root: Path, configs: Sequence[str], run_id: str, kind: str, overrides: Mapping[str, Any]
) -> ConfigWorkflow:
    overrides = {"bundle_root": str(root), "hardware::gpu_ids": [], **overrides}
    flow = build_workflow([root / config for config in configs], overrides, run_id, kind)
    flow.initialize()
    return flow


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages and progress bars of MONAI and torch."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


CHECKS: dict[str, Callable[[Path], None]] = {
    "necessary files": check_files,
    "kinds and sizes of files": check_kinds,
    "license": check_license,
    "metadata against the schema": check_metadata,
    "version and changelog": check_version,
    "results": check_results,
    "keys of the configs": check_keys,
    "weights": check_weights,
    "input and output of the network": check_shapes,
    "training: properties": check_training,
    "export to TorchScript": check_torchscript,
    "inference: properties and masks": check_inference,
}
