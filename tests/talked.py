"""Small synthetic dialogues, divided by whole dialogues, for the tests of parts that read them."""

from __future__ import annotations

from lmrs import sources
from lmrs.dataset import Dataset
from lmrs.split import Split, by_user


def data(dialogues: int = 60, **law: float) -> Dataset:
    """24 films of 4 genres."""
    return sources.synthetic_dialogues(dialogues=dialogues, **{"films": 24, "genres": 4, **law})  # type: ignore[arg-type]


def split() -> Split:
    return by_user(data())
