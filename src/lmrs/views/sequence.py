"""Item sequences: windows of a user's events, oldest first."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from lmrs.batch import Batch, from_rows
from lmrs.dataset import Dataset
from lmrs.errors import ContractError
from lmrs.split import Train


@dataclass(frozen=True, eq=False)
class Rows:
    """R spans of a Dataset's events: row r is `item[start[r]:stop[r]]` of user[r]. All int64[R]; nothing is copied.

    fresh: how many events at the end of each row are to be predicted there; None: all that can be.
    """

    dataset: Dataset
    user: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    fresh: np.ndarray | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.user)

    def take(self, which: np.ndarray) -> Rows:
        fresh = None if self.fresh is None else self.fresh[which]
        return Rows(self.dataset, self.user[which], self.start[which], self.stop[which], fresh=fresh)

    def show(self, row: int) -> str:
        """One row as a person reads it."""
        titles = self.dataset.titles(self.dataset.item[self.start[row] : self.stop[row]])
        return f"user {self.dataset.vocab.users[int(self.user[row])]}: " + " > ".join(titles)

    def __repr__(self) -> str:
        return f"<Rows: {len(self):,} rows of {self.dataset.name}, {int((self.stop - self.start).sum()):,} events>"


@dataclass(frozen=True)
class ItemSequence:
    """Windows of at most `max_len` positions.

    stride: None reads the last window of a user alone; a number also reads the windows that end every `stride` events before it
    (max_len: the history cut into pieces; 1: a window at every event).
    jitter: shift the cuts of each user by a random number of events in every epoch (needs stride > 1), so that every event is met
    with other contexts.
    once: where windows overlap, an event is predicted in one alone, with the longest context (objectives.NextItem; needs
    stride below max_len): training then sees contexts as long as those that are asked later.
    prefixes: read every prefix of at least two events of the last window, too (S3-Rec's pre-training; needs stride None).
    """

    max_len: int = 50
    stride: int | None = None
    jitter: bool = False
    prefixes: bool = False
    once: bool = False

    gives = ("item", "position", "time")

    def __post_init__(self) -> None:
        if self.max_len < 1:
            raise ContractError(needed="max_len of at least 1", came=f"max_len={self.max_len}")
        if self.stride is not None and self.stride < 1:
            raise ContractError(needed="stride of at least 1, or None for the last window alone", came=f"stride={self.stride}")
        if self.jitter and (self.stride is None or self.stride == 1):
            raise ContractError(
                needed="stride of at least 2 for jitter", came=f"stride={self.stride}", remedy="try stride=max_len"
            )
        if self.once and (self.stride is None or self.stride >= self.max_len):
            raise ContractError(
                needed="stride below max_len for once", came=f"stride={self.stride}, max_len={self.max_len}",
                remedy="try a fifth of max_len",
            )  # fmt: skip
        if self.prefixes and self.stride is not None:
            raise ContractError(needed="stride=None for prefixes", came=f"stride={self.stride}")

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> Rows:
        """The training rows of one epoch: spans of at most max_len + ahead events, at least two, in user order."""
        size = self.max_len + ahead
        begin, end = train.start, train.stop
        users = np.flatnonzero(end - begin >= 2)
        begin, end = begin[users], end[users]
        if self.stride is None:
            begin = np.maximum(begin, end - size)
            if not self.prefixes:
                return Rows(train.dataset, users, begin, end)
            count = end - begin - 1
            nth = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
            return Rows(train.dataset, np.repeat(users, count), np.repeat(begin, count), np.repeat(begin + 2, count) + nth)
        # Windows end at end - shift, end - shift - stride, ...; a shift also leaves the newest events to a window of their own.
        shift = rng.integers(0, self.stride, len(users)) if self.jitter else np.zeros(len(users), np.int64)
        shift = np.where(end - begin <= size, 0, shift)
        reach = np.maximum(end - shift - begin - size, 0)
        windows = 1 + -(-reach // self.stride)
        which = np.repeat(np.arange(len(users)), windows)
        nth = np.arange(len(which)) - np.repeat(np.cumsum(windows) - windows, windows)
        stop = end[which] - shift[which] - nth * self.stride
        start = np.maximum(begin[which], stop - size)
        late = np.flatnonzero(shift)
        user = np.concatenate([users[which], users[late]])
        fresh = np.concatenate([np.where(start > begin[which], self.stride, stop - start), shift[late]])
        newest = size if self.once else np.minimum(shift[late] + ahead, size)
        start = np.concatenate([start, np.maximum(begin[late], end[late] - newest)])
        stop = np.concatenate([stop, end[late]])
        full = stop - start >= 2
        order = np.flatnonzero(full)[np.argsort(user[full], kind="stable")]
        return Rows(train.dataset, user[order], start[order], stop[order], fresh=fresh[order] if self.once else None)

    def collate(self, rows: Rows) -> Batch:
        """Spans to a Batch with channels `item`, `position` (and `time` where the data has it) and the row channels `user` (and
        `fresh`, if some events are predicted elsewhere)."""
        length = rows.stop - rows.start
        first = np.cumsum(length) - length
        flat = np.arange(int(length.sum())) + np.repeat(rows.start - first, length)
        channels = {"item": torch.from_numpy(rows.dataset.item[flat].astype(np.int64))}
        if rows.dataset.time is not None:
            channels["time"] = torch.from_numpy(rows.dataset.time[flat])
        told = {"user": torch.from_numpy(rows.user)}
        if rows.fresh is not None:
            told["fresh"] = torch.from_numpy(rows.fresh)
        return from_rows(channels, torch.from_numpy(length), told)

    def asked(self, rows: Rows, *, asks: int) -> Rows:
        """Histories cut from the left so that `asks` more positions fit."""
        return Rows(rows.dataset, rows.user, np.maximum(rows.start, rows.stop - (self.max_len - asks)), rows.stop)

    def known(self, rows: Rows) -> np.ndarray:
        """bool[R]: rows with a history."""
        return rows.stop > rows.start
