"""Codes that know nothing of the items: the controls of every other indexer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmrs.errors import ContractError
from lmrs.indexing.index import Collisions, Index, by_id, made
from lmrs.language.tokens import Tokens
from lmrs.seeding import numpy_generator
from lmrs.split import Train


@dataclass(frozen=True)
class Independent:
    """One new token an item (OpenP5's independent index, IID): nothing is shared, and the table is as long as the catalogue.

    A new item has a token of its own that training never moves.
    """

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        order = by_id(train.dataset.vocab)
        codes = np.empty(len(order), np.int64)
        codes[order] = np.arange(len(order))
        rows = np.arange(len(order) + 1), codes
        alone = Collisions(len(order), len(order), 0, 1)
        return made(self, train, rows, words=[f"<item_{at}>" for at in range(len(order))], tokens=tokens, collisions=alone)


@dataclass(frozen=True)
class Random:
    """`length` tokens of `branching` values each, drawn without repetition: the control of structured codes.

    Every level has words of its own. branching: None for the least that holds the catalogue. New items are drawn like all others.
    """

    length: int = 3
    branching: int | None = None

    def __post_init__(self) -> None:
        if self.length < 1 or (self.branching is not None and self.branching < 1):
            raise ContractError(
                needed="length and branching of at least 1", came=f"length={self.length}, branching={self.branching}"
            )

    def fit(self, train: Train, *, seed: int = 0, tokens: Tokens | None = None, vectors: np.ndarray | None = None) -> Index:
        items = train.dataset.n_items
        branching = self.branching
        if branching is None:
            branching = max(1, int(items ** (1 / self.length)) - 1)
            while branching**self.length < items:
                branching += 1
        if branching**self.length < items or branching**self.length > 2**62:
            raise ContractError(
                needed=f"a length and branching that hold {items:,} items in 62 bits",
                came=f"{branching} ** {self.length}",
                remedy="change one of them",
            )
        drawn = numpy_generator(seed, "indexing", "random").choice(branching**self.length, items, replace=False)
        codes = np.empty((items, self.length), np.int64)
        powers = branching ** np.arange(self.length - 1, -1, -1, dtype=np.int64)
        codes[by_id(train.dataset.vocab)] = drawn[:, None] // powers % branching + branching * np.arange(self.length)
        words = [f"<r{level}_{at}>" for level in range(self.length) for at in range(branching)]
        rows = np.arange(items + 1) * self.length, codes.ravel()
        return made(self, train, rows, words=words, tokens=tokens, collisions=Collisions(items, items, 0, 1))
