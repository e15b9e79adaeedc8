"""Random walks: how likely a walk over the graph ends in an item. What a language model of paths has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.graph import Knowledge
from lmrs.models.counting import Table, histories
from lmrs.models.network import Control, ControlScorer
from lmrs.split import Train
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Walks(Control):
    """score(j | history) = P(a walk of hops - 1 steps from an event of the history, all alike, ends in j).

    The walk is that of `Graph.walk`: a relation of the node, all alike, then one of its tails; from an item it goes to a user
    with probability by_users, in [0, 1]. Exact, by products of the matrix of one step; nothing is drawn.

    knowledge: what the graph is made of. hops: edges of a path, the first is from the user to an item of the history; >= 2.
    """

    knowledge: Knowledge = Knowledge()  # noqa: RUF009 - a frozen value
    hops: int = 3
    by_users: float = 0.5

    def __post_init__(self) -> None:
        if self.hops < 2:
            raise ContractError(needed="hops of at least 2", came=f"hops={self.hops}")
        if not 0 <= self.by_users <= 1:
            raise ContractError(needed="by_users in [0, 1]", came=f"by_users={self.by_users}")

    @property
    def knows_new(self) -> bool:
        return True

    def build(self, vocab: Vocab) -> WalksScorer:
        return WalksScorer(self, vocab)


class WalksScorer(ControlScorer):
    """starts, columns, weights: line n holds the chances of a step from node n, in CSR form."""

    starts: Tensor
    columns: Tensor
    weights: Tensor

    def __init__(self, model: Walks, vocab: Vocab) -> None:
        super().__init__()
        self.model, self.n_items = model, vocab.n_items
        self.register_buffer("starts", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))

    def estimate(self, train: Train) -> None:
        graph = self.model.knowledge.of(train)
        step = (graph.chances(by_users=self.model.by_users), (graph.head, graph.tail))
        self.starts, self.columns, self.weights = Table.of(sparse.coo_array(step, shape=(graph.n_nodes,) * 2).tocsr())

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        known, n = histories(batch), len(self.starts) - 1
        parts = (each.cpu().numpy() for each in (self.weights, self.columns, self.starts))
        step = sparse.csr_array(tuple(parts), shape=(n, n))
        row, item = known.row.cpu().numpy(), known.item.cpu().numpy()
        share = 1 / np.bincount(row, minlength=known.n_rows)[row]
        found = sparse.coo_array((share, (row, item)), shape=(known.n_rows, n)).tocsr()
        for _ in range(self.model.hops - 1):
            found = found @ step
        return torch.from_numpy(found[:, : self.n_items].toarray().astype(np.float32)).to(self.weights.device)
