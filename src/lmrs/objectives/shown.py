"""Shown: which of the items of one impression was clicked (NRMS, PLM-NR: a softmax; PREC, Prompt4NR: one by one)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.models.ensemble import members
from lmrs.models.network import Network
from lmrs.visibility import Full, Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Shown:
    """With s the network's `verdicts` on the items shown, asked at the last position of the history:

    by_item=False: sum over clicked c of -log(exp s_c / (exp s_c + sum_{u unclicked} exp s_u)), counted by clicks.
    by_item=True: sum over items of the binary cross-entropy of s, counted by items.
    hidden: nothing. seen: the history and the item. visible: how the network reads the history, all of it past.
    An ensemble is charged member by member: each learns as if it were alone.
    """

    by_item: bool = False
    visible: Visibility = Full()  # noqa: RUF009 - a frozen value

    needs = ("item", "candidates", "clicked")
    ahead = 0
    asks = 0

    @property
    def weights(self) -> dict[str, float]:
        return {"shown": 1.0}

    @property
    def asked_visible(self) -> Visibility:
        return self.visible

    def head(self, vocab: Vocab, dim: int) -> nn.Module | None:
        return None

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        return batch

    def counts(self, prepared: Batch) -> dict[str, int]:
        counted = prepared.rows["candidates"] >= 0 if self.by_item else prepared.rows["clicked"]
        return {"shown": int(counted.sum())}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        candidates, clicked = prepared.rows["candidates"], prepared.rows["clicked"]
        total = next(network.parameters()).sum() * 0
        if not len(candidates):
            return {"shown": total}
        real = candidates >= 0
        for each in members(network):
            found = each.verdicts(prepared, self.visible, prepared.last, candidates.clamp_min(0), rng)
            if self.by_item:
                costs = F.binary_cross_entropy_with_logits(found, clicked.to(found), reduction="none")
                total = total + costs[real].sum()
                continue
            others = found.masked_fill(clicked | ~real, -torch.inf).logsumexp(1, keepdim=True)
            total = total + F.softplus(others - found)[clicked].sum()
        return {"shown": total}

    def ask(self, batch: Batch, vocab: Vocab) -> Batch:
        asked = torch.zeros(batch.n_positions, dtype=torch.bool)
        asked[(batch.offsets[1:] - 1)[batch.lengths > 0]] = True
        return batch.with_channels(asked=asked)
