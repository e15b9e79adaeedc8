"""A ranking measure taken among drawn negatives: a different measure with a different name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lmrs.errors import ContractError
from lmrs.measures.ranks import RankMeasure, Ranks, Sampling


@dataclass(frozen=True)
class Sampled:
    """`measure` among the truth and n drawn negatives. Its value neither equals nor orders systems like the exact one
    (Krichene & Rendle 2020, "On Sampled Metrics for Item Recommendation"), so it is only computed on request.

    n: negatives a query. by: "uniform" or "popularity". `str` is the measure's name with "/99neg" or "/100popneg" behind.
    """

    measure: RankMeasure
    n: int
    by: str = "uniform"
    reads: ClassVar[str] = "ranks"
    per_query: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.measure, RankMeasure):
            raise ContractError(needed="a ranking measure to sample", came=str(self.measure))
        Sampling(self.n, self.by)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.n, self.by)

    def __str__(self) -> str:
        return f"{self.measure}/{self.sampling}"

    def __call__(self, ranks: Ranks) -> np.ndarray:
        """float64[Q]. Raises ContractError if the ranks were not taken among just these negatives."""
        if ranks.sampling != self.sampling:
            got = "the whole catalogue" if ranks.sampling is None else ranks.sampling.label
            raise ContractError(needed=f"ranks among {self.sampling.label} for {self}", came=f"ranks in {got}")
        return self.measure(replace(ranks, sampling=None))
