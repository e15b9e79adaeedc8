"""Who stands in the denominator: negatives as values, with the probabilities they were drawn with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.vocab import Vocab


@dataclass(frozen=True, eq=False)
class Drawn:
    """Negatives of a batch.

    items: int64[K] shared by all positions, or int64[M, K] for each. log_q: [V] log-probability of one draw, or None for uniform.
    draws: K. n_items: V.
    """

    items: Tensor
    log_q: Tensor | None
    draws: int
    n_items: int

    def log_expected(self, items: Tensor) -> Tensor | float:
        """log of the expected number of times that each item is drawn: log(K q)."""
        if self.log_q is None:
            return float(np.log(self.draws / self.n_items))
        return self.log_q[items] + float(np.log(self.draws))

    def each(self, positions: int) -> Tensor:
        """int64[M, K]: the negatives of each position."""
        return self.items if self.items.ndim == 2 else self.items.expand(positions, -1)


@dataclass(frozen=True)
class Uniform:
    """k items drawn uniformly with replacement. shared: the same k for the whole batch.

    unseen (not with shared): items of the position's own row are drawn again (up to 8 times; on a catalogue
    that the row nearly exhausts a seen item may remain).
    """

    k: int = 1
    shared: bool = False
    unseen: bool = True


@dataclass(frozen=True)
class ByPopularity:
    """k items drawn with probability ~ (training count)^alpha: 1 by count, .75 or .5 flatter, 0 uniform over seen items."""

    k: int = 1
    alpha: float = 1.0
    shared: bool = False
    unseen: bool = True


Negatives = Uniform | ByPopularity


def probabilities(negatives: Negatives, vocab: Vocab) -> Tensor | None:
    """float64[V] probabilities of one draw, or None for uniform."""
    if isinstance(negatives, Uniform):
        return None
    if vocab.counts is None:
        raise ContractError(
            needed="training counts for popularity negatives", came="a vocabulary without counts", remedy="train with fit"
        )
    weight = torch.from_numpy(np.asarray(vocab.counts, np.float64)) ** negatives.alpha
    weight[torch.from_numpy(np.asarray(vocab.counts)) == 0] = 0
    return weight / weight.sum()


def draw(negatives: Negatives, batch: Batch, at: Tensor, vocab: Vocab, rng: torch.Generator) -> Drawn:
    """Draw for the positions `at` (int64[M], flat places in the batch) with a generator: a pure function of its arguments."""
    share = probabilities(negatives, vocab)
    log_q = None if share is None else share.clamp_min(1e-38).log().float()

    def some(count: int) -> Tensor:
        if share is None:
            return torch.randint(vocab.n_items, (count,), generator=rng)
        edges = share.cumsum(0)
        return torch.searchsorted(edges, torch.rand(count, dtype=torch.float64, generator=rng) * edges[-1]).clamp_(
            max=vocab.n_items - 1
        )

    if negatives.shared:
        return Drawn(some(negatives.k), log_q, negatives.k, vocab.n_items)
    items = some(len(at) * negatives.k).view(len(at), negatives.k)
    if negatives.unseen:
        key = batch.row_of * vocab.n_symbols
        seen = torch.unique(key + batch.channels["item"])
        if "target" in batch.channels:
            wanted = batch.channels["target"]
            seen = torch.unique(torch.cat([seen, (key + wanted)[wanted >= 0]]))
        row = key[at, None]
        for _ in range(8):
            place = torch.searchsorted(seen, row + items).clamp_(max=len(seen) - 1)
            clash = seen[place] == row + items
            count = int(clash.sum())
            if not count:
                break
            items[clash] = some(count)
    return Drawn(items, log_q, negatives.k, vocab.n_items)
