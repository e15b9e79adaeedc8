"""Which text stands for an item: columns of the catalogue and attributes, joined."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lmrs.errors import ContractError, DataError
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Coverage:
    """How many items have a text of their own.

    items: V. without: items without text in any column, which get the stated text instead. distinct: different texts among all.
    columns: (name, items with a text in it) of every column read.
    """

    items: int
    without: int
    distinct: int
    columns: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        found = ", ".join(f"{name} {count:,}" for name, count in self.columns)
        return f"{self.items - self.without:,} of {self.items:,} items have a text ({found}); {self.distinct:,} are different"


class ItemTexts(NamedTuple):
    """texts: V texts in the order of item numbers. coverage: where they came from."""

    texts: list[str]
    coverage: Coverage


@dataclass(frozen=True)
class ItemText:
    """The texts of the named columns and attributes, one after another, for every item of the catalogue, trained on or not.

    columns: names, in the order in which they are written; () for all that is text: the title, the other text columns, then the
    attributes (ids left out). An attribute's values are joined by ", ".
    joiner: between columns. missing: the text of an item that has none in any column; a column that an item lacks is left out.
    """

    columns: tuple[str, ...] = ()
    joiner: str = ". "
    missing: str = "unknown item"

    def __post_init__(self) -> None:
        if not self.missing.strip():
            raise ContractError(needed="a text for items that have none", came=repr(self.missing), remedy="try 'unknown item'")

    def of(self, vocab: Vocab) -> ItemTexts:
        """Raises DataError if the data has no such column, or no item has any text."""
        names = self.columns or _readable(vocab)
        found = [_own(vocab, name) for name in names]
        rows = [[text for text in row if text] for row in zip(*found, strict=True)] if found else [[]] * vocab.n_items
        texts = [self.joiner.join(row) if row else self.missing for row in rows]
        without = sum(not row for row in rows)
        if without == vocab.n_items:
            raise DataError(
                needed="item texts (a title, a description, attributes)",
                came=f"{vocab.n_items:,} items without text in {', '.join(names) or 'any column'}",
                remedy="add a column 'title' to the item table, or name the columns that hold text",
            )
        counts = tuple((name, sum(bool(text) for text in column)) for name, column in zip(names, found, strict=True))
        return ItemTexts(texts, Coverage(vocab.n_items, without, len(set(texts)), counts))


def without_words(texts: Sequence[str], share: float) -> list[str]:
    """Texts that lack each of their words with probability `share`; the same words of a text every time, never all of them."""
    found = []
    for text in texts:
        words = text.split()
        rng = np.random.default_rng(list(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()))
        kept = rng.random(len(words)) >= share
        if words and not kept.any():
            kept[rng.integers(len(words))] = True
        found.append(" ".join(word for word, stays in zip(words, kept, strict=True) if stays))
    return found


def _readable(vocab: Vocab) -> tuple[str, ...]:
    """What is text: title first, other text columns in the order of the table, then attributes that are not all numbers."""
    columns = [] if vocab.catalogue is None else vocab.catalogue.column_names
    text = [
        name
        for name in columns
        if name not in ("item_id", "title") and name not in vocab.attributes and _is_text(vocab.catalogue, name)
    ]
    worded = [
        name
        for name, attribute in vocab.attributes.items()
        if not all(value.lstrip("-").isdigit() for value in attribute.names.to_pylist())
    ]
    return (*(["title"] if "title" in columns else []), *text, *worded)


def _is_text(catalogue: pa.Table | None, name: str) -> bool:
    kind = None if catalogue is None else catalogue.schema.field(name).type
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _own(vocab: Vocab, name: str) -> list[str]:
    """V texts of one column, "" where an item has none. A title is never replaced by the id here: an id says nothing."""
    if name == "title" and "title" not in vocab.attributes:
        columns = [] if vocab.catalogue is None else vocab.catalogue.column_names
        if vocab.catalogue is None or "title" not in columns:
            raise DataError(
                needed="an item column or attribute 'title'",
                came="none",
                remedy=f"name one of {', '.join([*vocab.attributes, *columns]) or '(the data has none)'}",
            )
        return [str(each or "").strip() for each in vocab.catalogue.column("title").to_pylist()]
    return [(each or "").strip() for each in vocab.texts(name)]
