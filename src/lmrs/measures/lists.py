"""Measures of what is in the lists, whether it was wanted or not: coverage, novelty, popularity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from lmrs.errors import ContractError
from lmrs.measures.ranks import check_cutoff


@dataclass(frozen=True, eq=False)
class Lists:
    """Recommended lists of Q queries and the training popularity they are judged by.

    items: integer[Q, K], best first, -1 where a list is shorter.
    counts: int64[V], training events of each item.
    history_offsets: int64[Q+1], history_items: integer[H]; what each query's user had before (only PopularityBias asks).
    """

    items: np.ndarray
    counts: np.ndarray
    history_offsets: np.ndarray | None = None
    history_items: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.items.ndim != 2 or self.items.max(initial=-1) >= len(self.counts):
            raise ContractError(
                needed=f"lists [Q, K] of items below {len(self.counts)}",
                came=f"{self.items.shape}, up to {self.items.max(initial=-1)}",
            )

    def __len__(self) -> int:
        return len(self.items)

    @property
    def n_empty(self) -> int:
        """Queries with no recommendation at all: they score 0 and are counted."""
        return int((self.items < 0).all(axis=1).sum())

    @cached_property
    def percentile(self) -> np.ndarray:
        """float64[V] in (0, 1): the share of items with fewer training events, plus half of those with as many."""
        tidy = np.sort(self.counts)
        return (np.searchsorted(tidy, self.counts, "left") + np.searchsorted(tidy, self.counts, "right")) / (2 * len(tidy))

    def cut(self, k: int) -> np.ndarray:
        """integer[Q, k]. Raises ContractError if fewer than k places were kept."""
        if k > self.items.shape[1]:
            raise ContractError(needed=f"lists of {k}", came=f"lists of {self.items.shape[1]}", remedy=f"rank with k={k}")
        return self.items[:, :k]

    def mean(self, values: np.ndarray, k: int) -> np.ndarray:
        """float64[Q]: the mean of `values` [V] over the first k of each list; 0 for an empty list."""
        items = self.cut(k)
        there = items >= 0
        return np.where(there, values[items], 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


@dataclass(frozen=True)
class Coverage:
    """The share of the catalogue that is in at least one list's first k: one number in [0, 1], not one a query.

    Catalogue coverage of Ge, Delgado-Battenfeld & Jannach 2010, section 3.
    """

    k: int
    reads: ClassVar[str] = "lists"
    per_query: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_cutoff("Coverage", self.k)

    def __str__(self) -> str:
        return f"Coverage@{self.k}"

    def __call__(self, lists: Lists) -> float:
        items = lists.cut(self.k)
        shown = np.zeros(len(lists.counts), bool)
        shown[items[items >= 0]] = True
        return float(shown.mean())


@dataclass(frozen=True)
class Novelty:
    """Mean self-information of the first k: mean of -log2 p(i), in bits (Zhou et al. 2010; Vargas & Castells 2011).

    p(i) = (c_i + 1) / (N + V) with c_i training events of the item and N of all: the added one keeps items that were never
    seen in training finite. float64[Q]; 0 for an empty list.
    """

    k: int
    reads: ClassVar[str] = "lists"
    per_query: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_cutoff("Novelty", self.k)

    def __str__(self) -> str:
        return f"Novelty@{self.k}"

    def __call__(self, lists: Lists) -> np.ndarray:
        bits = np.log2(lists.counts.sum() + len(lists.counts)) - np.log2(lists.counts + 1.0)
        return lists.mean(bits, self.k)


@dataclass(frozen=True)
class ARP:
    """Average recommendation popularity: mean training events of the first k (Yin et al. 2012). float64[Q]; 0 for no list."""

    k: int
    reads: ClassVar[str] = "lists"
    per_query: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_cutoff("ARP", self.k)

    def __str__(self) -> str:
        return f"ARP@{self.k}"

    def __call__(self, lists: Lists) -> np.ndarray:
        return lists.mean(lists.counts.astype(np.float64), self.k)


@dataclass(frozen=True)
class PopularityBias:
    """How much more popular the list is than the user's own history, in popularity percentiles.

    mean percentile of the first k - mean percentile of the history, where an item's percentile is its mid-rank among the
    V items by training events (`Lists.percentile`). In (-1, 1): 0 = as popular as what the user chose, > 0 = more
    popular. It is the group difference GAP_r - GAP_p of Abdollahpouri et al. 2019 ("The Unfairness of Popularity Bias in
    Recommendation", section 3), by user and in percentiles, so that a few blockbusters do not set the scale.
    float64[Q]; 0 for an empty list or an empty history.
    """

    k: int
    reads: ClassVar[str] = "lists"
    per_query: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_cutoff("PopularityBias", self.k)

    def __str__(self) -> str:
        return f"PopularityBias@{self.k}"

    def __call__(self, lists: Lists) -> np.ndarray:
        if lists.history_offsets is None or lists.history_items is None:
            raise ContractError(needed=f"the users' histories for {self}", came="lists without histories")
        length = np.diff(lists.history_offsets)
        query = np.repeat(np.arange(len(lists)), length)
        own = np.bincount(query, lists.percentile[lists.history_items], minlength=len(lists)) / np.maximum(length, 1)
        given = lists.mean(lists.percentile, self.k)
        return np.where((length > 0) & (lists.cut(self.k) >= 0).any(axis=1), given - own, 0.0)
