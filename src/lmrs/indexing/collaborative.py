"""Items that are chosen together begin alike: recursive clusters of the co-occurrence graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from lmrs.errors import ContractError
from lmrs.indexing.index import Collisions, Index, by_id, jagged, made
from lmrs.indexing.spectral import clusters, embedding, runs
from lmrs.language.tokens import Tokens
from lmrs.split import Train

NEW = "<new>"


@dataclass(frozen=True)
class Collaborative:
    """Spectral clusters of items by how many users chose both in training, cut again until they are small (OpenP5's CID).

    A code is one token for each cluster on the way down and one for the place inside the last. Clusters are counted breadth
    first, and cluster k is written `<c{k mod size}>`: siblings always differ, cousins may share a word.

    branches: clusters that one is cut into, >= 2 (OpenP5: 10 or 20).
    size: the most items a cluster keeps, and the number of words; >= branches (OpenP5: 200 to 500).
    deepest: from this level on, clusters are cut into equal runs along the second eigenvector, which ends the tree soon: a graph
    of one dense heart and a few loners would otherwise lose only the loners at every level.

    A new item, without training events, has no place in the graph: all of them stand below the word `<new>`, in the order of
    their ids. (OpenP5 gives them a last token alone, which can equal the first token of a cluster.)
    """

    branches: int = 20
    size: int = 500
    deepest: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.branches <= self.size or self.deepest < 0:
            raise ContractError(
                needed="2 <= branches <= size and deepest >= 0",
                came=f"branches={self.branches}, size={self.size}, deepest={self.deepest}",
            )

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        n_items = train.dataset.n_items
        order = by_id(train.dataset.vocab)
        known = train.counts()[order] > 0
        rows: list[tuple[int, ...]] = [()] * n_items
        counted = 0
        # (path, its items) of the clusters of one level
        level: list[tuple[tuple[int, ...], np.ndarray]] = [((), order[known])] if known.any() else []
        incidence = _incidence(train)
        while level:
            below: list[tuple[tuple[int, ...], np.ndarray]] = []
            for path, items in level:
                if len(items) <= self.size:
                    for place, item in enumerate(items.tolist()):
                        rows[item] = (*path, place)
                    continue
                part = self._cut(incidence[:, items], len(path))
                # The largest cluster first, then by the id of the first item: solvers may number clusters as they like.
                groups = sorted((items[part == each] for each in range(part.max() + 1)), key=lambda group: -len(group))
                for group in groups:
                    below.append(((*path, counted % self.size), group))
                    counted += 1
            level = below
        rows_of_new(rows, order[~known], first=self.size, base=self.size)
        words = [*(f"<c{at}>" for at in range(self.size)), NEW]
        alone = Collisions(n_items, n_items, 0, 1)
        return made(self, train, jagged(rows), words=words, tokens=tokens, collisions=alone)

    def _cut(self, incidence: sp.csr_matrix, level: int) -> np.ndarray:
        """int64[n]: two clusters at least, so that the tree ends."""
        fine = level < self.deepest
        vectors = embedding(incidence, self.branches if fine else 2)
        if fine and vectors.shape[1] > 1 and (found := clusters(vectors)).any():
            return found
        return runs(vectors, self.branches)


def rows_of_new(rows: list[tuple[int, ...]], items: np.ndarray, *, first: int, base: int) -> None:
    """Writes the codes of new items: the word `first`, then their place among them in digits 0..base-1, as many as needed."""
    digits = 1
    while base**digits < len(items):
        digits += 1
    for place, item in enumerate(items.tolist()):
        rows[item] = (first, *(place // base**at % base for at in range(digits - 1, -1, -1)))


def _incidence(train: Train) -> sp.csr_matrix:
    """[U, V] float64, 1 where a user chose an item in training."""
    users, places = train.events()
    cells = np.unique(users * train.dataset.n_items + train.dataset.item[places])
    row, column = np.divmod(cells, train.dataset.n_items)
    return sp.csr_matrix((np.ones(len(cells)), (row, column)), shape=(len(train.stop), train.dataset.n_items))
