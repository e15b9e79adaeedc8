"""Replaced: which events did the model itself put there? (RTD; ELECTRA, Clark et al. 2020; Transformers4Rec)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import FullSoftmax, Output
from lmrs.models.network import Network
from lmrs.objectives.cloze import Cloze
from lmrs.objectives.next_item import charge_targets, charged
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Replaced:
    """L = L_cloze + weight * mean_t BCE(D(x')_t, [x'_t != x_t]), generator and discriminator on one tower.

    hidden: the positions of `cloze`. They are filled again with items drawn from the generator's own softmax, without gradient;
    x' is the filled sequence. A draw that hits the true item is not "replaced". The discriminator (dense, GELU, one logit; in
    `head`) judges every position, so each position of the row gives a signal. seen: both sides.
    cloze: the generator's signal, which also asks. weight: lambda, >= 0. pool: fill from the whole "catalogue" or from the items
    hidden in the "batch".

    The draw needs the model and so happens in `charge`, but its randomness does not: `corrupt` gives each position one uniform
    number, which `charge` sends through the inverse of the cumulated softmax. The law is that of Gumbel noise, and sharding
    cannot change it.
    Siblings: Cloze is the generator alone.
    """

    cloze: Cloze = Cloze(hide=0.3, keep_one=True, loss=FullSoftmax())  # noqa: RUF009 - a frozen value
    weight: float = 1.0
    pool: str = "catalogue"

    needs = ("item",)
    ahead = 0
    asks = 1

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ContractError(needed="weight of at least 0", came=f"weight={self.weight}")
        if self.pool not in ("catalogue", "batch"):
            raise ContractError(needed="pool 'catalogue' or 'batch'", came=repr(self.pool))

    @property
    def weights(self) -> dict[str, float]:
        return {"cloze": 1.0, "replaced": self.weight}

    @property
    def visible(self) -> Visibility:
        return self.cloze.visible

    @property
    def asked_visible(self) -> Visibility:
        return self.cloze.asked_visible

    def head(self, vocab: Vocab, dim: int) -> nn.Module:
        return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1))

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        prepared = self.cloze.corrupt(batch, vocab, rng)
        dice = torch.rand(batch.n_positions, generator=rng, dtype=torch.float64)
        prepared = prepared.with_channels(original=batch.channels["item"], dice=dice)
        if self.pool == "catalogue":
            return prepared
        target = prepared.channels["target"]
        return replace(prepared, extra={**prepared.extra, "pool": torch.unique(target[target >= 0])})

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {**self.cloze.counts(prepared), "replaced": prepared.n_positions}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        assert head is not None
        states = network(prepared, self.visible, rng, charged(prepared))
        filled = self.filled(network, states, prepared)
        fake = (filled != prepared.channels["original"]).to(states.dtype)
        logit = head(network(prepared.with_channels(item=filled), self.visible, rng))[:, 0]
        return {
            "cloze": charge_targets(network, states, prepared, self.cloze.loss, vocab),
            "replaced": F.binary_cross_entropy_with_logits(logit.to(fake), fake, reduction="sum"),
        }

    @torch.no_grad()
    def filled(self, network: Network, states: Tensor, prepared: Batch) -> Tensor:
        """int64[N]: the items, with a draw from the generator at every hidden position. states: [M, D] of those."""
        original, hidden = prepared.channels["original"], prepared.channels["target"] >= 0
        pool = prepared.extra.get("pool")
        output = network.output()
        if pool is not None:
            output = Output(output.table[pool], None if output.bias is None else output.bias[pool])
        drawn = sample(network.read(states), output, prepared.channels["dice"][hidden])
        filled = original.clone()
        filled[hidden] = drawn if pool is None else pool[drawn]
        return filled

    def ask(self, batch: Batch, vocab: Vocab) -> Batch:
        return self.cloze.ask(batch, vocab)


@torch.no_grad()
def sample(states: Tensor, output: Output, dice: Tensor, *, block: int = 256) -> Tensor:
    """int64[M]: one item for each state [M, E], item i with probability softmax(scores)_i: the first whose cumulated probability
    passes dice (float64[M] in [0, 1)). Holds block x V scores at once."""
    found = [torch.zeros(0, dtype=torch.int64, device=states.device)]
    for part, roll in zip(states.split(block), dice.split(block), strict=True):
        edges = output.scores(part).double().softmax(1).cumsum(1)  # (block, V)
        found.append(torch.searchsorted(edges, roll[:, None] * edges[:, -1:], right=True)[:, 0].clamp_(max=edges.shape[1] - 1))
    return torch.cat(found)
