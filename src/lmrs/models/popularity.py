"""Popularity controls: the same ranking for everybody."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.network import Control, ControlScorer
from lmrs.split import Train
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab

MICROSECONDS_A_DAY = 86_400_000_000


@dataclass(frozen=True)
class Popularity(Control):
    """score(i) = number of training events of i."""

    def build(self, vocab: Vocab) -> PopularityScorer:
        return PopularityScorer(vocab)


@dataclass(frozen=True)
class RecentPopularity(Control):
    """score(i) = training events of i in a recent window; items that are equal there are ordered by all their training events.

    days: the window reaches so many days back from the newest training event, > 0.
    share: where the data has no time, the newest share of every user's training events instead (rounded up), in (0, 1].
    """

    days: float = 30.0
    share: float = 0.1

    def __post_init__(self) -> None:
        if not self.days > 0:
            raise ContractError(needed="days above 0", came=f"days={self.days}")
        if not 0 < self.share <= 1:
            raise ContractError(needed="share in (0, 1]", came=f"share={self.share}")

    def build(self, vocab: Vocab) -> RecentPopularityScorer:
        return RecentPopularityScorer(self, vocab)


class _SameForAll(ControlScorer):
    """One number an item. appeal: float64[V]."""

    appeal: Tensor

    def __init__(self, vocab: Vocab) -> None:
        super().__init__()
        self.n_items = vocab.n_items
        self.register_buffer("appeal", torch.zeros(vocab.n_items, dtype=torch.float64))

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        return self.appeal.repeat(int(batch.channels["asked"].sum()), 1)


class PopularityScorer(_SameForAll):
    def estimate(self, train: Train) -> None:
        self.appeal = torch.from_numpy(train.counts().astype(np.float64))


class RecentPopularityScorer(_SameForAll):
    def __init__(self, model: RecentPopularity, vocab: Vocab) -> None:
        super().__init__(vocab)
        self.model = model

    def estimate(self, train: Train) -> None:
        places = train.events()[1]
        time = train.dataset.time
        if time is not None:
            when = time[places]
            recent = when > (when.max() if len(when) else 0) - self.model.days * MICROSECONDS_A_DAY
        else:
            old = train.lengths - np.ceil(self.model.share * train.lengths).astype(np.int64)
            recent = places >= np.repeat(train.start + old, train.lengths)
        counts = np.bincount(train.dataset.item[places[recent]], minlength=self.n_items)
        every = train.counts()
        # The second term is below 1, so it orders only items that the window cannot tell apart.
        self.appeal = torch.from_numpy(counts + every / (every.sum() + 1.0))
