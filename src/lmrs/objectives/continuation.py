"""Continuation: the next item as the network says it; a language model says its title after the prompt (LM; P5, TALLRec)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.models.network import Network
from lmrs.objectives.looking_back import LookingBack
from lmrs.objectives.next_item import NextItem, charged
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Continuation(LookingBack):
    """-log p(x_{t+1} | x_<=t) by the network's own `likelihood`; by default at one place t of every row.

    hidden: nothing. seen: the past. With models.Prompted(read="title") it is log p(title | prompt), summed over the title's
    tokens; with a table of items it is NextItem with the full softmax. places: as in NextItem.
    """

    places: str = "random"

    def __post_init__(self) -> None:
        NextItem(places=self.places)

    @property
    def weights(self) -> dict[str, float]:
        return {"title": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        return NextItem(places=self.places).corrupt(batch, vocab, rng)

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"title": int((prepared.channels["target"] >= 0).sum())}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        at = charged(prepared)
        places = torch.arange(prepared.n_positions, device=prepared.channels["target"].device) if at is None else at
        if not len(places):
            return {"title": next(network.parameters()).sum() * 0}
        target = prepared.channels["target"][places]
        return {"title": -network.likelihood(prepared, self.visible, places, target, rng).sum()}
