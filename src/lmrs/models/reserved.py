"""A share of every path for the new items on it: no training can have taught the last token that tells them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmrs.decoding import Steps
from lmrs.indexing import Index, Trie


@dataclass(frozen=True, eq=False)
class Reserve:
    """p(item) = p(path) q(item | path), where the path is the code without its last token and, with a reserve e in (0, 1),

        q(item | path) = (1 - e) p(last token | path)   for an item with training events, if new ones are on the path
                       = e / (new items of the path)    for a new item, beside such items
                       = 1 / (new items of the path)    for a new item on a path of new ones alone

    and p(last token | path) on a path without new ones: still a distribution (TIGER, section 4.3, lets such items have a share of
    the list).

    own: bool[V], whether p(last token | path) counts. more: float64[V], what is added to the logarithm.
    """

    own: np.ndarray
    more: np.ndarray

    @classmethod
    def of(cls, index: Index, counts: np.ndarray, share: float) -> Reserve:
        """counts: int64[V] training events of each item."""
        paths = [index.code(item)[:-1].tobytes() for item in range(index.n_items)]
        _, path = np.unique(np.array([each.hex() for each in paths]), return_inverse=True)
        new = counts == 0
        fresh = np.bincount(path, new, minlength=path.max() + 1)[path]
        old = np.bincount(path, ~new, minlength=path.max() + 1)[path]
        kept = np.where(fresh > 0, np.log1p(-share), 0.0)
        given = np.where(old > 0, np.log(share), 0.0) - np.log(np.maximum(fresh, 1))
        return cls(~new, np.where(new, given, kept))


class ReservedSteps:
    """Steps of a search in which the last tokens of codes have the probabilities of a Reserve."""

    def __init__(self, steps: Steps, trie: Trie, reserve: Reserve) -> None:
        self.steps, self.trie, self.reserve = steps, trie, reserve
        self.node = np.zeros(0, np.int64)

    def first(self) -> Tensor:
        logs = self.steps.first()
        self.node = np.zeros(len(logs), np.int64)
        return self._told(logs)

    def next(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        self.node = self.trie.step(self.node[parents], tokens)
        return self._told(self.steps.next(parents, tokens))

    def _told(self, logs: Tensor) -> Tensor:
        offsets, edges = self.trie.edges(self.node)
        item = self.trie.item[edges + 1]
        ends = item >= 0
        row = np.repeat(np.arange(len(self.node)), np.diff(offsets))[ends]
        where = torch.from_numpy(row).to(logs.device), torch.from_numpy(self.trie.token[edges[ends]]).to(logs.device)
        own = torch.from_numpy(self.reserve.own[item[ends]]).to(logs.device)
        more = torch.from_numpy(self.reserve.more[item[ends]]).to(logs)
        out = logs.clone()
        out[where] = logs[where].masked_fill(~own, 0) + more
        return out
