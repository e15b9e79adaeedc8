"""The demonstration: systems beside controls on one data set, a table with intervals, and lists that a person can judge."""

from __future__ import annotations

from pathlib import Path

from lmrs.progress import Reporter


def play(data: str, *, out: Path, minutes: float, seed: int, reporter: Reporter) -> None:
    """Fit, compare, recommend."""
    raise NotImplementedError
