"""Public names of a package that are imported on first use: who reads one saved model need not read all others.

A package imports its names under `TYPE_CHECKING`, for people and type checkers, and says once more where each of them is:
`__getattr__, __dir__ = lazily(__name__, {"Transformer": "transformer"})`. No name may be that of a module of the package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, where: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A module's `__getattr__` and `__dir__` (PEP 562). where: for each name the module inside the package."""

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f"{package}.{where[name]}"), name)
        setattr(sys.modules[package], name, found)  # the next use does not come here
        return found

    return find, lambda: sorted({*vars(sys.modules[package]), *where})
