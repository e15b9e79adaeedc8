"""Measures that reward hits near the top. Below, n true items have the ranks r_1 < r_2 < ... (misses left out)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmrs.measures.ranks import WHOLE, RankMeasure, Ranks, check_cutoff, discounts


def _name(word: str, k: int | None) -> str:
    return word if k is None else f"{word}@{k}"


@dataclass(frozen=True)
class NDCG(RankMeasure):
    """Normalised discounted cumulative gain with binary relevance (Järvelin & Kekäläinen 2002, base-2 logarithm).

    sum over r_i <= k of 1 / log2(r_i + 1), divided by the same sum for the ideal list, which has min(k, n) hits on top.
    k: cutoff, >= 1, or None for the whole ranking. In [0, 1].
    """

    k: int | None = None

    def __post_init__(self) -> None:
        check_cutoff("NDCG", self.k, optional=True)

    def __str__(self) -> str:
        return _name("NDCG", self.k)

    def score(self, ranks: Ranks) -> np.ndarray:
        deepest = int(max(ranks.rank.max(initial=0), ranks.n_truth.max(initial=1)))
        table = discounts(min(self.k or deepest, deepest))
        ideal = np.cumsum(table)
        return ranks.gains(table) / ideal[np.minimum(ranks.n_truth, len(table) - 1)]


@dataclass(frozen=True)
class MRR(RankMeasure):
    """Reciprocal rank of the first true item, 1 / r_1, and 0 if r_1 > k (Voorhees 1999).

    Not the mean over all clicked items that some news benchmarks call MRR. k: cutoff, >= 1, or None. In [0, 1].
    """

    k: int | None = None

    def __post_init__(self) -> None:
        check_cutoff("MRR", self.k, optional=True)

    def __str__(self) -> str:
        return _name("MRR", self.k)

    def score(self, ranks: Ranks) -> np.ndarray:
        first = ranks.first()
        hit = (first > 0) & (first <= (self.k or WHOLE))
        return np.where(hit, 1.0 / np.maximum(first, 1), 0.0)


@dataclass(frozen=True)
class MAP(RankMeasure):
    """Average precision: sum over r_i <= k of i / r_i, divided by min(k, n).

    The denominator min(k, n) makes 1 reachable; trec_eval's map_cut divides by n, others by k. Without a cutoff it is
    n and all agree. k: cutoff, >= 1, or None. In [0, 1].
    """

    k: int | None = None

    def __post_init__(self) -> None:
        check_cutoff("MAP", self.k, optional=True)

    def __str__(self) -> str:
        return _name("MAP", self.k)

    def score(self, ranks: Ranks) -> np.ndarray:
        if ranks.single:
            return MRR(self.k).score(ranks)
        k = self.k or WHOLE
        query, rank = ranks.ordered(k)
        starts = np.searchsorted(query, np.arange(len(ranks)))
        place = np.arange(1, len(query) + 1) - starts[query]  # i: how many hits up to this one
        return np.bincount(query, place / rank, minlength=len(ranks)) / np.minimum(ranks.n_truth, k)
