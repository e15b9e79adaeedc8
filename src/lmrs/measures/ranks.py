"""What a ranking measure reads: where the true items of every query ended up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from lmrs.errors import ContractError

WHOLE = np.iinfo(np.int64).max  # a cutoff that cuts nothing


@dataclass(frozen=True)
class Sampling:
    """Ranking against drawn negatives instead of the whole catalogue.

    n: negatives a query, >= 1. by: "uniform", or "popularity" (in proportion to training events).

    >>> str(Sampling(99)), Sampling(100, "popularity").label
    ('99neg', '100 popularity negatives')
    """

    n: int
    by: str = "uniform"

    def __post_init__(self) -> None:
        if self.by not in ("uniform", "popularity") or not _is_count(self.n):
            raise ContractError(
                needed="n >= 1 negatives drawn by 'uniform' or 'popularity'", came=f"n={self.n!r}, by={self.by!r}"
            )

    @property
    def label(self) -> str:
        """How the protocol card names it."""
        return f"{self.n} {self.by} negatives"

    def __str__(self) -> str:
        return f"{self.n}{'pop' if self.by == 'popularity' else ''}neg"


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks of the true items of Q queries, T in all.

    offsets: int64[Q+1]; the true items of query q are `[offsets[q], offsets[q+1])`, at least one, distinct.
    rank: int64[T], 1 = best; 0 = the system did not offer the item at all (a miss at every cutoff).
    n_candidates: int64[Q], how many items were ranked, the truth included.
    greater, equal: int64[T], how many other candidates scored higher than / the same as the item; AUC needs them.
    sampling: None if the whole catalogue was ranked.

    Raises ContractError for a query without a true item and for ranks outside 0..n_candidates.
    """

    offsets: np.ndarray
    rank: np.ndarray
    n_candidates: np.ndarray
    greater: np.ndarray | None = None
    equal: np.ndarray | None = None
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        offsets = np.asarray(self.offsets)
        if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(self.rank):
            raise ContractError(
                needed=f"offsets from 0 to {len(self.rank)}, the number of ranks", came=f"offsets {offsets[:1]}..{offsets[-1:]}"
            )
        if len(self.n_candidates) != len(offsets) - 1:
            raise ContractError(needed=f"n_candidates for {len(offsets) - 1} queries", came=f"{len(self.n_candidates)}")
        empty = np.flatnonzero(np.diff(offsets) < 1)
        if len(empty):
            raise ContractError(
                needed="at least one true item a query",
                came=f"{len(empty):,} without, the first at place {empty[0]}",
                remedy="leave out queries that have no answer",
            )
        if len(self.rank):
            top = self.n_candidates if self.single else np.repeat(self.n_candidates, self.n_truth)
            if self.rank.min() < 0 or (self.rank > top).any():
                raise ContractError(needed="ranks in 0..n_candidates", came=f"ranks {self.rank.min()}..{self.rank.max()}")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def single(self) -> bool:
        """Every query has exactly one true item."""
        return len(self.rank) == len(self)

    @cached_property
    def n_truth(self) -> np.ndarray:
        """int64[Q]: true items of each query."""
        return np.diff(self.offsets)

    @cached_property
    def query(self) -> np.ndarray:
        """int64[T]: the place (0..Q-1) of the query each rank belongs to."""
        return np.repeat(np.arange(len(self)), self.n_truth)

    def total(self, values: np.ndarray) -> np.ndarray:
        """[Q]: the sum of `values` [T] over each query's true items."""
        return values if self.single else np.add.reduceat(values, self.offsets[:-1])

    def hits(self, k: int) -> np.ndarray:
        """int64[Q]: true items among the first k."""
        return self.total((self.rank - 1).view(np.uint64) < k if self.single else self._within(k).astype(np.int64)).astype(
            np.int64
        )

    def gains(self, table: np.ndarray) -> np.ndarray:
        """float64[Q]: the sum of `table[rank]`; table[0] stands for a miss, ranks beyond the table gain nothing."""
        return self.total(np.append(table, 0.0)[np.minimum(self.rank, len(table))])

    def first(self) -> np.ndarray:
        """int64[Q]: the best rank of each query, 0 if none of its true items was offered."""
        if self.single:
            return self.rank
        best = np.minimum.reduceat(np.where(self.rank == 0, WHOLE, self.rank), self.offsets[:-1])
        return np.where(best == WHOLE, 0, best)

    def ordered(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(query, rank) of the hits among the first k, by query and then by rank."""
        at = np.flatnonzero(self._within(k))
        wide = int(self.rank.max(initial=0)) + 1
        key = np.sort(self.query[at] * wide + self.rank[at])
        query = key // wide
        return query, key - query * wide

    def _within(self, k: int) -> np.ndarray:
        return (self.rank > 0) & (self.rank <= k)

    @classmethod
    def from_lists(cls, lists: np.ndarray, *, offsets: np.ndarray, items: np.ndarray, n_candidates: int | np.ndarray) -> Ranks:
        """Ranks of true items in given top-k lists.

        lists: integer[Q, K], best first, -1 where a list is shorter. offsets, items: the true items of each query.
        n_candidates: what was ranked (one number or one a query). A true item outside its list is a miss (rank 0).
        Raises ContractError for a list that names an item twice: such a list could score above 1.
        """
        rank = np.zeros(len(items), np.int64)
        query = np.repeat(np.arange(len(lists)), np.diff(offsets))
        rows = max(1, 2**22 // max(1, lists.shape[1]))  # bounded memory: a block of 4 Mi cells
        for at in range(0, len(lists), rows):
            tidy = np.sort(lists[at : at + rows], axis=1)
            again = (tidy[:, 1:] == tidy[:, :-1]) & (tidy[:, 1:] >= 0)
            if again.any():
                row, cell = np.argwhere(again)[0]
                raise ContractError(
                    needed="lists that name an item once",
                    came=f"item {tidy[row, cell]} twice in list {at + row}",
                    remedy="remove repeats before judging",
                )
        for at in range(0, len(items), rows):
            here = slice(at, at + rows)
            match = lists[query[here]] == np.asarray(items)[here, None].astype(lists.dtype)
            rank[here] = np.where(match.any(axis=1), match.argmax(axis=1) + 1, 0)
        counts = np.broadcast_to(np.asarray(n_candidates, np.int64), (len(lists),))
        return cls(np.asarray(offsets, np.int64), rank, counts)


class RankMeasure(ABC):
    """A value that turns Ranks into one float64 a query: `NDCG(10)(ranks) -> float64[Q]`."""

    reads: ClassVar[str] = "ranks"
    per_query: ClassVar[bool] = True

    def __call__(self, ranks: Ranks) -> np.ndarray:
        """float64[Q]. Raises ContractError for sampled ranks: a sampled number must not carry the exact one's name."""
        if ranks.sampling is not None:
            raise ContractError(
                needed=f"ranks in the whole catalogue for {self}",
                came=f"ranks among {ranks.sampling.label}",
                remedy=f"ask for '{self}/{ranks.sampling}', a different measure",
            )
        return self.score(ranks)

    @abstractmethod
    def score(self, ranks: Ranks) -> np.ndarray:
        """float64[Q], whatever was ranked."""


def _is_count(k: object) -> bool:
    return isinstance(k, int) and not isinstance(k, bool) and k >= 1


def check_cutoff(name: str, k: int | None, *, optional: bool = False) -> None:
    """Raises ContractError unless k is a whole number >= 1 (or None where a measure may read the whole ranking)."""
    if not (_is_count(k) or (optional and k is None)):
        raise ContractError(needed=f"a cutoff k >= 1 for {name}", came=repr(k), remedy=f"write {name}(10) or '{name}@10'")


def discounts(k: int) -> np.ndarray:
    """float64[k+1]: 1 / log2(rank + 1) at 1..k, and 0 at place 0 (a miss)."""
    return np.concatenate([[0.0], 1.0 / np.log2(np.arange(2, k + 2))])
