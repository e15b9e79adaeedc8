"""Contrastive: a sequence against the items that follow the sequences of the batch, and against a changed copy of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch, from_rows
from lmrs.errors import ContractError
from lmrs.models.network import Network
from lmrs.objectives.looking_back import LookingBack
from lmrs.vocab import Vocab

_COPY = "copy."  # the changed copies of the whole batch travel as batch-level tensors of these names


@dataclass(frozen=True)
class Contrastive(LookingBack):
    """Pre-training of UniSRec (Hou et al., KDD 2022, section 2.2). s_r: the last state of row r, v_r: its next item, of length 1.

    item: -sum_r log exp(s_r . v_r / t) / sum_r' exp(s_r . v_r' / t), over the rows r' of the batch.
    sequence: the same with s'_r, the last state of a changed copy of row r, in place of v_r; weighed by `weight`.

    hidden: the last event of a row, which is v. copy: each item is left out with probability `item_drop` (the newest stays if
    all would go), or, for a share `words` of the rows, all items show their texts without some words (channel `dropped`; a
    network that reads no texts sees the row itself).
    duplicates: rows whose next item is that of row r; "zero_logit" gives them exp(0) = 1 in the denominator (the released
    code), "exclude" leaves them out. temperature: t > 0. weight: >= 0; 0 leaves the second part out.

    The denominator is that of the whole batch, however it is sharded: shards compute all its items and copies.
    """

    temperature: float = 0.07
    weight: float = 1e-3
    item_drop: float = 0.2
    words: float = 0.1
    duplicates: str = "zero_logit"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ContractError(needed="temperature above 0", came=f"temperature={self.temperature}")
        if self.weight < 0:
            raise ContractError(needed="weight of at least 0", came=f"weight={self.weight}")
        for name in ("item_drop", "words"):
            if not 0 <= getattr(self, name) <= 1:
                raise ContractError(needed=f"{name} in [0, 1]", came=f"{name}={getattr(self, name)}")
        if self.duplicates not in ("zero_logit", "exclude"):
            raise ContractError(needed="duplicates 'zero_logit' or 'exclude'", came=repr(self.duplicates))

    @property
    def weights(self) -> dict[str, float]:
        return {"item": 1.0, **({"sequence": self.weight} if self.weight else {})}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        item = batch.channels["item"]
        inputs = torch.ones(len(item), dtype=torch.bool)
        inputs[batch.last] = False
        seen = batch.keep(inputs)
        seen = replace(seen, rows={**seen.rows, "place": torch.arange(seen.n_rows)})
        following = item[batch.last]
        extra = {**seen.extra, "following": following}
        if self.weight:
            extra |= _packed(self.changed(seen, rng))
        target = torch.full((seen.n_positions,), -1)
        target[seen.last] = following
        return replace(seen.with_channels(target=target), extra=extra)

    def changed(self, seen: Batch, rng: torch.Generator) -> Batch:
        """The changed copies of all rows, `rows["place"]` naming theirs."""
        by_words = torch.rand(seen.n_rows, generator=rng) < self.words
        kept = torch.rand(seen.n_positions, generator=rng) >= self.item_drop
        kept |= by_words[seen.row_of]
        kept[seen.last] |= torch.zeros(seen.n_rows, dtype=torch.long).index_add_(0, seen.row_of, kept.long()) == 0
        lengths = torch.zeros(seen.n_rows, dtype=torch.long).index_add_(0, seen.row_of, kept.long())
        channels = {name: value[kept] for name, value in seen.channels.items() if name != "position"}
        channels["dropped"] = by_words[seen.row_of][kept]
        return from_rows(channels, lengths, {"place": seen.rows["place"]})

    def counts(self, prepared: Batch) -> dict[str, int]:
        return dict.fromkeys(self.weights, prepared.n_rows)

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        following, place = prepared.extra["following"], prepared.rows["place"]
        states = network.read(network(prepared, self.visible, rng, prepared.last))
        against = {"item": network.vectors(following)}
        if self.weight:
            copies = _unpacked(prepared.extra)
            back = torch.argsort(copies.rows["place"])
            against["sequence"] = network.read(network(copies, self.visible, rng, copies.last))[back]
        same = following[place][:, None] == following
        with torch.autocast(states.device.type, enabled=False):  # the loss is in fp32 at least
            wide = torch.promote_types(states.dtype, torch.float32)
            return {name: self.loss(states.to(wide), each.to(wide), place, same) for name, each in against.items()}

    def loss(self, states: Tensor, others: Tensor, place: Tensor, same: Tensor) -> Tensor:
        """The sum over B rows: states [B, E] against others [R, E], of which others[place[b]] is meant. same: bool[B, R]."""
        logits = F.normalize(states, dim=1) @ F.normalize(others, dim=1).T / self.temperature
        true = logits.gather(1, place[:, None])[:, 0]
        clash = same.scatter(1, place[:, None], False)
        return (logits.masked_fill(clash, 0.0 if self.duplicates == "zero_logit" else -torch.inf).logsumexp(1) - true).sum()


def _packed(copies: Batch) -> dict[str, Tensor]:
    """A Batch as batch-level tensors: what is not cut when its rows are sharded."""
    named = {f"{_COPY}{name}": value for name, value in copies.channels.items()}
    return {**named, f"{_COPY}offsets": copies.offsets, f"{_COPY}place": copies.rows["place"]}


def _unpacked(extra: dict[str, Tensor]) -> Batch:
    tensors = {name.removeprefix(_COPY): value for name, value in extra.items() if name.startswith(_COPY)}
    offsets, place = tensors.pop("offsets").cpu(), tensors.pop("place")
    return Batch(tensors, offsets, {"place": place, "example": place})
