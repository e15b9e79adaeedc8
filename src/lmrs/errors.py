"""What lmrs says when it cannot go on: what was needed, what came, what to do."""

from __future__ import annotations

from collections.abc import Iterable


class LmrsError(Exception):
    """Base of every error that lmrs raises on purpose. code: exit status of the command line."""

    code = 1


class UserError(LmrsError):
    """A mistake that the caller can mend, told in one line.

    needed: what the call required.
    came: what it got instead.
    remedy: what to do about it ("" if nothing can be said).

    >>> str(UserError(needed="a column 'user'", came="columns uid, item", remedy="pass --user-column uid"))
    "needed a column 'user', got columns uid, item; pass --user-column uid"
    """

    def __init__(self, *, needed: str, came: str, remedy: str = "") -> None:
        self.needed, self.came, self.remedy = needed, came, remedy
        text = f"needed {needed}, got {came}"
        super().__init__(f"{text}; {remedy}" if remedy else text)


class DataError(UserError):
    """The data cannot be read as asked."""


class StorageError(UserError):
    """A file cannot be written: disk full, no permission, read-only."""


class SealedError(LmrsError):
    """The test part of a Split was read during fit."""


class ContractError(UserError):
    """Two parts that cannot work together were put together."""


class CheckpointError(UserError):
    """A saved file is missing, truncated, changed or made for something else."""


class DivergedError(UserError):
    """The loss became NaN or infinite."""


class BusyError(UserError):
    """Another process owns the run folder."""


def nearest(word: str, choices: Iterable[str], *, n: int = 3) -> list[str]:
    """The valid names closest to `word`, best first (at most n; empty if none is close)."""
    import difflib

    names = list(choices)
    folded = {name.lower(): name for name in names}
    return [folded[m] for m in difflib.get_close_matches(word.lower(), folded, n=n, cutoff=0.5)]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A remedy sentence: the nearest names if any is close, else all of them."""
    names = list(choices)
    close = nearest(word, names)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "choose one of " + ", ".join(sorted(names))
