"""The next few items: predict each of the coming T events from those before (Caser's skip behaviours)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import BCE, Charge
from lmrs.models.network import Network
from lmrs.negatives import Drawn, Uniform, draw, probabilities
from lmrs.objectives.looking_back import LookingBack
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class NextItems(LookingBack):
    """-sum_t sum_{d=1..T} log p(x_{t+d} | x_<=t), with the catalogue term of `loss` (Tang & Wang 2018, equation 12).

    hidden: nothing; the targets of a position are the next `targets` events of its row, as far as the row goes. seen: the past.
    The same scores are charged for all T targets: an item that comes two steps later is a right answer too.
    targets: T >= 1; 1 is NextItem. Not for chains in which only the very next event counts.
    """

    targets: int = 3
    loss: Charge = BCE(Uniform(k=3))  # noqa: RUF009 - a frozen value

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise ContractError(needed="targets of at least 1", came=f"targets={self.targets}")

    @property
    def weights(self) -> dict[str, float]:
        return {"next": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        item, count = batch.channels["item"], batch.n_positions
        inputs = torch.ones(count, dtype=torch.bool)
        inputs[(batch.offsets[1:] - 1)[batch.lengths > 0]] = False
        ahead = torch.arange(count)[:, None] + torch.arange(1, self.targets + 1)  # (N, T) flat places
        there = ahead < batch.offsets[1:][batch.row_of, None]
        targets = torch.where(there, item[ahead.clamp(max=max(0, count - 1))], -1)[inputs]
        kept = batch.keep(inputs).with_channels(targets=targets)
        if self.loss.negatives is None:
            return kept
        at = (targets >= 0).nonzero()[:, 0]
        # The channel `target` completes the row, so that "unseen" negatives avoid its last event as well.
        drawn = draw(self.loss.negatives, kept.with_channels(target=targets[:, 0]), at, vocab, rng)
        if drawn.items.ndim == 1:
            return replace(kept, extra={**kept.extra, "negative": drawn.items})
        negative = torch.zeros(*targets.shape, self.loss.negatives.k, dtype=torch.int64)
        negative[targets >= 0] = drawn.items
        return kept.with_channels(negative=negative)

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"next": int((prepared.channels["targets"] >= 0).sum())}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        targets = prepared.channels["targets"]
        charged = targets >= 0
        states = network.read(network(prepared, self.visible, rng))[charged.nonzero()[:, 0]]  # (M, E), a line for each target
        drawn = None
        if self.loss.negatives is not None:
            share = probabilities(self.loss.negatives, vocab)
            items = prepared.extra["negative"] if self.loss.negatives.shared else prepared.channels["negative"][charged]
            log_q = None if share is None else share.clamp_min(1e-38).log().to(states)
            drawn = Drawn(items, log_q, self.loss.negatives.k, vocab.n_items)
        return {"next": self.loss.charge(states, network.output(), targets[charged], drawn)}
