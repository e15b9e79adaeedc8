"""Area under the ROC curve: how often a true item scores higher than a false one; ties count one half."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmrs.errors import ContractError
from lmrs.measures.ranks import RankMeasure, Ranks

WEIGHTS = ("uniform", "positives", "candidates")


@dataclass(frozen=True)
class AUC(RankMeasure):
    """The share of (true, false) candidate pairs of a query in the right order, ties 1/2; a constant model scores 0.5.

    1 - (G - n(n-1)/2) / (n m) with n true items, m = n_candidates - n false ones, and G the sum over true items of
    (candidates that score higher + half of those that score the same); the n(n-1)/2 are the pairs of true items among
    themselves. A query whose candidates are all true has no such pair and scores 0. For labelled pairs see `auc`.
    """

    def __str__(self) -> str:
        return "AUC"

    def score(self, ranks: Ranks) -> np.ndarray:
        return _by_query(ranks)[0]


@dataclass(frozen=True)
class GAUC(RankMeasure):
    """AUC by user, averaged over the users who have both classes (Zhu et al. 2017, "Optimized Cost per Click", eq. 11).

    weight: "uniform" (every user the same), "positives" (by true items) or "candidates" (by impressions, as in the paper).
    The values carry the weights, w_q Q / sum(w), so that their plain mean is the weighted mean; one-class users weigh 0.
    """

    weight: str = "uniform"

    def __post_init__(self) -> None:
        _check_weight(self.weight)

    def __str__(self) -> str:
        return "GAUC" if self.weight == "uniform" else f"GAUC[{self.weight}]"

    def score(self, ranks: Ranks) -> np.ndarray:
        value, defined = _by_query(ranks)
        weight = _weigh(self.weight, positives=ranks.n_truth, candidates=ranks.n_candidates) * defined
        if not weight.sum():
            return np.zeros(len(ranks))
        return value * weight * (len(ranks) / weight.sum())


def auc(label: np.ndarray, score: np.ndarray) -> float:
    """AUC of N labelled scores pooled over all users. label: 0/1 [N]; score: finite float [N].

    Raises ContractError for a score that is not finite and if only one class is there.
    """
    value, positives, total = _grouped(np.zeros(len(label), np.int64), label, score)
    if not len(total) or positives[0] in (0, total[0]):
        raise ContractError(needed="true and false examples for AUC", came=f"one class only in {len(label):,} examples")
    return float(value[0])


def gauc(group: np.ndarray, label: np.ndarray, score: np.ndarray, *, weight: str = "uniform") -> float:
    """GAUC of N labelled scores. group: integer [N], whose example it is. weight: as in GAUC.

    Groups of one class are left out. Raises ContractError if no group has both classes or a score is not finite.
    """
    _check_weight(weight)
    value, positives, total = _grouped(np.asarray(group), label, score)
    both = (positives > 0) & (positives < total)
    if not both.any():
        raise ContractError(needed="a group with true and false examples for GAUC", came=f"none in {len(total):,} groups")
    return float(np.average(value[both], weights=_weigh(weight, positives=positives, candidates=total)[both]))


def _by_query(ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
    """(float64[Q], bool[Q]): AUC of each query, and whether it is defined (0 where not)."""
    if ranks.greater is None or ranks.equal is None:
        raise ContractError(
            needed="counts of candidates above and beside each true item for AUC",
            came="top-k lists",
            remedy="rank all candidates (answers.rank)",
        )
    n = ranks.n_truth
    lost = ranks.total(ranks.greater + 0.5 * ranks.equal) - n * (n - 1) / 2
    pairs = n * (ranks.n_candidates - n)
    return np.where(pairs > 0, 1.0 - lost / np.maximum(pairs, 1), 0.0), pairs > 0


def _grouped(group: np.ndarray, label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(AUC, positives, examples) of each group in rising order; AUC is 0 where a class is missing (Mann & Whitney 1947)."""
    label, score = np.asarray(label, bool), np.asarray(score, np.float64)
    if not len(group) == len(label) == len(score):
        raise ContractError(
            needed="as many labels as scores", came=f"{len(label)} labels, {len(score)} scores, {len(group)} groups"
        )
    if not np.isfinite(score).all():
        raise ContractError(
            needed="finite scores", came=f"{score[~np.isfinite(score)][0]} at place {np.argmin(np.isfinite(score))}"
        )
    order = np.lexsort((score, group))
    group, label, score = np.asarray(group)[order], label[order], score[order]
    at = np.arange(len(group))
    opens = np.r_[True, group[1:] != group[:-1]][: len(group)]
    start = np.flatnonzero(opens)
    fresh = np.flatnonzero(opens | np.r_[True, score[1:] != score[:-1]][: len(group)])  # where a run of equal scores begins
    run = np.repeat(np.arange(len(fresh)), np.diff(np.r_[fresh, len(group)]))
    ends = np.r_[fresh[1:], len(group)] - 1
    place = np.repeat(np.arange(len(start)), np.diff(np.r_[start, len(group)]))
    rank = (at[fresh] + ends)[run] / 2 + 1 - start[place]  # 1-based, averaged over ties
    total = np.bincount(place, minlength=len(start))
    positives = np.bincount(place, label, minlength=len(start)).astype(np.int64)
    above = np.bincount(place, rank * label, minlength=len(start)) - positives * (positives + 1) / 2
    return above / np.maximum(positives * (total - positives), 1), positives, total


def _weigh(weight: str, *, positives: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return {"uniform": np.ones(len(positives)), "positives": positives, "candidates": candidates}[weight].astype(np.float64)


def _check_weight(weight: str) -> None:
    if weight not in WEIGHTS:
        raise ContractError(needed=f"a GAUC weight of {', '.join(WEIGHTS)}", came=repr(weight))
