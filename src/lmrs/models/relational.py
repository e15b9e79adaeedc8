"""Vectors of items from the knowledge graph around them: one relational graph convolution (Schlichtkrull et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.graph import Graph, Knowledge
from lmrs.models.checks import at_least


@dataclass(frozen=True)
class Relational:
    """h_i = x_i + W_0 x_i + sum_r W_r mean_{j in N_r(i)} x_j with W_r = sum_b a_rb V_b (their equations 2 and 3), i an item.

    x are learned vectors of all nodes; a relation and its reverse have matrices of their own. Self-connection twice (x_i and
    W_0 x_i) as in UniCRS's code; nothing is squashed, as there is one layer only.

    knowledge: what the graph is made of. dim: width D. bases: number of matrices V_b. least: a relation with fewer edges at the
    items is left out (KBRD asks for more than 1,000 in its graph), >= 1.
    """

    knowledge: Knowledge = Knowledge(users=False)  # noqa: RUF009 - a frozen value
    dim: int = 128
    bases: int = 8
    least: int = 1

    def __post_init__(self) -> None:
        at_least(1, dim=self.dim, bases=self.bases, least=self.least)

    def build(self, graph: Graph) -> ItemVectors:
        """The module. Draws from torch's generator as it stands."""
        return ItemVectors(self, graph)


class ItemVectors(nn.Module):
    """nodes: x [n, D], items and the entities beside one by a kept relation. bases: V [b, D, D]. share: a [R, b].

    Gathering comes before the matrices: the neighbours of a (relation, item) pair are averaged first, P pairs in all, so that no
    tensor has a row for each edge and basis.
    """

    around: Tensor
    starts: Tensor
    target: Tensor

    def __init__(self, about: Relational, graph: Graph) -> None:
        super().__init__()
        self.n_items = graph.n_items
        here = graph.head < graph.n_items
        counts = np.bincount(graph.relation[here], minlength=graph.n_relations)
        here &= (counts >= about.least)[graph.relation]
        head, kind, tail = graph.head[here], graph.relation[here], graph.tail[here]
        entities = np.unique(tail[tail >= graph.n_items])
        tail = np.where(tail < graph.n_items, tail, graph.n_items + np.searchsorted(entities, tail))
        kinds, kind = np.unique(kind, return_inverse=True)
        order = np.lexsort((tail, head, kind))
        head, kind, tail = head[order], kind[order], tail[order]
        pair = kind * graph.n_items + head
        first = np.flatnonzero(np.r_[True, pair[1:] != pair[:-1]][: len(pair)])
        self.register_buffer("around", torch.from_numpy(tail), persistent=False)
        self.register_buffer("starts", torch.from_numpy(first), persistent=False)
        self.register_buffer("target", torch.from_numpy(head[first]), persistent=False)
        self.sizes = np.bincount(kind[first], minlength=len(kinds)).tolist()  # pairs of each relation
        self.nodes = nn.Embedding(graph.n_items + len(entities), about.dim)
        self.own = nn.Linear(about.dim, about.dim, bias=False)
        self.bases = nn.Parameter(torch.empty(about.bases, about.dim, about.dim))
        self.share = nn.Parameter(torch.empty(len(kinds), about.bases))
        for weight in (self.nodes.weight, self.own.weight, self.share):
            nn.init.xavier_uniform_(weight) if weight.numel() else None
        bound = (3 / about.dim) ** 0.5
        nn.init.uniform_(self.bases, -bound, bound)

    def forward(self) -> Tensor:
        """[V, D]: all items."""
        x = self.nodes.weight
        items = x[: self.n_items]
        out = items + self.own(items)
        if not len(self.starts):
            return out
        means = F.embedding_bag(self.around, x, self.starts, mode="mean")  # (P, D)
        matrices = torch.einsum("rb,bde->rde", self.share, self.bases)
        moved = [part @ matrix for part, matrix in zip(means.split(self.sizes), matrices, strict=True)]
        return out.index_add(0, self.target, torch.cat(moved))
