"""Cloze: hide some events of a sequence and predict them from both sides (MLM; BERT4Rec)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch, appended
from lmrs.errors import ContractError
from lmrs.losses import Charge, FullSoftmax
from lmrs.models.network import Network
from lmrs.objectives.next_item import charge_targets, charged, with_negatives
from lmrs.visibility import Full, Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Cloze:
    """Mean over hidden positions of -log p(item | the sequence with those positions hidden).

    hide: share of a row that is hidden, in (0, 1]. A row of n events hides k = min(most, max(1, round(n hide))) of them, drawn
    anew for every batch (the released BERT4Rec code draws a number of fixed copies instead). Hidden positions always hold the
    mask symbol: the 80/10/10 rule of BERT is switched off there, too.
    last: share of the rows that hide their last event *alone*, which is the question of test time (BERT4Rec: one copy in eleven).
    keep_one: never hide a whole row (Transformers4Rec). most: largest number of hidden positions in a row, or None.
    """

    hide: float = 0.2
    last: float = 0.0
    most: int | None = None
    keep_one: bool = False
    loss: Charge = FullSoftmax()  # noqa: RUF009 - a frozen value

    needs = ("item",)
    ahead = 0
    asks = 1

    def __post_init__(self) -> None:
        if not 0 < self.hide <= 1:
            raise ContractError(needed="hide in (0, 1]", came=f"hide={self.hide}")
        if not 0 <= self.last <= 1:
            raise ContractError(needed="last in [0, 1]", came=f"last={self.last}")

    @property
    def weights(self) -> dict[str, float]:
        return {"cloze": 1.0}

    @property
    def visible(self) -> Visibility:
        return Full()

    @property
    def asked_visible(self) -> Visibility:
        return Full()

    def head(self, vocab: Vocab, dim: int) -> nn.Module | None:
        return None

    def hidden(self, batch: Batch, rng: torch.Generator) -> Tensor:
        """bool[N]: the positions to hide."""
        lengths = batch.lengths
        k = torch.round(lengths * self.hide).long().clamp_min(1)
        if self.most is not None:
            k.clamp_(max=self.most)
        if self.keep_one:
            k = torch.minimum(k, (lengths - 1).clamp_min(0))
        # Sorting random keys inside rows gives every set of k positions the same chance.
        key = batch.row_of + torch.rand(batch.n_positions, generator=rng, dtype=torch.float64)
        order = torch.argsort(key)
        place = torch.arange(batch.n_positions) - torch.repeat_interleave(batch.offsets[:-1], lengths)
        found = torch.zeros(batch.n_positions, dtype=torch.bool)
        found[order] = place < k[batch.row_of]
        only_last = torch.rand(batch.n_rows, generator=rng) < self.last
        if self.last:
            found &= ~only_last[batch.row_of]
            found[batch.last[only_last]] = True
        return found

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        item = batch.channels["item"]
        hidden = self.hidden(batch, rng)
        target = torch.where(hidden, item, -1)
        return with_negatives(
            batch.with_channels(item=torch.where(hidden, vocab.mask, item), target=target), self.loss, vocab, rng
        )

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"cloze": int((prepared.channels["target"] >= 0).sum())}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        states = network(prepared, self.visible, rng, charged(prepared))
        return {"cloze": charge_targets(network, states, prepared, self.loss, vocab)}

    def ask(self, batch: Batch, vocab: Vocab) -> Batch:
        grown = appended(batch, item=vocab.mask)
        asked = torch.zeros(grown.n_positions, dtype=torch.bool)
        asked[grown.offsets[1:] - 1] = True
        return grown.with_channels(asked=asked)
