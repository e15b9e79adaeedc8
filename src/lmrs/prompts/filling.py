"""What fills the slots of a template: each distinct text once, as a slice of one pool of tokens; lists as matrices of slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lmrs.errors import ContractError, DataError
from lmrs.language.cleaning import clean
from lmrs.prompts.examples import Cell, Column, Examples
from lmrs.prompts.pieces import Fixed, Many, Text

if TYPE_CHECKING:
    from lmrs.language.tokens import Tokens


def visible(text: Cell) -> bool:
    """Is there a text that leaves something to see after cleaning?"""
    return text is not None and bool(clean(text).strip())


class Pool:
    """Every token sequence that prompts are put together from, once: texts first, then the template's own."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens, self.numbers = tokens, dict[str, int]()
        self.start = self.length = np.zeros(0, np.int64)
        self.parts: list[Fixed] = []
        self.size = 0

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """int64: the number of each text, to be looked up in `start` and `length` after `encode`."""
        numbers = self.numbers
        return np.fromiter((numbers.setdefault(text, len(numbers)) for text in texts), np.int64, len(texts))

    def encode(self) -> None:
        self.ids, offsets = self.tokens.batch(list(self.numbers))
        self.start, self.length, self.size = offsets[:-1], np.diff(offsets), len(self.ids)
        marks = [*self.tokens.marks.values(), *range(self.tokens.size - len(self.tokens.words), self.tokens.size)]
        meant = [mark for mark in marks if mark != self.tokens.unk]
        if np.isin(self.ids, meant).any():  # never, by the contract of Tokens: but all that data may do rests on it
            raise ContractError(needed="a tokenizer that reads text as text", came="one that makes control tokens of it")

    def add(self, piece: Fixed) -> int:
        """Where the tokens of a fixed piece begin."""
        self.parts.append(piece)
        first = self.size
        self.size += len(piece.ids)
        return first

    def channel(self, name: str) -> np.ndarray:
        """One channel of all tokens of the pool."""
        own = {
            "ids": [each.ids for each in self.parts],
            "soft": [each.soft for each in self.parts],
            "vector": [each.vector for each in self.parts],
            "mask": [each.mask for each in self.parts],
        }[name]
        text = {"ids": self.ids, "mask": np.zeros(len(self.ids), bool)}.get(name, np.full(len(self.ids), -1, np.int64))
        return np.concatenate([text, *own])


class Filling:
    """A column in a text slot. After `find`, for each entry: where its tokens start, how many, whether it was missing or cut."""

    def __init__(self, pool: Pool, piece: Text, column: Column, missing: str) -> None:
        self.pool, self.piece, self.column, self.instead = pool, piece, column, missing
        self.values = np.unique(column.codes)
        shown = [column.values[value] for value in self.values]
        there = np.fromiter((visible(text) for text in shown), bool, len(shown))
        stand_in = "" if missing in ("", "error") else piece.lead + missing
        # Spaces around a text are no part of it: those before it in the prompt are the template's.
        written = [piece.lead + str(text).strip(" ") if ok else stand_in for text, ok in zip(shown, there, strict=True)]
        self.text = pool.texts(written)
        self.stand_in = int(pool.texts([stand_in])[0])
        self.there = there

    def find(self) -> None:
        text = np.where(self.there & (self.pool.length[self.text] > 0), self.text, self.stand_in)
        missing = text == self.stand_in
        missing &= ~self.there | (self.text != self.stand_in)  # a title may be spelt like the stand-in
        value = np.searchsorted(self.values, self.column.codes)
        self.missing = missing[value]
        if self.instead == "error" and self.missing.any():
            entry = int(self.missing.argmax())
            raise DataError(
                needed=f"a text in {self.piece.field!r} of example {self.column.example(entry)}",
                came="none, or nothing visible",
                remedy='fill it in, or say what to put there: missing="(untitled)"',
            )
        full = self.pool.length[text]
        length = full if self.piece.limit is None else np.minimum(full, self.piece.limit)
        self.start, self.length, self.shortened = self.pool.start[text][value], length[value], (length < full)[value]
        self.used = np.ones(len(value), bool)


