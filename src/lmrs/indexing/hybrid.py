"""A shared path and a token of one's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmrs.indexing.autoencoder import LearnedQuantised
from lmrs.indexing.collaborative import Collaborative
from lmrs.indexing.drawn import Random
from lmrs.indexing.index import Index, by_id, jagged, made
from lmrs.indexing.quantised import Quantised
from lmrs.language.tokens import Tokens
from lmrs.split import Train


@dataclass(frozen=True)
class Hybrid:
    """The path of another indexer without its last token, then a token that only this item has (OpenP5's hybrid index, HID).

    first: the indexer of the path. New items keep the path that `first` gives them; their own token is never trained.
    """

    first: Collaborative | Quantised | LearnedQuantised | Random = Collaborative()  # noqa: RUF009 - a frozen value

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        found = self.first.fit(train, seed=seed, vectors=vectors)
        own = np.empty(found.n_items, np.int64)
        own[by_id(train.dataset.vocab)] = len(found.words) + np.arange(found.n_items)
        rows = [[*found.code(item)[:-1].tolist(), int(own[item])] for item in range(found.n_items)]
        words = [*found.words, *(f"<item_{at}>" for at in range(found.n_items))]
        return made(self, train, jagged(rows), words=words, tokens=tokens, collisions=found.collisions)
