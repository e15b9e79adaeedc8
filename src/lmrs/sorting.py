"""Sorting any number of events by (user, time, file order) in bounded memory.

Events are spooled in file order, scattered to runs of users of at most `BUCKET` events, and each run is sorted alone (Knuth,
TAOCP 3, section 5.4.9, distribution before an internal sort).
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmrs.files import storage

BUCKET = 1 << 16  # events sorted at once
PIECE = 1 << 16  # events moved at once
DTYPES = {"item": np.int32, "time": np.int64, "rating": np.float32, "type": np.int32}


@dataclass(frozen=True)
class Sorted:
    """What the sort found. events: N kept. duplicates: events equal in every column to an earlier one (kept unless dropped).
    dropped: duplicates that were removed. ties: events whose time equals that of the event before them of the same user."""

    events: int
    duplicates: int
    dropped: int
    ties: int


class EventWriter:
    """Takes events in file order and leaves `events.arrow` and `offsets.arrow`, sorted, in a folder.

    A context manager: leaving it closes its files. folder: where to write; it must exist. columns: which of item, time, rating,
    type every event has ("item" at least).
    """

    def __init__(self, folder: Path, *, columns: tuple[str, ...]) -> None:
        self.folder, self.columns = folder, columns
        self.counts = np.zeros(0, np.int64)  # by user, with room for more
        self._event = np.dtype([("user", np.int32), *((name, DTYPES[name]) for name in columns)])  # one after another, unpadded
        with storage(folder):
            self._spool = self._path("spool").open("wb")

    def _path(self, stage: str) -> Path:
        return self.folder / f"{stage}.tmp"

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._spool.close()

    def add(self, user: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Appends events: user int32[n] numbers, and one array of length n for each column."""
        if not len(user):
            return
        if (needed := int(user.max()) + 1) > (room := len(self.counts)):
            self.counts = np.pad(self.counts, (0, max(needed, room + room // 4) - room))
        np.add.at(self.counts, user, 1)
        events = np.empty(len(user), self._event)
        events["user"] = user
        for name in self.columns:
            events[name] = values[name]
        with storage(self.folder, size=events.nbytes):
            self._spool.write(events.data.cast("B"))

    def finish(
        self, *, n_users: int, drop_duplicates: bool = False, by_time: bool = True, find_duplicates: bool = True
    ) -> Sorted:
        """Sorts by (user, time, file order) and writes the two files.

        n_users: U; users from the last one seen on have no events. Without a time column the order is file order.
        find_duplicates: False for lists whose repeats are meant.
        """
        with storage(self.folder):
            self._spool.close()
        lengths = np.zeros(n_users, np.int64)
        known = min(n_users, len(self.counts))
        lengths[:known] = self.counts[:known]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        bounds = _bounds(offsets)
        stage = self._scatter(offsets, bounds) if len(bounds) > 2 else "spool"
        found, kept = self._sort(stage, offsets, bounds, drop=drop_duplicates, find=find_duplicates)
        if found.dropped:
            offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        self._path(stage).unlink()
        _lay_out(self.folder / "events.arrow", {name: (self._path(name), DTYPES[name]) for name in self.columns}, found.events)
        for name in self.columns:
            self._path(name).unlink()
        write_table(self.folder / "offsets.arrow", pa.table({"offsets": offsets}))
        return found

    def _scatter(self, offsets: np.ndarray, bounds: np.ndarray) -> str:
        """Moves the spooled events into a file where every run of users is contiguous, in file order."""
        cursor = offsets[bounds[:-1]].copy()
        runs = np.arange(len(cursor), dtype=np.min_scalar_type(len(cursor)))  # short: radix sort
        run_of = np.repeat(runs, np.diff(bounds))
        with (
            storage(self.folder, size=int(offsets[-1]) * self._event.itemsize),
            self._path("spool").open("rb") as spool,
            self._path("run").open("wb") as target,
        ):
            while len(events := np.fromfile(spool, self._event, PIECE)):
                run = run_of[events["user"]]
                events = events[np.argsort(run, kind="stable")]
                sizes = np.bincount(run, minlength=len(cursor))
                ends = np.cumsum(sizes)
                for at in np.flatnonzero(sizes).tolist():
                    target.seek(int(cursor[at]) * self._event.itemsize)
                    target.write(events[ends[at] - sizes[at] : ends[at]].data.cast("B"))
                cursor += sizes
        self._path("spool").unlink()
        return "run"

    def _sort(self, stage: str, offsets: np.ndarray, bounds: np.ndarray, *, drop: bool, find: bool) -> tuple[Sorted, np.ndarray]:
        """Sorts each run and appends it to a file for each column. Returns the counts and int64[U] events kept."""
        written = duplicates = ties = 0
        kept = np.diff(offsets)
        with storage(self.folder), contextlib.ExitStack() as stack:
            source = stack.enter_context(self._path(stage).open("rb"))
            files = {name: stack.enter_context(self._path(name).open("wb")) for name in self.columns}
            for first, last in itertools.pairwise(bounds):
                events = np.fromfile(source, self._event, int(offsets[last] - offsets[first]))
                order = _order(events, int(first), int(last))
                run = {name: events[name][order] for name in self._event.names or ()}
                same = run["user"][1:] == run["user"][:-1]
                if "time" in run:
                    tied = same & (run["time"][1:] == run["time"][:-1])
                    ties += int(tied.sum())
                repeat = _repeats(run, tied if "time" in run else same) if find else np.zeros(len(events), bool)
                duplicates += int(repeat.sum())
                if drop and repeat.any():
                    np.subtract.at(kept, run["user"][repeat], 1)
                    run = {name: array[~repeat] for name, array in run.items()}
                for name, file in files.items():
                    file.write(run[name].data)
                written += len(run["user"])
        return Sorted(written, duplicates, duplicates if drop else 0, ties), kept


def _bounds(offsets: np.ndarray) -> np.ndarray:
    """int64[R+1] users at which runs start: as many users a run as fit into BUCKET events (one user at least)."""
    bounds, at, last = [0], 0, len(offsets) - 1
    while at < last:
        at = max(at + 1, int(np.searchsorted(offsets, offsets[at] + BUCKET, side="right")) - 1)
        bounds.append(min(at, last))
    return np.asarray(bounds, np.int64)


def _order(events: np.ndarray, first: int, last: int) -> np.ndarray:
    """int64[n]: the events of users first..last - 1 by (user, time, as they stand)."""
    user = (events["user"] - first).astype(np.min_scalar_type(last - first))  # short: radix sort
    order = np.argsort(user, kind="stable")
    if "time" not in (events.dtype.names or ()):
        return order
    owner, time = user[order], events["time"][order]
    if not ((time[1:] < time[:-1]) & (owner[1:] == owner[:-1])).any():  # a log in the order of its writing
        return order
    return np.lexsort((events["time"], user))


def _repeats(run: dict[str, np.ndarray], near: np.ndarray) -> np.ndarray:
    """bool[n]: events equal in every column to an earlier one. near: event i+1 shares user (and time) with event i."""
    repeat = np.zeros(len(run["user"]), bool)
    at = np.flatnonzero(np.append(near, False) | np.insert(near, 0, False)) if len(near) else np.zeros(0, np.int64)
    if len(at):
        cells = [run[name][at] for name in run]
        order = np.lexsort((at, *cells))  # equal events become neighbours, the earliest first
        equal = np.ones(len(at) - 1, bool)
        for cell in cells:
            equal &= cell[order][1:] == cell[order][:-1]
        repeat[at[order[1:][equal]]] = True
    return repeat


def _lay_out(path: Path, columns: dict[str, tuple[Path, type]], n: int) -> None:
    """Writes raw column files as one Arrow record batch without ever holding a column.

    Arrow decides the layout from arrays of zeros, which cost no memory because nobody touches them; the true bytes are
    then streamed over the zeros.
    """
    zeros = {name: pa.array(np.zeros(n, dtype)) for name, (_, dtype) in columns.items()}
    write_table(path, pa.table(zeros))
    if not n:
        return
    with pa.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer(mapped.size())
        batch = pa.ipc.open_file(whole).get_batch(0)
        places = {name: batch.column(name).buffers()[1].address - whole.address for name in columns}
        del batch, whole
    with storage(path, size=n * 20), path.open("r+b") as target:
        for name, (raw, _) in columns.items():
            target.seek(places[name])
            with raw.open("rb") as source:
                left = n * np.dtype(columns[name][1]).itemsize
                while left:
                    piece = source.read(min(left, 1 << 20))
                    target.write(piece)
                    left -= len(piece)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a table as an Arrow IPC file with a single record batch."""
    arrays = [one(column) for column in table.columns]
    batch = pa.RecordBatch.from_arrays(arrays, schema=table.schema)
    with storage(path, size=table.nbytes), pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(batch)


def one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
