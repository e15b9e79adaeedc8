"""EASE: an item-to-item regression in closed form (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import lapack
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.counting import histories, incidence
from lmrs.models.network import Control, ControlScorer
from lmrs.split import Train
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab

GIB = 2**30
BYTES_A_CELL = 12  # float64 Gram matrix, inverted in place, and the float32 result beside it
STRIP = 512  # columns divided at once


@dataclass(frozen=True)
class EASE(Control):
    """score(j | history) = sum of B_ij over the distinct items i of the history.

    B = argmin |X - XB|^2 + lambda |B|^2 with diag B = 0, where X [U, V] is 1 where a user chose an item in training. With
    P = (X^T X + lambda I)^-1: B_ij = -P_ij / P_jj for i != j, and B_jj = 0 (equation 8). It takes 12 V^2 bytes and about
    V^3 multiplications.

    regularisation: lambda, > 0 (the paper: 200 to 1,000). memory_gib: refuse catalogues whose matrices take more.
    """

    regularisation: float = 200.0
    memory_gib: float = 8.0

    def __post_init__(self) -> None:
        if not 0 < self.regularisation < float("inf"):
            raise ContractError(needed="regularisation above 0", came=f"regularisation={self.regularisation}")

    def build(self, vocab: Vocab) -> EASEScorer:
        size = BYTES_A_CELL * vocab.n_items**2 / GIB
        if size > self.memory_gib:
            raise ContractError(
                needed=f"at most {self.memory_gib:g} GiB for the item-to-item matrix of EASE",
                came=f"{vocab.n_items:,} items, which take {size:,.1f} GiB",
                remedy=f"set memory_gib={int(size) + 1} if the machine has it, or use item-knn",
            )
        return EASEScorer(self, vocab)


class EASEScorer(ControlScorer):
    """weights: float32[V, V], B; line i is what having chosen i adds to every item."""

    weights: Tensor

    def __init__(self, model: EASE, vocab: Vocab) -> None:
        super().__init__()
        self.model, self.n_items = model, vocab.n_items
        self.register_buffer("weights", torch.zeros(0, vocab.n_items))

    def estimate(self, train: Train) -> None:
        chosen = (incidence(train) > 0).astype(np.float64).tocsc()
        items = np.arange(self.n_items)
        gram = np.empty((self.n_items, self.n_items), order="F")
        for begin in range(0, self.n_items, STRIP):
            gram[:, begin : begin + STRIP] = (chosen.T @ chosen[:, begin : begin + STRIP]).toarray()
        gram[items, items] += self.model.regularisation
        # Cholesky, then the inverse, both in the memory of the Gram matrix; only its upper triangle is meaningful afterwards.
        factor, failed = lapack.dpotrf(gram, lower=False, overwrite_a=True, clean=False)
        inverse, failed_too = lapack.dpotri(factor, lower=False, overwrite_c=True)
        if failed or failed_too:
            raise ContractError(
                needed="a positive definite matrix X'X + regularisation I",
                came=f"regularisation={self.model.regularisation}",
                remedy="raise regularisation",
            )
        weights = np.empty((self.n_items, self.n_items), np.float32)
        scale = inverse[items, items].copy()
        for begin in range(0, self.n_items, STRIP):
            strip = slice(begin, begin + STRIP)
            weights[:begin, strip] = -inverse[:begin, strip] / scale[strip]
            # Below the diagonal P_ij is read as P_ji.
            corner = np.triu(inverse[strip, strip])
            corner = corner + np.triu(corner, 1).T
            weights[strip, strip] = -corner / scale[strip]
            weights[begin + STRIP :, strip] = -inverse[strip, begin + STRIP :].T / scale[strip]
        weights[items, items] = 0
        self.weights = torch.from_numpy(weights)

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        known = histories(batch)
        distinct = torch.unique(known.row * self.n_items + known.item)
        row, item = distinct // self.n_items, distinct % self.n_items
        size = torch.bincount(row, minlength=known.n_rows)
        return F.embedding_bag(item, self.weights, size.cumsum(0) - size, mode="sum")
