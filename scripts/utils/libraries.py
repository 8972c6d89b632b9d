"""Libraries of the extra `export`, imported only where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def library(name: str) -> ModuleType:
    """A module of the extra `export`.

    Raises:
        ImportError: naming the extra.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} cannot be imported ({error}); run pip install .[export]") from None
