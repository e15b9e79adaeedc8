"""Documents with tags: the users are documents, what is known of one is its texts, and its tags are the items (PTM4Tag)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from lmrs.batch import Batch, from_rows
from lmrs.errors import ContractError, DataError, UserError, did_you_mean
from lmrs.split import Train
from lmrs.views.sequence import Rows

PARTS = ("title", "text", "code")  # what sources of documents tell


@dataclass(frozen=True)
class Documents:
    """One row a document: `texts` holds its parts, the positions are its tags (none, where the tags are asked for).

    parts: columns of the user table, each one a text; a column that the table lacks, a null and a blank text are None. All of the
    tags of a document are asked for at once, so splits that cut between documents fit (split.by_time, as all tags of a document
    have its time).
    """

    parts: tuple[str, ...] = PARTS

    max_len = 0  # no position is read: a model sees the texts alone

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ContractError(
                needed="different parts of a document, at least one", came=repr(self.parts), remedy="such as title"
            )

    @property
    def gives(self) -> tuple[str, ...]:
        return ("item", "position", *self.parts)

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> Rows:
        """Every document that has training tags and a text, with all of its training tags; `ahead` is no matter."""
        users = np.flatnonzero(train.lengths >= 1)
        rows = Rows(train.dataset, users, train.start[users], train.stop[users])
        return rows.take(np.flatnonzero(self.known(rows)))

    def collate(self, rows: Rows) -> Batch:
        """Texts by part in `texts`, document numbers in the row channel `user`, tags as `item` and `position`."""
        length = rows.stop - rows.start
        flat = np.arange(int(length.sum())) + np.repeat(rows.start - (np.cumsum(length) - length), length)
        item = torch.from_numpy(rows.dataset.item[flat].astype(np.int64))
        return from_rows({"item": item}, torch.from_numpy(length), {"user": torch.from_numpy(rows.user)}, self.read(rows))

    def asked(self, rows: Rows, *, asks: int) -> Rows:
        return rows

    def known(self, rows: Rows) -> np.ndarray:
        """bool[R]: documents with a text."""
        return np.array([any(texts) for texts in zip(*self.read(rows).values(), strict=True)], bool)

    def read(self, rows: Rows) -> dict[str, Sequence[str | None]]:
        """The parts of each row's document. Raises DataError if the data has no texts of documents."""
        table = rows.dataset.users
        there = [] if table is None else [part for part in self.parts if part in table.column_names]
        if table is None or not there:
            raise DataError(
                needed=f"documents with {' or '.join(self.parts)} in the user table",
                came="no texts" if table is None else "columns " + ", ".join(table.column_names),
                remedy="give posts with tags, or of a new document its texts as the profile"
                if table is None
                else did_you_mean(self.parts[0], table.column_names),
            )
        cells = {part: table.column(part).take(pa.array(rows.user)).to_pylist() for part in there}
        return {
            part: [str(text) if text is not None and str(text).strip() else None for text in cells[part]]
            if part in cells
            else [None] * len(rows)
            for part in self.parts
        }

    def table(self, documents: Sequence[Mapping[str, str | int]]) -> pa.Table:
        """New documents as a user table: {"title": ..., "text": ...} each. Raises UserError for other parts, and where none has a
        text."""
        for document in documents:
            if strange := [part for part in document if part not in self.parts]:
                raise UserError(
                    needed=f"parts of a document among {', '.join(self.parts)}",
                    came=strange[0],
                    remedy=did_you_mean(strange[0], self.parts),
                )
            if not any(str(text).strip() for text in document.values()):
                raise UserError(needed=f"a text in {' or '.join(self.parts)}", came="none", remedy="give at least one")
        text = pa.large_string()
        cells = {part: [None if part not in each else str(each[part]) for each in documents] for part in self.parts}
        return pa.table({part: pa.array(found, text) for part, found in cells.items()})
