"""Permuted: predict some events one after another in a random order (PLM; XLNet, Yang et al. 2019; Transformers4Rec)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmrs.batch import Batch, appended, from_rows
from lmrs.errors import ContractError
from lmrs.losses import Charge, FullSoftmax
from lmrs.models.network import Network
from lmrs.objectives.next_item import charge_targets, charged, with_negatives
from lmrs.visibility import Permutation, Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Permuted:
    """-sum over targets of log p(x_{z_t} | x_{z_<t}, context) for a random order z of the targets (XLNet, sections 2.2, 2.3).

    hidden: spans of 1 to `span` neighbouring events, one span in every stretch of (its length / share) events at a random place
    in it, so that about `share` of a long row is predicted; a row in which no span falls predicts one event drawn at random.
    seen: the events outside the spans, and the targets that come earlier in the order.
    share: in (0, 1]. span: at least 1.

    XLNet's query stream is laid out as extra positions: each target has a copy that holds the mask symbol at the same `position`,
    sees what the target may see, and is seen by nobody. So a row of n events with m targets has n + m positions and one stream of
    states. The question of test time is such a copy after the last event, which sees the whole history.
    Siblings: Cloze predicts its targets independently of each other; NextItem has the one order of time.
    """

    share: float = 1 / 6
    span: int = 5
    loss: Charge = FullSoftmax()  # noqa: RUF009 - a frozen value

    needs = ("item",)
    ahead = 0
    asks = 1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ContractError(needed="share in (0, 1]", came=f"share={self.share}")
        if self.span < 1:
            raise ContractError(needed="span of at least 1", came=f"span={self.span}")

    @property
    def weights(self) -> dict[str, float]:
        return {"permuted": 1.0}

    @property
    def visible(self) -> Visibility:
        return Permutation()

    @property
    def asked_visible(self) -> Visibility:
        return Permutation()

    def head(self, vocab: Vocab, dim: int) -> nn.Module | None:
        return None

    def targets(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """bool[N]: the events to predict, at least one in every row that has any."""
        lengths, rows = batch.lengths, batch.n_rows
        within = torch.arange(batch.n_positions) - torch.repeat_interleave(batch.offsets[:-1], lengths)
        chosen = torch.zeros(batch.n_positions, dtype=torch.bool)
        at = torch.zeros(rows, dtype=torch.int64)
        while bool((at < lengths).any()):
            size = torch.randint(1, self.span + 1, (rows,), generator=rng)
            stretch = (size / self.share + 1e-6).long()
            free = stretch - size + 1
            begin = at + torch.minimum((torch.rand(rows, generator=rng, dtype=torch.float64) * free).long(), free - 1)
            chosen |= (within >= begin[batch.row_of]) & (within < (begin + size)[batch.row_of])
            at = at + stretch
        count = torch.zeros(rows, dtype=torch.int64).index_add_(0, batch.row_of, chosen.long())
        lone = (torch.rand(rows, generator=rng, dtype=torch.float64) * lengths).long()
        missed = (count == 0) & (lengths > 0)
        chosen[(batch.offsets[:-1] + lone)[missed]] = True
        return chosen

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        chosen = self.targets(batch, rng)
        # Random keys inside rows, sorted, are a random order of each row's targets; everything else is context.
        key = torch.argsort(batch.row_of + torch.rand(batch.n_positions, generator=rng, dtype=torch.float64))
        rank = torch.empty(batch.n_positions, dtype=torch.int64)
        rank[key] = torch.arange(batch.n_positions) - torch.repeat_interleave(batch.offsets[:-1], batch.lengths)
        return with_negatives(two_streams(batch, torch.where(chosen, rank, -1), vocab), self.loss, vocab, rng)

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"permuted": int((prepared.channels["target"] >= 0).sum())}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        states = network(prepared, self.visible, rng, charged(prepared))
        return {"permuted": charge_targets(network, states, prepared, self.loss, vocab)}

    def ask(self, batch: Batch, vocab: Vocab) -> Batch:
        context = batch.with_channels(
            rank=torch.full((batch.n_positions,), -1), query=torch.zeros(batch.n_positions, dtype=torch.int64)
        )
        grown = appended(context, item=vocab.mask, rank=0, query=1)
        asked = torch.zeros(grown.n_positions, dtype=torch.bool)
        asked[grown.offsets[1:] - 1] = True
        return grown.with_channels(asked=asked)


def two_streams(batch: Batch, rank: Tensor, vocab: Vocab) -> Batch:
    """The batch with a query copy of every target behind its row, and the channels `rank`, `query` and `target` (-1 but at
    queries).

    rank: int64[N], the place of a target in the order of its row, -1 for context. Rows are sorted anew, since each grows by its
    own number of targets; row channels, `example` among them, go with their rows.
    """
    item = batch.channels["item"]
    copied = (rank >= 0).nonzero()[:, 0]
    source = torch.cat([torch.arange(batch.n_positions), copied])
    query = torch.cat([torch.zeros(batch.n_positions, dtype=torch.int64), torch.ones(len(copied), dtype=torch.int64)])
    source, query = (values[torch.argsort(batch.row_of[source], stable=True)] for values in (source, query))
    channels = {name: values[source] for name, values in batch.channels.items()}
    channels |= {
        "item": torch.where(query == 1, vocab.mask, item[source]),
        "rank": rank[source],
        "query": query,
        "target": torch.where(query == 1, item[source], -1),
    }
    lengths = torch.bincount(batch.row_of[source], minlength=batch.n_rows)
    return replace(from_rows(channels, lengths, batch.rows), extra=batch.extra, parts=batch.parts)
