"""Which engine computes the logits of configs/inference.json: torch, or an export in OpenVINO or ONNX Runtime.

An engine is chosen before anything is segmented, told on the screen and kept in run.json. The masks of another engine
may differ from torch's in single pixels, where a probability is next to its threshold.

Legend: B batch, C channels of logits, S side of the network's input.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..utils.hardware import Hardware
from ..utils.libraries import library
from ..utils.options import check_choice
from ..utils.screen import plural, tell
from .export_names import OUTPUT, PRESENCE
from .exports import (
    AUTO,
    BF16,
    ENGINES,
    FP32,
    LIBRARIES,
    PRECISIONS,
    TORCH,
    ExportError,
    cache_dir,
    can_write,
    ensure_export,
    export_dir,
    fastest_format,
    installed_engines,
    precision_of,
    read_record,
    runnable_precisions,
    start_session,
)
from .outputs import RUN_FILE
from .sessions import Session

logger = logging.getLogger(__name__)

LOCAL_CACHE = ".exports"  # in output_dir, where the user's cache folder cannot be written
ENOUGH_FILES = 100  # from which auto writes an export: it takes half a minute


class ChosenEngine:
    """The network that segments, on one engine.

    Args:
        network: of the evaluator.
        name: of the engine.
        precision: fp32 or bf16, in which it computes.
        reason: for the screen: why auto took it; an empty text where it was asked for.
    """

    def __init__(self, network: nn.Module, name: str, precision: str, reason: str = "") -> None:
        self.network, self.name, self.precision = network.eval(), name, precision
        tell(f"engine {name} in {precision}{reason and f': {reason}'}")


class ExportedStudent(nn.Module):
    """An exported student in the place of the network in torch: images -> logits.

    Args:
        session: runs it.
        presence: of the network in torch; its threshold is in the exported file too.
    """

    def __init__(self, session: Session, presence: nn.Module | None) -> None:
        super().__init__()
        self.session, self.presence = session, presence

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, S, S) of images (B, 1, S, S)."""
        return self.detect(images)[0]

    def detect(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits, and the presence (B,) of a calibrated student; see `data.segment.detect`.

        Images go through one by one: a session prepares itself for the size of its input, and a loop's last part is
        shorter.
        """
        parts = [self.session(np.ascontiguousarray(image.numpy(), np.float32)) for image in images.split(1)]
        gathered = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
        return gathered[OUTPUT], gathered.get(PRESENCE)


def choose_engine(
    network: nn.Module,
    checkpoint: str | Path,
    hardware: Hardware,
    device: torch.device | str,
    output_dir: str | Path,
    engine: str = AUTO,
    num_files: int = 0,
    resume: bool = False,
) -> ChosenEngine:
    """The engine of a run, with its network.

    Args:
        network: the trained student in torch, on the device.
        checkpoint: its file.
        hardware: says whether bf16 may be computed in.
        device: of the run.
        output_dir: of the run; exports are kept in it where the user's cache folder cannot be written.
        engine: what computes the logits: auto takes what was fastest on this processor, OpenVINO or ONNX Runtime, where
            one of them is installed and an export of these weights is there or at least 100 files pay it, and otherwise
            torch; a GPU runs torch alone. [auto, openvino, onnx, torch]
        num_files: to segment.
        resume: take the engine that the outputs in output_dir were made with, if engine is auto.

    Raises:
        ValueError: an unknown engine, one that is not installed or does not run on the device, or an export that is
            damaged or that cannot be written.
    """
    check_choice("engine", engine, ENGINES)
    device = torch.device(device)
    recorded = _recorded_engine(Path(output_dir), hardware.precision) if resume and engine == AUTO else None
    if engine == AUTO and hardware.precision == BF16 and recorded is None:
        return ChosenEngine(network, TORCH, BF16, f"hardware::precision is {BF16}")
    reason = f"it made the outputs in {output_dir}" if recorded else ""
    if recorded or engine != AUTO:
        name, precision = recorded or (engine, hardware.precision)
        if name == TORCH:
            return ChosenEngine(network, TORCH, hardware.resolved, reason)
        _check_device(name, device)
        _check_installed(name)
        precisions = _precisions(precision, hardware)
        return _start(network, Path(checkpoint), [name], precisions, _caches(output_dir), reason)
    engines, reason = _engines_for_auto(Path(checkpoint), device, network, num_files)
    if not engines:
        return ChosenEngine(network, TORCH, hardware.resolved, reason)
    try:
        precisions = _precisions(hardware.precision, hardware)
        return _start(network, Path(checkpoint), engines, precisions, _caches(output_dir), reason)
    except (OSError, ExportError) as error:
        return ChosenEngine(network, TORCH, hardware.resolved, f"no export can be written and kept ({error})")


def _precisions(wanted: str, hardware: Hardware) -> list[str]:
    """Those that a session may compute in: the one that is asked for, or with auto those of the hardware."""
    if wanted != "auto":
        return [wanted]
    return list(PRECISIONS) if hardware.bf16 else [FP32]


def _recorded_engine(output_dir: Path, precision: str) -> tuple[str, str] | None:
    """The engine in run.json, with its precision; None where there is none, or one of another precision than the one
    asked for. What cannot be read is named later.
    """
    try:
        record = json.loads((output_dir / RUN_FILE).read_text(encoding="utf-8"))
        name, found = record.get("engine", TORCH), record.get("precision")
    except (OSError, ValueError, AttributeError):
        return None
    return (name, found) if name in ENGINES and name != AUTO and precision in ("auto", found) else None


def _check_device(engine: str, device: torch.device) -> None:
    if device.type != "cpu":
        raise ValueError(
            f"engine {engine} computes on the CPU, but hardware::gpu_ids chose {device}; pass --hardware::gpu_ids [] "
            "or --engine torch."
        )


def _check_installed(engine: str) -> None:
    try:
        library(LIBRARIES[engine])
    except ImportError as error:
        raise ValueError(f"engine {engine}: {error}, or pass --engine torch.") from None


def _engines_for_auto(
    checkpoint: Path, device: torch.device, network: nn.Module, num_files: int
) -> tuple[list[str], str]:
    """The engines that auto may take, none where it takes torch, and why."""
    if device.type != "cpu":
        return [], f"the device is {device}"
    engines = installed_engines()
    if not engines:
        return [], "OpenVINO and ONNX Runtime are not installed (pip install .[export])"
    if fastest_format(read_record(export_dir(checkpoint)), engines):
        return engines, "the fastest on this processor"
    if not can_write():
        return [], "what writes an export is not installed (pip install .[export])"
    if num_files < ENOUGH_FILES:
        return [], f"an export does not pay for {plural(num_files, 'file')}; --engine {engines[0]} writes it"
    return engines, "the fastest on this processor"


def _caches(output_dir: str | Path) -> list[Path]:
    return [cache_dir(), Path(output_dir) / LOCAL_CACHE]


def _start(
    network: nn.Module,
    checkpoint: Path,
    engines: Sequence[str],
    precisions: Sequence[str],
    caches: Sequence[Path],
    reason: str,
) -> ChosenEngine:
    try:
        folder = _export_in(checkpoint, engines, caches)
    except ImportError as error:
        raise ValueError(f"engine {engines[0]}: {error}, or pass --engine torch.") from None
    record = read_record(folder)
    chosen = fastest_format(record, engines, [name for name in runnable_precisions(engines) if name in precisions])
    if chosen is None:
        raise ExportError(
            f"engine {engines[0]} has no export in {' or '.join(precisions)}; pass --hardware::precision auto or "
            f"--engine torch, or remove {folder}."
        )
    _check_threshold(network, record)
    name, format = chosen
    session = start_session(folder, name, format, torch.get_num_threads())
    return ChosenEngine(ExportedStudent(session, network.presence), name, precision_of(format), reason)


def _check_threshold(network: nn.Module, record: Mapping[str, Any]) -> None:
    """Refuse a threshold of presence that is not in the exported file."""
    wanted = None if network.presence is None else float(network.presence.threshold)
    if wanted != record.get("presence_threshold"):
        raise ValueError(
            f"presence_threshold {wanted:g} is not the one of the checkpoint, which its export holds; leave it null "
            "or pass --engine torch."
        )


def _export_in(checkpoint: Path, engines: Sequence[str], caches: Sequence[Path]) -> Path:
    """The export in the first of some folders that can be written."""
    *first, last = caches
    for cache in first:
        try:
            return ensure_export(checkpoint, engines, cache)
        except OSError as error:
            logger.warning("%s The export is kept in %s.", error, last)
    return ensure_export(checkpoint, engines, last)
