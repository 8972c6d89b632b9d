"""Libraries that not every user has, imported only where they are used."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def library(name: str, package: str = ".[export]") -> ModuleType:
    """A module.

    Args:
        name: of the module.
        package: that brings it, as pip is told.

    Raises:
        ImportError: saying how to install it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} cannot be imported ({error}); run pip install {package}") from None
