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
PIECE = 1 << 15  # events moved at once
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
        self.counts = np.zeros(0, np.int64)
        self._dtypes = {"user": np.int32, **{name: DTYPES[name] for name in columns}}
        with storage(folder):
            self._spool = {name: self._path("spool", name).open("wb") for name in self._dtypes}

    def _path(self, stage: str, name: str) -> Path:
        return self.folder / f"{stage}-{name}.tmp"

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._spool.values():
            with contextlib.suppress(OSError):
                file.close()

    def add(self, user: np.ndarray, values: dict[str, np.ndarray]) -> None:
        """Appends events: user int32[n] numbers, and one array of length n for each column."""
        if not len(user):
            return
        if (needed := int(user.max()) + 1) > len(self.counts):
            self.counts = np.pad(self.counts, (0, needed - len(self.counts)))
        np.add.at(self.counts, user, 1)
        with storage(self.folder, size=len(user) * 24):
            self._spool["user"].write(np.ascontiguousarray(user, np.int32).data)
            for name in self.columns:
                self._spool[name].write(np.ascontiguousarray(values[name], DTYPES[name]).data)

    def finish(
        self, *, n_users: int, drop_duplicates: bool = False, by_time: bool = True, find_duplicates: bool = True
    ) -> Sorted:
        """Sorts by (user, time, file order) and writes the two files.

        n_users: U; users from the last one seen on have no events. Without a time column the order is file order.
        find_duplicates: False for lists whose repeats are meant.
        """
        with storage(self.folder):
            for file in self._spool.values():
                file.close()
        lengths = np.pad(self.counts, (0, n_users - len(self.counts)))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        bounds = _bounds(offsets)
        stage = self._scatter(offsets, bounds) if len(bounds) > 2 else "spool"
        found, kept = self._sort(stage, offsets, bounds, drop=drop_duplicates, find=find_duplicates)
        if found.dropped:
            offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        _lay_out(
            self.folder / "events.arrow", {name: (self._path(stage, name), DTYPES[name]) for name in self.columns}, found.events
        )
        for name in self._dtypes:
            self._path(stage, name).unlink()
        write_table(self.folder / "offsets.arrow", pa.table({"offsets": offsets}))
        return found

    def _scatter(self, offsets: np.ndarray, bounds: np.ndarray) -> str:
        """Moves the spooled events into files where every run of users is contiguous, in file order."""
        cursor = offsets[bounds[:-1]].copy()
        total = int(offsets[-1])
        with storage(self.folder, size=total * 24), contextlib.ExitStack() as stack:
            users = stack.enter_context(self._path("spool", "user").open("rb"))
            spool = {name: stack.enter_context(self._path("spool", name).open("rb")) for name in self.columns}
            runs = {name: stack.enter_context(self._path("run", name).open("wb")) for name in self._dtypes}
            while len(user := _read(users, np.int32, PIECE)):
                run = (np.searchsorted(bounds, user, side="right") - 1).astype(
                    np.min_scalar_type(len(bounds))
                )  # short: radix sort
                order = np.argsort(run, kind="stable")
                sizes = np.bincount(run, minlength=len(cursor))
                ends = np.cumsum(sizes)
                pieces = {"user": user[order]} | {n: _read(spool[n], DTYPES[n], PIECE)[order] for n in self.columns}
                for at in np.flatnonzero(sizes):
                    lo, hi = ends[at] - sizes[at], ends[at]
                    for name, array in pieces.items():
                        runs[name].seek(int(cursor[at]) * array.itemsize)
                        runs[name].write(array[lo:hi].data)
                cursor += sizes
        for name in self._dtypes:
            self._path("spool", name).unlink()
        return "run"

    def _sort(self, stage: str, offsets: np.ndarray, bounds: np.ndarray, *, drop: bool, find: bool) -> tuple[Sorted, np.ndarray]:
        """Sorts each run in place (closing the gaps of dropped events). Returns the counts and int64[U] events kept."""
        written = duplicates = ties = 0
        kept = np.diff(offsets)
        with storage(self.folder), contextlib.ExitStack() as stack:
            files = {name: stack.enter_context(self._path(stage, name).open("r+b")) for name in self._dtypes}
            for first, last in itertools.pairwise(bounds):
                lo, hi = int(offsets[first]), int(offsets[last])
                run = {name: _read_at(files[name], self._dtypes[name], lo, hi) for name in self._dtypes}
                order = np.lexsort((run["time"], run["user"])) if "time" in run else np.argsort(run["user"], kind="stable")
                run = {name: array[order] for name, array in run.items()}
                same = run["user"][1:] == run["user"][:-1]
                if "time" in run:
                    tied = same & (run["time"][1:] == run["time"][:-1])
                    ties += int(tied.sum())
                repeat = _repeats(run, tied if "time" in run else same) if find else np.zeros(hi - lo, bool)
                duplicates += int(repeat.sum())
                if drop and repeat.any():
                    np.subtract.at(kept, run["user"][repeat], 1)
                    run = {name: array[~repeat] for name, array in run.items()}
                for name, array in run.items():
                    files[name].seek(written * array.itemsize)
                    files[name].write(array.data)
                written += len(run["user"])
        return Sorted(written, duplicates, duplicates if drop else 0, ties), kept


def _bounds(offsets: np.ndarray) -> np.ndarray:
    """int64[R+1] users at which runs start: as many users a run as fit into BUCKET events (one user at least)."""
    bounds, at, last = [0], 0, len(offsets) - 1
    while at < last:
        at = max(at + 1, int(np.searchsorted(offsets, offsets[at] + BUCKET, side="right")) - 1)
        bounds.append(min(at, last))
    return np.asarray(bounds, np.int64)


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


def _read(file: object, dtype: type, count: int) -> np.ndarray:
    return np.fromfile(file, dtype, count)  # type: ignore[call-overload]


def _read_at(file: object, dtype: type, lo: int, hi: int) -> np.ndarray:
    file.seek(lo * np.dtype(dtype).itemsize)  # type: ignore[attr-defined]
    return _read(file, dtype, hi - lo)


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
