"""Impressions: what a user had read, what was then shown, and what of it was clicked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from lmrs.batch import Batch, from_rows
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, DataError
from lmrs.records import Impressions as Log
from lmrs.split import Train


@dataclass(frozen=True, eq=False)
class ShownRows:
    """R impressions of a Dataset, by place in its log.

    which: int64[R], the impression. drawn: int64[R, K] places in `log.shown`, -1 where a row has fewer; None: all that was shown.
    room: positions of a row that are kept free for the question.
    """

    dataset: Dataset
    log: Log
    which: np.ndarray
    drawn: np.ndarray | None = None
    room: int = 0

    @property
    def user(self) -> np.ndarray:
        return self.log.user[self.which]

    def __len__(self) -> int:
        return len(self.which)

    def take(self, which: np.ndarray) -> ShownRows:
        return replace(self, which=self.which[which], drawn=None if self.drawn is None else self.drawn[which])

    def places(self) -> np.ndarray:
        """int64[R, K]: places in `log.shown`, -1 where a row has fewer than K."""
        if self.drawn is not None:
            return self.drawn
        begin = self.log.shown_offsets[self.which]
        size = self.log.shown_offsets[self.which + 1] - begin
        cells = np.arange(size.max(initial=0))
        return np.where(cells < size[:, None], begin[:, None] + cells, -1)

    def candidates(self) -> np.ndarray:
        """int64[R, K]: the items that were shown, -1 where a row has fewer."""
        places = self.places()
        return np.where(places >= 0, self.log.shown[places].astype(np.int64), -1)

    def clicked(self) -> np.ndarray:
        """bool[R, K], beside `candidates`."""
        places = self.places()
        return (places >= 0) & self.log.clicked[places]

    def show(self, row: int) -> str:
        """One row as a person reads it; what was clicked in stars."""
        history, _, _ = self.log.row(int(self.which[row]))
        shown = self.take(np.array([row]))
        found = [
            f"*{title}*" if clicked else title
            for item, title, clicked in zip(
                shown.candidates()[0], self.dataset.titles(shown.candidates()[0].clip(0)), shown.clicked()[0], strict=True
            )
            if item >= 0
        ]
        user = self.dataset.vocab.users[int(self.user[row])]
        return f"user {user}: {' > '.join(self.dataset.titles(history))} | {', '.join(found)}"

    def __repr__(self) -> str:
        return f"<ShownRows: {len(self):,} impressions of {self.dataset.name}>"


@dataclass(frozen=True)
class Impressions:
    """The history of an impression, at most its `max_len` newest items, and the items shown.

    unclicked: in training a row is one click with so many unclicked items of the same impression, drawn anew for every epoch
    without repetition (all of them where there are fewer): NRMS's 1 + 4. An impression with several clicks gives several rows.
    Rows without history teach nothing of the user and are left out of training.

    A Batch has the history as channel `item`, and by row `candidates` int64[B, K] (-1 where a row has fewer; in training the
    clicked one first), `clicked` bool[B, K], `user` and `impression`.
    """

    max_len: int = 50
    unclicked: int = 4

    gives = ("item", "position", "candidates", "clicked")

    def __post_init__(self) -> None:
        if self.max_len < 1:
            raise ContractError(needed="max_len of at least 1", came=f"max_len={self.max_len}")
        if self.unclicked < 1:
            raise ContractError(needed="at least one unclicked item a row", came=f"unclicked={self.unclicked}")

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> ShownRows:
        """The rows of one epoch: a click each. Raises DataError if the data has no impressions, or none to learn from."""
        log = log_of(train.dataset)
        clicks = log.clicks()
        fits = log.known(train.stop) & (clicks > 0) & (clicks < np.diff(log.shown_offsets)) & (np.diff(log.history_offsets) > 0)
        if not fits.any():
            raise DataError(
                needed="impressions with a history, a clicked and an unclicked item in the training part",
                came=f"none among the {len(log):,} of {train.dataset.name}",
                remedy="use --split time, which leaves the early impressions to training",
            )
        owner = np.repeat(np.arange(len(log)), np.diff(log.shown_offsets))
        click = np.flatnonzero(log.clicked & fits[owner])
        which = owner[click]
        others = np.flatnonzero(~log.clicked & fits[owner])
        before = np.concatenate([[0], np.cumsum(np.bincount(owner[others], minlength=len(log)))])
        size = (before[1:] - before[:-1])[which]  # unclicked items of each row's impression, >= 1
        row = np.repeat(np.arange(len(which)), size)
        first = np.cumsum(size) - size
        cell = others[np.arange(len(row)) - np.repeat(first, size) + np.repeat(before[which], size)]
        order = np.lexsort((rng.random(len(row)), row))
        nth = np.arange(len(row)) - np.repeat(first, size)
        kept = nth < self.unclicked
        drawn = np.full((len(which), 1 + self.unclicked), -1, np.int64)
        drawn[:, 0] = click
        drawn[row[kept], 1 + nth[kept]] = cell[order][kept]
        return ShownRows(train.dataset, log, which, drawn)

    def collate(self, rows: ShownRows) -> Batch:
        log, which = rows.log, rows.which
        stop = log.history_offsets[which + 1]
        length = np.minimum(stop - log.history_offsets[which], self.max_len - rows.room)
        first = np.cumsum(length) - length
        flat = np.arange(int(length.sum())) + np.repeat(stop - length - first, length)
        return from_rows(
            {"item": torch.from_numpy(log.history[flat].astype(np.int64))},
            torch.from_numpy(length),
            {
                "user": torch.from_numpy(rows.user.astype(np.int64)),
                "impression": torch.from_numpy(which),
                "candidates": torch.from_numpy(rows.candidates()),
                "clicked": torch.from_numpy(rows.clicked()),
            },
        )

    def asked(self, rows: ShownRows, *, asks: int) -> ShownRows:
        return replace(rows, room=asks)

    def known(self, rows: ShownRows) -> np.ndarray:
        """bool[R]: rows with a history."""
        return np.diff(rows.log.history_offsets)[rows.which] > 0


def log_of(dataset: Dataset) -> Log:
    """The impressions of a Dataset. Raises DataError if it has none."""
    if "impressions" not in dataset.records:
        raise DataError(
            needed="impressions (what was shown, what was clicked)",
            came=f"{dataset.name}, which has {', '.join(dataset.records) or 'plain interactions'}",
            remedy="use a folder in MIND's format, or synthetic-news",
        )
    return Log.of(dataset.records["impressions"])
