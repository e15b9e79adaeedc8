"""What every view gives: examples, a Batch of them, and the question that is asked of them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from lmrs.batch import Batch
from lmrs.split import Train


class Examples(Protocol):
    """R rows of a Dataset, by place: nothing is copied before `collate`. user: int64[R], for messages (-1: none)."""

    @property
    def user(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def take(self, which: np.ndarray) -> Examples:
        """The rows at the places `which` (int64), in that order."""


class View(Protocol):
    """How a Dataset is read as examples; a frozen value. max_len: longest row in positions. gives: channels of its batches."""

    @property
    def max_len(self) -> int: ...
    @property
    def gives(self) -> tuple[str, ...]: ...

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> Any:
        """The Examples of one epoch, from the training events alone. ahead: further events that the objective needs in a row."""

    def collate(self, rows: Any) -> Batch:
        """The Examples as a Batch; `rows["example"]` numbers them in the order given."""

    def asked(self, rows: Any, *, asks: int) -> Any:
        """The same Examples cut so that a question of `asks` more positions fits."""

    def known(self, rows: Any) -> np.ndarray:
        """bool[R]: rows that say anything to go by; the others are answered by training popularity."""
