"""Verdict: one candidate at a time, is it the next one, yes or no (binary cross-entropy; TALLRec, Prompt4NR, P5's family 5)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import BCE
from lmrs.models.network import Network
from lmrs.negatives import Negatives, Uniform
from lmrs.objectives.looking_back import LookingBack
from lmrs.objectives.next_item import NextItem, charged, with_negatives
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Verdict(LookingBack):
    """-log sig(s(x_{t+1})) - sum_k log sig(-s(x-_k)) with s = `Network.verdicts`, the log-odds of yes; at one place a row.

    hidden: nothing. seen: the past and the candidate. negatives: drawn for each place, k of them (not shared). places: as in
    NextItem. With models.Prompted(read="words") s is log p(yes) - log p(no) after a prompt that names the candidate; with a table
    of items it is the score, and this is NextItem with the loss BCE.
    """

    negatives: Negatives = Uniform(k=1)  # noqa: RUF009 - a frozen value
    places: str = "random"

    def __post_init__(self) -> None:
        NextItem(loss=BCE(self.negatives), places=self.places)
        if self.negatives.shared:
            raise ContractError(needed="negatives of each place for Verdict", came="shared ones", remedy="set shared=False")

    @property
    def weights(self) -> dict[str, float]:
        return {"verdict": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        loss = BCE(self.negatives)
        return with_negatives(NextItem(places=self.places).corrupt(batch, vocab, rng), loss, vocab, rng)

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"verdict": int((prepared.channels["target"] >= 0).sum()) * (1 + self.negatives.k)}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        at = charged(prepared)
        target = prepared.channels["target"]
        places = torch.arange(prepared.n_positions, device=target.device) if at is None else at
        if not len(places):
            return {"verdict": next(network.parameters()).sum() * 0}
        items = torch.cat([target[places, None], prepared.channels["negative"][places]], 1)  # (M, 1 + K), the true one first
        found = network.verdicts(prepared, self.visible, places, items, rng)
        truth = torch.zeros_like(found)
        truth[:, 0] = 1
        return {"verdict": F.binary_cross_entropy_with_logits(found, truth, reduction="sum")}
