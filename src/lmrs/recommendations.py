"""The answer for one history, and the checks of a question: what `Recommender` and `QuickRecommender` have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmrs.errors import UserError

FALLBACK = "training popularity"


@dataclass(frozen=True)
class Recommendations:
    """The answer for one history: k items, best first (fewer if the catalogue ends).

    ids, titles, scores: of the items; a title is the id where the catalogue has none. Scores order the items of one answer;
    they are no probabilities, and two systems' scores cannot be compared.
    unknown: items of the history that the recommender does not know; they were ignored. unknown_excluded: the same of `exclude`.
    fallback: "" if the history was used, "training popularity" if nothing in it was known (or it was empty).
    """

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    scores: tuple[float, ...]
    unknown: tuple[str, ...] = ()
    unknown_excluded: tuple[str, ...] = ()
    fallback: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        items = [{"id": a, "title": b, "score": c} for a, b, c in zip(self.ids, self.titles, self.scores, strict=True)]
        notes = {"unknown": list(self.unknown), "unknown_excluded": list(self.unknown_excluded), "fallback": self.fallback}
        return {"items": items, **notes}


def check_count(k: int) -> None:
    """Raises UserError unless k is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UserError(needed="k of at least 1", came=f"k={k!r}")


def check_histories(histories: Sequence[Sequence[str | int]]) -> None:
    """Raises UserError for a text where a list of ids must be."""
    if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
        raise UserError(needed="a list of item ids as a history", came="a text", remedy="write ['id', 'id', ...]")


def as_texts(ids: Iterable[str | int]) -> list[str]:
    """Ids as text; whole numbers become their decimal text. Raises UserError for anything else."""
    out = []
    for each in ids:
        if isinstance(each, bool) or not isinstance(each, str | int | np.integer):
            raise UserError(needed="item ids as text or whole numbers", came=f"{each!r}"[:60])
        out.append(str(each))
    return out


def unknown_of(ids: list[str], numbers: np.ndarray) -> tuple[str, ...]:
    """The ids whose number is below 0, in order."""
    return tuple(each for each, number in zip(ids, numbers, strict=True) if number < 0)
