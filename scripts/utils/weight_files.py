"""Weight files, checked before anything of them is used: not damaged, and every value finite.

torch itself looks at no checksum: a file with one flipped bit loads, and segments. So every file is compared with

- the CRC of its zip archive (.pt and .pth of torch since 1.6, TorchScript),
- the SHA-256 of its tensors that this bundle writes into a safetensors file,
- a file NAME.sha256 beside it, as `sha256sum NAME > NAME.sha256` writes it, where there is one.

A file that has none of them is read, and a warning says so.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .digests import file_digest, weights_digest
from .files import atomic_path

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

SAFETENSORS = ".safetensors"
SUM_SUFFIX = ".sha256"
TENSORS_SUM = "tensors_sha256"  # in the header of a safetensors file
AGAIN = "copy or download it again"
ARCHIVE, FOLDER = b"PK\x03\x04", 0x10  # of zip: how a file begins, and the mark of a folder


def read_weight_file(
    path: str | Path,
    name: str,
    part: Callable[[Any], Any] = lambda content: content,
    mmap: bool = False,
    remedy: str = AGAIN,
) -> Any:
    """What a weight file holds, on the CPU; the notes of a safetensors file are entries beside its tensors.

    Read with weights_only=True, so that a file cannot run code.

    Args:
        path: what torch.save wrote, or a .safetensors file.
        name: the config id that gave the path, for messages.
        part: picks what is used of the content, is returned, and must be finite.
        mmap: leave the tensors on the disk until they are used; not for safetensors.
        remedy: what to do about a file that cannot be used, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, cannot be read, or holds a value that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        option = "" if " " in name else f"; pass --{name} PATH"
        raise FileNotFoundError(f"{name} {path} {kind}{option}.")
    has_sum = check_sum(path, name, remedy)
    if path.suffix == SAFETENSORS:
        content = _read_safetensors(path, name, remedy, has_sum)
    else:
        content = _read_torch(path, name, remedy, has_sum, mmap)
    content = part(content)
    check_finite(content, f"{name} {path}")
    return content


def save_safetensors(
    state: Mapping[str, torch.Tensor], path: str | Path, notes: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file with the sum of its tensors in it, whole or not at all.

    Args:
        state: tensors by name.
        path: of the file; its folder is made.
        notes: more texts for its header.
    """
    from safetensors.torch import save

    state = {key: tensor.contiguous() for key, tensor in state.items()}
    content = save(state, {"format": "pt", TENSORS_SUM: weights_digest(state), **(notes or {})})
    with atomic_path(path) as partial:  # not save_file, whose file no one else may read
        partial.write_bytes(content)


def check_archive(path: str | Path, name: str, remedy: str = AGAIN) -> None:
    """Read a zip archive, such as a checkpoint or a TorchScript module, against its checksums.

    Raises:
        ValueError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.file_size]
            # torch takes an entry that is marked as a folder for one, and gives whatever lies in memory
            damaged = next((entry.filename for entry in entries if entry.external_attr & FOLDER), None)
            unsummed = entries and not any(entry.CRC for entry in entries)
            damaged = damaged or (None if unsummed else archive.testzip())
    except Exception as error:  # a flipped bit can make the zip module raise nearly anything
        raise ValueError(f"{name} {path} cannot be read as weights: {_first_line(error)}; {remedy}.") from error
    if unsummed:
        raise ValueError(
            f"{name} {path} was saved without checksums; save it anew with torch.serialization.set_crc32_options(True)."
        )
    if damaged is not None:
        raise ValueError(f"{name} {path} is damaged, in its entry {damaged}; {remedy}.")


def is_archive(path: str | Path) -> bool:
    """Whether a file begins as a zip archive does, even if it is damaged."""
    with open(path, "rb") as file:
        return file.read(len(ARCHIVE)) == ARCHIVE


def check_sum(path: Path, name: str, remedy: str = AGAIN) -> bool:
    """Compare a file with the sum in NAME.sha256 beside it; False where there is none.

    Raises:
        ValueError: another sum, or a file beside it that holds none.
    """
    beside = path.with_name(path.name + SUM_SUFFIX)
    if not beside.is_file():
        return False
    expected = beside.read_text(encoding="utf-8", errors="replace")[:64].lower()
    if file_digest(path) != expected:
        raise ValueError(f"{name} {path} is not the file whose SHA-256 is in {beside.name} beside it; {remedy}.")
    return True


def check_finite(content: Any, source: str) -> None:
    """Refuse NaN and infinity in any floating tensor of a checkpoint's content.

    Args:
        content: tensors, in mappings and sequences nested at will.
        source: config id and file, for the message.

    Raises:
        ValueError: the first tensor with one is named.
    """
    for key, tensor in _tensors(content):
        if not _is_finite(tensor):
            raise ValueError(
                f"{source} holds values that are not finite (NaN or infinity), first in {key}; use another file."
            )


@cache
def warn_unguarded(path: Path, name: str) -> None:
    """Say once that nothing would show damage in a file."""
    logger.warning(
        "%s %s has no checksum, so damage in it would not be noticed; with sha256sum %s > %s beside it, it is checked",
        name,
        path,
        path.name,
        path.name + SUM_SUFFIX,
    )


def _read_torch(path: Path, name: str, remedy: str, has_sum: bool, mmap: bool) -> Any:
    import torch

    if is_archive(path):
        check_archive(path, name, remedy)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # arbitrary bytes make the unpickler raise nearly anything
        reason = _first_line(error)
        if "weights_only" in reason:  # torch's advice would let the file run code
            reason = "it holds more than named tensors, or is damaged"
        raise ValueError(f"{name} {path} cannot be read as weights: {reason}; {remedy}.") from error
    if not has_sum and not is_archive(path):
        warn_unguarded(path, name)  # torch's format before 1.6
    return content


def _read_safetensors(path: Path, name: str, remedy: str, has_sum: bool) -> dict[str, Any]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except Exception as error:
        raise ValueError(f"{name} {path} cannot be read as weights: {_first_line(error)}; {remedy}.") from error
    if TENSORS_SUM in notes:
        if weights_digest(tensors) != notes[TENSORS_SUM]:
            raise ValueError(f"{name} {path} is damaged: the SHA-256 of its tensors is not the one in it; {remedy}.")
    elif not has_sum:
        warn_unguarded(path, name)
    return {**notes, **tensors}


def _tensors(content: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if isinstance(content, torch.Tensor):
        yield prefix, content
    elif isinstance(content, (Mapping, list, tuple)):
        items = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in items:
            yield from _tensors(value, f"{prefix}.{key}" if prefix else str(key))


def _is_finite(tensor: torch.Tensor) -> bool:
    import torch

    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return True
    if tensor.is_complex() or tensor.dtype.itemsize == 1:  # float8 has no aminmax
        return bool(tensor.to(torch.complex64 if tensor.is_complex() else torch.float32).isfinite().all())
    return all(bool(end.isfinite()) for end in tensor.aminmax())  # one pass without a copy; NaN wins in both


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
