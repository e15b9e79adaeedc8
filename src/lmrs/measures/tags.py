"""Measures of tags for a post, as PTM4Tag counts them (He et al. 2022, section 4). h: hits, n: tags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmrs.measures.ranks import RankMeasure, Ranks, check_cutoff


@dataclass(frozen=True)
class TagRecall(RankMeasure):
    """h / min(k, n): a list of k can be perfect for a post with more than k tags. `Recall` divides by n."""

    k: int

    def __post_init__(self) -> None:
        check_cutoff("TagRecall", self.k)

    def __str__(self) -> str:
        return f"TagRecall@{self.k}"

    def score(self, ranks: Ranks) -> np.ndarray:
        return ranks.hits(self.k) / np.minimum(self.k, ranks.n_truth)


@dataclass(frozen=True)
class TagF1(RankMeasure):
    """2 h / (k + min(k, n)): the harmonic mean of Precision@k and TagRecall@k, post by post."""

    k: int

    def __post_init__(self) -> None:
        check_cutoff("TagF1", self.k)

    def __str__(self) -> str:
        return f"TagF1@{self.k}"

    def score(self, ranks: Ranks) -> np.ndarray:
        return 2.0 * ranks.hits(self.k) / (self.k + np.minimum(self.k, ranks.n_truth))
