"""What the controls share: the users x items matrix of the training events, and the histories that are asked about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from lmrs.batch import Batch
from lmrs.split import Train


def incidence(train: Train) -> sparse.csr_array:
    """float64 [U, V]: how often each user chose each item in training (columns sorted, no explicit zeros)."""
    users, places = train.events()
    shape = (len(train.stop), train.dataset.n_items)
    return sparse.coo_array((np.ones(len(users)), (users, train.dataset.item[places])), shape=shape).tocsr()


class Histories(NamedTuple):
    """The events that R asked rows know, flat. All int64[P].

    row: 0..R-1, the place among the asked rows. item: what was chosen. age: 0 for the asked (newest) event, 1 before it, ...
    """

    row: Tensor
    item: Tensor
    age: Tensor
    n_rows: int


def histories(batch: Batch) -> Histories:
    """Every row with an `asked` position, up to and including that position, in row order."""
    places = batch.channels["asked"].nonzero()[:, 0]
    end = torch.full((batch.n_rows,), -1, device=places.device)
    end[batch.row_of[places]] = places
    age = end[batch.row_of] - torch.arange(batch.n_positions, device=places.device)
    known = age >= 0
    row = ((end >= 0).cumsum(0) - 1)[batch.row_of]
    return Histories(row[known], batch.channels["item"][known], age[known], len(places))


class Table(NamedTuple):
    """A sparse V x V table in CSR form. starts: int64[V+1]; columns: int32[nnz]; weights: float32[nnz]."""

    starts: Tensor
    columns: Tensor
    weights: Tensor

    @classmethod
    def of(cls, matrix: sparse.csr_array) -> Table:
        return cls(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int32)),
            torch.from_numpy(matrix.data.astype(np.float32)),
        )

    def lines(self, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The entries of the lines `which` (int64[P]), one after the other: (place in which, column, weight)."""
        size = self.starts[which + 1] - self.starts[which]
        owner = torch.repeat_interleave(torch.arange(len(which), device=which.device), size)
        within = torch.arange(len(owner), device=which.device) - (size.cumsum(0) - size)[owner]
        flat = self.starts[which][owner] + within
        return owner, self.columns[flat].long(), self.weights[flat]
