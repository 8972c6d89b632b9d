"""Files that fail: a run names them and goes on. What stops a run is an output that cannot be written."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from ..utils.files import WriteError

FILE, FAILURE = "file", "failure"  # of an item: its path, and why it is not segmented


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, such as the reader's behind those of MONAI's transforms."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def write_error(error: Exception) -> WriteError | None:
    """What keeps this output, and those of all files that follow, from being written; None where it was another error.

    A path that is too long for the file system is that file's fault.
    """
    found = next((cause for cause in causes(error) if isinstance(cause, WriteError)), None)
    return found if found and found.errno != errno.ENAMETOOLONG else None


def reason_of(error: Exception, file: str) -> str:
    """Why a file is not segmented, in a text that names it.

    Args:
        error: of a transform or of the network. MONAI wraps it in RuntimeErrors of its own.
        file: path.
    """
    chain = list(causes(error))
    refusal = next((cause for cause in chain if isinstance(cause, (ValueError, OSError))), None)
    text = str(refusal) if refusal else f"{type(chain[-1]).__name__}: {chain[-1]}"
    return text if file in text else f"file {file} cannot be segmented ({text})"
