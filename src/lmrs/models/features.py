"""Side information mixed into item embeddings (Transformers4Rec, de Souza Pereira Moreira et al. 2021, sections 3.2 and 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError, did_you_mean
from lmrs.vocab import Attributes, Vocab

HOUR = 3_600_000_000  # microseconds
PERIODS = {"hour": (24 * HOUR, 0), "weekday": (7 * 24 * HOUR, 3 * 24 * HOUR)}  # length, offset: the epoch was a Thursday


@dataclass(frozen=True)
class Features:
    """What is known of an event besides its item: LayerNorm each, then merged with the item embedding.

    names: multi-valued attributes of the vocabulary (e.g. "genres"); the mean of their embeddings.
    times: "hour" (of the day) and "weekday", from the channel `time` (UTC), as a fraction n of their period.
    clock: "cyclic" is a linear map of (sin 2 pi n, cos 2 pi n); "soft" is the soft one-hot softmax(n w + b) E over `bins`
    vectors.
    merge: "concat" (concatenate, project to the width of the item embedding) or "elementwise" (item * (1 + sum of features)).

    A hidden event hides all of this: a position with a special symbol keeps that symbol's own embedding and nothing is merged
    into it.
    """

    names: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    merge: str = "concat"
    clock: str = "cyclic"
    bins: int = 16

    def __post_init__(self) -> None:
        if self.merge not in ("concat", "elementwise"):
            raise ContractError(needed="merge 'concat' or 'elementwise'", came=repr(self.merge))
        if self.clock not in ("cyclic", "soft"):
            raise ContractError(needed="clock 'cyclic' or 'soft'", came=repr(self.clock))
        if self.bins < 2:
            raise ContractError(needed="bins of at least 2", came=f"bins={self.bins}")
        for name in self.times:
            if name not in PERIODS:
                raise ContractError(needed=f"times among {sorted(PERIODS)}", came=repr(name), remedy=did_you_mean(name, PERIODS))
        if not self.names and not self.times:
            raise ContractError(
                needed="at least one attribute name or time part", came="none", remedy="use features=None for no side information"
            )

    def build(self, vocab: Vocab, dim: int) -> FeatureMixer:
        """The module for embeddings of width `dim`. Raises ContractError if the vocabulary lacks an attribute."""
        return FeatureMixer(self, [AttributeBag(attribute(vocab, name), vocab, dim, mode="mean") for name in self.names], dim)


def attribute(vocab: Vocab, name: str) -> Attributes:
    """The attribute of that name; raises ContractError, with the nearest names, if the data set has none."""
    if name not in vocab.attributes:
        raise ContractError(
            needed=f"the item attribute {name!r}",
            came=f"a data set with attributes {sorted(vocab.attributes)}",
            remedy=did_you_mean(name, vocab.attributes) if vocab.attributes else "add a list column to the items table",
        )
    return vocab.attributes[name]


class AttributeBag(nn.Module):
    """The sum or mean of the embeddings of an item's attribute values; zero for an item without any, and for special symbols."""

    offsets: Tensor
    values: Tensor

    def __init__(self, table: Attributes, vocab: Vocab, dim: int, *, mode: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(table.count, dim)
        self.mode = mode
        offsets = torch.full((vocab.n_symbols + 1,), len(table.values))
        offsets[: vocab.n_items] = torch.from_numpy(table.offsets[:-1].astype("int64"))
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("values", torch.from_numpy(table.values.astype("int64")), persistent=False)

    def forward(self, symbols: Tensor) -> Tensor:
        """int64[n] symbols to [n, dim]."""
        distinct, place = torch.unique(symbols, return_inverse=True)
        begin = self.offsets[distinct]
        size = self.offsets[distinct + 1] - begin
        first = size.cumsum(0) - size
        flat = torch.repeat_interleave(begin - first, size) + torch.arange(int(size.sum()), device=symbols.device)
        return nn.functional.embedding_bag(self.values[flat], self.embedding.weight, first, mode=self.mode)[place]


class _Clock(nn.Module):
    """One time part as a vector: cyclic or soft one-hot."""

    def __init__(self, name: str, kind: str, bins: int, dim: int) -> None:
        super().__init__()
        self.name, self.kind = name, kind
        self.scale = nn.Linear(1, bins) if kind == "soft" else None
        self.out = nn.Linear(bins if kind == "soft" else 2, dim, bias=kind == "cyclic")

    def forward(self, time: Tensor) -> Tensor:
        length, offset = PERIODS[self.name]
        # The remainder is taken in int64: microseconds since the epoch do not fit a float.
        share = ((time + offset) % length).double().div(length).to(self.out.weight)
        if self.scale is not None:
            return self.out(self.scale(share[:, None]).softmax(1))
        turn = 2 * math.pi * share
        return self.out(torch.stack([turn.sin(), turn.cos()], 1))


class FeatureMixer(nn.Module):
    def __init__(self, features: Features, bags: list[AttributeBag], dim: int) -> None:
        super().__init__()
        self.bags = nn.ModuleList(bags)
        self.clocks = nn.ModuleList(_Clock(name, features.clock, features.bins, dim) for name in features.times)
        count = len(bags) + len(self.clocks)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(count))
        self.item_norm = nn.LayerNorm(dim)
        self.join = nn.Linear(dim * (1 + count), dim) if features.merge == "concat" else None

    def forward(self, x: Tensor, batch: Batch, n_items: int) -> Tensor:
        """x: [N, E] item embeddings. Returns [N, E]."""
        item = batch.channels["item"]
        parts = [bag(item) for bag in self.bags]
        if len(self.clocks):
            if "time" not in batch.channels:
                raise ContractError(
                    needed=f"event times for the features {[clock.name for clock in self.clocks]}",
                    came="events of which only the order is known",
                    remedy="leave time features out, or use data with timestamps",
                )
            parts += [clock(batch.channels["time"]) for clock in self.clocks]
        parts = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        own = self.item_norm(x)
        merged = own * (1 + torch.stack(parts).sum(0)) if self.join is None else self.join(torch.cat([own, *parts], 1))
        return torch.where((item < n_items)[:, None], merged, x)
