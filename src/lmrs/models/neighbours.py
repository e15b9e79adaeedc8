"""Item neighbours: items are alike if the same users chose them (Sarwar et al. 2001; Deshpande & Karypis 2004)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError, did_you_mean
from lmrs.models.counting import Table, histories, incidence
from lmrs.models.network import Control, ControlScorer
from lmrs.split import Train
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab

WEIGHTS = ("cosine", "bm25")
CELLS = 4_000_000  # similarities and scores held at once


@dataclass(frozen=True)
class ItemKNN(Control):
    """score(j | history) = sum_{t} recency^age(t) s(i_t, j) over the events i_t of the history whose k neighbours include j.

    X [U, V]: how often user u chose item i in training. Similarity s(i, j) = sum_u W_ui W_uj with

    weights "cosine": W_ui = X_ui / sqrt(sum_u X_ui^2)
    weights "bm25": W_ui = idf_u X_ui (k1 + 1) / (X_ui + k1 (1 - b + b |i| / mean |i|)), idf_u = ln V - ln(1 + d_u), where
    |i| = sum_u X_ui and d_u counts the distinct items of u: an item is a document, its users are the words (Robertson &
    Zaragoza 2009, section 3.4).

    k: neighbours kept of each item, >= 1; as in the library implicit, an item is one of its own. Of equal similarities
    the lower item number comes first.
    shrink: s(i, j) is multiplied by n_ij / (n_ij + shrink), n_ij users having chosen both, >= 0 (Koren 2008, section 2.2).
    recency: weight of an event against the one after it, in (0, 1]; 1 counts all events alike.
    k1: >= 0, and b: in [0, 1], are used by "bm25" alone.
    """

    weights: str = "bm25"
    k: int = 100
    shrink: float = 0.0
    recency: float = 1.0
    k1: float = 1.2
    b: float = 0.75

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ContractError(
                needed="weights 'cosine' or 'bm25'", came=repr(self.weights), remedy=did_you_mean(self.weights, WEIGHTS)
            )
        if self.k < 1:
            raise ContractError(needed="k of at least 1", came=f"k={self.k}")
        for name in ("shrink", "k1"):
            if not getattr(self, name) >= 0:
                raise ContractError(needed=f"{name} of at least 0", came=f"{name}={getattr(self, name)}")
        if not 0 < self.recency <= 1:
            raise ContractError(needed="recency in (0, 1]", came=f"recency={self.recency}")
        if not 0 <= self.b <= 1:
            raise ContractError(needed="b in [0, 1]", came=f"b={self.b}")

    def build(self, vocab: Vocab) -> ItemKNNScorer:
        return ItemKNNScorer(self, vocab)


class ItemKNNScorer(ControlScorer):
    """starts, columns, weights: line i holds the k neighbours of item i with their similarities, in CSR form."""

    starts: Tensor
    columns: Tensor
    weights: Tensor

    def __init__(self, model: ItemKNN, vocab: Vocab) -> None:
        super().__init__()
        self.model, self.n_items = model, vocab.n_items
        self.register_buffer("starts", torch.zeros(vocab.n_items + 1, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))

    def estimate(self, train: Train) -> None:
        chosen = incidence(train)
        weighed = _cosine(chosen) if self.model.weights == "cosine" else _bm25(chosen, k1=self.model.k1, b=self.model.b)
        self.starts, self.columns, self.weights = Table.of(_nearest(weighed, chosen, k=self.model.k, shrink=self.model.shrink))

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        known = histories(batch)
        table = Table(self.starts, self.columns, self.weights)
        weight = self.model.recency ** known.age.to(self.weights.dtype)
        scores = torch.zeros(known.n_rows * self.n_items, device=self.weights.device)
        step = max(1, CELLS // self.model.k)
        for begin in range(0, len(known.item), step):
            at = slice(begin, begin + step)
            owner, column, similarity = table.lines(known.item[at])
            scores.index_add_(0, known.row[at][owner] * self.n_items + column, weight[at][owner] * similarity)
        return scores.view(known.n_rows, self.n_items)


def _cosine(chosen: sparse.csr_array) -> sparse.csr_array:
    norm = np.sqrt(chosen.multiply(chosen).sum(axis=0))
    return (chosen @ sparse.diags_array(1 / np.where(norm > 0, norm, 1))).tocsr()


def _bm25(chosen: sparse.csr_array, *, k1: float, b: float) -> sparse.csr_array:
    entries = chosen.tocoo()
    user, item = entries.coords
    size = chosen.sum(axis=0)
    idf = np.log(chosen.shape[1]) - np.log1p(np.bincount(user, minlength=chosen.shape[0]))
    room = k1 * (1 - b + b * size / max(size.mean(), 1e-12))
    data = idf[user] * entries.data * (k1 + 1) / (entries.data + room[item])
    return sparse.coo_array((data, (user, item)), shape=chosen.shape).tocsr()


def _nearest(weighed: sparse.csr_array, chosen: sparse.csr_array, *, k: int, shrink: float) -> sparse.csr_array:
    """The k largest entries of each line of W^T W (damped by shrink), a block of lines at a time."""
    lines, both = weighed.T.tocsr(), (chosen > 0).astype(np.float64).tocsr()
    both_lines = both.T.tocsr()
    items = weighed.shape[1]
    step = max(1, CELLS // max(1, items))
    found = []
    for begin in range(0, items, step):
        block = (lines[begin : begin + step] @ weighed).tocsr()
        if shrink:
            together = (both_lines[begin : begin + step] @ both).tocsr()
            together.data = together.data / (together.data + shrink)
            block = block.multiply(together).tocsr()
        row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        order = np.lexsort((block.indices, -block.data, row))
        place = np.arange(len(order)) - block.indptr[row]  # `row` is sorted already, so it is its own order
        kept = np.sort(order[place < k])
        kept = kept[block.data[kept] > 0]
        found.append(sparse.coo_array((block.data[kept], (row[kept], block.indices[kept])), shape=block.shape).tocsr())
    return sparse.vstack(found, format="csr") if found else sparse.csr_array((items, items))
