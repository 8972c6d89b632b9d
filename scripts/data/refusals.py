"""Files that are refused: one line that names the file, and the largest image that is decoded at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_VARIABLE = "BUNDLE_MAX_MEGAPIXELS"  # of the environment, so that it reaches every program and its workers
DEFAULT_MEGAPIXELS = 500.0  # of all frames together; some 500 frames of 1024 x 768


class Refused(Exception):
    """The file is readable, but is no image of the kind asked for; the text goes on from the file's name."""


@contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """Names the file in whatever its decoding raises.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the block refused it or failed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"file {path} does not exist; put it back, or correct what names it.")
    try:
        yield
    except Refused as error:
        raise ValueError(f"file {path} {error}") from None
    except Exception as error:
        raise ValueError(
            f"file {path} cannot be read as an image ({type(error).__name__}: {error}); replace it or take it out."
        ) from error


def check_pixel_count(count: int) -> None:
    """Refuse what a header claims before memory is taken for it: a small file can claim any size.

    Args:
        count: pixels of all frames.

    Raises:
        Refused: they are more than the limit, or the limit is no positive number.
    """
    if count > max_megapixels() * 1e6:
        raise too_large(f"{count / 1e6:.0f} megapixels")


def too_large(claim: str) -> Refused:
    """The refusal of a file whose header claims more than the limit."""
    return Refused(
        f"claims {claim}; expected at most {max_megapixels():g} megapixels: replace it, or set the environment "
        f"variable {LIMIT_VARIABLE} to more."
    )


def max_megapixels() -> float:
    """The limit on the pixels of a file, all frames together, in millions.

    Raises:
        Refused: the environment variable is no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, DEFAULT_MEGAPIXELS)
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise Refused(f"is not read, since {LIMIT_VARIABLE} is {text!r}; expected a positive number.")
    return limit
