"""The model card of the Hugging Face Hub: docs/README.md under a header made from metadata and results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..utils.libraries import library
from .manifest import files_below

TAGS = ("monai", "medical", "ultrasound", "segmentation", "knowledge-distillation")
TASK, LIBRARY = "image-segmentation", "monai"
REPO = "OWNER/NAME"
SHARED_TEACHER = "configs/shared_teacher.json"
# the hub's models that the teachers come from; LiteMedSAM was distilled from MedSAM, and is not on the hub itself
BASE_MODELS = {
    "vit_b": "facebook/sam-vit-base",
    "vit_l": "facebook/sam-vit-large",
    "vit_h": "facebook/sam-vit-huge",
    "lite_medsam": "wanglab/medsam-vit-base",
}
USAGE = """## Use it in Python

```bash
hf download {repo} --local-dir student
pip install './student[export,dicom]'
```

```python
import sam_tinyusfm

student = sam_tinyusfm.load("{repo}")  # or the folder
result = student.segment("image.png")
print(result.mask.shape, result.lesions)
```

The network alone, for torch:

```python
import torch
from sam_tinyusfm import StudentForSegmentation

network = StudentForSegmentation.from_pretrained("{repo}")
logits = network(torch.rand(1, 1, network.img_size, network.img_size))  # gray images in [0, 1]
```

Research only, not for clinical use.
"""


def usage(repo: str = REPO) -> str:
    """The section of a card that shows how a model is used.

    Args:
        repo: OWNER/NAME on the hub.
    """
    return USAGE.format(repo=repo)


def model_card(root: Path, name: str, repo: str = REPO) -> str:
    """The card as text: license, tags, task, origin and the shared student's results as YAML, then docs/README.md.

    Args:
        root: of the bundle.
        name: of the model.
        repo: OWNER/NAME on the hub, for the examples.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: the license is not known, or no results file holds the metadata's figures.
    """
    from ..metrics import UNITS  # imported here, so that the program's --help answers without torch

    hub = hub_library()
    metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    results, metrics = find_results(root, metadata.get("eval_metrics", {}))
    evaluated = [
        hub.EvalResult(
            task_type=TASK,
            task_name=metadata["task"],
            dataset_type=results,
            dataset_name=metadata["data_source"],
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{UNITS.get(metric, metric)}, 95 % interval{_of_seeds(values)} "
            f"{values['low']:.4g} to {values['high']:.4g}",
            metric_value=round(values["mean"], 4),
        )
        for metric, values in metrics.items()
    ]
    header = hub.ModelCardData(
        license=_license(root),
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=list(TAGS),
        base_model=_base_model(root),
        datasets=[results],
        metrics=list(metrics),
        model_name=name,
        eval_results=evaluated,
    )
    head, mark, sections = _text(root).partition("\n## ")
    return f"---\n{header.to_yaml()}\n---\n\n{head}\n{usage(repo)}{mark}{sections}"


def _base_model(root: Path) -> list[str] | None:
    """Where the teacher that is shared comes from; None where none is shared."""
    path = root / SHARED_TEACHER
    teacher = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    base = BASE_MODELS.get(teacher.get("teacher::model_name"))
    return base and [base]


def find_results(root: Path, figures: Mapping[str, float]) -> tuple[str, dict[str, Any]]:
    """Name of the report in eval/results with the metadata's figures, and these metrics of its student.

    A metric's "mean" is that of the seed whose weights are shared.

    Args:
        root: of the bundle.
        figures: means over cases of one seed's student by name, such as mean_dice, as eval.publish writes them.

    Raises:
        ValueError: there is none.
    """
    names = [name.removeprefix("mean_") for name in figures]
    for path in sorted((root / "eval" / "results").glob("*.json")):
        student = json.loads(path.read_text(encoding="utf-8")).get("arms", {}).get("student", {})
        metrics = {name: student["metrics"][name] for name in names if name in student.get("metrics", {})}
        for seed in metrics and next(iter(metrics.values()))["seed_means"]:
            shared = {name: {**values, "mean": values["seed_means"][seed]} for name, values in metrics.items()}
            if {f"mean_{name}": round(values["mean"], 4) for name, values in shared.items()} == figures:
                return path.stem, shared
    raise ValueError(
        "no shared file of eval/results holds the eval_metrics of configs/metadata.json; write both with python -m "
        "eval.publish, and git add the file."
    )


def _of_seeds(values: Mapping[str, Any]) -> str:
    """Says that the interval is of several seeds' mean, where the student was trained with several."""
    number = len(values["seed_means"])
    return f" of {number} seeds' mean" if number > 1 else ""


def hub_library(name: str = "huggingface_hub") -> ModuleType:
    """huggingface_hub or a module of it, imported only where it is used.

    Raises:
        ImportError: saying how to install it.
    """
    return library(name, "huggingface_hub")


def _license(root: Path) -> str:
    text = (root / "LICENSE").read_text(encoding="utf-8")
    if "Apache License" not in text or "Version 2.0" not in text:
        raise ValueError("LICENSE is not the Apache License 2.0; name yours in scripts/share/model_card.py.")
    return "apache-2.0"


def _text(root: Path) -> str:
    """docs/README.md with its links changed for the folder above docs/."""
    text = (root / "docs" / "README.md").read_text(encoding="utf-8")
    beside = "|".join(re.escape(name) for name in files_below(root / "docs"))
    return re.sub(rf"(?<=[(`])(?=(?:{beside})[)`#])", "docs/", text)
