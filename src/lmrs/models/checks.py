"""What the numbers of descriptions must keep to, refused in the same words everywhere."""

from __future__ import annotations

from lmrs.errors import ContractError


def at_least(least: int, /, **numbers: float) -> None:
    """Raises ContractError for the first of the named numbers that is less."""
    for name, value in numbers.items():
        if value < least:
            raise ContractError(needed=f"{name} of at least {least}", came=f"{name}={value}")


def below_one(**shares: float) -> None:
    """Raises ContractError for the first of the named shares that is not in [0, 1)."""
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise ContractError(needed=f"{name} in [0, 1)", came=f"{name}={value}")
