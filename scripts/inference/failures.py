"""Files that fail: a run names them and goes on. What stops a run is an output that cannot be written."""

from __future__ import annotations

from collections.abc import Iterator

FILE, FAILURE = "file", "failure"  # of an item: its path, and why it is not segmented


class OutputError(OSError):
    """The disk or the folder of the outputs fails, and with it every file that follows."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, such as the reader's behind those of MONAI's transforms."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def output_error(error: Exception) -> OutputError | None:
    """The failed output behind an error, if that was the reason."""
    return next((cause for cause in causes(error) if isinstance(cause, OutputError)), None)


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
