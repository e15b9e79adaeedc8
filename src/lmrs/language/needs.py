"""The optional packages of the language layer, asked for in one place."""

from __future__ import annotations

from importlib.util import find_spec

from lmrs.errors import UserError


def need(package: str) -> None:
    """Raises UserError, naming the extra that brings it, if a package of the extra `language` is not installed."""
    if find_spec(package) is None:
        raise UserError(
            needed=f"the extra 'language' (package {package})",
            came="an installation without it",
            remedy="pip install 'lmrs[language]'",
        )
