"""Mutual: four signals between events, attributes, sequences and their segments (MIM; S3-Rec, Zhou et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.features import AttributeBag, attribute
from lmrs.models.network import Network
from lmrs.negatives import Uniform, draw
from lmrs.visibility import Full, Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Mutual:
    """Mutual information maximisation (section 4.2). With h_t the state at t, and W, W', W'', W''' maps of their own:

    aap: at seen positions, which attributes has the item?   sum_a BCE(sig(W h_t . e_a), a in A(x_t))
    mip: at hidden positions, x_t against random items x'    rank(W' h_t . e_x,  W' h_t . e_x')
    map: at hidden positions, which attributes has x_t?      sum_a BCE(sig(W'' h_t . e_a), a in A(x_t))
    sp: the rest of a sequence against a segment of it       rank(W''' c . s, W''' c . s')

    hidden: each position with probability `hide`, and always the last. For sp a segment of 1 to n/2 events at a random place; c
    is the last state of the row with the segment masked, s that of the row with all *but* the segment masked, s' the same with a
    segment cut from the concatenated events of the batch. seen: both sides.
    aap, mip, map, sp: the weights, >= 0; a signal of weight 0 is not computed.
    attributes: which item attribute of the vocabulary is meant (not needed if aap and map are 0).
    mim_loss: "double_sigmoid", rank(a, b) = -log sig(sig(a) - sig(b)), as the released code has it (never below .313), or
    "infonce", rank(a, b) = -log exp(a) / (exp(a) + sum exp(b)), as the paper has it. negatives: random items for each hidden
    position, >= 1.

    Every part is divided by the number of rows: the published weights hold between *sums* over positions and attributes, and they
    would mean something else between means over each part's own positions.
    This signal only prepares a network: it cannot be asked, and a stage with NextItem or Cloze must follow.
    """

    hide: float = 0.2
    aap: float = 0.2
    mip: float = 1.0
    map: float = 1.0
    sp: float = 0.5
    attributes: str = "attributes"
    mim_loss: str = "double_sigmoid"
    negatives: int = 1

    needs = ("item",)
    ahead = 0
    asks = 0

    def __post_init__(self) -> None:
        if not 0 <= self.hide <= 1:
            raise ContractError(needed="hide in [0, 1]", came=f"hide={self.hide}")
        if self.mim_loss not in ("double_sigmoid", "infonce"):
            raise ContractError(needed="mim_loss 'double_sigmoid' or 'infonce'", came=repr(self.mim_loss))
        if self.negatives < 1:
            raise ContractError(needed="negatives of at least 1", came=f"negatives={self.negatives}")
        if min(self.aap, self.mip, self.map, self.sp) < 0 or not self.weights:
            raise ContractError(
                needed="weights of at least 0, one of them above", came=f"{self.aap}, {self.mip}, {self.map}, {self.sp}"
            )

    @property
    def weights(self) -> dict[str, float]:
        every = {"aap": self.aap, "mip": self.mip, "map": self.map, "sp": self.sp}
        return {name: weight for name, weight in every.items() if weight > 0}

    @property
    def visible(self) -> Visibility:
        return Full()

    @property
    def asked_visible(self) -> Visibility:
        return Full()

    def head(self, vocab: Vocab, dim: int) -> nn.Module:
        """Maps and attribute embeddings. Raises ContractError if the data has no such attribute."""
        return MutualHead(self, vocab, dim)

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        item = batch.channels["item"]
        hidden = torch.rand(batch.n_positions, generator=rng) < self.hide
        hidden[batch.last[batch.lengths > 0]] = True
        target = torch.where(hidden, item, -1)
        prepared = batch.with_channels(item=torch.where(hidden, vocab.mask, item), target=target)
        if self.mip:
            # Drawn against the whole row, hidden items included.
            drawn = draw(Uniform(k=self.negatives), batch, hidden.nonzero()[:, 0], vocab, rng)
            negative = torch.zeros(batch.n_positions, self.negatives, dtype=torch.int64)
            negative[hidden] = drawn.items
            prepared = prepared.with_channels(negative=negative)
        return replace(prepared, parts=segments(batch, vocab, rng)) if self.sp else prepared

    def counts(self, prepared: Batch) -> dict[str, int]:
        return dict.fromkeys(self.weights, prepared.n_rows)

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        assert isinstance(head, MutualHead)
        table, target = network.output().table, prepared.channels["target"]
        hidden = target >= 0
        if table.shape[1] != network.dim:
            raise ContractError(
                needed="items as wide as the states for Mutual",
                came=f"widths {table.shape[1]} and {network.dim}",
                remedy="leave item_dim out",
            )
        states = network(prepared, self.visible, rng).to(table)
        ends = []
        if self.sp:
            parts = [prepared.parts[name] for name in ("context", "segment", "wrong")]
            ends = [network(part, self.visible, rng, part.last).to(table) for part in parts]  # each (B, D)
        found = {}
        with torch.autocast(states.device.type, enabled=False):  # the loss is in the precision of the weights
            if self.aap:
                found["aap"] = head.attributed("aap", states[~hidden], prepared.channels["item"][~hidden])
            if self.mip:
                items = torch.cat([target[hidden, None], prepared.channels["negative"][hidden]], 1)  # (M, 1 + K)
                scores = torch.einsum("me,mke->mk", head.maps["mip"](states[hidden]), table[items])
                found["mip"] = self.rank(scores[:, 0], scores[:, 1:])
            if self.map:
                found["map"] = head.attributed("map", states[hidden], target[hidden])
            if self.sp:
                context, segment, wrong = ends
                mapped = head.maps["sp"](context)
                found["sp"] = self.rank((mapped * segment).sum(1), (mapped * wrong).sum(1)[:, None])
        return found

    def rank(self, true: Tensor, false: Tensor) -> Tensor:
        """Sum over M of the loss of scores `true` [M] against `false` [M, K]."""
        if self.mim_loss == "double_sigmoid":
            return F.softplus(false.sigmoid() - true.sigmoid()[:, None]).sum()
        return (torch.logsumexp(torch.cat([true[:, None], false], 1), 1) - true).sum()

    def ask(self, batch: Batch, vocab: Vocab) -> Batch | None:
        return None


class MutualHead(nn.Module):
    """A d x d map for each signal, and one table of attribute embeddings for aap and map."""

    def __init__(self, mutual: Mutual, vocab: Vocab, dim: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(dim, dim) for name in mutual.weights})
        needed = mutual.aap > 0 or mutual.map > 0
        self.bag = AttributeBag(attribute(vocab, mutual.attributes), vocab, dim, mode="sum") if needed else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def attributed(self, name: str, states: Tensor, items: Tensor) -> Tensor:
        """Sum over positions and attributes of the BCE of "the item has it".

        BCE(sig(s), y) = softplus(s) - y s, and the second term needs the true attributes alone: the labels are never laid out
        densely.
        """
        assert self.bag is not None
        mapped = self.maps[name](states)
        return F.softplus(mapped @ self.bag.embedding.weight.t()).sum() - (mapped * self.bag(items)).sum()


def segments(batch: Batch, vocab: Vocab, rng: torch.Generator) -> dict[str, Batch]:
    """Three batches of the rows with two events or more: `context` (a segment is masked), `segment` (the rest is masked), `wrong`
    (the same, but the segment's events come from a random place of the batch's concatenated events)."""
    batch = replace(batch.take((batch.lengths >= 2).nonzero()[:, 0]), parts={})
    item, lengths, rows = batch.channels["item"], batch.lengths, batch.n_rows
    roll = torch.rand(3, rows, generator=rng, dtype=torch.float64)
    size = 1 + (roll[0] * (lengths // 2)).long()
    begin = (roll[1] * (lengths - size + 1)).long()
    other = (roll[2] * (batch.n_positions - size + 1)).long()
    within = torch.arange(batch.n_positions) - torch.repeat_interleave(batch.offsets[:-1], lengths)
    depth = within - begin[batch.row_of]
    inside = (depth >= 0) & (depth < size[batch.row_of])
    foreign = item[torch.where(inside, other[batch.row_of] + depth, 0)]
    return {
        "context": batch.with_channels(item=torch.where(inside, vocab.mask, item)),
        "segment": batch.with_channels(item=torch.where(inside, item, vocab.mask)),
        "wrong": batch.with_channels(item=torch.where(inside, foreign, vocab.mask)),
    }