class Entries:
    """A list slot: the tokens of each entry, as the first one shown and as a later one, and which entries are shown.

    Tokens of entry e are the runs first[e] or later[e], [E, 1 + parts]: the separator (empty before the first), then the parts.
    """

    def __init__(self, pool: Pool, piece: Many, data: Examples, missing: str) -> None:
        self.pool, self.piece, self.missing = pool, piece, missing
        columns = {name: data.lists(name) for name in piece.source.columns}
        name, column = next(iter(columns.items()))
        for other, each in columns.items():
            if not np.array_equal(np.asarray(each.offsets), np.asarray(column.offsets)):
                raise ContractError(
                    needed=f"lists of equal length in {name!r} and {other!r}", came="others", remedy="give each entry every field"
                )
        self.offsets: np.ndarray = np.asarray(column.offsets)
        self.literals, self.fillings = dict[tuple[int, bool], int](), dict[tuple[int, bool], Filling]()
        self.separator = int(pool.texts([piece.separator])[0])
        for later in (False, True):
            for at, part in enumerate(piece.parts):
                lead = "" if at else (piece.spaces if later else piece.lead)
                if isinstance(part, str):
                    self.literals[at, later] = int(pool.texts([lead + part])[0])
                else:
                    slot = Text(part.segment, part.field, lead + part.lead, part.limit)
                    self.fillings[at, later] = Filling(pool, slot, columns[part.field], missing)

    @property
    def fields(self) -> list[Filling]:
        """One filling for each field of an entry."""
        return [each for (_, later), each in self.fillings.items() if not later]

    def find(self, n: int) -> None:
        for filling in self.fillings.values():
            filling.find()
        self.row = np.repeat(np.arange(n), np.diff(self.offsets))
        self.place = np.arange(len(self.row)) - self.offsets[:-1][self.row]
        self.first, self.later = self._runs(False), self._runs(True)
        self.kept = np.ones(len(self.row), bool)
        if self.missing == "":
            self.kept = ~np.all([each.missing for each in self.fields], axis=0)
        self.n, self.limited = n, np.zeros(n, np.int64)
        limit, count = self.piece.source.limit, np.bincount(self.row[self.kept], minlength=n)
        if limit is not None:
            rank = self._rank()
            shown = rank >= (count - limit)[self.row] if self.piece.source.keep == "right" else rank < limit
            self.kept &= shown
            self.limited = np.maximum(count - limit, 0)

    def _runs(self, later: bool) -> tuple[np.ndarray, np.ndarray]:
        """(start, length), each int64[E, 1 + parts]."""
        start = np.zeros((len(self.row), 1 + len(self.piece.parts)), np.int64)
        length = np.zeros_like(start)
        if later:
            start[:, 0], length[:, 0] = self.pool.start[self.separator], self.pool.length[self.separator]
        for (at, which), text in self.literals.items():
            if which == later:
                start[:, at + 1], length[:, at + 1] = self.pool.start[text], self.pool.length[text]
        for (at, which), filling in self.fillings.items():
            if which == later:
                start[:, at + 1], length[:, at + 1] = filling.start, filling.length
        return start, length

    def _rank(self) -> np.ndarray:
        """Place of each kept entry among the kept ones of its row."""
        until = np.concatenate([[0], np.cumsum(self.kept)])
        return until[:-1] - until[self.offsets[:-1]][self.row]

    def _opening(self) -> np.ndarray:
        """bool[E]: the first kept entry of its row."""
        return self.kept & (self._rank() == 0)

    def total(self) -> np.ndarray:
        """int64[rows]: tokens that the kept entries take."""
        each = np.where(self._opening(), self.first[1].sum(1), self.later[1].sum(1)) * self.kept
        return np.bincount(self.row, each, minlength=self.n).astype(np.int64)

    def shrink(self, room: np.ndarray) -> np.ndarray:
        """Keep as many entries as fit the room (int64[rows], tokens); returns how many each row lost."""
        first, later = self.first[1].sum(1), self.later[1].sum(1) * self.kept
        until = np.cumsum(later)
        row, at = self.row, np.arange(len(self.row))
        if self.piece.source.keep == "right":
            end = np.concatenate([[0], until])[self.offsets[1:]]
            fits = self.kept & (first + end[row] - until <= room[row])
            begin = np.full(self.n, len(row))
            np.minimum.at(begin, row[fits], at[fits])
            kept = self.kept & (at >= begin[row])
        else:
            opening = self._opening()
            extra = np.zeros(self.n, np.int64)
            extra[row[opening]] = first[opening] - until[opening]
            fits = self.kept & (extra[row] + until <= room[row])
            last = np.full(self.n, -1)
            np.maximum.at(last, row[fits], at[fits])
            kept = self.kept & (at <= last[row])
        lost = np.bincount(row[self.kept & ~kept], minlength=self.n)
        self.kept = kept
        return lost

    def runs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of E kept entries: example [E], place in the list [E], start and length [E, P] in the pool; bool[P]: which are data."""
        opening = self._opening()[:, None]
        start = np.where(opening, self.first[0], self.later[0])[self.kept]
        length = np.where(opening, self.first[1], self.later[1])[self.kept]
        data = np.array([False, *(not isinstance(part, str) for part in self.piece.parts)])
        for filling in self.fields:
            filling.used = self.kept
        return self.row[self.kept], self.place[self.kept], start, length, data
