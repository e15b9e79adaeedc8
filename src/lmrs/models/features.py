"""Side information of items, mixed into their embeddings (Transformers4Rec, sections 3.2 and 4).

A feature is looked up by item symbol, so a masked position hides its side features too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError, did_you_mean
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Features:
    """Multi-valued item attributes: the mean of their embeddings, LayerNorm each, then merged with the item embedding.

    names: attributes of the vocabulary (e.g. "genres"). merge: "concat" (concatenate and project to D) or
    "elementwise" (item * (1 + sum of features)).
    """

    names: tuple[str, ...]
    merge: str = "concat"

    def __post_init__(self) -> None:
        if self.merge not in ("concat", "elementwise"):
            raise ContractError(needed="merge 'concat' or 'elementwise'", came=repr(self.merge))
        if not self.names:
            raise ContractError(needed="at least one attribute name", came="none", remedy="use features=None for no side information")

    def build(self, vocab: Vocab, dim: int) -> FeatureMixer:
        for name in self.names:
            if name not in vocab.attributes:
                raise ContractError(
                    needed=f"the item attribute {name!r}",
                    came=f"a data set with attributes {sorted(vocab.attributes)}",
                    remedy=did_you_mean(name, vocab.attributes) if vocab.attributes else "add a list column to the items table",
                )
        return FeatureMixer(self, vocab, dim)


class FeatureMixer(nn.Module):
    def __init__(self, features: Features, vocab: Vocab, dim: int) -> None:
        super().__init__()
        self.merge, self.names = features.merge, features.names
        self.bags = nn.ModuleList(nn.EmbeddingBag(vocab.attributes[n].count, dim, mode="mean") for n in features.names)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in features.names)
        self.item_norm = nn.LayerNorm(dim)
        self.join = nn.Linear(dim * (1 + len(features.names)), dim) if features.merge == "concat" else None
        for name in features.names:
            table = vocab.attributes[name]
            # One empty bag for every special symbol: a hidden item has no features.
            offsets = torch.cat([torch.from_numpy(table.offsets[:-1].copy()), torch.full((vocab.n_symbols - vocab.n_items,), len(table.values))])
            self.register_buffer(f"offsets_{name}", offsets, persistent=False)
            self.register_buffer(f"values_{name}", torch.from_numpy(table.values.astype("int64")), persistent=False)

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        symbols, place = torch.unique(batch.channels["item"], return_inverse=True)
        parts = []
        for name, bag, norm in zip(self.names, self.bags, self.norms, strict=True):
            offsets, values = self.get_buffer(f"offsets_{name}"), self.get_buffer(f"values_{name}")
            stop = torch.cat([offsets[1:], offsets.new_tensor([len(values)])])
            size = (stop - offsets)[symbols]
            first = size.cumsum(0) - size
            flat = torch.repeat_interleave(offsets[symbols] - first, size) + torch.arange(int(size.sum()), device=x.device)
            parts.append(norm(bag(values[flat], first))[place])  # (N, D)
        item = self.item_norm(x)
        if self.join is not None:
            return self.join(torch.cat([item, *parts], 1))
        return item * (1 + torch.stack(parts).sum(0))
