"""Next item: predict each event from those before it (AM; SASRec, GRU4Rec, GPT-style recommenders)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import Charge, FullSoftmax
from lmrs.models.network import Network
from lmrs.negatives import Drawn, draw, probabilities
from lmrs.objectives.looking_back import LookingBack
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class NextItem(LookingBack):
    """-sum_t log p(x_{t+1} | x_<=t), with the catalogue term of `loss`.

    hidden: nothing; the target of a position is the next event of its row, which is not an input. seen: the past.
    loss: FullSoftmax (exact), SampledSoftmax, BCE or GBCE. Siblings: Cloze sees both sides; Permuted interpolates.
    places: "all" t of a row (where its view predicts each event once, those of the row: ItemSequence.once), one drawn at "random"
    for every batch, or the "last" (for models that read a prompt for each place).
    """

    loss: Charge = FullSoftmax()  # noqa: RUF009 - a frozen value
    places: str = "all"

    def __post_init__(self) -> None:
        if self.places not in ("all", "random", "last"):
            raise ContractError(needed="places 'all', 'random' or 'last'", came=repr(self.places))

    @property
    def weights(self) -> dict[str, float]:
        return {"next": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        item = batch.channels["item"]
        inputs = torch.ones(len(item), dtype=torch.bool)
        inputs[batch.last] = False
        target = item.roll(-1)[inputs]
        prepared = batch.keep(inputs).with_channels(target=target)
        if self.places != "all":
            prepared = _one_a_row(prepared, rng, self.places)
        elif "fresh" in prepared.rows:
            prepared = _fresh(prepared)
        return with_negatives(prepared, self.loss, vocab, rng)

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"next": int((prepared.channels["target"] >= 0).sum())}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        states = network(prepared, self.visible, rng, charged(prepared))
        return {"next": charge_targets(network, states, prepared, self.loss, vocab)}


def _fresh(prepared: Batch) -> Batch:
    """The prepared batch with the last `fresh` places of each row charged."""
    row = prepared.row_of
    to_end = prepared.offsets[1:][row] - torch.arange(prepared.n_positions)
    target = torch.where(to_end > prepared.rows["fresh"][row], -1, prepared.channels["target"])
    return prepared.with_channels(target=target)


def _one_a_row(prepared: Batch, rng: torch.Generator, places: str) -> Batch:
    """The prepared batch with one charged place a row."""
    lengths = prepared.lengths
    drawn = (torch.rand(prepared.n_rows, generator=rng, dtype=torch.float64) * lengths).long()
    at = (prepared.offsets[:-1] + (lengths - 1 if places == "last" else drawn))[lengths > 0]
    target = torch.full_like(prepared.channels["target"], -1)
    target[at] = prepared.channels["target"][at]
    return prepared.with_channels(target=target)


def with_negatives(batch: Batch, loss: Charge, vocab: Vocab, rng: torch.Generator) -> Batch:
    """The batch with what `loss` needs drawn: `extra["negative"]` [K] if shared, else a channel `negative` [N, K] (0 if none)."""
    if loss.negatives is None:
        return batch
    at = (batch.channels["target"] >= 0).nonzero()[:, 0]
    drawn = draw(loss.negatives, batch, at, vocab, rng)
    if drawn.items.ndim == 1:
        return replace(batch, extra={**batch.extra, "negative": drawn.items})
    everywhere = torch.zeros(batch.n_positions, loss.negatives.k, dtype=torch.int64)
    everywhere[at] = drawn.items
    return batch.with_channels(negative=everywhere)


def charged(prepared: Batch) -> Tensor | None:
    """int64[M]: the places whose `target` is an item (>= 0), or None if all are."""
    at = (prepared.channels["target"] >= 0).nonzero()[:, 0]
    return None if len(at) == prepared.n_positions else at


def charge_targets(network: Network, states: Tensor, prepared: Batch, loss: Charge, vocab: Vocab) -> Tensor:
    """Sum of `loss` over the charged places. states: [M, D], theirs alone."""
    target, at = prepared.channels["target"], charged(prepared)
    drawn = None
    if loss.negatives is not None:
        share = probabilities(loss.negatives, vocab)
        items = prepared.extra["negative"] if loss.negatives.shared else prepared.channels["negative"]
        items = items if loss.negatives.shared or at is None else items[at]
        log_q = None if share is None else share.clamp_min(1e-38).log().to(network.output().table)
        drawn = Drawn(items, log_q, loss.negatives.k, vocab.n_items)
    vectors, output = network.read(states), network.output()
    with torch.autocast(states.device.type, enabled=False):  # the loss is in the precision of the weights
        return loss.charge(vectors.to(output.table), output, target if at is None else target[at], drawn)
