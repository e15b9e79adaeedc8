"""What happened: interactions sorted by (user, time, file order), with the catalogue beside them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from lmrs import records as tables
from lmrs.vocab import Vocab

TIE_RULE = "file order"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Interactions of U users with V items, and what is known of both.

    name: what to call it in reports.
    vocab: the ids.
    item: int32[N] item numbers, sorted by user, then time, then file order.
    offsets: int64[U+1]; the events of user u are `item[offsets[u]:offsets[u+1]]`.
    time: int64[N] microseconds since the epoch, or None where only the order is known.
    rating: float32[N] or None.
    type: int32[N] codes into `types`, or None. types: names of event types.
    items: catalogue table in vocab order (V rows; a column `item_id` at least), or None. `title` is the display column.
    users: user table in vocab order, or None.
    edges: knowledge graph, or None: head, relation, tail as text, and head_item, tail_item: item numbers (null: not an item).
    records: what happened beyond interactions, by name: "impressions", "reviews", "dialogues"; their columns are in `records.py`.
    about: where it came from and what was done (JSON values only): source, filters, counts dropped, warnings.

    The arrays may be memory-mapped and are never written to.
    """

    name: str
    vocab: Vocab
    item: np.ndarray
    offsets: np.ndarray
    time: np.ndarray | None = None
    rating: np.ndarray | None = None
    type: np.ndarray | None = None
    types: tuple[str, ...] = ()
    items: pa.Table | None = None
    users: pa.Table | None = None
    edges: pa.Table | None = None
    records: dict[str, pa.Table] = field(default_factory=dict)
    about: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        tables.check(self.records)

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        return self.vocab.n_items

    @property
    def n_events(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64[U]: events of each user."""
        return np.diff(self.offsets)

    def history(self, user: int) -> np.ndarray:
        """The item numbers of one user, oldest first."""
        return self.item[self.offsets[user] : self.offsets[user + 1]]

    def titles(self, numbers: np.ndarray) -> list[str]:
        """Display names of items: the title where the catalogue has one, else the id."""
        return replace(self.vocab, catalogue=self.items).titles(numbers)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, order, times and records: equal iff two runs read the same events and records in the same order."""
        digest = hashlib.sha256(self.vocab.fingerprint.encode())
        for array in (self.offsets, self.item, self.time, self.rating, self.type):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        for name, table in sorted(self.records.items()):
            digest.update(name.encode() + tables.digest(table))
        return digest.hexdigest()

    def renamed(self, name: str) -> Dataset:
        return replace(self, name=name)

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {self.n_users:,} users, {self.n_items:,} items, {self.n_events:,} events>"
