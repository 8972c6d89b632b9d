"""Reports of use and errors that libraries send to their makers: off, unless the user asks for them.

`scripts/__init__.py` calls this before any library is imported. `python -m monai.bundle` is the exception: it imports
MONAI, and MONAI imports mlflow and huggingface_hub, before it reads a config. mlflow is then told afterwards. It sends
nothing before a run starts, but it has already written a random id to ~/.config/mlflow/telemetry.json.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

MLFLOW = "MLFLOW_DISABLE_TELEMETRY"
# read by the libraries when they are imported; the user's own value stays
VARIABLES = {
    MLFLOW: "true",
    "WANDB_ERROR_REPORTING": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime
}
OPENVINO = "openvino_telemetry"  # the package that reports for openvino, and the file where a user's consent stands
CONSENT = "1"


def switch_reports_off() -> None:
    """Switch off what the environment does not ask for, in this process and those that it starts."""
    asked_mlflow = MLFLOW in os.environ
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if not asked_mlflow and "mlflow.telemetry" in sys.modules:
        getattr(sys.modules["mlflow.telemetry"], "set_telemetry_client", bool)()  # reads the variable again
    if not consents_to_openvino():
        sys.modules.setdefault(OPENVINO, None)  # no variable switches it off, but openvino does without the package


def consents_to_openvino() -> bool:
    """Whether the user has run `opt_in_out --opt_in` of openvino_telemetry."""
    consent = Path(os.path.expanduser("~"), "intel", OPENVINO)
    try:
        return consent.read_text(encoding="utf-8").strip() == CONSENT
    except (OSError, UnicodeDecodeError):
        return False
