"""Reviews: pairs of a user and an item with what the user said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lmrs.batch import Batch, from_rows
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, DataError, did_you_mean
from lmrs.measures.words import first_words
from lmrs.split import Queries, Train

SAYS = ("explanation", "title", "text")


@dataclass(frozen=True, eq=False)
class ReviewRows:
    """R reviews of a Dataset that say something. user, item, event: int64[R]; which: int64[R], rows of `records["reviews"]`."""

    dataset: Dataset
    user: np.ndarray
    item: np.ndarray
    event: np.ndarray
    which: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def take(self, which: np.ndarray) -> ReviewRows:
        return ReviewRows(self.dataset, self.user[which], self.item[which], self.event[which], self.which[which])

    def __repr__(self) -> str:
        return f"<ReviewRows: {len(self):,} reviews of {self.dataset.name}>"


@dataclass(frozen=True)
class Reviews:
    """One row a review: one position with the item; the user and the rating beside it; what was said as text.

    Batches have `rows["user"]` (int64 user number), `rows["rating"]` (float32, NaN where there is none), `texts["explanation"]`,
    the text that is to be written, and `texts["feature"]`, the aspect it speaks of, or None.

    says: the column of `records["reviews"]` that is to be written: "explanation", "title" or "text". longest: words of it; the
    rest is cut off (words as the measures of text count them: punctuation marks are words of their own). reads: words of the
    review itself, as `texts["text"]` for models that write from it; 0: it is not given.
    """

    says: str = "explanation"
    longest: int = 20
    reads: int = 0

    gives = ("item", "position")
    max_len = 1

    def __post_init__(self) -> None:
        if self.says not in SAYS:
            raise ContractError(
                needed=f"says {', '.join(map(repr, SAYS))}", came=repr(self.says), remedy=did_you_mean(self.says, SAYS)
            )
        if self.longest < 1 or self.reads < 0:
            raise ContractError(
                needed="longest of at least 1, reads of at least 0", came=f"longest={self.longest}, reads={self.reads}"
            )

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> ReviewRows:
        """The reviews of training events, in the order of the events. Raises DataError if none of them says anything."""
        every = self.of(train.dataset)
        return self._some(every.take(np.flatnonzero(every.event < train.stop[every.user])), "training events")

    def held_out(self, queries: Queries) -> ReviewRows:
        """The reviews of the events that the queries ask for. Raises DataError if none of them says anything."""
        every = self.of(queries.dataset)
        steps = np.zeros(queries.dataset.n_events + 1, np.int64)
        np.add.at(steps, queries.stop, 1)
        np.add.at(steps, queries.target, -1)
        return self._some(every.take(np.flatnonzero(np.cumsum(steps)[every.event] > 0)), "events that are asked for")

    def of(self, dataset: Dataset) -> ReviewRows:
        """All reviews that say something. Raises DataError for a dataset without reviews."""
        if "reviews" not in dataset.records:
            raise DataError(
                needed="a dataset with reviews", came=dataset.name, remedy='load it with its texts: sources.load("reviews:PATH")'
            )
        table = dataset.records["reviews"]
        there = np.flatnonzero(pc.is_valid(table.column(self.says)).to_numpy())
        user, item, event = (table.column(name).to_numpy()[there].astype(np.int64) for name in ("user", "item", "event"))
        order = np.argsort(event, kind="stable")
        return ReviewRows(dataset, user[order], item[order], event[order], there[order])

    def collate(self, rows: ReviewRows) -> Batch:
        table = rows.dataset.records["reviews"].take(pa.array(rows.which))
        said = table.column(self.says).to_pylist()
        body: dict[str, Sequence[str | None]] = {}
        if self.reads:
            body["text"] = [None if each is None else first_words(each, self.reads) for each in table.column("text").to_pylist()]
        rating = np.full(len(rows), np.nan, np.float32) if rows.dataset.rating is None else rows.dataset.rating[rows.event]
        return pairs(
            rows.user,
            rows.item,
            rating=rating,
            texts={
                "explanation": [first_words(text, self.longest) for text in said],
                "feature": table.column("feature").to_pylist(),
                **body,
            },
        )

    def asked(self, rows: ReviewRows, *, asks: int) -> ReviewRows:
        return rows

    def known(self, rows: ReviewRows) -> np.ndarray:
        return np.ones(len(rows), bool)

    def _some(self, rows: ReviewRows, where: str) -> ReviewRows:
        if not len(rows):
            counts = _counts(rows.dataset)
            raise DataError(
                needed=f"reviews with {self.says} among the {where} of {rows.dataset.name}",
                came=f"none (of all reviews: {', '.join(f'{n:,} with {name}' for name, n in counts.items())})",
                remedy="choose another text with says=..., or another split",
            )
        return rows


def pairs(
    user: np.ndarray, item: np.ndarray, *, rating: np.ndarray | None = None, texts: dict[str, Sequence[str | None]] | None = None
) -> Batch:
    """A Batch of pairs (user int64[B], item int64[B]) as the view makes them; without texts, a question."""
    rows = {"user": torch.from_numpy(np.asarray(user, np.int64))}
    if rating is not None:
        rows["rating"] = torch.from_numpy(np.asarray(rating, np.float32).copy())
    channels = {"item": torch.from_numpy(np.asarray(item, np.int64))}
    return from_rows(channels, torch.ones(len(user), dtype=torch.int64), rows, texts)


def _counts(dataset: Dataset) -> dict[str, int]:
    table = dataset.records["reviews"]
    return {name: table.num_rows - table.column(name).null_count for name in SAYS}
