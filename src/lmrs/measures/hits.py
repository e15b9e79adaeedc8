"""Measures that count hits in the first k, whatever their order. Below, h is the number of hits and n of true items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmrs.measures.ranks import RankMeasure, Ranks, check_cutoff


@dataclass(frozen=True)
class HR(RankMeasure):
    """Hit rate: 1 if any true item is among the first k, else 0. With one true item it equals Recall."""

    k: int

    def __post_init__(self) -> None:
        check_cutoff("HR", self.k)

    def __str__(self) -> str:
        return f"HR@{self.k}"

    def score(self, ranks: Ranks) -> np.ndarray:
        return (ranks.hits(self.k) > 0).astype(np.float64)


@dataclass(frozen=True)
class Recall(RankMeasure):
    """h / n: the share of the true items that is among the first k. The denominator is n also where n > k."""

    k: int

    def __post_init__(self) -> None:
        check_cutoff("Recall", self.k)

    def __str__(self) -> str:
        return f"Recall@{self.k}"

    def score(self, ranks: Ranks) -> np.ndarray:
        return ranks.hits(self.k) / ranks.n_truth


@dataclass(frozen=True)
class Precision(RankMeasure):
    """h / k: the share of the first k places that hold a true item. The denominator is k also where the list is shorter."""

    k: int

    def __post_init__(self) -> None:
        check_cutoff("Precision", self.k)

    def __str__(self) -> str:
        return f"Precision@{self.k}"

    def score(self, ranks: Ranks) -> np.ndarray:
        return ranks.hits(self.k) / self.k


@dataclass(frozen=True)
class F1(RankMeasure):
    """2 h / (k + n): the harmonic mean of Precision@k and Recall@k, taken query by query."""

    k: int

    def __post_init__(self) -> None:
        check_cutoff("F1", self.k)

    def __str__(self) -> str:
        return f"F1@{self.k}"

    def score(self, ranks: Ranks) -> np.ndarray:
        return 2.0 * ranks.hits(self.k) / (self.k + ranks.n_truth)
