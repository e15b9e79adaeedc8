"""Item and user ids and the numbers that stand for them, and what the catalogue says of items."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from lmrs.columns import PART, fingerprint, laid_out
from lmrs.errors import DataError, did_you_mean
from lmrs.numbering import hashes

_FEW = 64  # texts that are read one by one
# pyarrow.compute is imported where it is used: that takes as long as NumPy does, and a few questions do without.


@dataclass(frozen=True, eq=False)
class Attributes:
    """Multi-valued item attributes in CSR form (genres, brands, categories).

    names: the distinct values, text. offsets: int64[V+1]. values: int32[nnz], places in `names`, distinct within an item.
    """

    names: pa.Array
    offsets: np.ndarray
    values: np.ndarray

    @classmethod
    def from_lists(cls, lists: pa.Array | pa.ChunkedArray) -> Attributes:
        """From one list of values an item, in item order; null counts as no value; repeats within an item are dropped.

        Values are numbered in order of first appearance; numbers become their decimal text.
        """
        import pyarrow.compute as pc

        rows = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        owner, flat = pc.list_parent_indices(rows), pc.list_flatten(rows)
        real = pc.is_valid(flat)
        coded = pc.cast(flat.filter(real), pa.large_string()).dictionary_encode()
        owner = owner.filter(real).to_numpy(zero_copy_only=False).astype(np.int64)
        codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        _, first = np.unique(owner * max(len(coded.dictionary), 1) + codes, return_index=True)
        first.sort()  # within an item the values keep the order they came in
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[first], minlength=len(rows)))]).astype(np.int64)
        return cls(coded.dictionary, offsets, codes[first].astype(np.int32))

    @property
    def count(self) -> int:
        """Number of distinct values."""
        return len(self.names)

    def of(self, item: int) -> list[str]:
        """The values of one item, as text."""
        return self.names.take(pa.array(self.values[self.offsets[item] : self.offsets[item + 1]])).to_pylist()

    def take(self, items: np.ndarray) -> Attributes:
        """The attributes of some items, in the order given; values that none of them has are dropped."""
        sizes = np.diff(self.offsets)[items]
        first = np.cumsum(sizes) - sizes
        values = self.values[np.arange(sizes.sum()) - np.repeat(first, sizes) + np.repeat(self.offsets[items], sizes)]
        used, renumbered = np.unique(values, return_inverse=True)
        return Attributes(
            self.names.take(pa.array(used)), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), renumbered.astype(np.int32)
        )

    def __repr__(self) -> str:
        return f"<Attributes: {self.count:,} values, {len(self.values):,} on {len(self.offsets) - 1:,} items>"


def large(texts: pa.Array) -> pa.Array:
    """Texts as large_string."""
    return texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())


def _at(texts: pa.Array | pa.ChunkedArray, numbers: np.ndarray) -> list[Any]:
    """The values at the given places; a few one by one, for `take` is made for many."""
    numbers = np.asarray(numbers, np.int64)
    if len(numbers) <= _FEW and numbers.min(initial=0) >= 0:  # texts[-1] would be the last one; `take` refuses it
        return [texts[number].as_py() for number in numbers.tolist()]
    return texts.take(pa.array(numbers)).to_pylist()


def named(catalogue: pa.Table | None, numbers: np.ndarray, ids: list[str]) -> list[str]:
    """The titles of items where the catalogue, a table in the order of their numbers, has one, else their ids."""
    if catalogue is None or "title" not in catalogue.schema.names:
        return ids
    return [title if title else key for title, key in zip(_at(catalogue.column("title"), numbers), ids, strict=True)]


class Prepared(Protocol):
    """What a model fits to the training events before it has weights, such as an index of the items; saved beside the weights.

    fingerprint: a hash of all that it says. `str()` tells people about it in a line.
    """

    @property
    def fingerprint(self) -> str: ...

    def save(self, folder: Path) -> object:
        """Writes files of its own into a folder that holds others. Raises StorageError."""


@dataclass(frozen=True, eq=False)
class Vocab:
    """Item and user ids, text, byte for byte as they came; a number is a place in the list.

    items: V distinct texts. users: U distinct texts. attributes: item attributes by name.
    counts: int64[V] training events of each item, filled in by fit (None before).
    catalogue: the item table in the order of `items` (V rows), for models that read texts; filled in by fit, too.
    prepared: what `Model.prepare` made, for models that need more than this to be built; filled in by fit, too.
    Special symbols are numbered from V on; they are for models and never occur in data.
    """

    items: pa.Array
    users: pa.Array = field(default_factory=lambda: pa.array([], pa.large_string()))
    attributes: dict[str, Attributes] = field(default_factory=dict)
    counts: np.ndarray | None = None
    catalogue: pa.Table | None = None
    prepared: Prepared | None = None

    SPECIAL = ("mask",)

    @property
    def n_items(self) -> int:
        """V, the size of the catalogue."""
        return len(self.items)

    @property
    def mask(self) -> int:
        """The symbol that hides an item: V."""
        return self.n_items

    @property
    def n_symbols(self) -> int:
        """V plus the special symbols: the rows of an input embedding table."""
        return self.n_items + len(self.SPECIAL)

    def item_numbers(self, ids: list[str] | pa.Array) -> np.ndarray:
        """int64 numbers of the given item ids; -1 for ids that are not in the catalogue."""
        if not len(ids) or not self.n_items:
            return np.full(len(ids), -1, np.int64)
        asked = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        asked = large(asked if isinstance(asked, pa.Array) else pa.array(asked, pa.large_string()))
        keys, places = self._places
        number = places[np.minimum(np.searchsorted(keys, hashes(asked)), len(keys) - 1)]
        if len(asked) <= _FEW:
            pairs = zip(_at(self.items, number), asked.to_pylist(), strict=True)
            same = np.fromiter((there == text for there, text in pairs), bool, len(asked))
        else:
            import pyarrow.compute as pc

            alike = pc.equal(large(self.items.take(pa.array(number))), asked)
            same = pc.fill_null(alike, False).to_numpy(zero_copy_only=False)
        found = np.where(same, number, -1)
        if self._clash and (found < 0).any():  # two ids share a hash: the slow way finds either
            import pyarrow.compute as pc

            slow = pc.index_in(asked, value_set=large(self.items))
            return pc.fill_null(slow, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        return found

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """(hashes of the item ids, rising; int64 numbers of those items): a few ids are found without a table of all."""
        keys = hashes(large(self.items))
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    @cached_property
    def _clash(self) -> bool:
        keys, _ = self._places
        return bool((keys[1:] == keys[:-1]).any())

    def user_numbers(self, ids: list[str] | pa.Array) -> np.ndarray:
        """int64 numbers of the given user ids; -1 for unknown ones."""
        import pyarrow.compute as pc

        found = pc.index_in(pa.array(ids, self.users.type), value_set=self.users)
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def item_ids(self, numbers: np.ndarray) -> list[str]:
        """The ids of the given item numbers (each 0..V-1)."""
        return _at(self.items, numbers)

    def titles(self, numbers: np.ndarray) -> list[str]:
        """Display names of items: the title where the catalogue has one, else the id."""
        return named(self.catalogue, numbers, self.item_ids(numbers))

    @cached_property
    def untitled(self) -> int:
        """How many items have no title, so that their id stands for them."""
        if self.catalogue is None or "title" not in self.catalogue.column_names:
            return self.n_items
        return sum(not title for title in self.catalogue.column("title").to_pylist())

    def texts(self, name: str) -> list[str | None]:
        """What the catalogue says of each item under `name`: a column of text, or an attribute, its values joined by ", ".

        V texts, None where there is none; "title" falls back to the id. Raises DataError, naming what there is, for another name.
        """
        if name == "title":
            return list(self.titles(np.arange(self.n_items)))
        if name in self.attributes:
            return [", ".join(self.attributes[name].of(item)) or None for item in range(self.n_items)]
        columns = [] if self.catalogue is None else self.catalogue.column_names
        if self.catalogue is None or name not in columns:
            known = ["title", *self.attributes, *columns]
            raise DataError(needed=f"an item column or attribute {name!r}", came="none", remedy=did_you_mean(name, known))
        return [None if each is None else str(each) for each in self.catalogue.column(name).to_pylist()]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the item ids in order: two models agree on item numbers iff these agree."""
        return fingerprint(laid_out(large(self.items.slice(begin, PART))) for begin in range(0, self.n_items, PART))

    def __repr__(self) -> str:
        return f"<Vocab: {self.n_items:,} items, {len(self.users):,} users, attributes {sorted(self.attributes)}>"
