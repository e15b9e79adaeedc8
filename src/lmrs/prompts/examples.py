"""The data of prompts: plain columns of text, or of lists of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from lmrs.errors import ContractError, UserError, did_you_mean

Cell = str | None


@dataclass(frozen=True, eq=False)
class Column:
    """Texts by number, so that each distinct one is read once.

    values: the distinct texts (None: missing). codes: int64[n], the value of each entry. offsets: None for one text an example;
    int64[examples + 1] for lists: the entries of example e are codes[offsets[e]:offsets[e + 1]]. A catalogue of titles and
    histories of item numbers are such a column already: Column(titles, items, offsets).
    Raises ContractError for codes outside the values and for offsets that do not cover the codes.
    """

    values: Sequence[Cell]
    codes: np.ndarray
    offsets: np.ndarray | None = None

    def __post_init__(self) -> None:
        codes, offsets = self.codes, self.offsets
        if codes.ndim != 1 or (len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.values)):
            raise ContractError(needed=f"codes from 0 to {len(self.values) - 1}", came="others")
        if offsets is not None and (
            offsets.ndim != 1 or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(codes) or (np.diff(offsets) < 0).any()
        ):
            raise ContractError(needed=f"rising offsets from 0 to {len(codes)}", came="others")

    @property
    def n_examples(self) -> int:
        return len(self.codes) if self.offsets is None else len(self.offsets) - 1

    def example(self, entry: int) -> int:
        """The example that an entry belongs to."""
        return entry if self.offsets is None else int(np.searchsorted(self.offsets, entry, side="right")) - 1


def column(name: str, cells: Sequence[Cell] | Sequence[Sequence[Cell]]) -> Column:
    """A Column from texts, or from lists of texts; None is a missing text.

    name: what errors call it. Raises UserError for numbers and for texts and lists in one column.
    """
    lists = any(isinstance(cell, Sequence) and not isinstance(cell, str) for cell in cells)
    flat: list[Cell] = []
    lengths: list[int] = []
    for at, cell in enumerate(cells):
        if lists and (isinstance(cell, str) or not isinstance(cell, Sequence)):
            raise UserError(
                needed=f"a list of texts in every row of {name!r}",
                came=f"{'a text' if isinstance(cell, str) else type(cell).__name__} in row {at}",
                remedy="write one text as a list of one",
            )
        if lists:
            flat += cast(Sequence[Cell], cell)
            lengths.append(len(cast(Sequence[Cell], cell)))
        else:
            flat.append(cast(Cell, cell))
    for kind in set(map(type, flat)):
        if not issubclass(kind, str | None.__class__):
            raise UserError(
                needed=f"texts in {name!r}", came=f"values of type {kind.__name__}", remedy="write them as text first"
            )
    numbers: dict[Cell, int] = {}
    codes = np.fromiter((numbers.setdefault(text, len(numbers)) for text in flat), np.int64, len(flat))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) if lists else None
    return Column(tuple(numbers), codes, offsets)


@dataclass(frozen=True, eq=False)
class Examples:
    """Columns of equal length, by name: one row is one prompt.

    columns: lists of text, lists of lists of text, or Columns. n: the number of examples; needed only where there is no column.
    Raises ContractError if the columns differ in length.
    """

    columns: Mapping[str, Sequence[Cell] | Sequence[Sequence[Cell]] | Column]
    n: int | None = None
    read: dict[str, Column] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        read = {name: each if isinstance(each, Column) else column(name, each) for name, each in self.columns.items()}
        lengths = {name: each.n_examples for name, each in read.items()}
        n = next(iter(lengths.values()), 0) if self.n is None else self.n
        if set(lengths.values()) - {n}:
            shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ContractError(needed=f"columns of {n} rows", came=shown, remedy="give every example a value in every column")
        object.__setattr__(self, "n", n)
        object.__setattr__(self, "read", read)

    def __len__(self) -> int:
        return cast(int, self.n)

    def texts(self, name: str) -> Column:
        """A column of one text an example. Raises ContractError if there is none of that name, or lists under it."""
        found = self._column(name)
        if found.offsets is not None:
            raise ContractError(
                needed=f"one text an example in {name!r}", came="lists", remedy=f"write {{list {name}}} in the template"
            )
        return found

    def lists(self, name: str) -> Column:
        """A column of lists. Raises ContractError if there is none of that name, or single texts under it."""
        found = self._column(name)
        if found.offsets is None and not found.n_examples:
            return Column((), found.codes, np.zeros(1, np.int64))
        if found.offsets is None:
            raise ContractError(needed=f"lists in {name!r}", came="single texts", remedy=f"write {{{name}}} in the template")
        return found

    def _column(self, name: str) -> Column:
        if name not in self.read:
            remedy = did_you_mean(name, self.read) if self.read else "give the examples that column"
            raise ContractError(needed=f"the column {name!r} that the template reads", came="examples without it", remedy=remedy)
        return self.read[name]
