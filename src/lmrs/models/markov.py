"""First-order Markov chain over items: the control that knows the last event alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.counting import Table
from lmrs.models.network import Control, ControlScorer
from lmrs.split import Train
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Markov(Control):
    """score(j | i) = P(j | i) = (n_ij + m p_j) / (n_i + m), where i is the last item of the history.

    n_ij: how often j came right after i in a user's training events; n_i = sum_j n_ij; p_j: share of j in all training events;
    m: `smoothing`, pseudo-events spent on popularity, >= 0 (the Dirichlet prior of Zhai & Lafferty 2004, section 2).
    An item that was never followed by anything is answered with p alone. Every row of scores sums to 1.
    """

    smoothing: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < float("inf"):
            raise ContractError(needed="smoothing of at least 0", came=f"smoothing={self.smoothing}")

    def build(self, vocab: Vocab) -> MarkovScorer:
        return MarkovScorer(self, vocab)


class MarkovScorer(ControlScorer):
    """starts, columns, weights: n_ij in CSR form. follows: float32[V], n_i. share: float32[V], p_j."""

    starts: Tensor
    columns: Tensor
    weights: Tensor
    follows: Tensor
    share: Tensor

    def __init__(self, model: Markov, vocab: Vocab) -> None:
        super().__init__()
        self.model, self.n_items = model, vocab.n_items
        self.register_buffer("starts", torch.zeros(vocab.n_items + 1, dtype=torch.int64))
        self.register_buffer("columns", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))
        self.register_buffer("follows", torch.zeros(vocab.n_items))
        self.register_buffer("share", torch.zeros(vocab.n_items))

    def estimate(self, train: Train) -> None:
        users, places = train.events()
        item = train.dataset.item[places]
        inside = users[1:] == users[:-1]  # a pair of neighbours must belong to one user
        before, after = item[:-1][inside], item[1:][inside]
        pairs = sparse.coo_array((np.ones(len(before)), (before, after)), shape=(self.n_items, self.n_items)).tocsr()
        self.starts, self.columns, self.weights = Table.of(pairs)
        self.follows = torch.from_numpy(np.bincount(before, minlength=self.n_items).astype(np.float32))
        self.share = torch.from_numpy((train.counts() / max(1, train.n_events)).astype(np.float32))

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        last = batch.channels["item"][batch.channels["asked"]]
        m = self.model.smoothing
        total = self.follows[last] + m
        unknown = total == 0
        backing = torch.where(unknown, 1.0, m / total.masked_fill(unknown, 1.0))
        scores = backing[:, None] * self.share  # (rows, V)
        row, column, count = Table(self.starts, self.columns, self.weights).lines(last)
        scores[row, column] += count / total[row]  # every (row, column) occurs once
        return scores
