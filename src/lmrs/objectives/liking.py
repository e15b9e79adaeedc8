"""Liking: did the user like the item that came next, yes or no (TALLRec, Bao et al., RecSys 2023, section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.models.network import Network
from lmrs.objectives.looking_back import LookingBack
from lmrs.objectives.next_item import NextItem, charged
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Liking(LookingBack):
    """-[y log sig(s) + (1 - y) log sig(-s)], s = `Network.verdicts` of the item at t + 1, y = 1 if it was liked; one place a row.

    hidden: nothing. seen: the past, its ratings, and the item that is judged. places: as in NextItem. Sibling: Verdict, for logs
    without dislikes, draws what is answered with no.
    """

    places: str = "random"

    needs: tuple[str, ...] = ("item", "liked")

    def __post_init__(self) -> None:
        NextItem(places=self.places)

    @property
    def weights(self) -> dict[str, float]:
        return {"liking": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        prepared = NextItem(places=self.places).corrupt(batch, vocab, rng)
        inputs = torch.ones(batch.n_positions, dtype=torch.bool)
        inputs[batch.last] = False
        return prepared.with_channels(target_liked=batch.channels["liked"].roll(-1)[inputs])

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"liking": int((prepared.channels["target"] >= 0).sum())}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        at = charged(prepared)
        target = prepared.channels["target"]
        places = torch.arange(prepared.n_positions, device=target.device) if at is None else at
        if not len(places):
            return {"liking": next(network.parameters()).sum() * 0}
        found = network.verdicts(prepared, self.visible, places, target[places, None], rng)[:, 0]
        truth = prepared.channels["target_liked"][places].to(found)
        return {"liking": F.binary_cross_entropy_with_logits(found, truth, reduction="sum")}
