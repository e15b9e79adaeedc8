"""What happened beyond plain interactions: impressions (what was shown, what was clicked), reviews and dialogues (what was said).

Records are Arrow tables in `Dataset.records`, under the names of `COLUMNS`. They speak of events by *place*, the row of an
interaction in the Dataset, so that a split of the events splits them too:

| table | column | what it is |
|---|---|---|
| impressions | key | id of the impression, text |
| | user | int32 user number |
| | time | int64 microseconds since the epoch |
| | history | list of int32 item numbers: what the reader had clicked by then, as the log tells it, oldest first |
| | shown | list of int32 item numbers, in the order of the log |
| | clicked | list of bool beside `shown`; null where the log does not tell |
| | start, stop | int64: the clicks of this impression are the events `[start, stop)`; start == stop: no click |
| reviews | user, item | int32 numbers |
| | event | int64 place of the event that the review came with (its rating and time are there) |
| | title, text | what the user wrote, or null |
| | feature, opinion | the aspect and the word about it ("strings", "crisp"), or null |
| | explanation | the sentence that explains the choice, or null |
| dialogues | dialogue | int32: users are dialogues; the turns of one stand together, in order |
| | turn | int32, 0-based within the dialogue |
| | role | "seeker" or "recommender" |
| | text | what was said, with the one character `SLOT` wherever an item was named: text cannot spell an item |
| | items | list of int32: the items of the slots, in order |
| | event | int64: the items of the turn are the events `[event, event + len(items))`; named before it: the events before |

For a user's training events `[offsets[u], stop[u])`: a review may be learnt from if `event < stop[user]`, an impression as
`Impressions.known` says.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs.errors import DataError

SLOT = "\N{OBJECT REPLACEMENT CHARACTER}"
ROLES = ("seeker", "recommender")
TEXT, NUMBERS, FLAGS = pa.large_string(), pa.large_list(pa.int32()), pa.large_list(pa.bool_())
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "impressions": {
        "key": TEXT, "user": pa.int32(), "time": pa.int64(), "history": NUMBERS, "shown": NUMBERS, "clicked": FLAGS,
        "start": pa.int64(), "stop": pa.int64(),
    },
    "reviews": {
        "user": pa.int32(), "item": pa.int32(), "event": pa.int64(), "title": TEXT, "text": TEXT, "feature": TEXT,
        "opinion": TEXT, "explanation": TEXT,
    },
    "dialogues": {
        "dialogue": pa.int32(), "turn": pa.int32(), "role": TEXT, "text": TEXT, "items": NUMBERS, "event": pa.int64(),
    },
}  # fmt: skip
OPTIONAL = ("clicked", "title", "text", "feature", "opinion", "explanation")  # columns that may hold nulls
_LIMITS = {
    "user": "users", "item": "items", "history": "items", "shown": "items", "event": "events",
    "dialogue": "users", "items": "items",
}  # fmt: skip


def check(records: dict[str, pa.Table]) -> None:
    """Raises DataError unless every table is known and has just its columns, in order. Reads no values."""
    for name, table in records.items():
        if name not in COLUMNS:
            raise DataError(needed="records named " + " or ".join(COLUMNS), came=repr(name), remedy="see lmrs.records")
        found = {column.name: column.type for column in table.schema}
        if list(found.items()) != list(COLUMNS[name].items()):
            wanted = ", ".join(f"{column} {kind}" for column, kind in COLUMNS[name].items())
            raise DataError(needed=f"records {name} with {wanted}", came=", ".join(f"{c} {k}" for c, k in found.items()))


def check_values(records: dict[str, pa.Table], *, users: int, items: int, events: int) -> None:
    """Raises DataError unless every value is there and every number exists. Reads everything; makers of datasets call it.

    users, items, events: how many the Dataset has.
    """
    check(records)
    sizes = {"users": users, "items": items, "events": events}
    for name, table in records.items():
        for column in table.column_names:
            cells = table.column(column)
            if column not in OPTIONAL and cells.null_count:
                raise DataError(needed=f"a {column} in every row of {name}", came=f"{cells.null_count:,} rows without")
            if column not in _LIMITS:
                continue
            flat = pc.list_flatten(cells) if pa.types.is_large_list(cells.type) else cells
            ends, limit = pc.min_max(flat).as_py(), sizes[_LIMITS[column]]
            if name == "dialogues" and column == "event":
                limit += 1  # a turn after the last item names none
            if flat.null_count or (len(flat) and (ends["min"] < 0 or ends["max"] >= limit)):
                raise DataError(
                    needed=f"{name}.{column} from 0 to {limit - 1:,}", came=f"{ends['min']} to {ends['max']}, or null"
                )
        if name == "impressions":
            _check_impressions(Impressions.of(table), events=events)
        if name == "dialogues":
            _check_dialogues(table)


def _check_impressions(log: Impressions, *, events: int) -> None:
    if not ((log.start >= 0) & (log.start <= log.stop) & (log.stop <= events)).all():
        raise DataError(needed=f"impressions with 0 <= start <= stop <= {events:,}", came="others")
    counts = log.clicks()
    if (log.told & (counts != log.stop - log.start)).any():
        raise DataError(needed="as many events in [start, stop) as clicks, in every impression", came="others")


def _check_dialogues(table: pa.Table) -> None:
    if table.column("text").null_count:
        raise DataError(needed="a text in every row of dialogues", came="rows without")
    said = Dialogues.of(table)
    odd = set(said.role.to_pylist()) - set(ROLES)
    if odd:
        raise DataError(needed=f"the roles {' and '.join(ROLES)}", came=repr(sorted(odd)[0]))
    slots = pc.count_substring(said.text, SLOT).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(slots != np.diff(said.offsets))
    if len(wrong):
        at = wrong[0]
        raise DataError(
            needed="as many slots in a text as items in its turn", came=f"{slots[at]} and {np.diff(said.offsets)[at]} in row {at}"
        )
    first = np.r_[True, said.dialogue[1:] != said.dialogue[:-1]][: len(said)]
    if (
        (said.turn[first] != 0).any()
        or (np.diff(said.turn)[~first[1:]] != 1).any()
        or len(np.unique(said.dialogue)) != first.sum()
    ):
        raise DataError(needed="the turns 0, 1, 2, ... of each dialogue together and in order", came="others")
    if (said.event[1:] != said.stop[:-1])[~first[1:]].any():
        raise DataError(needed="events that go on where the turn before ended", came="others")


@dataclass(frozen=True, eq=False)
class Dialogues:
    """The turns of a Dataset as arrays, n rows. See the table above; items are flat with offsets int64[n+1]."""

    dialogue: np.ndarray
    turn: np.ndarray
    role: pa.Array
    text: pa.Array
    offsets: np.ndarray
    items: np.ndarray
    event: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> Dialogues:
        """From `dataset.records["dialogues"]`."""
        offsets, items = _jagged(table.column("items"))
        plain = {
            name: table.column(name).combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
            for name in ("dialogue", "turn", "event")
        }
        return cls(
            role=table.column("role").combine_chunks(), text=table.column("text").combine_chunks(),
            offsets=offsets, items=items, **plain,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.dialogue)

    @property
    def stop(self) -> np.ndarray:
        """int64[n]: the end of the events of each turn."""
        return self.event + np.diff(self.offsets)

    def within(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """bool[n]: turns all of whose events are of their dialogue's `[start[u], stop[u])` (int64[U]). One that names no
        item counts if an event of that span follows it: else it may lie after the moment where the span ends."""
        named = self.stop > self.event
        inside = (self.event >= start[self.dialogue]) & (self.stop <= stop[self.dialogue])
        return inside & (named | (self.event < stop[self.dialogue]))


@dataclass(frozen=True, eq=False)
class Impressions:
    """The impressions of a Dataset as arrays, n rows. See the table above; lists are flat with offsets int64[n+1].

    told: bool[n], whether the log tells the clicks; where not, `clicked` is False throughout.
    """

    keys: pa.Array
    user: np.ndarray
    time: np.ndarray
    history_offsets: np.ndarray
    history: np.ndarray
    shown_offsets: np.ndarray
    shown: np.ndarray
    clicked: np.ndarray
    told: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> Impressions:
        """From `dataset.records["impressions"]`. Raises DataError if a row has not one flag for each item shown."""
        history_offsets, history = _jagged(table.column("history"))
        shown_offsets, shown = _jagged(table.column("shown"))
        flags = table.column("clicked").combine_chunks()
        told = pc.is_valid(flags).to_numpy(zero_copy_only=False)
        lengths = np.diff(shown_offsets)
        given = pc.fill_null(pc.list_value_length(flags), 0).to_numpy(zero_copy_only=False)
        odd = np.flatnonzero(told & (given != lengths))
        if len(odd):
            at = odd[0]
            raise DataError(needed="one flag for each item shown", came=f"{given[at]} for {lengths[at]} in impression {at}")
        clicked = np.zeros(len(shown), bool)
        clicked[np.repeat(told, lengths)] = pc.list_flatten(flags).to_numpy(zero_copy_only=False)
        plain = {name: table.column(name).combine_chunks().to_numpy(zero_copy_only=False) for name in _PLAIN}
        return cls(
            keys=table.column("key").combine_chunks(),
            history_offsets=history_offsets,
            history=history,
            shown_offsets=shown_offsets,
            shown=shown,
            clicked=clicked,
            told=told,
            **plain,
        )

    def __len__(self) -> int:
        return len(self.user)

    def row(self, at: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(history, shown, clicked) of one impression."""
        here = slice(self.shown_offsets[at], self.shown_offsets[at + 1])
        return self.history[self.history_offsets[at] : self.history_offsets[at + 1]], self.shown[here], self.clicked[here]

    def clicks(self) -> np.ndarray:
        """int64[n]: how many of the items shown were clicked."""
        counted = np.concatenate([[0], np.cumsum(self.clicked)])
        return counted[self.shown_offsets[1:]] - counted[self.shown_offsets[:-1]]

    def known(self, stop: np.ndarray) -> np.ndarray:
        """bool[n]: the impressions that a model may learn from, given the end of each user's training events (int64[U]).

        All clicks must be training events. An impression without clicks counts only if the user has a training event after
        it: else it may lie after the moment where training ends. Impressions whose clicks are not told never count.
        """
        end = stop[self.user]
        return self.told & np.where(self.stop > self.start, self.stop <= end, self.start < end)

    def within(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """bool[n]: impressions with a click, all of whose clicks are of the user's events `[start[u], stop[u])` (int64[U])."""
        return (self.stop > self.start) & (self.start >= start[self.user]) & (self.stop <= stop[self.user])


_PLAIN = ("user", "time", "start", "stop")


def _jagged(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(offsets int64[n+1], flat values) of a list column without nulls."""
    lists = column.combine_chunks()
    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), flat


def digest(table: pa.Table) -> bytes:
    """SHA-256 of what a table says: column names, types and values, however they are laid out in memory.

    Texts are the same as string, large_string or dictionary, lists as list or large_list. Raises DataError for types whose values
    are no numbers, texts, flags or lists of these.
    """
    found = hashlib.sha256()
    for name in table.column_names:
        column = _plain(table.column(name).combine_chunks())
        found.update(f"{name}\0{column.type}\0{len(column)}\0".encode())
        _feed(found, column)
    return found.digest()


def texts_of(table: pa.Table) -> pa.Table:
    """The columns of texts and of lists of texts: what a model may read of an item, whatever else the table holds."""
    readable = (pa.large_string(), pa.large_list(pa.large_string()))
    return table.select([each.name for each in table.schema if _wide(each.type) in readable])


def _plain(column: pa.Array) -> pa.Array:
    """The column in the wider of two types that say the same."""
    return column.cast(_wide(column.type))


def _wide(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _wide(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(_wide(kind.value_type))
    return pa.large_string() if pa.types.is_string(kind) else kind


def _feed(found: hashlib._Hash, column: pa.Array) -> None:
    found.update(np.packbits(pc.is_valid(column).to_numpy(zero_copy_only=False)).tobytes())
    real = column.drop_null()
    if pa.types.is_large_list(real.type):
        found.update(pc.list_value_length(real).to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
        _feed(found, pc.list_flatten(real))
    elif pa.types.is_large_string(real.type):
        found.update(pc.binary_length(real).to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
        found.update("".join(real.to_pylist()).encode())
    else:
        values = real.to_numpy(zero_copy_only=False)
        if values.dtype == object:  # its bytes would be places in memory
            raise DataError(needed="columns of numbers, texts, flags or lists of these", came=str(real.type))
        found.update(np.ascontiguousarray(values).tobytes())
