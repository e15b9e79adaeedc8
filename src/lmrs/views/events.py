"""Events one by one: what a user did before, what came then, how it was rated and what was said of it (P5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from lmrs.batch import Batch, from_rows
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, did_you_mean
from lmrs.measures.words import first_words
from lmrs.split import Queries, Train
from lmrs.views.reviews import SAYS


@dataclass(frozen=True, eq=False)
class EventRows:
    """R events of a Dataset. start, place: int64[R]; the history is `item[start:place]`, the event itself stands at `place`."""

    dataset: Dataset
    user: np.ndarray
    start: np.ndarray
    place: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, which: np.ndarray) -> EventRows:
        return EventRows(self.dataset, self.user[which], self.start[which], self.place[which])

    def __repr__(self) -> str:
        return f"<EventRows: {len(self):,} events of {self.dataset.name}>"


@dataclass(frozen=True)
class Events:
    """One row an event: the items before it as positions (none before a user's first), the event itself beside.

    Batches have `rows["user"]` and `rows["item"]` (int64), `rows["rating"]` (float32, NaN where there is none) and, where
    there are reviews, the texts `explanation`, `feature`, `title` and `text` of the event, each None where it is not there.

    max_len: items of the history. recent: so many of each user's newest training events are learned from; None: all. says: the
    column of `records["reviews"]` that `explanation` is: "explanation", "title" or "text". longest: words of it and of the title.
    reads: words of the text; the rest is cut off.
    """

    max_len: int = 20
    recent: int | None = None
    says: str = "explanation"
    longest: int = 20
    reads: int = 60

    gives = ("item", "position", "user", "rating")

    def __post_init__(self) -> None:
        for name in ("max_len", "recent", "longest", "reads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ContractError(needed=f"{name} of at least 1", came=f"{name}={value}")
        if self.says not in SAYS:
            raise ContractError(
                needed=f"says {', '.join(map(repr, SAYS))}", came=repr(self.says), remedy=did_you_mean(self.says, SAYS)
            )

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> EventRows:
        """The newest training events of every user, in user order."""
        begin, end = train.start, train.stop
        first = begin if self.recent is None else np.maximum(begin, end - self.recent)
        return self._spans(train.dataset, np.arange(len(end)), first, end)

    def held_out(self, queries: Queries) -> EventRows:
        """The events that the queries ask for, each after all that the user did before it."""
        return self._spans(queries.dataset, queries.user, queries.stop, queries.target)

    def _spans(self, dataset: Dataset, user: np.ndarray, first: np.ndarray, end: np.ndarray) -> EventRows:
        size = end - first
        which = np.repeat(np.arange(len(user)), size)
        place = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size) + np.repeat(first, size)
        return EventRows(dataset, user[which], np.maximum(dataset.offsets[user[which]], place - self.max_len), place)

    def collate(self, rows: EventRows) -> Batch:
        data, size = rows.dataset, rows.place - rows.start
        flat = np.arange(int(size.sum())) + np.repeat(rows.start - (np.cumsum(size) - size), size)
        rating = np.full(len(rows), np.nan, np.float32) if data.rating is None else np.asarray(data.rating)[rows.place]
        about = {
            "user": torch.from_numpy(np.asarray(rows.user, np.int64)),
            "item": torch.from_numpy(data.item[rows.place].astype(np.int64)),
            "rating": torch.from_numpy(rating.astype(np.float32)),
        }
        channels = {"item": torch.from_numpy(data.item[flat].astype(np.int64))}
        return from_rows(channels, torch.from_numpy(size), about, self._said(rows))

    def _said(self, rows: EventRows) -> dict[str, Sequence[str | None]]:
        """The texts of the events."""
        if "reviews" not in rows.dataset.records:
            return {}
        table = rows.dataset.records["reviews"]
        of = np.full(rows.dataset.n_events, -1, np.int64)
        of[table.column("event").to_numpy()] = np.arange(table.num_rows)
        which = of[rows.place]
        there = pa.array(np.where(which < 0, 0, which), mask=which < 0)  # null for an event without a review
        columns = {name: table.column(name).take(there).to_pylist() for name in {self.says, "feature", "title", "text"}}

        def cut(name: str, words: int) -> list[str | None]:
            return [None if text is None else first_words(text, words) for text in columns[name]]

        return {
            "explanation": cut(self.says, self.longest),
            "feature": columns["feature"],
            "title": cut("title", self.longest),
            "text": cut("text", self.reads),
        }

    def asked(self, rows: EventRows, *, asks: int) -> EventRows:
        """Histories cut from the left so that `asks` more positions fit."""
        return EventRows(rows.dataset, rows.user, np.maximum(rows.start, rows.place - (self.max_len - asks)), rows.place)

    def known(self, rows: EventRows) -> np.ndarray:
        """bool[R]: every event says something."""
        return np.ones(len(rows), bool)
