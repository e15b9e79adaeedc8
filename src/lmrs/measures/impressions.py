"""Judging impressions: the items shown are ranked, the clicked ones are the truth (Wu et al. 2020, MIND).

MIND reports, by impression and then averaged, AUC, NDCG@5, NDCG@10 (binary) and an MRR of its own: `AUC()`, `NDCG(5)`, `NDCG(10)`
and `MINDMRR()` on the Ranks of `rank_impressions`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmrs.errors import ContractError
from lmrs.measures.ranks import RankMeasure, Ranks


@dataclass(frozen=True)
class MINDMRR(RankMeasure):
    """MIND's "MRR": the mean of 1 / r_i over *all* true items of a query, not only the first (a miss gives 0). In (0, 1].

    It is not `MRR`: with two clicks the best possible value is (1 + 1/2) / 2.
    """

    def __str__(self) -> str:
        return "MINDMRR"

    def score(self, ranks: Ranks) -> np.ndarray:
        return ranks.total(np.where(ranks.rank > 0, 1.0 / np.maximum(ranks.rank, 1), 0.0)) / ranks.n_truth


def rank_impressions(*, offsets: np.ndarray, clicked: np.ndarray, score: np.ndarray, seed: int = 0) -> tuple[Ranks, np.ndarray]:
    """(Ranks, which impressions they are of): those with a clicked and an unclicked item; the others have no AUC.

    offsets: int64[n+1]; the items shown in impression i are `[offsets[i], offsets[i+1])` of the other two.
    clicked: bool[N]. score: finite float[N], higher is better. seed: of the order of equal scores (AUC counts them one half).

    Raises ContractError for a score that is not finite, and if no impression has both.
    """
    offsets, clicked, score = np.asarray(offsets, np.int64), np.asarray(clicked, bool), np.asarray(score, np.float64)
    if not (clicked.shape == score.shape == (offsets[-1],)):
        raise ContractError(needed=f"{offsets[-1]} flags and scores", came=f"{clicked.shape} and {score.shape}")
    shown = np.diff(offsets)
    group = np.repeat(np.arange(len(shown)), shown)
    if not np.isfinite(score).all():
        at = int(np.argmin(np.isfinite(score)))
        raise ContractError(
            needed="finite scores", came=f"{score[at]} at place {at - offsets[group[at]]} of impression {group[at]}"
        )
    clicks = np.bincount(group, clicked, minlength=len(shown)).astype(np.int64)
    kept = np.flatnonzero((clicks > 0) & (clicks < shown))
    if not len(kept):
        raise ContractError(needed="an impression with a clicked and an unclicked item", came=f"none in {len(shown):,}")
    tie = np.random.default_rng([seed, 11]).random(len(score))
    order = np.lexsort((tie, -score, group))
    tidy = score[order]
    opens = np.ones(len(score), bool)  # where a run of equal scores begins
    opens[1:] = (group[1:] != group[:-1]) | (tidy[1:] != tidy[:-1])
    starts = np.flatnonzero(opens)
    run = np.cumsum(opens) - 1
    first, size = starts[run], np.diff(np.r_[starts, len(score)])[run]
    begin = offsets[:-1][group]
    rank, greater, equal = np.empty((3, len(score)), np.int64)
    rank[order] = np.arange(len(score)) - begin + 1
    greater[order], equal[order] = first - begin, size - 1
    true = clicked & np.isin(group, kept)
    made = Ranks(
        offsets=np.concatenate([[0], np.cumsum(clicks[kept])]),
        rank=rank[true],
        n_candidates=shown[kept],
        greater=greater[true],
        equal=equal[true],
    )
    return made, kept
