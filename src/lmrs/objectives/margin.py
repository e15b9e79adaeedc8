"""Margin: the next item must beat every other one by a margin (multi-class hinge, Crammer & Singer 2001, as a sum; LMRec)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.network import Network
from lmrs.objectives.looking_back import LookingBack
from lmrs.objectives.next_item import NextItem, charged
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Margin(LookingBack):
    """sum_{j != y} max(0, margin + s_j - s_y) over the V items of the catalogue, y the next item; by default at one place a row.

    hidden: nothing. seen: the past. s: the network's `verdicts`; with models.Prompted(read="masks") the items' probabilities at
    the masks. margin: > 0. places: as in NextItem. Siblings: Continuation (softmax over the catalogue). Not for networks that
    read a prompt for each candidate: they would read V of them a row.
    """

    margin: float = 1.0
    places: str = "random"

    def __post_init__(self) -> None:
        NextItem(places=self.places)
        if not 0 < self.margin < math.inf:
            raise ContractError(needed="a margin above 0", came=f"margin={self.margin}")

    @property
    def weights(self) -> dict[str, float]:
        return {"margin": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        return NextItem(places=self.places).corrupt(batch, vocab, rng)

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"margin": int((prepared.channels["target"] >= 0).sum())}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        at = charged(prepared)
        target = prepared.channels["target"]
        places = torch.arange(prepared.n_positions, device=target.device) if at is None else at
        if not len(places):
            return {"margin": next(network.parameters()).sum() * 0}
        every = torch.arange(vocab.n_items, device=target.device).expand(len(places), -1)
        scores = network.verdicts(prepared, self.visible, places, every, rng)  # (M, V)
        short = (self.margin + scores - scores.gather(1, target[places, None])).clamp_min(0)
        return {"margin": short.sum() - self.margin * len(places)}  # the true item falls short of itself by the margin
