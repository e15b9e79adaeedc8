"""Train, valid and a sealed test part, with the protocol that made them.

Queries are spans of the Dataset's arrays: nothing is copied, and what a model may know when it is asked is written down as
`[start, stop)` of the user's events.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from lmrs.dataset import TIE_RULE, Dataset
from lmrs.errors import DataError, SealedError

_sealed: ContextVar[bool] = ContextVar("lmrs_test_sealed", default=False)


@contextmanager
def sealed() -> Iterator[None]:
    """Within this block, reading `split.test` raises SealedError. `fit` runs in it."""
    token = _sealed.set(True)
    try:
        yield
    finally:
        _sealed.reset(token)


@dataclass(frozen=True, eq=False)
class Train:
    """The events a model may learn from: a prefix of every user's history.

    dataset: where the events are. stop: int64[U]; user u's training events are `item[offsets[u]:stop[u]]`.
    """

    dataset: Dataset
    stop: np.ndarray

    @property
    def start(self) -> np.ndarray:
        return self.dataset.offsets[:-1]

    @property
    def lengths(self) -> np.ndarray:
        """int64[U]: training events of each user."""
        return self.stop - self.start

    @property
    def n_events(self) -> int:
        return int(self.lengths.sum())

    def events(self) -> tuple[np.ndarray, np.ndarray]:
        """(user int64[n], place int64[n]) of all training events; `item[place]` is what was chosen."""
        users = np.repeat(np.arange(len(self.stop)), self.lengths)
        first = np.cumsum(self.lengths) - self.lengths
        places = np.arange(len(users)) - np.repeat(first, self.lengths) + np.repeat(self.start, self.lengths)
        return users, places

    def counts(self) -> np.ndarray:
        """int64[V]: training events of each item."""
        return np.bincount(self.dataset.item[self.events()[1]], minlength=self.dataset.n_items)


@dataclass(frozen=True, eq=False)
class Queries:
    """Questions with known answers.

    dataset: where the events are.
    user: int64[Q] user of each query.
    stop: int64[Q]; the history known at the question is `item[offsets[user]:stop]`.
    target: int64[Q] end of the truth: the true items are `item[stop:target]` (at least one each).
    """

    dataset: Dataset
    user: np.ndarray
    stop: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def start(self) -> np.ndarray:
        return self.dataset.offsets[self.user]

    @property
    def single(self) -> bool:
        """Every query has exactly one true item."""
        return bool((self.target - self.stop == 1).all())

    def take(self, which: np.ndarray) -> Queries:
        return Queries(self.dataset, self.user[which], self.stop[which], self.target[which])

    def truth(self, query: int) -> np.ndarray:
        return self.dataset.item[self.stop[query] : self.target[query]]

    def history(self, query: int) -> np.ndarray:
        return self.dataset.item[self.start[query] : self.stop[query]]


@dataclass(frozen=True, eq=False)
class Split:
    """Three parts of one Dataset. `about` states how they were made (JSON values): it becomes part of the protocol card."""

    dataset: Dataset
    train: Train
    valid: Queries
    sealed_test: Queries = field(repr=False)
    about: dict = field(default_factory=dict)

    @property
    def test(self) -> Queries:
        """The test queries. Raises SealedError during fit."""
        if _sealed.get():
            raise SealedError("the test part is sealed during fit: choose models by split.valid")
        return self.sealed_test


def leave_one_out(dataset: Dataset, *, max_valid: int | None = None) -> Split:
    """Last event of every user is the test, the one before it validation, the rest training (E-full protocol).

    Users with fewer than three events only train. max_valid: keep at most so many validation queries (evenly
    spaced over users; None: all). Raises DataError if no user has three events.
    """
    lengths, start = dataset.lengths, dataset.offsets[:-1]
    users = np.flatnonzero(lengths >= 3)
    if not len(users):
        raise DataError(
            needed="at least one user with three events for leave-one-out",
            came=f"{dataset.n_users:,} users with at most {int(lengths.max(initial=0))}",
            remedy="use split.by_time or more data",
        )
    end = dataset.offsets[1:]
    stop = np.where(lengths >= 3, end - 2, end)
    chosen = users
    if max_valid is not None and len(users) > max_valid:
        chosen = users[np.linspace(0, len(users) - 1, max_valid).astype(np.int64)]
    return Split(
        dataset=dataset,
        train=Train(dataset, stop),
        valid=Queries(dataset, chosen, start[chosen] + lengths[chosen] - 2, start[chosen] + lengths[chosen] - 1),
        sealed_test=Queries(dataset, users, end[users] - 1, end[users]),
        about={"split": "leave-one-out", "ties": TIE_RULE, "max_valid": max_valid, "short_users": int((lengths < 3).sum())},
    )
