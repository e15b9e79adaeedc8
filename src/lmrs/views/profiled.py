"""Item sequences with what is known of their users: a profile beside each row, and whose rows are read at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from lmrs.batch import Batch
from lmrs.errors import ContractError, DataError
from lmrs.split import Train
from lmrs.views.sequence import ItemSequence, Rows


@dataclass(frozen=True)
class Profiled:
    """The rows of `sequence`, with the user's attributes as texts of the batch, named as the columns of the user table.

    least, most: read only users with so many training events (most=None: no upper bound): cold users, or warm ones.
    A user without any event is a question, too, if a profile is known. Values stay text: the model numbers them as it was
    fitted (models.Profiles), so that one asked about other data never takes one value for another.
    """

    sequence: ItemSequence = ItemSequence()  # noqa: RUF009 - a frozen value
    least: int = 2
    most: int | None = None

    def __post_init__(self) -> None:
        if self.least < 1 or (self.most is not None and self.most < self.least):
            raise ContractError(needed="1 <= least <= most", came=f"least={self.least}, most={self.most}")

    @property
    def max_len(self) -> int:
        return self.sequence.max_len

    @property
    def gives(self) -> tuple[str, ...]:
        return self.sequence.gives

    def rows(self, train: Train, *, ahead: int, rng: np.random.Generator) -> Rows:
        """As `sequence`, of the users in question. Raises DataError if there are none."""
        lengths = train.lengths
        chosen = (lengths >= self.least) & (lengths <= (lengths.max(initial=0) if self.most is None else self.most))
        rows = self.sequence.rows(Train(train.dataset, np.where(chosen, train.stop, train.start)), ahead=ahead, rng=rng)
        if not len(rows):
            bound = f"{max(self.least, 2)} to {self.most}" if self.most is not None else f"at least {max(self.least, 2)}"
            raise DataError(
                needed=f"users with {bound} training events",
                came=f"none in {train.dataset.name}, whose users have {lengths.min(initial=10**9)} to {lengths.max(initial=0)}",
                remedy="change the number of events that makes a user a cold one",
            )
        return rows

    def collate(self, rows: Rows) -> Batch:
        batch = self.sequence.collate(rows)
        known = profiles(rows.dataset.users, rows.user[batch.rows["example"].numpy()])
        return replace(batch, texts={name: tuple(values.to_pylist()) for name, values in known.items()})

    def asked(self, rows: Rows, *, asks: int) -> Rows:
        return self.sequence.asked(rows, asks=asks)

    def known(self, rows: Rows) -> np.ndarray:
        """bool[R]: rows with a history or with a profile."""
        found = self.sequence.known(rows)
        for values in profiles(rows.dataset.users, rows.user).values():
            found = found | values.is_valid().to_numpy(zero_copy_only=False)
        return found


def attributes(users: pa.Table | None) -> tuple[str, ...]:
    """The columns of a user table that can be a profile: text, whole numbers and truth values, but for the id."""

    def plain(kind: pa.DataType) -> bool:
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return kind in (pa.string(), pa.large_string(), pa.bool_()) or pa.types.is_integer(kind)

    return () if users is None else tuple(each.name for each in users.schema if plain(each.type) and each.name != "user_id")


def profiles(users: pa.Table | None, which: np.ndarray) -> dict[str, pa.Array]:
    """By attribute, the values of some users (int64 places in the table, -1: nobody) as text, null where unknown."""
    at = pa.array(which, pa.int64(), mask=which < 0)
    found = {}
    for name in attributes(users):
        assert users is not None
        taken = users.column(name).take(at)
        plain = taken.type.value_type if pa.types.is_dictionary(taken.type) else taken.type
        found[name] = pa.chunked_array(taken.cast(plain).cast(pa.large_string())).combine_chunks()
    return found
